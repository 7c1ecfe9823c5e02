"""Topics may have any number of partitions, also one that rises while the service runs, and silent partitions hold nothing open."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka.admin import NewPartitions

from sql.database import Pool
from streams.client.twin_client import TwinClient
from streams.kafka import app as kafka_app
from streams.kafka import open_admin
from streams.kafka.app import TwinApp
from streams.operations.topic_replay import replay_topic
from streams.operations.verify import verify
from streams.settings import Settings
from streams.worker.bootstrap import RoleObserver
from tests.outcomes import LINE, TOPIC, make_card, make_line, outcome
from tests.polling import until

CHANGELOG = "twinstream-fidelity-fidelity-panes-changelog"
BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)


@pytest.fixture
async def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Short panes, and clients that notice new partitions within a second."""
    monkeypatch.setattr(kafka_app, "_METADATA_AGE_S", 1.0)
    await make_line(settings.postgres_dsn.get_secret_value(), make_card(), pane_s=60.0, window_s=300.0)
    times = {"pane_s": 60.0, "window_s": 300.0, "grace_s": 2.0, "idle_s": 1.0}
    return settings.model_copy(update=times)


async def raise_partitions(settings: Settings, **topics: int) -> None:
    async with open_admin(settings) as admin:
        await admin.create_partitions({name.replace("_", "-"): NewPartitions(total_count=n) for name, n in topics.items()})


async def publish(settings: Settings, numbers: Iterable[int], partitions: int) -> None:
    async with TwinClient(settings, name="test") as client:
        for number in numbers:
            at = (BEGAN + timedelta(seconds=number)).isoformat()
            body = json.dumps(outcome(number, observed_at=at)).encode()
            await client.publish_bytes(TOPIC, b"key", body, partition=number % partitions)


async def all_windows_are_final(pool: Pool) -> bool:
    """Whether every window has its snapshot, and each outcome is in five of them."""
    counted = await pool.fetchval("SELECT coalesce(sum(n), 0) FROM fidelity_panes WHERE segment = 'all'")
    stored = await pool.fetchval("SELECT coalesce(sum(sample_size), 0) FROM fidelity_snapshots WHERE segment = 'all'")
    return bool(counted and stored == 5 * counted)


async def n_counted(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT coalesce(sum(n), 0) FROM fidelity_panes WHERE segment = 'all'"))


async def test_partitions_that_are_added_while_the_service_runs_are_counted_and_hold_no_window_open(
    settings: Settings, pool: Pool, service: Any
):
    async with service(["outcomes", "fidelity"], settings):
        await publish(settings, range(8), 4)
        await until(lambda: all_windows_are_final(pool))
        await raise_partitions(settings, outcome_events=8)
        await publish(settings, range(8, 200), 8)
        await until(lambda: n_counted(pool), lambda n: n == 200)
        await until(lambda: all_windows_are_final(pool))
    assert (await verify(settings, patience_s=60.0)).mismatches == ()
    report = await replay_topic(settings, pool, TOPIC, None, None, [6])
    assert [(offsets.partition, offsets.end) for offsets in report.ranges] == [(6, 24)]
    with pytest.raises(ValueError, match=r"unknown partition '8': use one of 0, 1, 2, 3, 4, 5, 6, 7"):
        await replay_topic(settings, pool, TOPIC, None, None, [8])


async def test_partitions_are_noticed_by_a_process_that_took_the_place_of_the_one_that_assigned_them(
    settings: Settings, pool: Pool, service: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(RoleObserver, "member", "the same")
    with monkeypatch.context() as killed:
        killed.setattr(TwinApp, "give_up_place", lambda _: None)  # as a process that is killed
        async with service(["outcomes", "fidelity"], settings):
            await publish(settings, range(8), 4)
            await until(lambda: n_counted(pool), lambda n: n == 8)
    async with service(["outcomes", "fidelity"], settings):
        await raise_partitions(settings, outcome_events=8)
        await publish(settings, range(8, 200), 8)
        await until(lambda: n_counted(pool), lambda n: n == 200)
        await until(lambda: all_windows_are_final(pool))


async def test_every_topic_may_have_another_number_of_partitions_and_one_partition_may_have_all_outcomes(
    settings: Settings, pool: Pool, service: Any
):
    numbers = {"outcome_events": 12, "fidelity_errors": 7, "fidelity_windows": 5, "dead_letters": 6}
    await raise_partitions(settings, **numbers, **{CHANGELOG.replace("-", "_"): 5})
    async with service(["outcomes", "fidelity"], settings):
        await publish(settings, range(100), 1)
        async with TwinClient(settings, name="test") as client:
            await client.publish_bytes(TOPIC, b"key", b"nonsense", partition=11)
        await until(lambda: n_counted(pool), lambda n: n == 100)
        await until(lambda: all_windows_are_final(pool))
        await until(lambda: pool.fetchval("SELECT count(*) FROM refused_records WHERE sent_at IS NOT NULL"))
        assert await pool.fetchval("SELECT champion IS NOT NULL FROM model_lines WHERE line = $1", LINE)
    assert (await verify(settings, patience_s=60.0)).mismatches == ()

"""Topics that are deleted, or created anew, while the service runs are told within seconds and read from their start."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiokafka.admin import NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition

from sql.database import Pool
from streams.client.twin_client import TwinClient
from streams.kafka import create_topics, open_admin
from streams.metrics import REGISTRY
from streams.operations.verify import verify
from streams.settings import Role, Settings
from tests.outcomes import TOPIC, make_card, make_line, outcome
from tests.polling import committed_offsets, until

EXPERIMENTS = "experiment-results"
SOON_S = 60.0


@pytest.fixture
async def settings(settings: Settings) -> Settings:
    """Short panes."""
    await make_line(settings.postgres_dsn.get_secret_value(), make_card(), pane_s=60.0, window_s=300.0)
    return settings.model_copy(update={"pane_s": 60.0, "window_s": 300.0, "grace_s": 2.0, "idle_s": 1.0})


async def publish(settings: Settings, numbers: Iterable[int], topic: str = TOPIC, partition: int = 0) -> None:
    async with TwinClient(settings, name="test") as client:
        for number in numbers:
            body = outcome(number) if topic == TOPIC else {"number": number}
            await client.publish_bytes(topic, b"key", json.dumps(body).encode(), partition=partition)


async def create_anew(settings: Settings, topic: str, partitions: int) -> None:
    async with open_admin(settings) as admin:
        await admin.delete_topics([topic])
        new = [NewTopic(topic, partitions, 1)]
        await until(lambda: admin.create_topics(new), lambda reply: not reply.topic_errors[0][1])


async def n_counted(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT coalesce(sum(n), 0) FROM fidelity_panes WHERE segment = 'all'"))


async def n_refused(pool: Pool, topic: str) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM refused_records WHERE topic = $1", topic))


async def readiness(settings: Settings, role: Role) -> str:
    """The reason why a role is not ready, empty when it is."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{settings.web_host}:{settings.port_of(role)}/ready") as response,
    ):
        return str((await response.json())["reason"] or "")


@pytest.mark.parametrize("partitions", [1, 6])
async def test_a_topic_that_is_created_anew_is_read_from_its_start_though_it_has_passed_the_position(
    settings: Settings, pool: Pool, service: Any, partitions: int
):
    async with service(["outcomes"], settings):
        await publish(settings, range(8))
        await until(partial(n_counted, pool), lambda n: n == 8)
        await create_anew(settings, TOPIC, partitions)
        await publish(settings, range(4, 40))  # the end is above the position at once
        await until(partial(n_counted, pool), lambda n: n == 40, within_s=SOON_S)
    rows = await pool.fetch("SELECT incarnation, last_offset FROM source_positions WHERE partition = 0 ORDER BY incarnation")
    assert [tuple(row) for row in rows] == [(0, rows[0]["last_offset"]), (1, 35)]
    mismatches = (await verify(settings, patience_s=1.0)).mismatches
    assert [text for text in mismatches if "was not published" not in text] == []  # no role publishes windows here


async def test_a_topic_that_is_deleted_is_named_until_it_exists_again(settings: Settings, pool: Pool, service: Any):
    async with service(["outcomes", "fidelity"], settings):
        async with open_admin(settings) as admin:
            await admin.delete_topics([TOPIC, "fidelity-windows"])
        await until(partial(readiness, settings, "outcomes"), lambda text: f"topic {TOPIC} does not exist" in text, within_s=SOON_S)
        await until(partial(readiness, settings, "fidelity"), lambda text: "topic fidelity-windows" in text, within_s=SOON_S)
        assert REGISTRY.get_sample_value("twin_topic_missing", {"topic": TOPIC}) == 1
        await create_topics(settings)
        await publish(settings, range(3))
        await until(partial(n_counted, pool), lambda n: n == 3, within_s=SOON_S)
        for role in ("outcomes", "fidelity"):
            await until(partial(readiness, settings, role), lambda text: not text, within_s=SOON_S)
        assert REGISTRY.get_sample_value("twin_topic_missing", {"topic": TOPIC}) == 0


async def test_what_is_refused_at_an_offset_of_the_topic_before_is_stored_beside_it(settings: Settings, pool: Pool, service: Any):
    async with service(["experiments"], settings):
        await publish(settings, range(3), EXPERIMENTS)
        await until(partial(n_refused, pool, EXPERIMENTS), lambda n: n == 3)
        await create_anew(settings, EXPERIMENTS, 2)
        await publish(settings, range(10, 15), EXPERIMENTS)
        await until(partial(n_refused, pool, EXPERIMENTS), lambda n: n == 8, within_s=SOON_S)
        await until(partial(committed_offsets, settings, EXPERIMENTS), lambda offsets: offsets.get(0) == 5)
    rows = await pool.fetch("SELECT source, source_offset FROM refused_records ORDER BY refused_at, source_offset")
    assert {tuple(row) for row in rows} == {
        *((f"{EXPERIMENTS}:0:0", offset) for offset in range(5)),
        *((f"{EXPERIMENTS}:0:1", offset) for offset in range(3)),
    }


async def test_records_that_expire_before_they_are_read_are_counted_and_logged(
    settings: Settings, pool: Pool, service: Any, caplog: pytest.LogCaptureFixture
):
    async with service(["outcomes"], settings):
        await publish(settings, range(4))
        await until(partial(n_counted, pool), lambda n: n == 4)
    before = REGISTRY.get_sample_value("twin_expired_records_total", {"topic": TOPIC}) or 0
    await publish(settings, range(4, 14))
    async with open_admin(settings) as admin:
        await admin.delete_records({TopicPartition(TOPIC, 0): RecordsToDelete(before_offset=11)})
    async with service(["outcomes"], settings):
        await until(partial(n_counted, pool), lambda n: n == 7, within_s=SOON_S)
    assert REGISTRY.get_sample_value("twin_expired_records_total", {"topic": TOPIC}) == before + 7
    assert "outcome-events 0: the offsets 4 to 10 were removed by the retention" in caplog.text
    mismatches = (await verify(settings, patience_s=1.0)).mismatches
    assert [text for text in mismatches if "was not published" not in text] == []

"""How a worker ends: on a stop signal it finishes its events; when it cannot publish, it waits and no data is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from deploy.stack.part import free_port
from schemas import FidelityErrors, OutcomeEvent
from sql.database import Pool
from streams.client import TwinClient
from streams.kafka import open_admin, topic_of
from streams.settings import Settings
from streams.worker.supervisor import Workers
from tests.outcomes import TOPIC, make_card, make_line, outcome
from tests.polling import committed_offsets, until

PATIENCE_S = 60.0
SUMS_TOPIC = topic_of(FidelityErrors)


@pytest.fixture
async def line(settings: Settings) -> None:
    await make_line(settings.postgres_dsn.get_secret_value(), make_card())


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Callable[[str], Workers]:
    """Start a worker with the role outcomes."""

    def start(name: str) -> Workers:
        worker_settings = settings.model_copy(update={"web_port": free_port(5), "slice_records": 50, "home": tmp_path / name})
        workers = Workers(["outcomes"], worker_settings, log_folder=tmp_path / name).__enter__()
        workers.wait_ready(PATIENCE_S)
        return workers

    return start


async def test_a_rolling_restart_of_two_workers_loses_no_outcome_and_reads_none_twice(
    settings: Settings, pool: Pool, client: TwinClient, worker: Callable[[str], Workers], line: None, tmp_path: Path
):
    names = ["first", "second", "third", "fourth"]
    alive = [await asyncio.to_thread(worker, name) for name in names[:2]]
    sending = asyncio.create_task(publish(client, 3000))
    for name in names[2:]:
        await asyncio.to_thread(alive.pop(0).stop)
        assert await count_members(settings) == 1  # it left the group at once, not after the session timeout
        alive.append(await asyncio.to_thread(worker, name))
    await sending
    await until(lambda: is_ingested(pool, 3000))
    await until(lambda: all_are_acknowledged(settings, 3000))  # a commit may be refused while the group rebalances, and comes later
    for workers in alive:
        await asyncio.to_thread(workers.stop)

    for name in names:
        assert "has stopped cleanly" in (tmp_path / name / "outcomes.log").read_text()
    acknowledged = await committed_offsets(settings, TOPIC)
    # All processed records are acknowledged.
    assert {partition: offset for partition, offset in acknowledged.items() if offset} == await positions(pool)
    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE fate = 'counted'") == 3000
    assert await pool.fetchval("SELECT count(*) FROM source_gaps") == 0


async def test_a_failed_send_is_repeated_until_it_succeeds_and_its_batch_is_not_acknowledged_before(
    settings: Settings, pool: Pool, client: TwinClient, worker: Callable[[str], Workers], line: None, listener: Any
):
    async with open_admin(settings) as admin:
        workers = await asyncio.to_thread(worker, "worker")
        try:
            (first_pid,) = workers.pids.values()
            await publish(client, 50)
            await until(lambda: all_are_acknowledged(settings, 50))
            await limit_messages(admin, 700)
            await publish(client, 50, begin=50)
            await until(lambda: is_ingested(pool, 100))
            await asyncio.sleep(2.0)
            assert sum((await committed_offsets(settings, TOPIC)).values()) < 100
            await limit_messages(admin, 8 * 1024 * 1024)
            await until(lambda: all_are_published(pool, listener))
            await until(lambda: all_are_acknowledged(settings, 100))
            workers.check()
            assert list(workers.pids.values()) == [first_pid]
        finally:
            await asyncio.to_thread(workers.stop)
    assert await all_are_acknowledged(settings, 100)
    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE fate = 'counted'") == 100


async def publish(client: TwinClient, n: int, begin: int = 0) -> None:
    for first in range(begin, begin + n, 50):
        await client.publish_outcomes([OutcomeEvent.model_validate(outcome(number)) for number in range(first, first + 50)])
        await asyncio.sleep(0.02)


async def is_ingested(pool: Pool, count: int) -> bool:
    return await pool.fetchval("SELECT coalesce(sum(elements), 0) FROM source_positions") == count


async def positions(pool: Pool) -> dict[int, int]:
    return dict(await pool.fetch("SELECT partition, last_offset + 1 FROM source_positions WHERE last_offset >= 0"))


async def count_members(settings: Settings) -> int:
    async with open_admin(settings) as admin:
        (reply,) = await admin.describe_consumer_groups(["twinstream-outcomes"])
    _, _, state, _, _, members, *_ = reply.groups[0]
    return len(members) if state != "Dead" else 0


async def all_are_acknowledged(settings: Settings, count: int) -> bool:
    return sum((await committed_offsets(settings, TOPIC)).values()) == count


async def limit_messages(admin: AIOKafkaAdminClient, size: int) -> None:
    """Set the largest message that the broker accepts on the topic of sums."""
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, SUMS_TOPIC, configs={"max.message.bytes": str(size)})])


async def all_are_published(pool: Pool, listener: Any) -> bool:
    """Whether the newest version of every row is published."""
    events = await listener.events(FidelityErrors, await listener.count(SUMS_TOPIC))
    newest = {(row.segment, row.pane, str(event.source)): row.version for event in events for row in event.rows}
    stored = await pool.fetch("SELECT segment, pane, source, version FROM fidelity_panes")
    return len(stored) > 0 and {(row["segment"], row["pane"], row["source"]): row["version"] for row in stored} == newest

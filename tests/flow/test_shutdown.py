"""How a worker ends: asked to, it finishes what it has in hand and leaves; when it cannot speak, it dies, and no data with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from deploy.stack.part import free_port
from schemas import FidelityErrors, OutcomeEvent
from sql.database import Pool
from streams.client.twin_client import TwinClient
from streams.kafka.topics import topic_of
from streams.settings import Settings
from streams.worker.supervisor import Workers
from tests.outcomes import TOPIC, make_card, make_line, outcome

PATIENCE_S = 60.0
SAID = topic_of(FidelityErrors)


@pytest.fixture
async def line(settings: Settings) -> None:
    await make_line(settings.postgres_dsn.get_secret_value(), make_card())


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Callable[[str], Workers]:
    """Starts a worker with the role of outcomes."""

    def start(name: str) -> Workers:
        own = settings.model_copy(update={"web_port": free_port(5), "slice_records": 50, "home": tmp_path / name})
        workers = Workers(["outcomes"], own, log_folder=tmp_path / name).__enter__()
        workers.wait_ready(PATIENCE_S)
        return workers

    return start


async def test_a_rolling_restart_of_two_workers_loses_nothing_and_reads_nothing_twice(
    settings: Settings, pool: Pool, client: TwinClient, worker: Callable[[str], Workers], line: None, tmp_path: Path
):
    names = ["first", "second", "third", "fourth"]
    alive = [await asyncio.to_thread(worker, name) for name in names[:2]]
    sending = asyncio.create_task(publish(client, 3000))
    for name in names[2:]:
        await asyncio.to_thread(alive.pop(0).stop)
        assert await members(settings) == 1  # it left, instead of being missed after the session timeout
        alive.append(await asyncio.to_thread(worker, name))
    await sending
    await until(lambda: taken_in(pool, 3000))
    for each in alive:
        await asyncio.to_thread(each.stop)

    for name in names:
        assert "has stopped cleanly" in (tmp_path / name / "outcomes.log").read_text()
    assert await committed(settings) == await positions(pool)  # what was done was acknowledged
    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE fate = 'counted'") == 3000
    assert await pool.fetchval("SELECT count(*) FROM source_gaps") == 0


async def test_a_send_that_fails_ends_the_worker_and_what_it_had_to_say_is_said_by_the_next(
    settings: Settings, pool: Pool, client: TwinClient, worker: Callable[[str], Workers], line: None, listener: Any
):
    async with admin(settings) as broker:
        workers = await asyncio.to_thread(worker, "worker")
        try:
            (born,) = workers.pids.values()
            await publish(client, 50)
            await until(lambda: all_is_acknowledged(settings, 50))
            await limit_messages(broker, 700)
            await publish(client, 50, begin=50)
            await until(lambda: has_another(workers, born))
            assert sum((await committed(settings)).values()) < 100
            await limit_messages(broker, 8 * 1024 * 1024)
            await until(lambda: all_is_said(pool, listener))
            workers.check()
        finally:
            await asyncio.to_thread(workers.stop)
    assert await all_is_acknowledged(settings, 100)
    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE fate = 'counted'") == 100


async def publish(client: TwinClient, n: int, begin: int = 0) -> None:
    for first in range(begin, begin + n, 50):
        await client.publish_outcomes([OutcomeEvent.model_validate(outcome(number)) for number in range(first, first + 50)])
        await asyncio.sleep(0.02)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110  # it is others that change
            await asyncio.sleep(0.1)


async def taken_in(pool: Pool, count: int) -> bool:
    return await pool.fetchval("SELECT coalesce(sum(elements), 0) FROM source_positions") == count


async def positions(pool: Pool) -> dict[int, int]:
    return dict(await pool.fetch("SELECT partition, last_offset + 1 FROM source_positions WHERE last_offset >= 0"))


@asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    broker = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.close()


async def members(settings: Settings) -> int:
    async with admin(settings) as broker:
        (reply,) = await broker.describe_consumer_groups(["twinstream-outcomes"])
    _, _, state, _, _, found, *_ = reply.groups[0]
    return len(found) if state != "Dead" else 0


async def committed(settings: Settings) -> dict[int, int]:
    async with admin(settings) as broker:
        offsets = await broker.list_consumer_group_offsets("twinstream-outcomes")
    return {where.partition: found.offset for where, found in offsets.items() if where.topic == TOPIC and found.offset > 0}


async def all_is_acknowledged(settings: Settings, count: int) -> bool:
    return sum((await committed(settings)).values()) == count


async def limit_messages(broker: AIOKafkaAdminClient, size: int) -> None:
    """Set the largest message that the broker takes on the topic of sums."""
    await broker.alter_configs([ConfigResource(ConfigResourceType.TOPIC, SAID, configs={"max.message.bytes": str(size)})])


async def has_another(workers: Workers, born: int) -> bool:
    return workers.pids["outcomes"] != born


async def all_is_said(pool: Pool, listener: Any) -> bool:
    """The rows of every cell were said in their newest version."""
    told = await listener.events(FidelityErrors, await listener.count(SAID))
    newest = {(row.segment, row.pane, str(each.source)): row.version for each in told for row in each.rows}
    kept = await pool.fetch("SELECT segment, pane, source, version FROM fidelity_panes")
    return len(kept) > 0 and {(row["segment"], row["pane"], row["source"]): row["version"] for row in kept} == newest

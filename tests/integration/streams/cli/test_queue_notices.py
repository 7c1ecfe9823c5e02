"""A command that waits for a simulation shows its place in the queue, and nothing without access to Postgres."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from deploy.stack.part import free_port
from sql.database import Pool
from sql.shard_store import NewShard, add_shards, lease_shard, store_sums
from sql.simulation_queue_store import Lane, QueueEntry, enqueue_simulations, lease_simulations
from streams.cli import queue_notices
from streams.settings import Settings
from tests.polling import until


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The notices that were written."""
    lines: list[str] = []
    monkeypatch.setattr(queue_notices, "notify", lines.append)
    monkeypatch.setattr(queue_notices, "_PERIOD_S", 0.05)
    return lines


async def queue(pool: Pool, lane: Lane = "large") -> UUID:
    simulation_id = uuid4()
    await pool.execute("INSERT INTO simulation_runs (simulation_id, status, body_hash) VALUES ($1, 'running', '')", simulation_id)
    await enqueue_simulations(pool, [QueueEntry(simulation_id, lane, "a", 3_000_000, None)])
    return simulation_id


async def test_each_change_of_the_place_in_the_queue_is_one_notice(pool: Pool, fresh_database: str, notices: list[str]) -> None:
    first, second = await queue(pool), await queue(pool)
    async with queue_notices.notices_of_queue(Settings(postgres_dsn=SecretStr(fresh_database)), second):
        await until(lambda: _count(notices), lambda count: count == 1)
        await pool.execute("DELETE FROM simulation_queue WHERE simulation_id = $1", first)
        await until(lambda: _count(notices), lambda count: count == 2)
        await lease_simulations(pool, "large", "a worker", lease_s=60.0)
        await until(lambda: _count(notices), lambda count: count == 3)
    assert notices == [
        f"simulation {second} is queued in the large lane behind 1 other request",
        f"simulation {second} is queued in the large lane",
        f"simulation {second} is computed: 3,000,000 simulated twins",
    ]


async def test_the_progress_of_a_simulation_in_shards_is_told_in_tenths(
    pool: Pool, fresh_database: str, notices: list[str]
) -> None:
    simulation_id = await queue(pool, "sharded")
    await add_shards(pool, simulation_id, [NewShard(0, 4, 1_300_000), NewShard(4, 9, 1_700_000)])
    async with queue_notices.notices_of_queue(Settings(postgres_dsn=SecretStr(fresh_database)), simulation_id):
        await until(lambda: _count(notices), lambda count: count == 1)
        lease = await lease_shard(pool, "a worker", lease_s=60.0)
        await until(lambda: _count(notices), lambda count: count == 2)
        assert lease is not None
        await store_sums(pool, lease, b"")
        await until(lambda: _count(notices), lambda count: count == 3)
    assert notices == [
        f"simulation {simulation_id} is queued in the sharded lane",
        f"simulation {simulation_id} is computed: 0 % of 3,000,000 twins",
        f"simulation {simulation_id} is computed: 40 % of 3,000,000 twins",
    ]


async def test_without_postgres_there_are_no_notices_and_no_error(notices: list[str]) -> None:
    settings = Settings(postgres_dsn=SecretStr(f"postgresql://nobody@127.0.0.1:{free_port()}/none"))
    async with queue_notices.notices_of_queue(settings, uuid4()):
        await asyncio.sleep(0.3)
    assert notices == []


async def _count(lines: list[str]) -> int:
    return len(lines)

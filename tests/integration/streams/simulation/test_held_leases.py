"""Leases of a worker whose statements are slow, on a real PostgreSQL: they are renewed in time, and computed once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from sql.database import Pool, open_pool
from sql.simulation_queue_store import (
    LostSimulationLease,
    QueueEntry,
    SimulationLease,
    enqueue_simulations,
    lease_simulations,
)
from streams.simulation.held_leases import HeldLeases
from tests.polling import until

N_LEASES = 100
LEASE_S = 2.0
RENEWED = "SELECT count(*) FROM simulation_queue WHERE heartbeat_at > $1"


@pytest.fixture
async def heartbeat_pool(fresh_database: str) -> AsyncIterator[Pool]:
    async with await open_pool(dsn=fresh_database, connections=(0, 1)) as opened:
        yield opened


async def leases_of(pool: Pool, worker: str, *, lease_s: float = 60.0) -> list[SimulationLease]:
    return await lease_simulations(pool, "small", worker, lease_s=lease_s, at_most=N_LEASES, work=N_LEASES)


async def queue_many(pool: Pool) -> None:
    ids = [uuid4() for _ in range(N_LEASES)]
    await pool.executemany(
        "INSERT INTO simulation_runs (simulation_id, status, body_hash) VALUES ($1, 'running', 'x')", [(each,) for each in ids]
    )
    await enqueue_simulations(pool, [QueueEntry(simulation_id, "small", "a", 1, UUID(int=1)) for simulation_id in ids])


async def test_all_leases_are_renewed_while_slow_statements_hold_every_connection_of_the_pool(
    pool: Pool, owner_pool: Pool, heartbeat_pool: Pool
) -> None:
    await queue_many(pool)
    held = HeldLeases(pool, heartbeat_pool, LEASE_S)
    assert heartbeat_pool.get_size() == 0  # it is opened for the first heartbeat
    async with held:
        held.hold(leases := await leases_of(pool, "a worker"))
        slow = [asyncio.create_task(pool.execute("SELECT pg_sleep(11)")) for _ in range(2 * pool.get_max_size())]
        leased_at = await owner_pool.fetchval("SELECT max(heartbeat_at) FROM simulation_queue")
        await until(lambda: owner_pool.fetchval(RENEWED, leased_at), lambda renewed: renewed == N_LEASES)
        assert not any(task.done() for task in slow)
        assert set(held.ids) == {lease.simulation_id for lease in leases}
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)
        held.release(leases)
    assert heartbeat_pool.get_size() == 1


async def test_work_ends_when_its_lease_is_lost_and_other_work_goes_on(pool: Pool, heartbeat_pool: Pool) -> None:
    await queue_many(pool)
    async with HeldLeases(pool, heartbeat_pool, lease_s=0.2) as held:
        held.hold(leases := await leases_of(pool, "a worker"))
        taken, kept = leases[0], leases[1:]
        running = [asyncio.create_task(held.run(lease, asyncio.Event().wait())) for lease in leases[:2]]
        await pool.execute("UPDATE simulation_queue SET fence = fence + 1 WHERE simulation_id = $1", taken.simulation_id)
        with pytest.raises(LostSimulationLease):
            await running[0]
        assert not running[1].done()
        assert held.ids == [lease.simulation_id for lease in kept]
        running[1].cancel()
        await asyncio.wait(running)

"""Shards on a real PostgreSQL: each is stored once, and the request is due exactly when nothing is left to compute."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from sql.database import Pool
from sql.shard_store import (
    LostShardLease,
    NewShard,
    ShardLease,
    ShardSums,
    add_shards,
    fail_shard,
    lease_shard,
    put_back_shard,
    renew_shard_lease,
    shard_sums,
    store_sums,
)
from sql.simulation_queue_store import (
    QueueEntry,
    ShardProgress,
    cancel_simulation,
    enqueue_simulations,
    lease_simulations,
    queued_simulation,
    shard_progress,
)

SHARDS = [NewShard(0, 4, 400), NewShard(4, 8, 400), NewShard(8, 9, 50)]


async def queue(pool: Pool, flow: str = "a", shards: list[NewShard] = SHARDS) -> UUID:
    """Queue a new pinned request with its shards and return its id."""
    simulation_id = uuid4()
    await pool.execute("INSERT INTO simulation_runs (simulation_id, status, body_hash) VALUES ($1, 'running', 'x')", simulation_id)
    work = sum(shard.twins for shard in shards)
    await enqueue_simulations(pool, [QueueEntry(simulation_id, "sharded", flow, work, uuid4())])
    await add_shards(pool, simulation_id, shards)
    return simulation_id


async def leased(pool: Pool, lease_s: float = 60.0, worker: str = "a worker") -> ShardLease:
    lease = await lease_shard(pool, worker, lease_s=lease_s)
    assert lease is not None
    return lease


async def due(pool: Pool) -> list[UUID]:
    return [lease.simulation_id for lease in await lease_simulations(pool, "sharded", "a worker", lease_s=60.0)]


async def test_the_request_is_due_when_its_last_shard_is_stored(pool: Pool) -> None:
    simulation_id = await queue(pool)
    leases = [await leased(pool) for _ in SHARDS]
    assert [(lease.first_block, lease.end_block) for lease in leases] == [shard[:2] for shard in SHARDS]
    assert await lease_shard(pool, "another", lease_s=60.0) is None
    for done, lease in zip((50, 450), (leases[2], leases[0]), strict=True):
        assert await due(pool) == []
        assert (await store_sums(pool, lease, b"%d" % lease.first_block))[:2] == (done, 850)
    assert await shard_progress(pool, simulation_id) == ShardProgress(450, 850, computing=1)
    await store_sums(pool, leases[1], b"4")
    assert await due(pool) == [simulation_id]
    assert await shard_sums(pool, simulation_id) == ShardSums([b"0", b"4", b"8"], None)


async def test_of_two_last_shards_that_are_stored_together_one_makes_the_request_due(pool: Pool) -> None:
    for _ in range(5):
        simulation_id = await queue(pool, shards=SHARDS[:2])
        leases = [await leased(pool), await leased(pool)]
        await asyncio.gather(*(store_sums(pool, lease, b"x") for lease in leases))
        assert await due(pool) == [simulation_id]


async def test_a_shard_whose_worker_died_is_computed_by_another_and_stored_once(pool: Pool) -> None:
    await queue(pool, shards=SHARDS[:1])
    first = await leased(pool)
    second = await leased(pool, lease_s=0.0, worker="another")
    assert (second.first_block, second.tries, second.fence) == (first.first_block, 2, first.fence + 1)
    for late in (renew_shard_lease(pool, first), store_sums(pool, first, b"late"), put_back_shard(pool, first)):
        with pytest.raises(LostShardLease):
            await late
    await renew_shard_lease(pool, second)
    await store_sums(pool, second, b"x")
    with pytest.raises(LostShardLease):
        await store_sums(pool, second, b"again")


async def test_a_worker_that_leases_a_shard_again_counts_as_one_try(pool: Pool) -> None:
    await queue(pool, shards=SHARDS[:1])
    leases = [await leased(pool, 0.0, worker) for worker in ("a worker", "a worker", "another", "another")]
    assert [(lease.tries, lease.fence) for lease in leases] == [(1, 1), (1, 2), (2, 3), (2, 4)]


async def test_a_shard_that_is_put_back_waits_and_keeps_its_tries_unless_one_counts(pool: Pool) -> None:
    await queue(pool, shards=SHARDS[:1])
    await put_back_shard(pool, await leased(pool))
    await put_back_shard(pool, await leased(pool), count_try=True)
    lease = await leased(pool)
    assert lease.tries == 2
    await put_back_shard(pool, lease, delay_s=60.0)
    assert await lease_shard(pool, "a worker", lease_s=60.0) is None


async def test_a_failed_shard_makes_the_request_due_and_ends_all_others(pool: Pool) -> None:
    simulation_id = await queue(pool)
    failing, other = await leased(pool), await leased(pool)
    await fail_shard(pool, failing, "no memory")
    with pytest.raises(LostShardLease):
        await store_sums(pool, other, b"x")
    assert await lease_shard(pool, "a worker", lease_s=60.0) is None
    assert await due(pool) == [simulation_id]
    assert (await shard_sums(pool, simulation_id)).failure == "no memory"


async def test_a_cancelled_request_is_due_as_such_and_its_shards_end(pool: Pool) -> None:
    simulation_id = await queue(pool)
    lease = await leased(pool)
    assert [await cancel_simulation(pool, simulation_id) for _ in range(2)] == [True, True]
    with pytest.raises(LostShardLease):
        await renew_shard_lease(pool, lease)
    (request,) = await lease_simulations(pool, "sharded", "a worker", lease_s=60.0)
    assert (request.simulation_id, request.is_cancelled) == (simulation_id, True)
    assert not await cancel_simulation(pool, uuid4())


async def test_a_request_that_comes_again_gets_no_second_shards(pool: Pool) -> None:
    simulation_id = await queue(pool, shards=SHARDS[:1])
    await add_shards(pool, simulation_id, SHARDS[:1])
    await store_sums(pool, await leased(pool), b"x")
    await add_shards(pool, simulation_id, SHARDS[:1])
    assert await due(pool) == [simulation_id]
    await add_shards(pool, simulation_id, [NewShard(0, 1, 1), NewShard(1, 2, 1)])
    assert await lease_shard(pool, "a worker", lease_s=60.0) is None
    assert await queued_simulation(pool, simulation_id)


async def test_shards_of_two_requesters_take_turns_and_a_later_request_of_one_waits_for_its_first(pool: Pool) -> None:
    first, other = await queue(pool, "a"), await queue(pool, "b")
    second = await queue(pool, "a")
    order = [(await leased(pool)).simulation_id for _ in range(9)]
    assert [{first: "a", other: "b", second: "c"}[simulation_id] for simulation_id in order[:6]].count("c") == 0
    assert {order[0], order[1]} == {order[2], order[3]} == {order[4], order[5]} == {first, other}
    assert order[6:] == [second] * 3

"""Stores the shards of large simulations: ranges of blocks of twins that any worker leases, and the sums over each range.

The request itself waits in the lane ``sharded`` of the queue (:mod:`sql.simulation_queue_store`), due at infinity. The transaction
that stores the last sums, or a failure, makes it due, so that exactly one worker leases it and concludes. A shard is leased as a
request is: with a heartbeat and a fencing number, and in the fair order of the lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sql.database import Database, transaction
from sql.simulation_queue_store import ShardProgress, shard_progress

__all__ = [
    "LostShardLease",
    "NewShard",
    "ShardLease",
    "ShardSums",
    "add_shards",
    "fail_shard",
    "lease_shard",
    "put_back_shard",
    "renew_shard_lease",
    "shard_sums",
    "store_sums",
]

# A request that was queued before has its shards, or is being concluded.
ADD = """
WITH added AS (
    INSERT INTO simulation_shards (simulation_id, first_block, end_block, twins, start_tag)
    SELECT q.simulation_id, s.first_block, s.end_block, s.twins,
           q.start_tag + coalesce(sum(s.twins) OVER (ORDER BY s.first_block ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)
    FROM simulation_queue q, unnest($2::integer[], $3::integer[], $4::bigint[]) AS s (first_block, end_block, twins)
    WHERE q.simulation_id = $1 AND q.due_at < 'infinity' AND q.tries = 0 AND q.cancelled_at IS NULL
    ON CONFLICT DO NOTHING
    RETURNING simulation_id
)
UPDATE simulation_queue SET due_at = 'infinity' WHERE simulation_id IN (SELECT simulation_id FROM added)"""

LEASE = """
WITH next AS (
    SELECT s.simulation_id, s.first_block, s.start_tag FROM simulation_shards s JOIN simulation_queue q USING (simulation_id)
    WHERE s.sums IS NULL AND s.failure IS NULL AND q.due_at = 'infinity' AND s.due_at <= clock_timestamp()
      AND (s.holder IS NULL OR s.heartbeat_at < clock_timestamp() - make_interval(secs => $2))
    ORDER BY s.start_tag, s.simulation_id LIMIT 1 FOR UPDATE OF s SKIP LOCKED
), lane AS (
    UPDATE simulation_lanes SET reached = greatest(reached, (SELECT start_tag FROM next))
    WHERE lane = 'sharded' AND EXISTS (SELECT FROM next)
)
UPDATE simulation_shards s SET holder = $1, heartbeat_at = clock_timestamp(), fence = fence + 1,
                               tries = tries + (holder IS DISTINCT FROM $1)::integer
FROM next WHERE s.simulation_id = next.simulation_id AND s.first_block = next.first_block
RETURNING s.simulation_id, s.first_block, s.end_block, s.tries, s.fence"""

_OF_HOLDER = """
FROM simulation_queue q WHERE q.simulation_id = s.simulation_id AND q.due_at = 'infinity'
 AND s.simulation_id = $1 AND s.first_block = $2 AND s.fence = $3 AND s.holder IS NOT NULL"""
RENEW = f"UPDATE simulation_shards s SET heartbeat_at = clock_timestamp() {_OF_HOLDER}"  # noqa: S608  # our own constant
PUT_BACK = f"""
UPDATE simulation_shards s
SET holder = NULL, heartbeat_at = NULL, tries = s.tries - $4, due_at = clock_timestamp() + make_interval(secs => $5)
{_OF_HOLDER}"""  # noqa: S608  # our own constant
LOCK_REQUEST = "SELECT FROM simulation_queue WHERE simulation_id = $1 FOR UPDATE"
STORE = f"UPDATE simulation_shards s SET sums = $4, holder = NULL, heartbeat_at = NULL {_OF_HOLDER}"  # noqa: S608
FAIL = f"UPDATE simulation_shards s SET failure = $4, holder = NULL, heartbeat_at = NULL {_OF_HOLDER}"  # noqa: S608
MAKE_DUE = """
UPDATE simulation_queue SET due_at = clock_timestamp() WHERE simulation_id = $1 AND due_at = 'infinity' AND (
    SELECT bool_and(sums IS NOT NULL) OR bool_or(failure IS NOT NULL) FROM simulation_shards WHERE simulation_id = $1)"""
SUMS = "SELECT sums, failure FROM simulation_shards WHERE simulation_id = $1 ORDER BY first_block"


class LostShardLease(RuntimeError):
    """Another worker has taken over this shard, or its request has ended or was cancelled."""

    def __init__(self, lease: ShardLease) -> None:
        name = f"shard {lease.first_block} of simulation {lease.simulation_id}"
        super().__init__(f"{name} is no longer leased with fencing number {lease.fence}")


class NewShard(NamedTuple):
    """A range of blocks, without its end, and its number of twins."""

    first_block: int
    end_block: int
    twins: int


@dataclass(frozen=True)
class ShardLease:
    """A leased shard, valid as long as ``fence`` is the newest fencing number; ``tries`` counts its workers, this one included."""

    simulation_id: UUID
    first_block: int
    end_block: int
    tries: int
    fence: int


class ShardSums(NamedTuple):
    """The stored sums of the shards of a request, in the order of their blocks, and why one of them failed."""

    sums: list[bytes]
    failure: str | None


async def add_shards(database: Database, simulation_id: UUID, shards: Sequence[NewShard]) -> None:
    """Add the shards of a request that has just been queued; the request is due once they are computed."""
    await database.execute(ADD, simulation_id, *map(list, zip(*shards, strict=True)))


async def lease_shard(database: Database, worker: str, *, lease_s: float) -> ShardLease | None:
    """Lease the next shard of any request to ``worker``; None when there is none.

    One that ``worker`` held until its heartbeats failed counts no try, as the worker has not ended. One with more than
    ``MAX_TRIES`` tries has to fail: its workers do not survive it.

    Args:
        database: a pool or a connection.
        worker: its name, which no other process ever has.
        lease_s: seconds after which a lease without heartbeat ends.
    """
    row = await database.fetchrow(LEASE, worker, lease_s)
    return ShardLease(*row) if row else None


async def renew_shard_lease(database: Database, lease: ShardLease) -> None:
    """Renew the lease.

    Raises:
        LostShardLease: when another worker holds it, or the request was cancelled.
    """
    _require_held(lease, await database.execute(RENEW, lease.simulation_id, lease.first_block, lease.fence))


async def put_back_shard(database: Database, lease: ShardLease, *, count_try: bool = False, delay_s: float = 0.0) -> None:
    """Return a shard, which can be leased after ``delay_s``; ``count_try`` counts this lease as a try.

    Raises:
        LostShardLease: as :func:`renew_shard_lease`.
    """
    count = 0 if count_try else 1
    _require_held(lease, await database.execute(PUT_BACK, lease.simulation_id, lease.first_block, lease.fence, count, delay_s))


async def store_sums(database: Database, lease: ShardLease, sums: bytes) -> ShardProgress:
    """Store the sums of a shard once; returns the progress of its request, which is due when this was the last one.

    Raises:
        LostShardLease: as :func:`renew_shard_lease`; nothing is stored then.
    """
    return await _end(database, lease, STORE, sums)


async def fail_shard(database: Database, lease: ShardLease, failure: str) -> ShardProgress:
    """Store why a shard cannot be computed: its request is due, to be answered so.

    Raises:
        LostShardLease: as :func:`renew_shard_lease`.
    """
    return await _end(database, lease, FAIL, failure)


async def _end(database: Database, lease: ShardLease, statement: str, value: bytes | str) -> ShardProgress:
    async with transaction(database) as connection:
        await connection.fetchrow(LOCK_REQUEST, lease.simulation_id)  # so that one of two last shards sees the other
        _require_held(lease, await connection.execute(statement, lease.simulation_id, lease.first_block, lease.fence, value))
        await connection.execute(MAKE_DUE, lease.simulation_id)
        progress = await shard_progress(connection, lease.simulation_id)
    assert progress is not None
    return progress


def _require_held(lease: ShardLease, status: str) -> None:
    if status == "UPDATE 0":
        raise LostShardLease(lease)


async def shard_sums(database: Database, simulation_id: UUID) -> ShardSums:
    """What is stored of the shards of a request that is due."""
    rows = await database.fetch(SUMS, simulation_id)
    failures = [row["failure"] for row in rows if row["failure"] is not None]
    return ShardSums([row["sums"] for row in rows if row["sums"] is not None], failures[0] if failures else None)

"""Stores the queue of simulation requests: two lanes, a lease for each computation, and a fair order among requesters.

A row is a request that is pinned (:mod:`sql.simulation_store`) and whose answer is not published. The holder of its lease has a
fencing number. Another worker may take over a lease whose heartbeat has stopped, with a higher number; from then on the former
holder can store nothing.

References:
    Goyal, Vin, Cheng (1996), Start-time fair queueing. ACM SIGCOMM (the order: flows share a lane equally, whatever they queue).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import UUID

from schemas.events import SimulationAnswer
from sql.database import Database, transaction
from sql.simulation_store import finish

__all__ = [
    "LANES",
    "MAX_TRIES",
    "Lane",
    "LaneBacklog",
    "LostSimulationLease",
    "QueuedSimulation",
    "SimulationLease",
    "enqueue_simulation",
    "finish_leased",
    "lane_backlogs",
    "lease_simulation",
    "put_back_simulation",
    "queued_simulation",
    "remove_simulation",
    "renew_simulation_lease",
]

Lane = Literal["small", "large"]
LANES: tuple[Lane, ...] = ("small", "large")

MAX_TRIES = 3
"""Number of workers that may start a computation without finishing it."""

# A request starts at the tag that its lane has reached, or where the last request of its flow ends.
ENQUEUE = """
INSERT INTO simulation_queue (simulation_id, lane, flow, work, model_id, start_tag)
SELECT $1, $2, $3, $4, $5, greatest(
    (SELECT reached FROM simulation_lanes WHERE lane = $2),
    (SELECT start_tag + work FROM simulation_queue WHERE lane = $2 AND flow = $3 ORDER BY start_tag DESC LIMIT 1))
ON CONFLICT (simulation_id) DO NOTHING"""

LEASE = """
WITH due AS (
    SELECT simulation_id, start_tag FROM simulation_queue
    WHERE lane = $1 AND due_at <= clock_timestamp()
      AND (holder IS NULL OR heartbeat_at < clock_timestamp() - make_interval(secs => $2))
      AND (model_id IS NULL OR NOT model_id = ANY($4::uuid[]))
    ORDER BY start_tag, queued_at, simulation_id
    LIMIT 1 FOR UPDATE SKIP LOCKED
), lane AS (
    UPDATE simulation_lanes SET reached = greatest(reached, start_tag) FROM due WHERE simulation_lanes.lane = $1
)
UPDATE simulation_queue q
SET holder = $3, heartbeat_at = clock_timestamp(), tries = tries + 1, fence = fence + 1
FROM due, simulation_runs r
WHERE q.simulation_id = due.simulation_id AND r.simulation_id = q.simulation_id
RETURNING q.simulation_id, q.lane, q.work, q.model_id, q.tries, q.fence, r.body_hash,
          extract(epoch FROM clock_timestamp() - q.queued_at)::float8 AS waited_s"""

_OF_HOLDER = "WHERE simulation_id = $1 AND fence = $2 AND holder IS NOT NULL"
RENEW = f"UPDATE simulation_queue SET heartbeat_at = clock_timestamp() {_OF_HOLDER}"  # noqa: S608  # our own constant
HOLDS = f"SELECT true FROM simulation_queue {_OF_HOLDER} FOR UPDATE"  # noqa: S608  # our own constant
PUT_BACK = f"""
UPDATE simulation_queue
SET holder = NULL, heartbeat_at = NULL, tries = tries - $3, due_at = clock_timestamp() + make_interval(secs => $4)
{_OF_HOLDER}"""  # noqa: S608  # our own constant
REMOVE = f"DELETE FROM simulation_queue {_OF_HOLDER}"  # noqa: S608  # our own constant

BACKLOGS = """
SELECT lane, count(*) FILTER (WHERE holder IS NULL) AS waiting,
       extract(epoch FROM clock_timestamp() - min(queued_at))::float8 AS oldest_s
FROM simulation_queue GROUP BY lane"""

QUEUED = """
SELECT q.lane, q.work, q.holder IS NOT NULL AS computing,
       (SELECT count(*) FROM simulation_queue o WHERE o.lane = q.lane AND o.start_tag < q.start_tag) AS ahead
FROM simulation_queue q WHERE q.simulation_id = $1"""


class LostSimulationLease(RuntimeError):
    """Another worker has taken over this simulation, or it has ended already."""

    def __init__(self, lease: SimulationLease) -> None:
        super().__init__(f"simulation {lease.simulation_id} is no longer leased with fencing number {lease.fence}")


@dataclass(frozen=True)
class SimulationLease:
    """A leased simulation, valid as long as ``fence`` is the newest fencing number.

    Attributes:
        model_id: the model that its twins are generated with; None where they are stored.
        tries: number of leases so far, this one included.
        waited_s: seconds since the request was queued.
    """

    simulation_id: UUID
    lane: Lane
    work: int
    model_id: UUID | None
    tries: int
    fence: int
    body_hash: bytes
    waited_s: float


class LaneBacklog(NamedTuple):
    """Requests of a lane that no worker computes yet, and the age of its oldest request in seconds."""

    waiting: int = 0
    oldest_s: float = 0.0


class QueuedSimulation(NamedTuple):
    """The place of a request in the queue: whether it is computed now, and the number of requests ahead of it in its lane."""

    lane: Lane
    work: int
    computing: bool
    ahead: int


async def enqueue_simulation(
    database: Database, simulation_id: UUID, lane: Lane, *, flow: str, work: int, model_id: UUID | None
) -> bool:
    """Queue a pinned request; returns whether it was not queued before.

    Args:
        database: a pool or a connection.
        simulation_id: of the pinned request.
        lane: in which it is computed.
        flow: requests of one flow are computed in their order, and all flows of a lane get equal shares of it.
        work: of the request, in twins.
        model_id: the model that has to be in memory for the computation; None for stored twins.
    """
    return await database.execute(ENQUEUE, simulation_id, lane, flow, work, model_id) == "INSERT 0 1"


async def lease_simulation(
    database: Database, lane: Lane, worker: str, *, lease_s: float, without_models: Collection[UUID] = ()
) -> SimulationLease | None:
    """Lease the next request of a lane to ``worker``; None when there is none.

    Requests of the models in ``without_models`` are left to others. A request whose heartbeat has stopped for ``lease_s`` is leased
    again. One with more than ``MAX_TRIES`` tries has to be answered as failed: its workers do not survive it.
    """
    row = await database.fetchrow(LEASE, lane, lease_s, worker, list(without_models))
    return SimulationLease(**row) if row else None


async def renew_simulation_lease(database: Database, lease: SimulationLease) -> None:
    """Renew the lease.

    Raises:
        LostSimulationLease: when another worker holds it.
    """
    if await database.execute(RENEW, lease.simulation_id, lease.fence) == "UPDATE 0":
        raise LostSimulationLease(lease)


async def finish_leased(database: Database, lease: SimulationLease, answer: SimulationAnswer) -> SimulationAnswer:
    """Store the answer unless there is one; returns the stored answer, which is the one to publish.

    Raises:
        LostSimulationLease: when another worker holds the lease.
    """
    async with transaction(database) as connection:
        if not await connection.fetchval(HOLDS, lease.simulation_id, lease.fence):
            raise LostSimulationLease(lease)
        return await finish(connection, answer, lease.body_hash)


async def put_back_simulation(database: Database, lease: SimulationLease, *, count_try: bool = False, delay_s: float = 0.0) -> None:
    """Return a request to the queue, where it can be leased after ``delay_s``; ``count_try`` counts this lease as a try.

    Raises:
        LostSimulationLease: when another worker holds the lease.
    """
    if await database.execute(PUT_BACK, lease.simulation_id, lease.fence, 0 if count_try else 1, delay_s) == "UPDATE 0":
        raise LostSimulationLease(lease)


async def remove_simulation(database: Database, lease: SimulationLease) -> None:
    """Remove a request whose answer is published.

    Raises:
        LostSimulationLease: when another worker holds the lease.
    """
    if await database.execute(REMOVE, lease.simulation_id, lease.fence) == "DELETE 0":
        raise LostSimulationLease(lease)


async def lane_backlogs(database: Database) -> dict[Lane, LaneBacklog]:
    """The backlog of every lane."""
    rows = {row["lane"]: LaneBacklog(row["waiting"], row["oldest_s"]) for row in await database.fetch(BACKLOGS)}
    return {lane: rows.get(lane, LaneBacklog()) for lane in LANES}


async def queued_simulation(database: Database, simulation_id: UUID) -> QueuedSimulation | None:
    """The place of a request in the queue; None when it is not queued."""
    row = await database.fetchrow(QUEUED, simulation_id)
    return QueuedSimulation(**row) if row else None

"""Stores the queue of simulation requests: two lanes, a lease for each computation, and a fair order among requesters.

A row is a request that is pinned (:mod:`sql.simulation_store`) and whose answer is not published. The holder of its lease has a
fencing number. Another worker may take over a lease whose heartbeat has stopped, with a higher number; from then on the former
holder can store nothing.

References:
    Goyal, Vin, Cheng (1996), Start-time fair queueing. ACM SIGCOMM (the order: flows share a lane equally, whatever they queue).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal, NamedTuple
from uuid import UUID

from schemas.events import SimulationAnswer
from sql.database import Database, transaction
from sql.simulation_store import DifferentBody, NewAnswer, finish_within

__all__ = [
    "LANES",
    "MAX_TRIES",
    "Lane",
    "LaneBacklog",
    "LostSimulationLease",
    "QueueEntry",
    "QueuedSimulation",
    "SimulationLease",
    "enqueue_simulations",
    "finish_leased",
    "lane_backlogs",
    "lease_simulations",
    "put_back_simulation",
    "queued_simulation",
    "remove_simulations",
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

# The rows whose work together is at most $6, at least one.
LEASE = """
WITH next AS (
    SELECT simulation_id, start_tag, queued_at, work FROM simulation_queue
    WHERE lane = $1 AND due_at <= clock_timestamp()
      AND (holder IS NULL OR heartbeat_at < clock_timestamp() - make_interval(secs => $2))
      AND (model_id IS NULL OR NOT model_id = ANY($4::uuid[]))
    ORDER BY start_tag, queued_at, simulation_id
    LIMIT $5 FOR UPDATE SKIP LOCKED
), due AS (
    SELECT simulation_id, start_tag, place FROM (
        SELECT simulation_id, start_tag, row_number() OVER in_order AS place, sum(work) OVER in_order AS until_here
        FROM next WINDOW in_order AS (ORDER BY start_tag, queued_at, simulation_id)
    ) ordered WHERE place = 1 OR until_here <= $6::bigint
), lane AS (
    UPDATE simulation_lanes SET reached = greatest(reached, (SELECT max(start_tag) FROM due))
    WHERE lane = $1 AND EXISTS (SELECT FROM due)
)
UPDATE simulation_queue q
SET holder = $3, heartbeat_at = clock_timestamp(), tries = tries + 1, fence = fence + 1
FROM due, simulation_runs r
WHERE q.simulation_id = due.simulation_id AND r.simulation_id = q.simulation_id
RETURNING q.simulation_id, q.lane, q.work, q.model_id, q.tries, q.fence, r.body_hash,
          extract(epoch FROM clock_timestamp() - q.queued_at)::float8 AS waited_s, due.place"""

_OF_HOLDER = "WHERE simulation_id = $1 AND fence = $2 AND holder IS NOT NULL"
RENEW = f"UPDATE simulation_queue SET heartbeat_at = clock_timestamp() {_OF_HOLDER}"  # noqa: S608  # our own constant
PUT_BACK = f"""
UPDATE simulation_queue
SET holder = NULL, heartbeat_at = NULL, tries = tries - $3, due_at = clock_timestamp() + make_interval(secs => $4)
{_OF_HOLDER}"""  # noqa: S608  # our own constant
HELD = """
SELECT q.simulation_id FROM simulation_queue q
JOIN unnest($1::uuid[], $2::bigint[]) AS l (simulation_id, fence) USING (simulation_id, fence)
WHERE q.holder IS NOT NULL ORDER BY q.simulation_id FOR UPDATE OF q"""
REMOVE = """
DELETE FROM simulation_queue q USING unnest($1::uuid[], $2::bigint[]) AS l (simulation_id, fence)
WHERE q.simulation_id = l.simulation_id AND q.fence = l.fence AND q.holder IS NOT NULL
RETURNING q.simulation_id"""

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


class QueueEntry(NamedTuple):
    """A pinned request to queue.

    Attributes:
        lane: in which it is computed.
        flow: requests of one flow are computed in their order, and all flows of a lane get equal shares of it.
        work: of the request, in twins.
        model_id: the model that has to be in memory for the computation; None for stored twins.
    """

    simulation_id: UUID
    lane: Lane
    flow: str
    work: int
    model_id: UUID | None


async def enqueue_simulations(database: Database, entries: Sequence[QueueEntry]) -> None:
    """Queue pinned requests in their order; those that are queued already keep their place."""
    if entries:
        await database.executemany(ENQUEUE, entries)


async def lease_simulations(
    database: Database,
    lane: Lane,
    worker: str,
    *,
    lease_s: float,
    without_models: Collection[UUID] = (),
    at_most: int = 1,
    work: int = 0,
) -> list[SimulationLease]:
    """Lease the next requests of a lane to ``worker``, in their order; none when there is none.

    Requests of the models in ``without_models`` are left to others. A request whose heartbeat has stopped for ``lease_s`` is leased
    again. One with more than ``MAX_TRIES`` tries has to be answered as failed: its workers do not survive it.

    Args:
        database: a pool or a connection.
        lane: of the requests.
        worker: its name.
        lease_s: seconds after which a lease without heartbeat ends.
        without_models: models whose requests are not leased.
        at_most: number of requests.
        work: of all of them together, in twins; the first is leased whatever its work.
    """
    rows = await database.fetch(LEASE, lane, lease_s, worker, list(without_models), at_most, work)
    return [SimulationLease(*row[:-1]) for row in sorted(rows, key=itemgetter("place"))]


async def renew_simulation_lease(database: Database, lease: SimulationLease) -> None:
    """Renew the lease.

    Raises:
        LostSimulationLease: when another worker holds it.
    """
    if await database.execute(RENEW, lease.simulation_id, lease.fence) == "UPDATE 0":
        raise LostSimulationLease(lease)


async def finish_leased(
    database: Database, answers: Sequence[tuple[SimulationLease, SimulationAnswer]]
) -> list[SimulationAnswer | LostSimulationLease]:
    """Store answers in one transaction, each unless there is one.

    Returns:
        For each the stored answer, which is the one to publish; :class:`LostSimulationLease` when another worker holds its lease.
    """
    leases = [lease for lease, _ in answers]
    async with transaction(database) as connection:
        held = {row["simulation_id"] for row in await connection.fetch(HELD, *_ids_and_fences(leases))}
        new = [NewAnswer(answer, lease.body_hash) for lease, answer in answers if lease.simulation_id in held]
        stored = iter(await finish_within(connection, new) if new else ())
    return [_same_body(next(stored)) if lease.simulation_id in held else LostSimulationLease(lease) for lease in leases]


def _same_body(stored: SimulationAnswer | DifferentBody) -> SimulationAnswer:
    assert not isinstance(stored, DifferentBody)  # the digest of a lease is that of its run
    return stored


async def put_back_simulation(database: Database, lease: SimulationLease, *, count_try: bool = False, delay_s: float = 0.0) -> None:
    """Return a request to the queue, where it can be leased after ``delay_s``; ``count_try`` counts this lease as a try.

    Raises:
        LostSimulationLease: when another worker holds the lease.
    """
    if await database.execute(PUT_BACK, lease.simulation_id, lease.fence, 0 if count_try else 1, delay_s) == "UPDATE 0":
        raise LostSimulationLease(lease)


async def remove_simulations(database: Database, leases: Sequence[SimulationLease]) -> list[LostSimulationLease]:
    """Remove requests whose answers are published; returns an error for each that another worker holds."""
    removed = {row["simulation_id"] for row in await database.fetch(REMOVE, *_ids_and_fences(leases))}
    return [LostSimulationLease(lease) for lease in leases if lease.simulation_id not in removed]


def _ids_and_fences(leases: Sequence[SimulationLease]) -> tuple[list[UUID], list[int]]:
    return [lease.simulation_id for lease in leases], [lease.fence for lease in leases]


async def lane_backlogs(database: Database) -> dict[Lane, LaneBacklog]:
    """The backlog of every lane."""
    rows = {row["lane"]: LaneBacklog(row["waiting"], row["oldest_s"]) for row in await database.fetch(BACKLOGS)}
    return {lane: rows.get(lane, LaneBacklog()) for lane in LANES}


async def queued_simulation(database: Database, simulation_id: UUID) -> QueuedSimulation | None:
    """The place of a request in the queue; None when it is not queued."""
    row = await database.fetchrow(QUEUED, simulation_id)
    return QueuedSimulation(**row) if row else None

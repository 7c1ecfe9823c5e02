"""Stores the queue of simulation requests: three lanes, a lease for each computation, and a fair order among requesters.

A row is a request that is pinned (:mod:`sql.simulation_store`) and whose answer is not published. The holder of its lease has a
fencing number. Another worker may take over a lease whose heartbeat has stopped, with a higher number; from then on the former
holder can store nothing.

References:
    Goyal, Vin, Cheng (1996), Start-time fair queueing. ACM SIGCOMM (the order: flows share a lane equally, whatever they queue).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import MappingProxyType
from typing import Literal, NamedTuple
from uuid import UUID

from schemas.events import SimulationAnswer
from sql.database import Database, transaction
from sql.rejected_populations import drop_rejected_populations
from sql.simulation_store import NewAnswer, answer_values, find_runs, read_answers, without_erased

__all__ = [
    "LANES",
    "MAX_TRIES",
    "Lane",
    "LaneBacklog",
    "LostSimulationLease",
    "QueueEntry",
    "QueuedSimulation",
    "ShardProgress",
    "SimulationLease",
    "cancel_simulation",
    "enqueue_simulations",
    "finish_leased",
    "lane_backlogs",
    "lease_simulations",
    "put_back_simulation",
    "queued_simulation",
    "remove_simulations",
    "renew_simulation_leases",
    "shard_progress",
]

Lane = Literal["small", "large", "sharded"]
LANES: tuple[Lane, ...] = ("small", "large", "sharded")

MAX_TRIES = 3
"""Number of workers that may start a computation without finishing it. A worker that leases it again counts once."""

_NOBODY: Mapping[Lane, str] = MappingProxyType({})

_DUE = """
due_at <= clock_timestamp() AND (holder IS NULL OR heartbeat_at < clock_timestamp() - make_interval(secs => {lease_s}))"""

# A request starts at the tag that its lane has reached, or where the last request of its flow ends. Its holder leases it at once,
# unless another one waits in the lane.
ENQUEUE = f"""
WITH new AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::uuid[], $6::text[])
        WITH ORDINALITY AS n (simulation_id, lane, flow, work, model_id, holder, number)
    WHERE NOT EXISTS (SELECT FROM simulation_queue q WHERE q.simulation_id = n.simulation_id)
), placed AS (
    SELECT n.simulation_id, lane, n.flow, n.work, n.model_id, n.number,
           CASE WHEN NOT EXISTS (SELECT FROM simulation_queue w WHERE w.lane = n.lane AND {_DUE.format(lease_s="$7")})
                THEN n.holder END AS holder,
           greatest(l.reached, (SELECT q.start_tag + q.work FROM simulation_queue q WHERE q.lane = n.lane AND q.flow = n.flow
                                ORDER BY q.start_tag DESC LIMIT 1))
           + coalesce(sum(n.work) OVER (PARTITION BY n.lane, n.flow ORDER BY n.number
                                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS start_tag
    FROM new n JOIN simulation_lanes l USING (lane)
), queued AS (
    INSERT INTO simulation_queue AS q (simulation_id, lane, flow, work, model_id, start_tag, holder, heartbeat_at, tries, fence)
    SELECT simulation_id, lane, flow, work, model_id, start_tag, holder,
           CASE WHEN holder IS NOT NULL THEN clock_timestamp() END, (holder IS NOT NULL)::integer, (holder IS NOT NULL)::integer
    FROM placed ORDER BY number
    ON CONFLICT (simulation_id) DO NOTHING
    RETURNING q.*
), lanes AS (
    UPDATE simulation_lanes l SET reached = leased.start_tag
    FROM (SELECT lane, max(start_tag) AS start_tag FROM queued WHERE holder IS NOT NULL GROUP BY lane) leased
    WHERE l.lane = leased.lane AND l.reached < leased.start_tag
)
SELECT q.simulation_id, q.lane, q.work, q.model_id, q.tries, q.fence, r.body_hash, 0.0::float8 AS waited_s
FROM queued q JOIN simulation_runs r USING (simulation_id) JOIN new n USING (simulation_id)
WHERE q.holder IS NOT NULL ORDER BY n.number"""  # noqa: S608  # our own constant

# The rows whose work together is at most $6, at least one. A holder whose lease has run out lives as long as it leases again.
LEASE = f"""
WITH next AS (
    SELECT simulation_id, start_tag, queued_at, work FROM simulation_queue
    WHERE lane = $1 AND {_DUE.format(lease_s="$2")}
      AND (model_id IS NULL OR NOT model_id = ANY($4::uuid[])) AND NOT simulation_id = ANY($7::uuid[])
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
SET holder = $3, heartbeat_at = clock_timestamp(), tries = tries + (holder IS DISTINCT FROM $3)::integer, fence = fence + 1
FROM due, simulation_runs r
WHERE q.simulation_id = due.simulation_id AND r.simulation_id = q.simulation_id
RETURNING q.simulation_id, q.lane, q.work, q.model_id, q.tries, q.fence, r.body_hash,
          extract(epoch FROM clock_timestamp() - q.queued_at)::float8 AS waited_s,
          q.cancelled_at IS NOT NULL AS is_cancelled, due.place"""  # noqa: S608  # our own constant

_OF_HOLDER = "WHERE simulation_id = $1 AND fence = $2 AND holder IS NOT NULL"
# A row that another transaction has locked is held still, as nobody else can lease it: no other row waits for it.
RENEW = """
WITH leases AS (
    SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS l (simulation_id, fence)
), renewable AS (
    SELECT q.simulation_id FROM simulation_queue q JOIN leases USING (simulation_id, fence)
    WHERE q.holder IS NOT NULL FOR UPDATE OF q SKIP LOCKED
), renewed AS (
    UPDATE simulation_queue q SET heartbeat_at = clock_timestamp() FROM renewable r WHERE q.simulation_id = r.simulation_id
)
SELECT simulation_id, fence FROM simulation_queue JOIN leases USING (simulation_id, fence) WHERE holder IS NOT NULL"""
PUT_BACK = f"""
UPDATE simulation_queue
SET holder = NULL, heartbeat_at = NULL, tries = tries - $3, due_at = clock_timestamp() + make_interval(secs => $4)
{_OF_HOLDER}"""  # noqa: S608  # our own constant
FINISH = """
WITH held AS (
    SELECT q.simulation_id, a.* FROM simulation_queue q
    JOIN unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::text[], $5::jsonb[], $6::text[], $7::text[], $8::text[])
        AS a (held_id, fence, body_hash, status, results, recommendation, recommendation_reason, error_message)
        ON a.held_id = q.simulation_id AND a.fence = q.fence
    WHERE q.holder IS NOT NULL ORDER BY q.simulation_id FOR UPDATE OF q
), finished AS (
    UPDATE simulation_runs r
    SET status = h.status::simulation_status, results = h.results, error_message = h.error_message,
        recommendation = h.recommendation::simulation_recommendation, recommendation_reason = h.recommendation_reason,
        completed_at = clock_timestamp()
    FROM held h WHERE r.simulation_id = h.simulation_id AND r.status IN ('pending', 'running') AND r.body_hash = h.body_hash
    RETURNING r.simulation_id, r.line, r.model_id, r.effects_version, r.catalogue_version, r.status::text AS status, r.results,
              r.error_message
)
SELECT h.simulation_id AS held_id, f.* FROM held h LEFT JOIN finished f USING (simulation_id)"""
REMOVE = """
DELETE FROM simulation_queue q USING unnest($1::uuid[], $2::bigint[]) AS l (simulation_id, fence)
WHERE q.simulation_id = l.simulation_id AND q.fence = l.fence AND q.holder IS NOT NULL
RETURNING q.simulation_id"""

# Whoever computes it holds its lease no longer.
CANCEL = """
UPDATE simulation_queue
SET cancelled_at = clock_timestamp(), due_at = clock_timestamp(), fence = fence + 1, holder = NULL, heartbeat_at = NULL
WHERE simulation_id = $1 AND cancelled_at IS NULL"""

BACKLOGS = """
SELECT lane, count(*) FILTER (WHERE holder IS NULL AND NOT EXISTS (
           SELECT FROM simulation_shards s
           WHERE s.simulation_id = q.simulation_id AND s.heartbeat_at > clock_timestamp() - interval '1 minute')) AS waiting,
       extract(epoch FROM clock_timestamp() - min(queued_at))::float8 AS oldest_s
FROM simulation_queue q GROUP BY lane"""

QUEUED = """
SELECT q.lane, q.work, q.holder IS NOT NULL OR EXISTS (
           SELECT FROM simulation_shards s WHERE s.simulation_id = q.simulation_id AND (s.holder IS NOT NULL OR s.sums IS NOT NULL)
       ) AS computing,
       (SELECT count(*) FROM simulation_queue o WHERE o.lane = q.lane AND o.start_tag < q.start_tag) AS ahead
FROM simulation_queue q WHERE q.simulation_id = $1"""


PROGRESS = """
SELECT coalesce(sum(twins) FILTER (WHERE sums IS NOT NULL), 0)::bigint AS twins_done, sum(twins)::bigint AS twins,
       count(*) FILTER (WHERE holder IS NOT NULL) AS computing
FROM simulation_shards WHERE simulation_id = $1 HAVING count(*) > 0"""


class LostSimulationLease(RuntimeError):
    """Another worker has taken over this simulation, or it has ended already."""

    def __init__(self, lease: SimulationLease) -> None:
        super().__init__(f"simulation {lease.simulation_id} is no longer leased with fencing number {lease.fence}")
        self.lease = lease


@dataclass(frozen=True)
class SimulationLease:
    """A leased simulation, valid as long as ``fence`` is the newest fencing number.

    Attributes:
        model_id: the model that its twins are generated with; None where they are stored.
        tries: number of workers that leased it so far, this one included.
        waited_s: seconds since the request was queued.
        is_cancelled: whether it is to be answered as cancelled.
    """

    simulation_id: UUID
    lane: Lane
    work: int
    model_id: UUID | None
    tries: int
    fence: int
    body_hash: bytes
    waited_s: float
    is_cancelled: bool = False


class LaneBacklog(NamedTuple):
    """Requests of a lane that no worker computes yet, and the age of its oldest request in seconds."""

    waiting: int = 0
    oldest_s: float = 0.0


class ShardProgress(NamedTuple):
    """Twins of the shards of a request that are computed, of all of them, and the number of shards that are being computed."""

    twins_done: int
    twins: int
    computing: int


class QueuedSimulation(NamedTuple):
    """The place of a request in the queue: whether it is computed now, and the number of requests ahead of it in its lane.

    Attributes:
        progress: of a request in shards.
    """

    lane: Lane
    work: int
    computing: bool
    ahead: int
    progress: ShardProgress | None = None


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


async def enqueue_simulations(
    database: Database, entries: Sequence[QueueEntry], holders: Mapping[Lane, str] = _NOBODY, *, lease_s: float = 0.0
) -> list[SimulationLease]:
    """Queue pinned requests in their order; those that are queued already keep their place.

    Args:
        database: a pool or a connection.
        entries: the requests.
        holders: workers that lease these requests at once, by lane; none of a lane in which another request can be leased.
        lease_s: seconds after which a lease without heartbeat ends.

    Returns:
        The leases of the holders.
    """
    if not entries:
        return []
    *columns, lanes = zip(*((*entry, entry.lane) for entry in entries), strict=True)
    rows = await database.fetch(ENQUEUE, *columns, [holders.get(lane) for lane in lanes], lease_s)
    return [SimulationLease(*row) for row in rows]


async def lease_simulations(
    database: Database,
    lane: Lane,
    worker: str,
    *,
    lease_s: float,
    without_models: Collection[UUID] = (),
    without: Collection[UUID] = (),
    at_most: int = 1,
    work: int = 0,
) -> list[SimulationLease]:
    """Lease the next requests of a lane to ``worker``, in their order; none when there is none.

    Requests of the models in ``without_models`` are left to others. A request whose heartbeat has stopped for ``lease_s`` is leased
    again, which counts as a try only where another worker held it: one that leases has not ended. One with more than ``MAX_TRIES``
    tries has to be answered as failed: its workers do not survive it.

    Args:
        database: a pool or a connection.
        lane: of the requests.
        worker: its name, which no other process ever has.
        lease_s: seconds after which a lease without heartbeat ends.
        without_models: models whose requests are not leased.
        without: requests that are not leased, as the worker has their leases and works on them.
        at_most: number of requests.
        work: of all of them together, in twins; the first is leased whatever its work.
    """
    rows = await database.fetch(LEASE, lane, lease_s, worker, list(without_models), at_most, work, list(without))
    return [SimulationLease(*row[:-1]) for row in sorted(rows, key=itemgetter("place"))]


async def renew_simulation_leases(database: Database, leases: Sequence[SimulationLease]) -> list[LostSimulationLease]:
    """Renew leases together; returns an error for each that another worker holds."""
    held = {tuple(row) for row in await database.fetch(RENEW, *_ids_and_fences(leases))}
    return [LostSimulationLease(lease) for lease in leases if (lease.simulation_id, lease.fence) not in held]


async def finish_leased(
    database: Database, answers: Sequence[tuple[SimulationLease, SimulationAnswer]]
) -> list[SimulationAnswer | LostSimulationLease]:
    """Store answers together, each unless there is one.

    Returns:
        For each the stored answer, which is the one to publish; :class:`LostSimulationLease` when another worker holds its lease.
    """
    leases, new = [lease for lease, _ in answers], [NewAnswer(answer, lease.body_hash) for lease, answer in answers]
    if any(answer.reason for _, answer in answers):  # it may name a person
        async with transaction(database) as connection:
            stored = await _finish(connection, leases, await without_erased(connection, new))
            await drop_rejected_populations(connection, [lease.simulation_id for lease in leases])
    else:
        stored = await _finish(database, leases, new)
    return [stored.get(lease.simulation_id) or LostSimulationLease(lease) for lease in leases]


async def _finish(
    database: Database, leases: Sequence[SimulationLease], new: Sequence[NewAnswer]
) -> dict[UUID, SimulationAnswer | None]:
    """Store the answers of leases that are held; returns those that are stored now, by id."""
    rows = [
        (lease.simulation_id, lease.fence, lease.body_hash, *answer_values(item.answer))
        for lease, item in zip(leases, new, strict=True)
    ]
    held = await database.fetch(FINISH, *zip(*rows, strict=True))
    answered_before = [row["held_id"] for row in held if row["simulation_id"] is None]
    runs = await find_runs(database, answered_before) if answered_before else {}
    stored = await read_answers(database, [row for row in held if row["simulation_id"] is not None])
    return {simulation_id: run.answer for simulation_id, run in runs.items()} | stored


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


async def cancel_simulation(database: Database, simulation_id: UUID) -> bool:
    """Have a queued request answered as cancelled, whether or not it is being computed; false when it is not queued any more."""
    if await database.execute(CANCEL, simulation_id) != "UPDATE 0":
        return True
    return bool(await database.fetchval("SELECT true FROM simulation_queue WHERE simulation_id = $1", simulation_id))


def _ids_and_fences(leases: Sequence[SimulationLease]) -> tuple[list[UUID], list[int]]:
    return [lease.simulation_id for lease in leases], [lease.fence for lease in leases]


async def lane_backlogs(database: Database) -> dict[Lane, LaneBacklog]:
    """The backlog of every lane."""
    rows = {row["lane"]: LaneBacklog(row["waiting"], row["oldest_s"]) for row in await database.fetch(BACKLOGS)}
    return {lane: rows.get(lane, LaneBacklog()) for lane in LANES}


async def queued_simulation(database: Database, simulation_id: UUID) -> QueuedSimulation | None:
    """The place of a request in the queue; None when it is not queued."""
    row = await database.fetchrow(QUEUED, simulation_id)
    return QueuedSimulation(**row, progress=await shard_progress(database, simulation_id)) if row else None


async def shard_progress(database: Database, simulation_id: UUID) -> ShardProgress | None:
    """How far a request is; None when it is not queued in shards."""
    row = await database.fetchrow(PROGRESS, simulation_id)
    return ShardProgress(**row) if row else None

"""Stores retrain requests: one per cause, and one running training per line, under a lease by the clock of Postgres.

The holder of a lease has its fencing number. Another worker may take over a lease whose heartbeat has stopped, with a higher
number; from then on the former holder can change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg

from schemas.events import RetrainEvent
from sql.database import Connection, Database, transaction
from sql.model_card_rows import UnknownModel

__all__ = [
    "MAX_TRIES",
    "LostLease",
    "RetrainLimits",
    "RetrainRequest",
    "RetrainStatus",
    "TrainingJob",
    "TrainingOutcome",
    "UnknownRequest",
    "close_request",
    "enqueue",
    "find_retrain",
    "finish",
    "finished_trainings",
    "heartbeat",
    "lease_training",
    "list_retrains",
    "put_back",
    "record_training_rows",
    "waits_for",
]

TrainingOutcome = Literal["promoted", "suggested", "rejected", "failed", "stale"]
RetrainStatus = Literal["queued", "running", "promoted", "suggested", "rejected", "failed", "stale", "refused"]

MAX_TRIES = 3
"""Number of workers that may start a training without finishing it."""

_TRAINED = "('promoted', 'suggested', 'rejected', 'failed')"  # a stale request was not trained

ENQUEUE = """
INSERT INTO retrain_requests (retrain_id, line, model_id, attempt, cause, reason, evidence, requested_at, status, finished_at,
                              outcome)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, CASE WHEN fresh THEN 'queued' ELSE 'stale' END,
       CASE WHEN NOT fresh THEN clock_timestamp() END,
       CASE WHEN fresh THEN '' ELSE 'the model was no longer champion' END
FROM (SELECT champion IS NOT DISTINCT FROM $3 AS fresh FROM model_lines WHERE line = $2) l
ON CONFLICT (retrain_id) DO NOTHING"""

ADD_LEASE = "INSERT INTO training_leases (line) VALUES ($1) ON CONFLICT (line) DO NOTHING"

_REQUEST_COLUMNS = "retrain_id, line, model_id, attempt, cause, reason, evidence, requested_at, tries, learned"

REQUEST = f"SELECT {_REQUEST_COLUMNS}, queued_at, approved_at, status, started_at, finished_at, outcome FROM retrain_requests"  # noqa: S608  # our own constant

CLOSE_STALE = """
UPDATE retrain_requests r
SET status = 'stale', finished_at = clock_timestamp(), outcome = 'another model became champion'
FROM model_lines l
WHERE l.line = r.line AND r.status = 'queued' AND l.champion IS DISTINCT FROM r.model_id"""

# Every line with an open request whose lease no transaction is changing; due requests are read after the leases are locked.
LOCK_LEASES = """
SELECT line FROM training_leases t
WHERE EXISTS (SELECT FROM retrain_requests r WHERE r.line = t.line AND r.status IN ('queued', 'running'))
ORDER BY line
FOR UPDATE SKIP LOCKED"""

# What an open request waits for; empty when it may start. A request of a person, or one that is approved, waits for nothing. One
# caused by drift waits for the line's policy, for approval after a replay, for the cooldown, for the daily budget, and for the
# circuit breaker. $1 is the lease, $2 the cooldown in seconds, $3 trainings a day, $4 failures in a row that open the
# breaker, for $5 seconds.
OPEN = f"""
SELECT r.retrain_id, r.line, r.status, r.queued_at, l.champion IS DISTINCT FROM r.model_id AS stale,
       t.retrain_id IS NOT NULL AS busy,
       coalesce(t.retrain_id = r.retrain_id AND t.heartbeat_at < clock_timestamp() - make_interval(secs => $1), false) AS abandoned,
       CASE
           WHEN r.cause = 'request' THEN ''
           WHEN l.policy = 'off' THEN 'another policy than off: twinstream models policy'
           WHEN r.approved_at IS NOT NULL THEN ''
           WHEN l.policy = 'approve' THEN 'approval: twinstream retrain approve'
           WHEN EXISTS (
               SELECT FROM replays p WHERE r.line = ANY(p.lines) AND r.queued_at BETWEEN p.begun_at AND p.quiet_until)
               THEN 'approval, as outcomes were replayed when it was requested: twinstream retrain approve'
           WHEN l.policy = 'suggest' AND EXISTS (
               SELECT FROM retrain_requests s WHERE s.model_id = r.model_id AND s.status = 'suggested')
               THEN 'a decision on the challenger that is suggested already: twinstream models promote'
           WHEN EXISTS (
               SELECT FROM retrain_requests f
               WHERE f.line = r.line AND f.status IN {_TRAINED}
                 AND f.finished_at > clock_timestamp() - make_interval(secs => $2))
               THEN 'the end of the cooldown'
           WHEN (SELECT count(*) FROM retrain_requests f
                 WHERE f.line = r.line AND f.started_at > clock_timestamp() - interval '1 day') >= $3
               THEN 'the daily budget of trainings'
           WHEN EXISTS (
               SELECT FROM (SELECT f.status, f.finished_at FROM retrain_requests f
                            WHERE f.line = r.line AND f.status IN {_TRAINED} ORDER BY f.finished_at DESC LIMIT $4) last
               HAVING count(*) = $4 AND bool_and(last.status = 'failed')
                  AND max(last.finished_at) > clock_timestamp() - make_interval(secs => $5))
               THEN 'the circuit breaker, opened by consecutive failed trainings'
           ELSE ''
       END AS waits_for
FROM retrain_requests r JOIN model_lines l USING (line) JOIN training_leases t USING (line)
WHERE r.status IN ('queued', 'running')"""  # noqa: S608  # our own constant

# A training whose heartbeat has stopped comes first.
DUE = f"""
SELECT retrain_id, line, stale FROM ({OPEN}) open
WHERE line = ANY($6)
  AND (status = 'running' AND abandoned OR status = 'queued' AND NOT busy AND NOT stale AND waits_for = '')
ORDER BY status = 'running' DESC, queued_at, retrain_id
LIMIT 1"""  # noqa: S608  # our own constant

WAITS_FOR = (
    f"SELECT CASE WHEN busy THEN 'the running training of the line' ELSE waits_for END FROM ({OPEN}) open WHERE retrain_id = $6"  # noqa: S608
)

# Whoever held it still lives where it leases again.
LEASE = """
UPDATE training_leases t SET fence = t.fence + 1, retrain_id = $2, holder = $3, heartbeat_at = clock_timestamp()
FROM training_leases before
WHERE t.line = $1 AND before.line = t.line
RETURNING t.fence, (before.retrain_id, before.holder) IS DISTINCT FROM ($2, $3) AS counts"""

START = f"""
UPDATE retrain_requests SET status = 'running', tries = tries + $2, started_at = coalesce(started_at, clock_timestamp())
WHERE retrain_id = $1
RETURNING {_REQUEST_COLUMNS}"""  # noqa: S608  # our own constant

HEARTBEAT = """
UPDATE training_leases SET heartbeat_at = clock_timestamp()
WHERE line = $1 AND retrain_id = $2 AND fence = $3"""

RELEASE = """
UPDATE training_leases SET retrain_id = NULL, holder = NULL, heartbeat_at = NULL
WHERE line = $1 AND retrain_id = $2 AND fence = $3"""

CLOSE = """
UPDATE retrain_requests SET status = $2, finished_at = clock_timestamp(), outcome = $3
WHERE retrain_id = $1"""

PUT_BACK = "UPDATE retrain_requests SET status = 'queued', tries = tries - 1 WHERE retrain_id = $1"

RECORD_TRAINING_ROWS = "UPDATE retrain_requests SET learned = $2 WHERE retrain_id = $1"

FINISHED_TRAININGS = f"SELECT count(*) FROM retrain_requests WHERE model_id = $1 AND status IN {_TRAINED}"  # noqa: S608  # our own constant


class LostLease(RuntimeError):
    """Another worker has taken over this training, or it has ended already."""


class UnknownRequest(LookupError):
    """No retrain request has this id."""

    def __init__(self, retrain_id: UUID) -> None:
        super().__init__(f"no retrain request {retrain_id}")


@dataclass(frozen=True)
class RetrainLimits:
    """Limits on trainings; times in seconds.

    Attributes:
        lease_s: a training without a heartbeat for so long may be taken over.
        cooldown_s: pause of a line after a training.
        budget_a_day: maximum number of trainings of a line within 24 hours.
        breaker_failures: number of consecutive failures that open the circuit breaker of a line, for ``breaker_s``.
    """

    lease_s: float = 60.0
    cooldown_s: float = 3600.0
    budget_a_day: int = 4
    breaker_failures: int = 3
    breaker_s: float = 86_400.0

    @property
    def as_arguments(self) -> tuple[float, float, int, int, float]:
        """The limits as the first arguments of the statements."""
        return self.lease_s, self.cooldown_s, self.budget_a_day, self.breaker_failures, self.breaker_s


@dataclass(frozen=True)
class _RetrainFields:
    """Fields of a retrain event; ``tries`` counts its holders so far, ``learned`` summarises the challenger's training rows."""

    retrain_id: UUID
    line: str
    model_id: UUID
    attempt: int
    cause: str
    reason: str
    evidence: dict[str, Any]
    requested_at: datetime
    tries: int
    learned: dict[str, Any]


@dataclass(frozen=True)
class TrainingJob(_RetrainFields):
    """A leased training, valid as long as ``fence`` is the newest fencing number."""

    fence: int


@dataclass(frozen=True)
class RetrainRequest(_RetrainFields):
    """A retrain request and its status."""

    queued_at: datetime
    approved_at: datetime | None
    status: RetrainStatus
    started_at: datetime | None
    finished_at: datetime | None
    outcome: str


async def enqueue(database: Database, event: RetrainEvent) -> RetrainStatus:
    """Store a retrain event unless it is stored, and return its status; it is stale when its model is not champion.

    Raises:
        UnknownModel: when the model or its line was never registered.
    """
    async with transaction(database) as connection:
        fields = (event.line, event.model_id, event.attempt, event.cause, event.reason, event.evidence, event.requested_at)
        try:
            await connection.execute(ENQUEUE, event.retrain_id, *fields)
            await connection.execute(ADD_LEASE, event.line)
        except asyncpg.ForeignKeyViolationError:
            raise UnknownModel(event.model_id) from None
        return (await find_retrain(connection, event.retrain_id)).status


async def find_retrain(database: Database, retrain_id: UUID) -> RetrainRequest:
    """One request.

    Raises:
        UnknownRequest: when there is none.
    """
    row = await database.fetchrow(f"{REQUEST} WHERE retrain_id = $1", retrain_id)
    if row is None:
        raise UnknownRequest(retrain_id)
    return RetrainRequest(**row)


async def list_retrains(database: Database, line: str) -> list[RetrainRequest]:
    """All requests of a line, oldest first."""
    rows = await database.fetch(f"{REQUEST} WHERE line = $1 ORDER BY queued_at, retrain_id", line)
    return [RetrainRequest(**row) for row in rows]


async def waits_for(database: Database, retrain_id: UUID, limits: RetrainLimits) -> str:
    """What a queued request waits for, as text; empty for one that may start, or is no longer open."""
    return str(await database.fetchval(WAITS_FOR, *limits.as_arguments, retrain_id) or "")


async def lease_training(database: Database, worker: str, limits: RetrainLimits) -> TrainingJob | None:
    """Lease the next training that may start to ``worker``; None when there is none.

    A training whose heartbeat has stopped is leased again, which counts as a try only where another worker held it: ``worker`` is a
    name that no other process ever has. One with more than ``MAX_TRIES`` tries has to be closed as failed: its
    workers do not survive it.
    """
    async with transaction(database) as connection:
        await connection.execute(CLOSE_STALE)
        lines = [row[0] for row in await connection.fetch(LOCK_LEASES)]
        while due := await connection.fetchrow(DUE, *limits.as_arguments, lines):
            job = await _start(connection, due["line"], due["retrain_id"], worker)
            if not due["stale"]:
                return job
            await finish(connection, job, "stale", "another model became champion")
        return None


async def heartbeat(database: Database, job: TrainingJob) -> None:
    """Renew the lease.

    Raises:
        LostLease: when the training is no longer leased to this holder.
    """
    if await database.execute(HEARTBEAT, job.line, job.retrain_id, job.fence) == "UPDATE 0":
        raise _lost(job.retrain_id, job.fence)


async def finish(database: Database, job: TrainingJob, status: TrainingOutcome, outcome: str = "") -> None:
    """End a training without a ledger event, and release its lease; ``outcome`` is the reason as text.

    Raises:
        LostLease: when the training is no longer leased to this holder.
    """
    async with transaction(database) as connection:
        await close_request(connection, job.line, job.retrain_id, job.fence, status, outcome)


async def close_request(
    connection: Connection, line: str, retrain_id: UUID, fence: int, status: TrainingOutcome, outcome: str
) -> None:
    """End a training in the transaction that stores its result.

    Raises:
        LostLease: when ``fence`` is not the newest.
    """
    await _release(connection, line, retrain_id, fence)
    await connection.execute(CLOSE, retrain_id, status, outcome)


async def put_back(database: Database, job: TrainingJob) -> None:
    """Return a training to the queue as if it had not been started, so that another worker can lease it at once.

    Raises:
        LostLease: when the training is no longer leased to this holder.
    """
    async with transaction(database) as connection:
        await _release(connection, job.line, job.retrain_id, job.fence)
        await connection.execute(PUT_BACK, job.retrain_id)


async def record_training_rows(database: Database, retrain_id: UUID, summary: dict[str, Any]) -> None:
    """Store a summary of the rows that a challenger is trained on."""
    await database.execute(RECORD_TRAINING_ROWS, retrain_id, summary)


async def finished_trainings(database: Database, model_id: UUID) -> int:
    """Number of trainings against a champion that have ended; part of its next retrain id."""
    return int(await database.fetchval(FINISHED_TRAININGS, model_id) or 0)


async def _start(connection: Connection, line: str, retrain_id: UUID, worker: str) -> TrainingJob:
    lease = await connection.fetchrow(LEASE, line, retrain_id, worker)
    assert lease is not None  # locked in this transaction
    row = await connection.fetchrow(START, retrain_id, int(lease["counts"]))
    assert row is not None  # locked and read in this transaction
    return TrainingJob(**row, fence=lease["fence"])


async def _release(connection: Connection, line: str, retrain_id: UUID, fence: int) -> None:
    if await connection.execute(RELEASE, line, retrain_id, fence) == "UPDATE 0":
        raise _lost(retrain_id, fence)


def _lost(retrain_id: UUID, fence: int) -> LostLease:
    return LostLease(f"training {retrain_id} is no longer leased with fencing number {fence}")

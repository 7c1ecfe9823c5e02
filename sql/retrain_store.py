"""Retrain requests as rows: one a cause, one training in flight a line, with a lease by Postgres's clock.

Whoever holds a lease has its fencing number. Another worker may take over a lease whose heartbeat has stopped, with a higher
number, and from then on the former holder can change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg

from schemas.events import RetrainEvent
from sql.database import Connection, Database, transaction
from sql.model_rows import UnknownModel

__all__ = [
    "Job",
    "LostLease",
    "Outcome",
    "Request",
    "Status",
    "UnknownRequest",
    "approve",
    "close_request",
    "enqueue",
    "finish",
    "finished_trainings",
    "heartbeat",
    "request",
    "requests",
    "take",
]

Outcome = Literal["promoted", "rejected", "failed", "stale"]
Status = Literal["queued", "running", "promoted", "rejected", "failed", "stale"]

MOST_TRIES = 3

ENQUEUE = """
INSERT INTO retrain_requests (retrain_id, line, model_id, attempt, cause, reason, evidence, requested_at, status, finished_at,
                              outcome)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, CASE WHEN fresh THEN 'queued' ELSE 'stale' END,
       CASE WHEN NOT fresh THEN clock_timestamp() END,
       CASE WHEN fresh THEN '' ELSE 'the accused model was not champion' END
FROM (SELECT champion IS NOT DISTINCT FROM $3 AS fresh FROM model_lines WHERE line = $2) l
ON CONFLICT (retrain_id) DO NOTHING"""

ADD_LEASE = "INSERT INTO training_leases (line) VALUES ($1) ON CONFLICT (line) DO NOTHING"

REQUEST = """
SELECT retrain_id, line, model_id, attempt, cause, reason, evidence, requested_at, queued_at, approved_at, status, tries,
       started_at, finished_at, outcome
FROM retrain_requests"""

CLOSE_STALE = """
UPDATE retrain_requests r
SET status = 'stale', finished_at = clock_timestamp(), outcome = 'another model became champion'
FROM model_lines l
WHERE l.line = r.line AND r.status = 'queued' AND l.champion IS DISTINCT FROM r.model_id"""

# Every line with something to do whose lease nobody is changing right now; what is due is read after they are locked.
LOCK_LEASES = """
SELECT line FROM training_leases t
WHERE EXISTS (SELECT FROM retrain_requests r WHERE r.line = t.line AND r.status IN ('queued', 'running'))
ORDER BY line
FOR UPDATE SKIP LOCKED"""

# A training whose heartbeat stopped comes first. Drift waits for the cooldown after the last finished training of its line, for a
# free place in the day's budget, and for approval where the line asks for it; a person's request waits for none of them.
DUE = """
SELECT r.retrain_id, r.line, l.champion IS DISTINCT FROM r.model_id AS stale, r.status = 'running' AND r.tries >= $5 AS exhausted
FROM retrain_requests r JOIN model_lines l USING (line) JOIN training_leases t USING (line)
WHERE r.line = ANY($1)
  AND (r.status = 'running' AND t.retrain_id = r.retrain_id AND t.heartbeat_at < clock_timestamp() - make_interval(secs => $2)
       OR r.status = 'queued' AND t.retrain_id IS NULL AND l.champion = r.model_id
          AND (r.cause = 'request' OR (l.policy = 'auto' OR r.approved_at IS NOT NULL)
               AND NOT EXISTS (SELECT FROM retrain_requests f
                               WHERE f.line = r.line AND f.status IN ('promoted', 'rejected', 'failed')
                                 AND f.finished_at > clock_timestamp() - make_interval(secs => $3))
               AND (SELECT count(*) FROM retrain_requests f
                    WHERE f.line = r.line AND f.started_at > clock_timestamp() - interval '1 day') < $4))
ORDER BY r.status = 'running' DESC, r.queued_at, r.retrain_id
LIMIT 1"""

LEASE = """
UPDATE training_leases SET fence = fence + 1, retrain_id = $2, holder = $3, heartbeat_at = clock_timestamp()
WHERE line = $1
RETURNING fence"""

START = """
UPDATE retrain_requests SET status = 'running', tries = tries + 1, started_at = coalesce(started_at, clock_timestamp())
WHERE retrain_id = $1
RETURNING retrain_id, line, model_id, attempt, cause, reason, evidence, requested_at, tries"""

HEARTBEAT = """
UPDATE training_leases SET heartbeat_at = clock_timestamp()
WHERE line = $1 AND retrain_id = $2 AND fence = $3"""

RELEASE = """
UPDATE training_leases SET retrain_id = NULL, holder = NULL, heartbeat_at = NULL
WHERE line = $1 AND retrain_id = $2 AND ($3::bigint IS NULL OR fence = $3)"""

CLOSE = """
UPDATE retrain_requests SET status = $2, finished_at = clock_timestamp(), outcome = $3
WHERE retrain_id = $1"""

APPROVE = "UPDATE retrain_requests SET approved_at = coalesce(approved_at, clock_timestamp()) WHERE retrain_id = $1"

FINISHED_TRAININGS = """
SELECT count(*) FROM retrain_requests WHERE model_id = $1 AND status IN ('promoted', 'rejected', 'failed')"""


class LostLease(RuntimeError):
    """Another worker took over this training, or it is finished already."""


class UnknownRequest(LookupError):
    """No retrain request has this id."""

    def __init__(self, retrain_id: UUID) -> None:
        super().__init__(f"no retrain request {retrain_id}")


@dataclass(frozen=True)
class Job:
    """A training that its holder is allowed to do as long as ``fence`` is the newest; ``tries`` counts its holders so far."""

    retrain_id: UUID
    line: str
    model_id: UUID
    attempt: int
    cause: str
    reason: str
    evidence: dict[str, Any]
    requested_at: datetime
    tries: int
    fence: int


@dataclass(frozen=True)
class Request:
    """A retrain request and how far it came."""

    retrain_id: UUID
    line: str
    model_id: UUID
    attempt: int
    cause: str
    reason: str
    evidence: dict[str, Any]
    requested_at: datetime
    queued_at: datetime
    approved_at: datetime | None
    status: Status
    tries: int
    started_at: datetime | None
    finished_at: datetime | None
    outcome: str


async def enqueue(database: Database, event: RetrainEvent) -> Status:
    """Make the event a row, unless it is one, and return where it stands; one about a model that is not champion is stale.

    Raises:
        UnknownModel: when the accused model or its line was never registered.
    """
    async with transaction(database) as connection:
        said = (event.line, event.model_id, event.attempt, event.cause, event.reason, event.evidence, event.requested_at)
        try:
            await connection.execute(ENQUEUE, event.retrain_id, *said)
            await connection.execute(ADD_LEASE, event.line)
        except asyncpg.ForeignKeyViolationError:
            raise UnknownModel(event.model_id) from None
        return (await request(connection, event.retrain_id)).status


async def request(database: Database, retrain_id: UUID) -> Request:
    """One request.

    Raises:
        UnknownRequest: when there is none.
    """
    row = await database.fetchrow(f"{REQUEST} WHERE retrain_id = $1", retrain_id)
    if row is None:
        raise UnknownRequest(retrain_id)
    return Request(**row)


async def requests(database: Database, line: str) -> list[Request]:
    """All requests of a line, oldest first."""
    rows = await database.fetch(f"{REQUEST} WHERE line = $1 ORDER BY queued_at, retrain_id", line)
    return [Request(**row) for row in rows]


async def take(
    database: Database, worker: str, *, lease_s: float, cooldown_s: float, budget_a_day: int, most_tries: int = MOST_TRIES
) -> Job | None:
    """The next training that may begin, leased to ``worker``; None when there is none.

    A training whose holder has shown no sign of life for ``lease_s`` is handed on, and given up after ``most_tries`` holders.
    """
    async with transaction(database) as connection:
        await connection.execute(CLOSE_STALE)
        lines = [row[0] for row in await connection.fetch(LOCK_LEASES)]
        while due := await connection.fetchrow(DUE, lines, lease_s, cooldown_s, budget_a_day, most_tries):
            if due["stale"]:
                await _close(connection, due["line"], due["retrain_id"], None, "stale", "another model became champion")
            elif due["exhausted"]:
                reason = f"given up: {most_tries} workers began this training and none came to an end"
                await _close(connection, due["line"], due["retrain_id"], None, "failed", reason)
            else:
                return await _begin(connection, due["line"], due["retrain_id"], worker)
        return None


async def heartbeat(database: Database, job: Job) -> None:
    """Show a sign of life.

    Raises:
        LostLease: when the training is no longer this holder's.
    """
    if await database.execute(HEARTBEAT, job.line, job.retrain_id, job.fence) == "UPDATE 0":
        raise LostLease(f"training {job.retrain_id} is no longer held with fence {job.fence}")


async def finish(database: Database, job: Job, status: Outcome, outcome: str = "") -> None:
    """End a training that leaves nothing in the ledger, and free the line; ``outcome`` says why in words.

    Raises:
        LostLease: when the training is no longer this holder's.
    """
    async with transaction(database) as connection:
        await close_request(connection, job.line, job.retrain_id, job.fence, status, outcome)


async def close_request(connection: Connection, line: str, retrain_id: UUID, fence: int, status: Outcome, outcome: str) -> None:
    """End a training inside of the transaction that writes what it led to.

    Raises:
        LostLease: when ``fence`` is not the newest.
    """
    if not await _close(connection, line, retrain_id, fence, status, outcome):
        raise LostLease(f"training {retrain_id} is no longer held with fence {fence}")


async def approve(database: Database, retrain_id: UUID) -> None:
    """Let a request of a line begin that waits for approval.

    Raises:
        UnknownRequest: when there is none.
    """
    if await database.execute(APPROVE, retrain_id) == "UPDATE 0":
        raise UnknownRequest(retrain_id)


async def finished_trainings(database: Database, model_id: UUID) -> int:
    """How many trainings against a champion came to an end: the number that its next retrain id is made of."""
    return int(await database.fetchval(FINISHED_TRAININGS, model_id) or 0)


async def _begin(connection: Connection, line: str, retrain_id: UUID, worker: str) -> Job:
    fence = await connection.fetchval(LEASE, line, retrain_id, worker)
    row = await connection.fetchrow(START, retrain_id)
    assert row is not None  # locked and read in this transaction
    return Job(**row, fence=fence)


async def _close(connection: Connection, line: str, retrain_id: UUID, fence: int | None, status: Outcome, outcome: str) -> bool:
    if await connection.execute(RELEASE, line, retrain_id, fence) == "UPDATE 0":
        return False
    await connection.execute(CLOSE, retrain_id, status, outcome)
    return True

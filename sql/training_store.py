"""Stores the trainings on uploaded tables: each once, and run under a lease by the clock of Postgres.

Table: ``trainings``. The holder of a lease has its fencing number. Another worker may take over a lease whose heartbeat has
stopped, with a higher number; from then on the former holder can change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from schemas.events import TrainingRequest
from sql.database import Database, transaction
from sql.erasure_store import require_not_erased
from sql.retrain_store import LostLease
from sql.upload_store import find_table

__all__ = [
    "MAX_TRIES",
    "LeasedTraining",
    "Training",
    "TrainingEnd",
    "TrainingStatus",
    "UnknownTraining",
    "add_training",
    "beat_training",
    "count_aged_trainings",
    "delete_aged_trainings",
    "find_training",
    "finish_training",
    "lease_table_training",
    "list_trainings",
    "put_back_training",
]

TrainingEnd = Literal["promoted", "rejected", "refused", "failed"]
TrainingStatus = Literal["queued", "running", "promoted", "rejected", "refused", "failed"]

MAX_TRIES = 3
"""Number of workers that may start a training without finishing it."""

_ADD = """
INSERT INTO trainings (training_id, table_id, table_name, line, mapping, requested_by, requested_at, status)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'queued') ON CONFLICT (training_id) DO NOTHING"""
_TRAINING = """
SELECT training_id, table_id, table_name, line, mapping, requested_by, requested_at, queued_at, status, reason, model_id, notes,
       started_at, finished_at, tries
FROM trainings"""
_LIST = f"""{_TRAINING}
WHERE ($1::timestamptz IS NULL OR (queued_at, training_id) < ($1, $2::uuid)) AND ($4::uuid IS NULL OR table_id = $4)
ORDER BY queued_at DESC, training_id DESC LIMIT $3"""  # our own constant

# A training whose heartbeat has stopped comes first. Whoever held it still lives where it leases again, which is no further try.
_LEASE = """
UPDATE trainings t
SET status = 'running', holder = $1, heartbeat_at = clock_timestamp(), fence = fence + 1,
    started_at = coalesce(started_at, clock_timestamp()), tries = tries + (holder IS DISTINCT FROM $1)::integer
WHERE training_id = (
    SELECT training_id FROM trainings
    WHERE status = 'queued' OR status = 'running' AND heartbeat_at < clock_timestamp() - make_interval(secs => $2)
    ORDER BY status = 'running' DESC, queued_at, training_id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING training_id, table_id, line, mapping, started_at, tries, fence"""
_BEAT = """
UPDATE trainings SET heartbeat_at = clock_timestamp() WHERE training_id = $1 AND fence = $2 AND status = 'running'"""
_FINISH = """
UPDATE trainings
SET status = $3, reason = $4, model_id = $5, notes = $6, finished_at = clock_timestamp(), holder = NULL, heartbeat_at = NULL
WHERE training_id = $1 AND fence = $2 AND status = 'running'"""
_PUT_BACK = """
UPDATE trainings SET status = 'queued', tries = tries - 1, holder = NULL, heartbeat_at = NULL
WHERE training_id = $1 AND fence = $2 AND status = 'running'"""

_AGED = "FROM trainings WHERE finished_at < $1"


class UnknownTraining(LookupError):
    """No training has this id."""

    def __init__(self, training_id: UUID) -> None:
        super().__init__(f"there is no training {training_id}")


class Training(NamedTuple):
    """A training on an uploaded table.

    Attributes:
        reason: why it ended as it did; empty before that.
        model_id: of the trained model; None where there is none.
        notes: what to know of the table and the model, a sentence each.
        tries: workers that have started it.
    """

    training_id: UUID
    table_id: UUID
    table_name: str
    line: str
    mapping: Mapping[str, Any]
    requested_by: str
    requested_at: datetime
    queued_at: datetime
    status: TrainingStatus
    reason: str
    model_id: UUID | None
    notes: Sequence[str]
    started_at: datetime | None
    finished_at: datetime | None
    tries: int


class LeasedTraining(NamedTuple):
    """A leased training, valid as long as ``fence`` is the newest fencing number."""

    training_id: UUID
    table_id: UUID
    line: str
    mapping: Mapping[str, Any]
    started_at: datetime
    tries: int
    fence: int


async def add_training(database: Database, request: TrainingRequest) -> Training:
    """Store a requested training as queued, unless one with its id is stored; returns that which is stored.

    Raises:
        UnknownTable: when its table is not stored.
        NamesErased: when the request names a person who was erased.
    """
    async with transaction(database) as connection:
        row = await connection.fetchrow(f"{_TRAINING} WHERE training_id = $1", request.training_id)
        if row is not None:
            return Training(*row)
        table = await find_table(connection, request.table_id)
        await require_not_erased(connection, "training request", request.model_dump(mode="json"), request.line)
        fields = (table.table_id, table.name, request.line, dict(request.mapping), request.requested_by, request.requested_at)
        await connection.execute(_ADD, request.training_id, *fields)
        return await find_training(connection, request.training_id)


async def find_training(database: Database, training_id: UUID) -> Training:
    """One training.

    Raises:
        UnknownTraining: when there is no such training.
    """
    row = await database.fetchrow(f"{_TRAINING} WHERE training_id = $1", training_id)
    if row is None:
        raise UnknownTraining(training_id)
    return Training(*row)


async def list_trainings(
    database: Database, limit: int, before: tuple[datetime, UUID] | None = None, table_id: UUID | None = None
) -> list[Training]:
    """Trainings, the newest first: those before the time and id of one, and those on a table, where these are given."""
    at, training_id = before or (None, None)
    return [Training(*row) for row in await database.fetch(_LIST, at, training_id, limit, table_id)]


async def lease_table_training(database: Database, worker: str, lease_s: float) -> LeasedTraining | None:
    """Lease the next training to a worker, whose name no other process ever has; None when none waits.

    One with more than ``MAX_TRIES`` tries has to be ended as failed: its workers do not survive it.
    """
    row = await database.fetchrow(_LEASE, worker, lease_s)
    return None if row is None else LeasedTraining(*row)


async def beat_training(database: Database, training: LeasedTraining) -> None:
    """Renew a lease.

    Raises:
        LostLease: when the training is no longer leased to this holder.
    """
    _require_held(await database.execute(_BEAT, training.training_id, training.fence), training)


async def finish_training(
    database: Database,
    training: LeasedTraining,
    status: TrainingEnd,
    reason: str,
    model_id: UUID | None = None,
    notes: Sequence[str] = (),
) -> None:
    """End a training.

    Raises:
        LostLease: when it is no longer leased to this holder.
    """
    values = (status, reason, model_id, list(notes))
    _require_held(await database.execute(_FINISH, training.training_id, training.fence, *values), training)


async def put_back_training(database: Database, training: LeasedTraining) -> None:
    """Return a training to the queue as if it had not been started.

    Raises:
        LostLease: when it is no longer leased to this holder.
    """
    _require_held(await database.execute(_PUT_BACK, training.training_id, training.fence), training)


async def delete_aged_trainings(database: Database, before: datetime) -> int:
    """Delete the trainings that ended before a time; returns their number."""
    return len(await database.fetch(f"DELETE {_AGED} RETURNING training_id", before))


async def count_aged_trainings(database: Database, before: datetime) -> int:
    """Number of trainings that :func:`delete_aged_trainings` would delete."""
    return int(await database.fetchval(f"SELECT count(*) {_AGED}", before))  # our own constant


def _require_held(changed: str, training: LeasedTraining) -> None:
    if changed == "UPDATE 0":
        raise LostLease(f"training {training.training_id} is no longer leased with fencing number {training.fence}")

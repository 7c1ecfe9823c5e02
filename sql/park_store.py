"""Requests of operators to park records, and how many records are parked."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from schemas.events import SourceId
from sql.database import Database

__all__ = [
    "PARKED",
    "ParkRequest",
    "RecordState",
    "add_park_request",
    "complete_park_requests",
    "count_parked",
    "find_park_request",
    "pending_park_requests",
    "record_state",
    "withdraw_park_request",
]

PARKED = "parked"
"""Kind of a refused record that is parked."""


class ParkRequest(NamedTuple):
    """The request of an operator to park the record at a position of a topic.

    Attributes:
        parked_at: when its role parked it; null before that.
    """

    topic: str
    partition: int
    offset: int
    why: str
    requested_by: str
    requested_at: datetime
    parked_at: datetime | None


_ADD_REQUEST = """
INSERT INTO park_requests (topic, partition, source_offset, why, requested_by) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (topic, partition, source_offset) DO UPDATE
SET why = excluded.why, requested_by = excluded.requested_by, requested_at = clock_timestamp(), parked_at = NULL"""


async def add_park_request(database: Database, topic: str, partition: int, offset: int, *, why: str, by: str) -> None:
    """Ask the role of a topic to park a record; a request that was made before is replaced."""
    await database.execute(_ADD_REQUEST, topic, partition, offset, why, by)


_SELECT_REQUESTS = """
SELECT topic, partition, source_offset AS "offset", why, requested_by, requested_at, parked_at FROM park_requests"""

_PENDING = f"{_SELECT_REQUESTS} WHERE parked_at IS NULL AND ($1::text[] IS NULL OR topic = ANY($1)) ORDER BY 1, 2, 3"

_FIND_REQUEST = f"{_SELECT_REQUESTS} WHERE topic = $1 AND partition = $2 AND source_offset = $3"


async def pending_park_requests(database: Database, topics: Iterable[str] | None = None) -> list[ParkRequest]:
    """Requests that no role has carried out yet, of these topics or of all, ordered by position."""
    names = None if topics is None else list(topics)
    return [ParkRequest(**row) for row in await database.fetch(_PENDING, names)]


async def find_park_request(database: Database, topic: str, partition: int, offset: int) -> ParkRequest | None:
    """The request for a record, null without one."""
    row = await database.fetchrow(_FIND_REQUEST, topic, partition, offset)
    return ParkRequest(**row) if row else None


_COMPLETE = """
UPDATE park_requests SET parked_at = clock_timestamp()
WHERE topic = $1 AND partition = $2 AND source_offset = ANY($3) AND parked_at IS NULL"""


async def complete_park_requests(database: Database, topic: str, partition: int, offsets: Iterable[int]) -> None:
    """Mark the requests for these records, which were parked."""
    await database.execute(_COMPLETE, topic, partition, list(offsets))


_WITHDRAW = """
DELETE FROM park_requests WHERE topic = $1 AND partition = $2 AND source_offset = $3 AND parked_at IS NULL"""


async def withdraw_park_request(database: Database, topic: str, partition: int, offset: int) -> None:
    """Delete a request that no role has carried out, because its record was processed before."""
    await database.execute(_WITHDRAW, topic, partition, offset)


_COUNT_PARKED = """
SELECT topic, count(*) AS parked FROM refused_records WHERE kind = 'parked' GROUP BY topic ORDER BY topic"""


async def count_parked(database: Database) -> dict[str, int]:
    """Number of parked records and elements by topic; topics without any are absent."""
    return {row["topic"]: row["parked"] for row in await database.fetch(_COUNT_PARKED)}


class RecordState(NamedTuple):
    """What is stored of the record at an offset: the fates of its elements, and the kinds of those that were refused.

    Where rows of the source have aged out, ``aged out`` is among the fates.
    """

    fates: tuple[str, ...]
    refused: tuple[str, ...]


_RECORD_STATE = """
SELECT ARRAY(SELECT DISTINCT fate::text FROM fidelity_tracking WHERE source = $1 AND source_offset = $2 ORDER BY 1)
       || ARRAY(SELECT 'aged out' FROM aged_sources WHERE source = $1 AND last_offset >= $2) AS fates,
       ARRAY(SELECT DISTINCT kind FROM refused_records WHERE source = $1 AND source_offset = $2 ORDER BY 1) AS refused"""


async def record_state(database: Database, source: SourceId, offset: int) -> RecordState:
    """What is stored of a record."""
    row = await database.fetchrow(_RECORD_STATE, str(source), offset)
    return RecordState(tuple(row["fates"]), tuple(row["refused"])) if row else RecordState((), ())

"""How far each source is read: its position, its watermark, its gaps, and which incarnation of its topic it belongs to.

A source is one partition of one incarnation of a topic, written ``topic:partition:incarnation``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from schemas.events import SourceId
from sql.database import Connection, Database

__all__ = [
    "UNREADABLE_DIGEST",
    "Position",
    "PositionUpdate",
    "SourceStart",
    "add_gaps",
    "advance_position",
    "begin_source",
    "count_elements",
    "lock_position",
    "mark_read_to_end",
    "newest_position",
    "record_digest",
    "source_watermarks",
]


UNREADABLE_DIGEST = b""
"""Digest of a record that could not be decoded: under other bounds it may be decoded into other ones."""


class Position(NamedTuple):
    """The last offset that was read of a source, -1 before the first, and the highest event time up to there."""

    last_offset: int
    watermark: datetime | None


class PositionUpdate(NamedTuple):
    """How far a batch advances its source.

    Attributes:
        last_offset: of the batch.
        elements: number of rows that the batch added to outcomes and refused records.
        watermark: highest event time of the batch's outcomes.
        last_time: Kafka's time of the last record.
        last_digest: of the last record, by :func:`record_digest`.
    """

    last_offset: int
    elements: int
    watermark: datetime | None
    last_time: datetime
    last_digest: bytes


class SourceStart(NamedTuple):
    """The newest incarnation of a partition, and the record up to which it was read."""

    incarnation: int
    last_offset: int
    last_time: datetime | None
    last_digest: bytes | None


# A batch names thousands of rows, each of which an index finds; the planner has no statistics of young tables and would scan them.
_LOCK_POSITION = """
SELECT last_offset, watermark, set_config('enable_seqscan', 'off', true) FROM source_positions WHERE source = $1 FOR UPDATE"""


async def lock_position(connection: Connection, source: SourceId) -> Position:
    """Lock the source for this transaction, and return how far it is read.

    Raises:
        LookupError: when the source has no row yet.
    """
    row = await connection.fetchrow(_LOCK_POSITION, str(source))
    if row is None:
        raise LookupError(f"source {source} has no position: begin_source has to create it first")
    return Position(row["last_offset"], row["watermark"])


_ADVANCE_POSITION = """
UPDATE source_positions
SET last_offset = greatest(last_offset, $2), elements = elements + $3, watermark = greatest(watermark, $4),
    last_time = CASE WHEN $2 > last_offset THEN $5 ELSE last_time END,
    last_digest = CASE WHEN $2 > last_offset THEN $6 ELSE last_digest END
WHERE source = $1"""


async def advance_position(connection: Connection, source: SourceId, update: PositionUpdate) -> None:
    """Advance the position of a source; a batch that is read again never moves it back."""
    await connection.execute(_ADVANCE_POSITION, str(source), *update)


_ADD_GAPS = """
INSERT INTO source_gaps (source, first_offset, last_offset)
SELECT $1, first_offset, last_offset FROM unnest($2::bigint[], $3::bigint[]) AS g (first_offset, last_offset)"""


async def add_gaps(connection: Connection, source: SourceId, gaps: Sequence[tuple[int, int]]) -> None:
    """Store ranges of offsets, first to last inclusive, that Kafka did not deliver."""
    if gaps:
        await connection.execute(_ADD_GAPS, str(source), [first for first, _ in gaps], [last for _, last in gaps])


_BEGIN_SOURCE = """
INSERT INTO source_positions (source, topic, partition, incarnation) VALUES ($1, $2, $3, $4) ON CONFLICT (source) DO NOTHING"""


async def begin_source(database: Database, source: SourceId) -> None:
    """Create the row of a source unless it exists."""
    await database.execute(_BEGIN_SOURCE, str(source), source.topic, source.partition, source.incarnation)


_NEWEST_POSITION = """
SELECT incarnation, last_offset, last_time, last_digest FROM source_positions
WHERE topic = $1 AND partition = $2 ORDER BY incarnation DESC LIMIT 1"""


async def newest_position(database: Database, topic: str, partition: int) -> SourceStart | None:
    """Position in the newest incarnation of a partition, None when it was never read."""
    row = await database.fetchrow(_NEWEST_POSITION, topic, partition)
    return SourceStart(**row) if row else None


async def source_watermarks(database: Database, sources: Iterable[SourceId]) -> dict[SourceId, datetime | None]:
    """Watermark of each source that has a row, None before its first outcome."""
    by_name = {str(source): source for source in sources}
    rows = await database.fetch("SELECT source, watermark FROM source_positions WHERE source = ANY($1)", list(by_name))
    return {by_name[row["source"]]: row["watermark"] for row in rows}


async def count_elements(database: Database, source: SourceId) -> int:
    """Number of outcomes and refused records that a source has brought, 0 for one that was never read."""
    elements: int | None = await database.fetchval("SELECT elements FROM source_positions WHERE source = $1", str(source))
    return elements or 0


async def mark_read_to_end(database: Database, sources: Iterable[SourceId], at: datetime) -> None:
    """Store that these sources had no further record at the time ``at``."""
    names = [str(source) for source in sources]
    await database.execute("UPDATE source_positions SET read_to_end_at = $2 WHERE source = ANY($1)", names, at)


def record_digest(key: bytes | None, value: bytes | None) -> bytes:
    """SHA-256 of a record's key and value, which distinguishes it from another record at the same offset."""
    digest = hashlib.sha256()
    for part in (key, value):
        digest.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    return digest.digest()

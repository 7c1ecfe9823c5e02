"""What one poll slice of outcomes does to the database, statement by statement; all of them belong into one transaction.

Locks are taken in the order of this module: source position, lines, heads by event, panes by key. New heads come before known
ones: a new head waits only for another new one, a known head is never waited for by somebody who still has new ones to place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

import asyncpg
from asyncpg.pgproto import pgproto

from schemas.events import SUM_FIELDS, PaneRow, SourceId
from schemas.twin_models import TwinPopulation
from sql.database import Connection, Database
from sql.twin_rows import insert_twins

__all__ = [
    "ROW",
    "Begun",
    "Change",
    "Head",
    "Line",
    "LineRow",
    "Moved",
    "OutcomeRow",
    "Position",
    "RefusedRow",
    "Reigns",
    "add_changes",
    "add_gaps",
    "add_outcomes",
    "add_refused",
    "begin_source",
    "hold_twins",
    "joined",
    "lock_heads",
    "lock_position",
    "mark_read_to_end",
    "mark_sent",
    "move_heads",
    "move_position",
    "newest_position",
    "pane_row",
    "place_heads",
    "reached",
    "record_digest",
    "refused_since",
    "reigns",
    "rows_since",
    "share_lines",
    "split_cells",
    "stored_already",
    "tracking_ids",
    "unsent",
]

NAMESPACE = uuid5(NAMESPACE_URL, "twinstream:outcomes")
_SEPARATOR = "\x1f"  # joins segments for the way to Postgres; refused inside of them


class Position(NamedTuple):
    """How far a source has been read, and the event time it has reached."""

    last_offset: int
    watermark: datetime | None


class Line(NamedTuple):
    """What a slice has to know of a model line; ``floor`` in seconds since the epoch, ``splits`` cells to a pane."""

    line: str
    generation: int
    floor: float | None
    pane_s: float
    splits: int


class Head(NamedTuple):
    """The highest revision of an event; ``contribution`` is null, and so are pane and width, where it adds to no sum."""

    event_id: UUID
    revision: int
    digest: bytes
    line: str
    model_id: UUID | None
    segments: tuple[str, ...]
    pane: float | None
    width_s: float | None
    contribution: Sequence[int] | None


class OutcomeRow(NamedTuple):
    """One element with its fate, in the order of the columns it is written to."""

    tracking_id: UUID
    tracked_at: datetime
    source_offset: int
    element: int
    event_id: UUID
    revision: int
    digest: bytes
    fate: str
    conflict: bool
    line: str
    metric_type: str
    model_id: UUID | None
    segments: str
    observed_at: datetime
    pane: float | None
    width_s: float | None
    predicted_value: float | None
    actual_value: float | None
    predicted_lower: float | None
    predicted_upper: float | None
    simulation_id: UUID | None
    twin_id: UUID | None
    population_id: UUID | None
    entity_id: str | None
    features: str | None
    treated: bool | None


class RefusedRow(NamedTuple):
    """One refused record, or element of one, as it came."""

    refusal_id: UUID
    source_offset: int
    element: int
    tracked_at: datetime
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str]]
    kind: str
    reason: str


class Change(NamedTuple):
    """What a slice adds to one cell of one series."""

    line: str
    model_id: UUID
    segment: str
    pane: float
    width_s: float
    sums: Sequence[int]


class LineRow(NamedTuple):
    """A row of ``fidelity_panes`` and the line it belongs to."""

    line: str
    row: PaneRow


def tracking_ids(source: SourceId, places: Iterable[tuple[int, int]]) -> list[UUID]:
    """Ids of elements at (offset, index in the array) of a source: uuid5, so that a replay meets itself.

    Example:
        >>> tracking_ids(SourceId(topic="outcome-events", partition=1), [(5, 0)]) == [uuid5(NAMESPACE, "outcome-events:1:0:5:0")]
        True
    """
    begun = hashlib.sha1(NAMESPACE.bytes + f"{source}:".encode(), usedforsecurity=False)
    return [_uuid5(begun, b"%d:%d" % place) for place in places]


def _uuid5(begun: Any, name: bytes) -> UUID:
    digest = begun.copy()
    digest.update(name)
    octets = bytearray(digest.digest()[:16])
    octets[6] = octets[6] & 0x0F | 0x50
    octets[8] = octets[8] & 0x3F | 0x80
    return pgproto.UUID(bytes(octets))


def joined(segments: Iterable[str]) -> str:
    """Segments as they travel to Postgres."""
    return _SEPARATOR.join(segments)


_LOCK_POSITION = """
SELECT last_offset, watermark FROM source_positions WHERE source = $1 FOR UPDATE"""


async def lock_position(connection: Connection, source: SourceId) -> Position:
    """Take the source for this transaction.

    Raises:
        LookupError: when the source was never begun.
    """
    row = await connection.fetchrow(_LOCK_POSITION, str(source))
    if row is None:
        raise LookupError(f"source {source} was never begun")
    return Position(row["last_offset"], row["watermark"])


_SHARE_LINES = """
SELECT l.line, l.generation, extract(epoch FROM l.floor)::float8 AS floor, l.pane_s, coalesce(c.splits, 1) AS splits
FROM model_lines l LEFT JOIN detector_cells c USING (line)
WHERE l.line = ANY($1)
ORDER BY l.line
FOR SHARE OF l"""


async def share_lines(connection: Connection, lines: Iterable[str]) -> dict[str, Line]:
    """The rows of these lines, which nobody may change before this transaction ends."""
    rows = await connection.fetch(_SHARE_LINES, sorted(set(lines)))
    return {row["line"]: Line(**row) for row in rows}


_STORED = """
SELECT tracking_id FROM fidelity_tracking WHERE tracking_id = ANY($1) AND tracked_at BETWEEN $2 AND $3
UNION ALL
SELECT refusal_id FROM refused_records WHERE refusal_id = ANY($1)"""


async def stored_already(connection: Connection, ids: Sequence[UUID], first: datetime, last: datetime) -> set[UUID]:
    """Those of the elements that have their row, given the span of Kafka's time they lie in."""
    return {row[0] for row in await connection.fetch(_STORED, ids, first, last)}


_PLACE_HEADS = f"""
INSERT INTO event_heads (event_id, revision, digest, line, model_id, segments, pane, width_s, contribution)
SELECT h.event_id, h.revision, h.digest, h.line, h.model_id, string_to_array(h.segments, chr(31)), h.pane, h.width_s,
       CASE WHEN h.pane IS NOT NULL THEN ($9::bigint[])[(h.i - 1) * {len(SUM_FIELDS)} + 1 : h.i * {len(SUM_FIELDS)}] END
FROM unnest($1::uuid[], $2::int[], $3::bytea[], $4::text[], $5::uuid[], $6::text[], $7::float8[], $8::float8[])
     WITH ORDINALITY AS h (event_id, revision, digest, line, model_id, segments, pane, width_s, i)
ORDER BY h.event_id
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id"""  # noqa: S608  # the number of sums


async def place_heads(connection: Connection, heads: Sequence[Head]) -> set[UUID]:
    """Store heads of events that have none, and return the events for which that was done."""
    rows = await connection.fetch(_PLACE_HEADS, *_head_columns(heads))
    return {row[0] for row in rows}


_LOCK_HEADS = """
SELECT event_id, revision, digest, line, model_id, segments, pane, width_s, contribution
FROM event_heads WHERE event_id = ANY($1) ORDER BY event_id FOR UPDATE"""


async def lock_heads(connection: Connection, events: Iterable[UUID]) -> dict[UUID, Head]:
    """The heads of these events, locked."""
    rows = await connection.fetch(_LOCK_HEADS, list(events))
    return {row["event_id"]: Head(**{**row, "segments": tuple(row["segments"])}) for row in rows}


_MOVE_HEADS = f"""
UPDATE event_heads e
SET revision = h.revision, digest = h.digest, line = h.line, model_id = h.model_id,
    segments = string_to_array(h.segments, chr(31)), pane = h.pane, width_s = h.width_s,
    contribution = CASE WHEN h.pane IS NOT NULL
                        THEN ($9::bigint[])[(h.i - 1) * {len(SUM_FIELDS)} + 1 : h.i * {len(SUM_FIELDS)}] END
FROM unnest($1::uuid[], $2::int[], $3::bytea[], $4::text[], $5::uuid[], $6::text[], $7::float8[], $8::float8[])
     WITH ORDINALITY AS h (event_id, revision, digest, line, model_id, segments, pane, width_s, i)
WHERE e.event_id = h.event_id"""  # noqa: S608  # the number of sums


async def move_heads(connection: Connection, heads: Sequence[Head]) -> None:
    """Replace locked heads."""
    await connection.execute(_MOVE_HEADS, *_head_columns(heads))


def _head_columns(heads: Sequence[Head]) -> list[list[Any]]:
    nothing = (0,) * len(SUM_FIELDS)
    columns = [list(column) for column in zip(*heads, strict=True)][:-1]
    columns[5] = [joined(segments) for segments in columns[5]]
    return [*columns, [number for head in heads for number in (head.contribution or nothing)]]


_HOLD_TWINS = """
SELECT twin_id FROM digital_twins WHERE twin_id = ANY($1) ORDER BY twin_id FOR KEY SHARE"""


async def hold_twins(connection: Connection, population: TwinPopulation, rows: Iterable[int]) -> None:
    """Store these twins of a population unless they are stored, and let nobody forget them before this transaction ends."""
    chosen = sorted(set(rows), key=lambda row: population.twin_ids[row])
    ids = [population.twin_ids[row] for row in chosen]
    held: list[asyncpg.Record] = []
    while len(held) < len(ids):  # a twin that was there may expire before it is held
        await insert_twins(connection, population, chosen)
        held = await connection.fetch(_HOLD_TWINS, ids)


_ADD_OUTCOMES = """
INSERT INTO fidelity_tracking (tracking_id, tracked_at, source_offset, element, event_id, revision, digest, fate, conflict, line,
                               metric_type, model_id, segments, observed_at, pane, width_s, predicted_value, actual_value,
                               predicted_lower, predicted_upper, simulation_id, twin_id, population_id, entity_id, features,
                               treated, source)
SELECT tracking_id, tracked_at, source_offset, element, event_id, revision, digest, fate::outcome_fate, conflict, line,
       metric_type, model_id, string_to_array(segments, chr(31)), observed_at, pane, width_s, predicted_value, actual_value,
       predicted_lower, predicted_upper, simulation_id, twin_id, population_id, entity_id, features::jsonb, treated, $27
FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::int[], $5::uuid[], $6::int[], $7::bytea[], $8::text[], $9::bool[],
            $10::text[], $11::text[], $12::uuid[], $13::text[], $14::timestamptz[], $15::float8[], $16::float8[], $17::float8[],
            $18::float8[], $19::float8[], $20::float8[], $21::uuid[], $22::uuid[], $23::uuid[], $24::text[], $25::text[],
            $26::bool[])
     AS o (tracking_id, tracked_at, source_offset, element, event_id, revision, digest, fate, conflict, line, metric_type,
           model_id, segments, observed_at, pane, width_s, predicted_value, actual_value, predicted_lower, predicted_upper,
           simulation_id, twin_id, population_id, entity_id, features, treated)"""


async def add_outcomes(connection: Connection, source: SourceId, rows: Sequence[OutcomeRow]) -> None:
    """Store elements that are not stored yet."""
    if rows:
        await connection.execute(_ADD_OUTCOMES, *(list(column) for column in zip(*rows, strict=True)), str(source))


_ADD_REFUSED = """
INSERT INTO refused_records (refusal_id, source_offset, element, tracked_at, key, value, headers, kind, reason, source, topic,
                             partition)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"""


async def add_refused(connection: Connection, source: SourceId, rows: Sequence[RefusedRow]) -> None:
    """Store refusals that are not stored yet."""
    if rows:
        await connection.executemany(_ADD_REFUSED, [(*row, str(source), source.topic, source.partition) for row in rows])


_ADD_GAPS = """
INSERT INTO source_gaps (source, first_offset, last_offset)
SELECT $1, first_offset, last_offset FROM unnest($2::bigint[], $3::bigint[]) AS g (first_offset, last_offset)"""


async def add_gaps(connection: Connection, source: SourceId, gaps: Sequence[tuple[int, int]]) -> None:
    """Note offsets, first to last inclusive, that did not come."""
    if gaps:
        await connection.execute(_ADD_GAPS, str(source), [first for first, _ in gaps], [last for _, last in gaps])


_SUMS = ", ".join(SUM_FIELDS)
ROW = f"line, model_id, segment, pane, width_s, version, last_offset, ARRAY[{_SUMS}]::text[] AS sums"
_FIRST_SUM = 8
_ADD_CHANGES = f"""
INSERT INTO fidelity_panes AS p (line, model_id, segment, pane, width_s, source, last_offset, {_SUMS})
SELECT c.line, c.model_id, c.segment, c.pane, c.width_s, $6, $7, {", ".join(f"c.{name}::numeric" for name in SUM_FIELDS)}
FROM unnest($1::text[], $2::uuid[], $3::text[], $4::float8[], $5::float8[],
            {", ".join(f"${_FIRST_SUM + i}::text[]" for i in range(len(SUM_FIELDS)))})
     AS c (line, model_id, segment, pane, width_s, {_SUMS})
ORDER BY c.model_id, c.segment, c.pane, c.width_s
ON CONFLICT (model_id, segment, pane, width_s, source) DO UPDATE
SET version = p.version + 1, last_offset = greatest(p.last_offset, excluded.last_offset), changed_at = clock_timestamp(),
    {", ".join(f"{name} = p.{name} + excluded.{name}" for name in SUM_FIELDS)}
RETURNING {ROW}"""  # noqa: S608  # names of columns


async def add_changes(connection: Connection, source: SourceId, offset: int, changes: Sequence[Change]) -> list[LineRow]:
    """Add to the source's rows, and return them as they stand now."""
    if not changes:
        return []
    keys = [list(column) for column in zip(*changes, strict=True)][:5]
    sums = [[str(number) for number in column] for column in zip(*(change.sums for change in changes), strict=True)]
    return _line_rows(await connection.fetch(_ADD_CHANGES, *keys, str(source), offset, *sums))


_ROWS_SINCE = f"SELECT {ROW} FROM fidelity_panes WHERE source = $1 AND last_offset >= $2"  # noqa: S608  # names of columns


async def rows_since(database: Database, source: SourceId, offset: int) -> list[LineRow]:
    """The source's rows whose last change came from this offset or a later one."""
    return _line_rows(await database.fetch(_ROWS_SINCE, str(source), offset))


def _line_rows(records: Iterable[asyncpg.Record]) -> list[LineRow]:
    return [LineRow(record["line"], pane_row(record)) for record in records]


def pane_row(record: asyncpg.Record) -> PaneRow:
    """A record with ``sums`` as text."""
    return PaneRow.model_construct(
        model_id=record["model_id"],
        segment=record["segment"],
        pane=record["pane"],
        width_s=record["width_s"],
        version=record["version"],
        last_offset=record["last_offset"],
        sums=tuple(map(int, record["sums"])),
    )


_MOVE_POSITION = """
UPDATE source_positions
SET last_offset = greatest(last_offset, $2), elements = elements + $3, watermark = greatest(watermark, $4),
    last_time = CASE WHEN $2 > last_offset THEN $5 ELSE last_time END,
    last_digest = CASE WHEN $2 > last_offset THEN $6 ELSE last_digest END
WHERE source = $1"""


class Moved(NamedTuple):
    """How far a slice takes its source.

    Attributes:
        last_offset: of the slice.
        elements: rows that the slice added to outcomes and refused records.
        watermark: highest event time of the slice's outcomes.
        at: Kafka's time of the last record.
        digest: of the last record, by :func:`record_digest`.
    """

    last_offset: int
    elements: int
    watermark: datetime | None
    at: datetime
    digest: bytes


async def move_position(connection: Connection, source: SourceId, moved: Moved) -> None:
    """Say how far the source is read now."""
    await connection.execute(_MOVE_POSITION, str(source), *moved)


def record_digest(key: bytes | None, value: bytes | None) -> bytes:
    """Tells one record from another."""
    parts = hashlib.sha256()
    for part in (key, value):
        parts.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    return parts.digest()


class Begun(NamedTuple):
    """The newest incarnation of a partition, and the record that it was read up to."""

    incarnation: int
    last_offset: int
    last_time: datetime | None
    last_digest: bytes | None


_NEWEST = """
SELECT incarnation, last_offset, last_time, last_digest FROM source_positions
WHERE topic = $1 AND partition = $2 ORDER BY incarnation DESC LIMIT 1"""


async def newest_position(database: Database, topic: str, partition: int) -> Begun | None:
    """Where reading of a partition stands, null when it was never begun."""
    row = await database.fetchrow(_NEWEST, topic, partition)
    return Begun(**row) if row else None


_BEGIN_SOURCE = """
INSERT INTO source_positions (source, topic, partition, incarnation) VALUES ($1, $2, $3, $4) ON CONFLICT (source) DO NOTHING"""


async def begin_source(database: Database, source: SourceId) -> None:
    """Make the row of a source, unless it is there."""
    await database.execute(_BEGIN_SOURCE, str(source), source.topic, source.partition, source.incarnation)


async def reached(database: Database, sources: Iterable[SourceId]) -> dict[SourceId, datetime | None]:
    """Watermark of each source that was begun."""
    asked = {str(source): source for source in sources}
    rows = await database.fetch("SELECT source, watermark FROM source_positions WHERE source = ANY($1)", list(asked))
    return {asked[row["source"]]: row["watermark"] for row in rows}


class Reigns(NamedTuple):
    """Who became champion of a line and from when, the first one first, as of a generation of the line."""

    generation: int
    champions: tuple[tuple[datetime, UUID], ...]


_REIGNS = """
SELECT l.line, l.generation,
       array_agg(g.effective_from ORDER BY g.generation) FILTER (WHERE g.champion IS NOT NULL) AS since,
       array_agg(g.champion ORDER BY g.generation) FILTER (WHERE g.champion IS NOT NULL) AS champions
FROM model_lines l LEFT JOIN model_ledger g ON g.line = l.line AND g.happened IN ('promoted', 'rolled_back')
WHERE l.line = ANY($1)
GROUP BY l.line"""


async def reigns(database: Database, lines: Iterable[str]) -> dict[str, Reigns]:
    """Of each line that is known."""
    rows = await database.fetch(_REIGNS, sorted(set(lines)))
    return {
        row["line"]: Reigns(row["generation"], tuple(zip(row["since"] or (), row["champions"] or (), strict=True))) for row in rows
    }


_SPLIT_CELLS = """
INSERT INTO detector_cells (line, splits) VALUES ($1, $2)
ON CONFLICT (line) DO UPDATE SET splits = greatest(detector_cells.splits, excluded.splits)"""


async def split_cells(database: Database, line: str, splits: int) -> None:
    """Split the line's panes into this many cells from now on, or more when somebody said so."""
    await database.execute(_SPLIT_CELLS, line, splits)


_MARK_READ_TO_END = """
UPDATE source_positions SET read_to_end_at = $2 WHERE source = ANY($1)"""


async def mark_read_to_end(database: Database, sources: Iterable[SourceId], at: datetime) -> None:
    """Note that there was nothing more to read from these sources."""
    await database.execute(_MARK_READ_TO_END, [str(source) for source in sources], at)


_REFUSED = """
SELECT refusal_id, source, source_offset, element, tracked_at, key, value, headers, kind, reason, topic, partition
FROM refused_records"""


async def refused_since(database: Database, source: SourceId, offset: int) -> list[asyncpg.Record]:
    """The source's refusals from this offset on whose copy was not sent yet."""
    return list(
        await database.fetch(f"{_REFUSED} WHERE source = $1 AND source_offset >= $2 AND sent_at IS NULL", str(source), offset)
    )


async def unsent(database: Database, before: datetime, limit: int) -> list[asyncpg.Record]:
    """Refusals older than ``before`` whose copy was not sent, the oldest first."""
    return list(
        await database.fetch(f"{_REFUSED} WHERE sent_at IS NULL AND refused_at < $1 ORDER BY refused_at LIMIT $2", before, limit)
    )


async def mark_sent(database: Database, ids: Sequence[UUID]) -> None:
    """Note that copies of these refusals are on the topic."""
    await database.execute("UPDATE refused_records SET sent_at = $2 WHERE refusal_id = ANY($1)", ids, datetime.now(UTC))

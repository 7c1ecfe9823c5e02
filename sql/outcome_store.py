"""What one poll slice of outcomes does to the database, statement by statement; all of them belong into one transaction.

Locks are taken in the order of this module: source position, lines, heads by event, panes by key. New heads come before known
ones: a new head waits only for another new one, a known head is never waited for by somebody who still has new ones to place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

import asyncpg
from asyncpg.pgproto import pgproto

from schemas.events import SUM_FIELDS, PaneRow, SourceId
from schemas.twin_models import TwinPopulation
from sql import arrays
from sql.database import Connection, Database
from sql.line_lock import queue_to_share
from sql.twin_rows import insert_twins

__all__ = [
    "ROW",
    "Begun",
    "Change",
    "Head",
    "Kind",
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
    "lock_heads",
    "lock_position",
    "mark_read_to_end",
    "move_heads",
    "move_position",
    "newest_position",
    "pane_row",
    "place_heads",
    "reached",
    "record_digest",
    "reigns",
    "rows_since",
    "share_lines",
    "split_cells",
    "stored_already",
    "tracking_ids",
]

Common = TypeVar("Common", bound=Hashable)

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


class Kind(NamedTuple):
    """What many outcomes of a slice have in common."""

    line: str
    metric_type: str
    model_id: UUID | None
    segments: tuple[str, ...]
    simulation_id: UUID | None
    population_id: UUID | None


class OutcomeRow(NamedTuple):
    """One element with its fate."""

    kind: Kind
    tracking_id: UUID
    tracked_at: datetime
    source_offset: int
    element: int
    event_id: UUID
    revision: int
    digest: bytes
    fate: str
    conflict: bool
    observed_at: datetime
    pane: float | None
    width_s: float | None
    predicted_value: float | None
    actual_value: float | None
    predicted_lower: float | None
    predicted_upper: float | None
    twin_id: UUID | None
    entity_id: str | None
    features: str | None
    treated: bool | None


class RefusedRow(NamedTuple):
    """One refused record, or element of one, as it came; ``headers`` as :func:`sql.refused_store.packed` writes them."""

    refusal_id: UUID
    source_offset: int
    element: int
    tracked_at: datetime
    key: bytes | None
    value: bytes | None
    headers: str
    kind: str
    reason: str
    exception: str


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


def _joined(segments: Iterable[str]) -> str:
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
    await queue_to_share(connection, lines)
    rows = await connection.fetch(_SHARE_LINES, sorted(set(lines)))
    return {row["line"]: Line(**row) for row in rows}


_STORED = """
SELECT tracking_id FROM fidelity_tracking WHERE tracking_id = ANY($1) AND tracked_at BETWEEN $2 AND $3
UNION ALL
SELECT refusal_id FROM refused_records WHERE refusal_id = ANY($1)"""


async def stored_already(connection: Connection, ids: Sequence[UUID], first: datetime, last: datetime) -> set[UUID]:
    """Those of the elements that have their row, given the span of Kafka's time they lie in."""
    return {row[0] for row in await connection.fetch(_STORED, ids, first, last)}


_HEADS = """
SELECT h.event_id, h.revision, h.digest, ($8::text[])[h.kind] AS line, ($9::uuid[])[h.kind] AS model_id,
       string_to_array(($10::text[])[h.kind], chr(31)) AS segments, h.pane, h.width_s, h.contribution::bigint[] AS contribution
FROM unnest($1::text::uuid[], $2::text::int[], $3::text::bytea[], $4::text::float8[], $5::text::float8[], $6::text::text[],
            $7::text::int[]) AS h (event_id, revision, digest, pane, width_s, contribution, kind)"""

_PLACE_HEADS = f"""
INSERT INTO event_heads (event_id, revision, digest, line, model_id, segments, pane, width_s, contribution)
{_HEADS}
ORDER BY h.event_id
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id"""


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
SET revision = h.revision, digest = h.digest, line = h.line, model_id = h.model_id, segments = h.segments, pane = h.pane,
    width_s = h.width_s, contribution = h.contribution
FROM ({_HEADS}) h
WHERE e.event_id = h.event_id"""  # noqa: S608  # the statement above


async def move_heads(connection: Connection, heads: Sequence[Head]) -> None:
    """Replace locked heads."""
    await connection.execute(_MOVE_HEADS, *_head_columns(heads))


def _head_columns(heads: Sequence[Head]) -> list[Any]:
    kinds, of_head = _numbered([(head.line, head.model_id, head.segments) for head in heads])
    return [
        arrays.uuids([head.event_id for head in heads]),
        arrays.numbers([head.revision for head in heads]),
        arrays.octets([head.digest for head in heads]),
        arrays.numbers([head.pane for head in heads]),
        arrays.numbers([head.width_s for head in heads]),
        arrays.words([None if head.contribution is None else arrays.numbers(head.contribution) for head in heads]),
        arrays.numbers(of_head),
        [line for line, _, _ in kinds],
        [model_id for _, model_id, _ in kinds],
        [_joined(segments) for _, _, segments in kinds],
    ]


def _numbered(kinds: Iterable[Common]) -> tuple[list[Common], list[int]]:
    """The different ones, and which of them each is, counted from 1."""
    found: dict[Common, int] = {}
    places = [found.setdefault(kind, len(found) + 1) for kind in kinds]
    return list(found), places


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
INSERT INTO fidelity_tracking (tracking_id, tracked_at, source_offset, element, event_id, revision, digest, fate, conflict,
                               observed_at, pane, width_s, predicted_value, actual_value, predicted_lower, predicted_upper, twin_id,
                               entity_id, features, treated, line, metric_type, model_id, segments, simulation_id, population_id,
                               source)
SELECT tracking_id, tracked_at, source_offset, element, event_id, revision, digest, fate, conflict, observed_at, pane, width_s,
       predicted_value, actual_value, predicted_lower, predicted_upper, twin_id, entity_id, features::jsonb, treated,
       ($22::text[])[kind], ($23::text[])[kind], ($24::uuid[])[kind], string_to_array(($25::text[])[kind], chr(31)),
       ($26::uuid[])[kind], ($27::uuid[])[kind], $28
FROM unnest($1::text::int[], $2::text::uuid[], $3::text::timestamptz[], $4::text::bigint[], $5::text::int[], $6::text::uuid[],
            $7::text::int[], $8::text::bytea[], $9::text::outcome_fate[], $10::text::bool[], $11::text::timestamptz[],
            $12::text::float8[], $13::text::float8[], $14::text::float8[], $15::text::float8[], $16::text::float8[],
            $17::text::float8[], $18::text::uuid[], $19::text::text[], $20::text::text[], $21::text::bool[])
     AS o (kind, tracking_id, tracked_at, source_offset, element, event_id, revision, digest, fate, conflict, observed_at, pane,
           width_s, predicted_value, actual_value, predicted_lower, predicted_upper, twin_id, entity_id, features, treated)"""

_COLUMNS: tuple[Callable[[Any], str], ...] = (
    arrays.uuids,
    arrays.moments,
    arrays.numbers,
    arrays.numbers,
    arrays.uuids,
    arrays.numbers,
    arrays.octets,
    arrays.words,
    arrays.flags,
    arrays.moments,
    *(arrays.numbers,) * 6,
    arrays.uuids,
    arrays.words,
    arrays.words,
    arrays.flags,
)


async def add_outcomes(connection: Connection, source: SourceId, rows: Sequence[OutcomeRow]) -> None:
    """Store elements that are not stored yet."""
    if not rows:
        return
    of_rows, *columns = zip(*rows, strict=True)
    kinds, places = _numbered(of_rows)
    told = [write(column) for write, column in zip(_COLUMNS, columns, strict=True)]
    lines, metrics, models, segments, simulations, populations = (list(column) for column in zip(*kinds, strict=True))
    joined = [_joined(each) for each in segments]
    await connection.execute(
        _ADD_OUTCOMES, arrays.numbers(places), *told, lines, metrics, models, joined, simulations, populations, str(source)
    )


_ADD_REFUSED = """
INSERT INTO refused_records (refusal_id, source_offset, element, tracked_at, key, value, headers, kind, reason, exception, source,
                             topic, partition)
SELECT refusal_id, source_offset, element, tracked_at, key, value, headers::json, kind, reason, exception, $11, $12, $13
FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::timestamptz[], $5::bytea[], $6::bytea[], $7::text[], $8::text[], $9::text[],
            $10::text[])
     AS r (refusal_id, source_offset, element, tracked_at, key, value, headers, kind, reason, exception)"""


async def add_refused(connection: Connection, source: SourceId, rows: Sequence[RefusedRow]) -> None:
    """Store refusals that are not stored yet."""
    if rows:
        columns = map(list, zip(*rows, strict=True))
        await connection.execute(_ADD_REFUSED, *columns, str(source), source.topic, source.partition)


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
SELECT c.line, c.model_id, c.segment, c.pane, c.width_s, $6, $7, {_SUMS}
FROM unnest($1::text::text[], $2::text::uuid[], $3::text::text[], $4::text::float8[], $5::text::float8[],
            {", ".join(f"${_FIRST_SUM + i}::text::numeric[]" for i in range(len(SUM_FIELDS)))})
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
    keys = [
        arrays.words([change.line for change in changes]),
        arrays.uuids([change.model_id for change in changes]),
        arrays.words([change.segment for change in changes]),
        arrays.numbers([change.pane for change in changes]),
        arrays.numbers([change.width_s for change in changes]),
    ]
    sums = [arrays.numbers(column) for column in zip(*(change.sums for change in changes), strict=True)]
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

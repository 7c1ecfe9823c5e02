"""What one poll slice of outcomes does to the database, statement by statement; all of them belong into one transaction.

Locks are taken in the order of this module: source position, lines, heads by event, panes by key. New heads come before known
ones: a new head waits only for another new one, a known head is never waited for by somebody who still has new ones to place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

import asyncpg
import numpy as np
import numpy.typing as npt

from schemas.events import SUM_FIELDS, PaneRow, SourceId
from schemas.twin_models import TwinPopulation
from sql import arrays
from sql import copy_encoder as binary
from sql.database import Connection, Database
from sql.line_lock import queue_to_share
from sql.twin_rows import insert_twins

__all__ = [
    "ROW",
    "ChampionPeriods",
    "Change",
    "Head",
    "Line",
    "LineRow",
    "NewHeads",
    "NewOutcomes",
    "OutcomeGroup",
    "Position",
    "PositionUpdate",
    "SourceStart",
    "add_changes",
    "add_gaps",
    "add_outcomes",
    "begin_source",
    "champion_periods",
    "hold_twins",
    "known_events",
    "lock_heads",
    "lock_position",
    "mark_read_to_end",
    "move_heads",
    "move_position",
    "newest_position",
    "pane_row",
    "place_heads",
    "record_digest",
    "rows_since",
    "share_lines",
    "source_watermarks",
    "split_cells",
    "stored_already",
    "tracking_ids",
]

Octets = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
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


class OutcomeGroup(NamedTuple):
    """What many outcomes of a slice have in common."""

    line: str
    metric_type: str
    model_id: UUID | None
    segments: tuple[str, ...]
    simulation_id: UUID | None
    population_id: UUID | None


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


def tracking_ids(source: SourceId, places: Iterable[tuple[int, int]]) -> Octets:
    """Ids of elements at (offset, index in the array) of a source, shape ``(n, 16)``: uuid5, so that a replay meets itself.

    Example:
        >>> (made,) = tracking_ids(SourceId(topic="outcome-events", partition=1), [(5, 0)])
        >>> UUID(bytes=made.tobytes()) == uuid5(NAMESPACE, "outcome-events:1:0:5:0")
        True
    """
    prefix, sha1 = NAMESPACE.bytes + f"{source}:".encode(), hashlib.sha1
    made = b"".join([sha1(b"%b%d:%d" % (prefix, *place), usedforsecurity=False).digest() for place in places])
    ids = np.frombuffer(made, dtype=np.uint8).reshape(-1, 20)[:, :16].copy()
    ids[:, 6] = ids[:, 6] & 0x0F | 0x50
    ids[:, 8] = ids[:, 8] & 0x3F | 0x80
    return ids


def _joined(segments: Iterable[str]) -> str:
    return _SEPARATOR.join(segments)


# The statements of a slice name thousands of rows, each of which an index finds; what the planner knows of young tables is nothing.
_LOCK_POSITION = """
SELECT last_offset, watermark, set_config('enable_seqscan', 'off', true) FROM source_positions WHERE source = $1 FOR UPDATE"""


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
SELECT tracking_id FROM fidelity_tracking WHERE tracking_id = ANY($1::text::uuid[]) AND tracked_at BETWEEN $2 AND $3
UNION ALL
SELECT refusal_id FROM refused_records WHERE refusal_id = ANY($1::text::uuid[])"""


async def stored_already(connection: Connection, ids: Octets, first: datetime, last: datetime) -> set[bytes]:
    """Those of the elements that have their row, given the span of Kafka's time they lie in."""
    return {row[0].bytes for row in await connection.fetch(_STORED, arrays.ids(ids), first, last)}


_KNOWN_EVENTS = "SELECT event_id FROM event_heads WHERE event_id = ANY($1::text::uuid[])"


async def known_events(connection: Connection, events: Octets) -> list[bytes]:
    """Those of the events that have a head, not locked."""
    return [row[0].bytes for row in await connection.fetch(_KNOWN_EVENTS, arrays.ids(events))]


class NewHeads(NamedTuple):
    """Heads of events that have none, in the order of their ids, as columns.

    Attributes:
        kinds: line, model and segments are taken of these; ``of`` tells which.
        pane, width_s: NaN where a head adds to no sum; ``contribution`` means nothing there.
    """

    event_id: Octets
    revision: Integers
    digest: Octets
    kinds: Sequence[OutcomeGroup]
    of: Integers
    pane: Floats
    width_s: Floats
    contribution: Integers


_HEAD_COLUMNS = ("event_id", "revision", "digest", "pane", "width_s", "contribution", "line", "model_id", "segments")


async def place_heads(connection: Connection, heads: NewHeads) -> None:
    """Store new heads.

    Raises:
        asyncpg.UniqueViolationError: when somebody placed one of them first.
    """
    if not len(heads.of):
        return
    columns = (
        binary.octets(heads.event_id),
        binary.integers(heads.revision, 4),
        binary.octets(heads.digest),
        binary.floats(heads.pane),
        binary.floats(heads.width_s),
        binary.lists(heads.contribution, np.isnan(heads.pane)),
    )
    tails = [binary.text(kind.line) + binary.uuid(kind.model_id) + binary.texts(kind.segments) for kind in heads.kinds]
    stream = binary.pack(columns, len(_HEAD_COLUMNS), [tails[of] for of in heads.of.tolist()])
    await binary.copy(connection, "event_heads", _HEAD_COLUMNS, stream)


_LOCK_HEADS = """
SELECT event_id, revision, digest, line, model_id, segments, pane, width_s, contribution
FROM event_heads WHERE event_id = ANY($1) ORDER BY event_id FOR UPDATE"""


async def lock_heads(connection: Connection, events: Iterable[UUID]) -> dict[UUID, Head]:
    """The heads of these events, locked."""
    rows = await connection.fetch(_LOCK_HEADS, list(events))
    return {row["event_id"]: Head(**{**row, "segments": tuple(row["segments"])}) for row in rows}


_MOVE_HEADS = """
UPDATE event_heads e
SET revision = h.revision, digest = h.digest, line = ($8::text[])[h.kind], model_id = ($9::uuid[])[h.kind],
    segments = string_to_array(($10::text[])[h.kind], chr(31)), pane = h.pane, width_s = h.width_s,
    contribution = h.contribution::bigint[]
FROM unnest($1::text::uuid[], $2::text::int[], $3::text::bytea[], $4::text::float8[], $5::text::float8[], $6::text::text[],
            $7::text::int[]) AS h (event_id, revision, digest, pane, width_s, contribution, kind)
WHERE e.event_id = h.event_id"""


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


class NewOutcomes(NamedTuple):
    """Elements that are not stored yet, with their fates, as columns; NaN for null.

    Attributes:
        tracked_us, observed_us: microseconds since 1970.
        kinds: ``of`` tells which an outcome is.
        treated: 1, 0, or -1 for null.
        own: twin, entity and features (JSON), by the row of an outcome that has any.
    """

    tracking_id: Octets
    tracked_us: Integers
    source_offset: Integers
    element: Integers
    event_id: Octets
    revision: Integers
    digest: Octets
    observed_us: Integers
    pane: Floats
    width_s: Floats
    predicted_value: Floats
    actual_value: Floats
    predicted_lower: Floats
    predicted_upper: Floats
    treated: Integers
    fates: Sequence[str]
    conflict: npt.NDArray[np.bool_]
    kinds: Sequence[OutcomeGroup]
    of: Integers
    own: Mapping[int, tuple[UUID | None, str | None, str | None]]


_OUTCOME_COLUMNS = (
    *("tracking_id", "tracked_at", "source_offset", "element", "event_id", "revision", "digest", "observed_at", "pane", "width_s"),
    *("predicted_value", "actual_value", "predicted_lower", "predicted_upper", "treated", "conflict", "fate"),
    *("source", "line", "metric_type", "model_id", "segments", "simulation_id", "population_id"),
    *("twin_id", "entity_id", "features"),
)


async def add_outcomes(connection: Connection, source: SourceId, new: NewOutcomes) -> None:
    """Store elements that are not stored yet."""
    if not len(new.of):
        return
    columns = (
        binary.octets(new.tracking_id),
        binary.moments(new.tracked_us),
        binary.integers(new.source_offset, 8),
        binary.integers(new.element, 4),
        binary.octets(new.event_id),
        binary.integers(new.revision, 4),
        binary.octets(new.digest),
        binary.moments(new.observed_us),
        binary.floats(new.pane),
        binary.floats(new.width_s),
        binary.floats(new.predicted_value),
        binary.floats(new.actual_value),
        binary.floats(new.predicted_lower),
        binary.floats(new.predicted_upper),
        binary.flags(new.treated == 1, new.treated < 0),
        binary.flags(new.conflict),
    )
    named = binary.text(str(source))
    common = [(named, *(_kind_fields(kind))) for kind in new.kinds]
    tails = _tails(new, [b"".join(fields) for fields in common])
    await binary.copy(connection, "fidelity_tracking", _OUTCOME_COLUMNS, binary.pack(columns, len(_OUTCOME_COLUMNS), tails))


def _kind_fields(kind: OutcomeGroup) -> tuple[bytes, ...]:
    text, uuid = binary.text, binary.uuid
    return (
        text(kind.line),
        text(kind.metric_type),
        uuid(kind.model_id),
        binary.texts(kind.segments),
        uuid(kind.simulation_id),
        uuid(kind.population_id),
    )


def _tails(new: NewOutcomes, common: Sequence[bytes]) -> list[bytes]:
    """Fate, what outcomes of a kind have in common, and what each has alone."""
    fates = {fate: binary.text(fate) for fate in set(new.fates)}
    nobody = binary.uuid(None) + binary.text(None) + binary.jsonb(None)
    alike = {(fate, of): field + fields + nobody for fate, field in fates.items() for of, fields in enumerate(common)}
    tails = [alike[told] for told in zip(new.fates, new.of.tolist(), strict=True)]
    for row, (twin_id, entity_id, features) in new.own.items():
        alone = binary.uuid(twin_id) + binary.text(entity_id) + binary.jsonb(features)
        tails[row] = fates[new.fates[row]] + common[new.of[row]] + alone
    return tails


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


class PositionUpdate(NamedTuple):
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


async def move_position(connection: Connection, source: SourceId, moved: PositionUpdate) -> None:
    """Say how far the source is read now."""
    await connection.execute(_MOVE_POSITION, str(source), *moved)


def record_digest(key: bytes | None, value: bytes | None) -> bytes:
    """Tells one record from another."""
    parts = hashlib.sha256()
    for part in (key, value):
        parts.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    return parts.digest()


class SourceStart(NamedTuple):
    """The newest incarnation of a partition, and the record that it was read up to."""

    incarnation: int
    last_offset: int
    last_time: datetime | None
    last_digest: bytes | None


_NEWEST = """
SELECT incarnation, last_offset, last_time, last_digest FROM source_positions
WHERE topic = $1 AND partition = $2 ORDER BY incarnation DESC LIMIT 1"""


async def newest_position(database: Database, topic: str, partition: int) -> SourceStart | None:
    """Where reading of a partition stands, null when it was never begun."""
    row = await database.fetchrow(_NEWEST, topic, partition)
    return SourceStart(**row) if row else None


_BEGIN_SOURCE = """
INSERT INTO source_positions (source, topic, partition, incarnation) VALUES ($1, $2, $3, $4) ON CONFLICT (source) DO NOTHING"""


async def begin_source(database: Database, source: SourceId) -> None:
    """Make the row of a source, unless it is there."""
    await database.execute(_BEGIN_SOURCE, str(source), source.topic, source.partition, source.incarnation)


async def source_watermarks(database: Database, sources: Iterable[SourceId]) -> dict[SourceId, datetime | None]:
    """Watermark of each source that was begun."""
    asked = {str(source): source for source in sources}
    rows = await database.fetch("SELECT source, watermark FROM source_positions WHERE source = ANY($1)", list(asked))
    return {asked[row["source"]]: row["watermark"] for row in rows}


class ChampionPeriods(NamedTuple):
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


async def champion_periods(database: Database, lines: Iterable[str]) -> dict[str, ChampionPeriods]:
    """Of each line that is known."""
    rows = await database.fetch(_REIGNS, sorted(set(lines)))
    return {
        row["line"]: ChampionPeriods(row["generation"], tuple(zip(row["since"] or (), row["champions"] or (), strict=True)))
        for row in rows
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

"""Outcomes and heads of events: what a batch of outcomes reads and writes beside its position and its panes.

All statements of a batch belong into one transaction. Locks are taken in one order (rule 9 of docs/exactness.md): source position,
lines, heads by event, panes by key. New heads are inserted before stored ones are locked: a transaction that inserts a new head
waits only for another one that inserts the same head, and holds no lock of a stored head while it has heads to insert.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar
from uuid import UUID

import asyncpg
import numpy as np

from schemas.arrays import Flags, Floats, Integers, Octets
from schemas.events import SourceId, padded_sums
from schemas.twin_models import TwinPopulation
from sql import copy_encoder
from sql.database import Connection, Database
from sql.erasure_store import erased_entities
from sql.parts import parts
from sql.twin_rows import insert_twins

__all__ = [
    "ChampionPeriods",
    "Head",
    "HeadAgedOut",
    "NewHeads",
    "NewOutcomes",
    "OutcomeGroup",
    "StoredElements",
    "StoredEvents",
    "add_heads",
    "add_outcomes",
    "champion_periods",
    "lock_heads",
    "store_and_lock_twins",
    "stored_elements",
    "stored_events",
    "update_heads",
]

Item = TypeVar("Item", bound=Hashable)

_SEPARATOR = "\x1f"  # joins segments for the way to Postgres; levels with control characters are refused before


class HeadAgedOut(asyncpg.SerializationError):
    """A sweep has deleted the head of an event meanwhile; in a new transaction the event is resolved as an aged one."""


class OutcomeGroup(NamedTuple):
    """What many outcomes of a batch have in common once they are scored; ``segments`` are the series they are counted in."""

    line: str
    metric_type: str
    model_id: UUID | None
    segments: tuple[str, ...]
    simulation_id: UUID | None
    population_id: UUID | None


class Head(NamedTuple):
    """The highest revision of an event; contribution, pane and width are null where it adds to no sum."""

    event_id: UUID
    revision: int
    digest: bytes
    line: str
    model_id: UUID | None
    segments: tuple[str, ...]
    pane: float | None
    width_s: float | None
    contribution: Sequence[int] | None


def _parts(ids: Octets) -> Iterator[str]:
    """Array literals of at most as many ids as one statement handles; one for no ids."""
    return map(_uuid_array, parts(ids)) if len(ids) else iter(["{}"])


def _uuid_array(ids: Octets) -> str:
    """An array literal of ids, from their octets, shape ``(n, 16)``: 0.07 ms for 1,000 of them where asyncpg takes 1.4 ms."""
    return "{" + ids.tobytes().hex(",", 16) + "}"


class StoredElements(NamedTuple):
    """Which elements of a source were stored.

    Attributes:
        ids: of the elements that have a row.
        parked_offsets: of parked records, whose row stands for all of their elements.
        aged_offset: up to this offset rows have aged out: an element without a row was stored.
    """

    ids: frozenset[bytes] = frozenset()
    parked_offsets: frozenset[int] = frozenset()
    aged_offset: int = -1


# One statement, so that a sweep in between cannot hide a row whose source had none aged out before. Of several parts the last sees
# what aged out under all of them.
_STORED_ELEMENTS = """
SELECT tracking_id, NULL::bigint FROM fidelity_tracking WHERE tracking_id = ANY($1::text::uuid[]) AND tracked_at BETWEEN $2 AND $3
UNION ALL
SELECT refusal_id, CASE WHEN kind = 'parked' THEN source_offset END FROM refused_records WHERE refusal_id = ANY($1::text::uuid[])
UNION ALL
SELECT NULL, last_offset FROM aged_sources WHERE source = $4"""


async def stored_elements(
    connection: Connection, source: SourceId, elements: tuple[Octets, datetime, datetime] | None
) -> StoredElements:
    """Which elements were stored before, by their ids and the first and last of Kafka's times of their records; none for None."""
    if elements is None:
        return StoredElements()
    ids, first, last = elements
    rows = [row for part in _parts(ids) for row in await connection.fetch(_STORED_ELEMENTS, part, first, last, str(source))]
    return StoredElements(
        ids=frozenset(row[0].bytes for row in rows if row[0] is not None),
        parked_offsets=frozenset(row[1] for row in rows if row[0] is not None and row[1] is not None),
        aged_offset=max((row[1] for row in rows if row[0] is None), default=-1),
    )


class StoredEvents(NamedTuple):
    """Which events were stored: those that have a head, which is not locked, and those whose head has aged out."""

    with_heads: Sequence[bytes]
    aged: Sequence[bytes]


_STORED_EVENTS = """
SELECT event_id, false FROM event_heads WHERE event_id = ANY($1::text::uuid[])
UNION ALL
SELECT event_id, true FROM aged_events WHERE event_id = ANY($1::text::uuid[])"""


async def stored_events(connection: Connection, events: Octets) -> StoredEvents:
    """Which of these events were stored before."""
    rows = [row for part in _parts(events) for row in await connection.fetch(_STORED_EVENTS, part)]
    with_heads, aged = ([row[0].bytes for row in rows if row[1] is is_aged] for is_aged in (False, True))
    return StoredEvents(with_heads, aged)


class NewHeads(NamedTuple):
    """Heads of events that have none yet, in the order of their ids, as columns of the same length.

    Attributes:
        groups: line, model and segments of head ``i`` are those of ``groups[group_index[i]]``.
        pane, width_s: NaN where a head adds to no sum; its ``contribution`` is not stored then.
    """

    event_id: Octets
    revision: Integers
    digest: Octets
    groups: Sequence[OutcomeGroup]
    group_index: Integers
    pane: Floats
    width_s: Floats
    contribution: Integers


_HEAD_COLUMNS = ("event_id", "revision", "digest", "pane", "width_s", "contribution", "line", "model_id", "segments")


async def add_heads(connection: Connection, heads: NewHeads) -> None:
    """Insert new heads.

    Raises:
        asyncpg.UniqueViolationError: when another transaction inserted one of them first.
    """
    if not len(heads.group_index):
        return
    columns = (
        copy_encoder.octets(heads.event_id),
        copy_encoder.integers(heads.revision, 4),
        copy_encoder.octets(heads.digest),
        copy_encoder.floats(heads.pane),
        copy_encoder.floats(heads.width_s),
        copy_encoder.lists(heads.contribution, np.isnan(heads.pane)),
    )
    text, uuid, texts = copy_encoder.text, copy_encoder.uuid, copy_encoder.texts
    tails = [text(group.line) + uuid(group.model_id) + texts(group.segments) for group in heads.groups]
    streams = copy_encoder.pack(columns, len(_HEAD_COLUMNS), [tails[index] for index in heads.group_index.tolist()])
    await copy_encoder.copy(connection, "event_heads", _HEAD_COLUMNS, streams)


_LOCK_HEADS = """
SELECT event_id, revision, digest, line, model_id, segments, pane, width_s, contribution
FROM event_heads WHERE event_id = ANY($1) ORDER BY event_id FOR UPDATE"""


async def lock_heads(connection: Connection, events: Iterable[UUID]) -> dict[UUID, Head]:
    """The heads of these events, locked in the order of their ids.

    Raises:
        HeadAgedOut: when one has aged out since :func:`stored_events` returned it.
    """
    ordered = sorted(set(events))
    rows = [row for part in parts(ordered) for row in await connection.fetch(_LOCK_HEADS, part)]
    if len(rows) < len(ordered):
        raise HeadAgedOut("the head of an event has aged out since it was read")
    return {row["event_id"]: _head(row) for row in rows}


def _head(row: asyncpg.Record) -> Head:
    contribution = None if row["contribution"] is None else padded_sums(row["contribution"])
    return Head(**{**row, "segments": tuple(row["segments"]), "contribution": contribution})


_UPDATE_HEADS = """
UPDATE event_heads e
SET revision = h.revision, digest = h.digest, line = ($8::text[])[h.group_index], model_id = ($9::uuid[])[h.group_index],
    segments = string_to_array(($10::text[])[h.group_index], chr(31)), pane = h.pane, width_s = h.width_s,
    contribution = h.contribution::bigint[]
FROM unnest($1::uuid[], $2::int[], $3::bytea[], $4::float8[], $5::float8[], $6::text[], $7::int[])
     AS h (event_id, revision, digest, pane, width_s, contribution, group_index)
WHERE e.event_id = h.event_id"""


async def update_heads(connection: Connection, heads: Sequence[Head]) -> None:
    """Replace heads that this transaction has locked."""
    for part in parts(heads):
        await _update_heads(connection, part)


async def _update_heads(connection: Connection, heads: Sequence[Head]) -> None:
    groups, group_index = _grouped((head.line, head.model_id, head.segments) for head in heads)
    lines, models, segments = zip(*groups, strict=True)
    columns = (
        [head.event_id for head in heads],
        [head.revision for head in heads],
        [head.digest for head in heads],
        [head.pane for head in heads],
        [head.width_s for head in heads],
        [None if head.contribution is None else f"{{{','.join(map(str, head.contribution))}}}" for head in heads],
        group_index,
    )
    await connection.execute(_UPDATE_HEADS, *columns, lines, models, [_SEPARATOR.join(names) for names in segments])


def _grouped(items: Iterable[Item]) -> tuple[list[Item], list[int]]:
    """The different items, and which of them each item is, counted from 1 as Postgres counts."""
    numbers: dict[Item, int] = {}
    group_index = [numbers.setdefault(item, len(numbers) + 1) for item in items]
    return list(numbers), group_index


_LOCK_TWINS = """
SELECT twin_id FROM digital_twins WHERE twin_id = ANY($1) ORDER BY twin_id FOR KEY SHARE"""


async def store_and_lock_twins(connection: Connection, population: TwinPopulation, rows: Iterable[int]) -> None:
    """Store these twins of a population unless they are stored, and keep them from being deleted before this transaction ends."""
    for part in parts(sorted(set(rows), key=lambda row: population.twin_ids[row])):
        await _store_and_lock_twins(connection, population, part)


async def _store_and_lock_twins(connection: Connection, population: TwinPopulation, rows: Sequence[int]) -> None:
    ids = [population.twin_ids[row] for row in rows]
    locked: list[asyncpg.Record] = []
    while len(locked) < len(ids):  # a twin that was stored already may expire before it is locked
        await insert_twins(connection, population, rows)
        locked = await connection.fetch(_LOCK_TWINS, ids)


class NewOutcomes(NamedTuple):
    """Outcomes that are not stored yet, with their fates, as columns of the same length; NaN for null.

    Attributes:
        tracked_us, observed_us: microseconds since 1970.
        element_index: index in the array that the record carried, else 0.
        treated: 1, 0, or -1 for null.
        groups: what outcome ``i`` shares with others is in ``groups[group_index[i]]``.
        own: twin, entity and features (JSON), by the row of an outcome that has any.
    """

    tracking_id: Octets
    tracked_us: Integers
    source_offset: Integers
    element_index: Integers
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
    conflict: Flags
    groups: Sequence[OutcomeGroup]
    group_index: Integers
    own: Mapping[int, tuple[UUID | None, str | None, str | None]]


_OUTCOME_COLUMNS = (
    *("tracking_id", "tracked_at", "source_offset", "element", "event_id", "revision", "digest", "observed_at", "pane", "width_s"),
    *("predicted_value", "actual_value", "predicted_lower", "predicted_upper", "treated", "conflict", "fate"),
    *("source", "line", "metric_type", "model_id", "segments", "simulation_id", "population_id"),
    *("twin_id", "entity_id", "features"),
)


async def add_outcomes(connection: Connection, source: SourceId, outcomes: NewOutcomes) -> None:
    """Store outcomes that are not stored yet; those of erased persons without id and features."""
    if not len(outcomes.group_index):
        return
    outcomes = await _without_erased(connection, outcomes)
    columns = (
        copy_encoder.octets(outcomes.tracking_id),
        copy_encoder.timestamps(outcomes.tracked_us),
        copy_encoder.integers(outcomes.source_offset, 8),
        copy_encoder.integers(outcomes.element_index, 4),
        copy_encoder.octets(outcomes.event_id),
        copy_encoder.integers(outcomes.revision, 4),
        copy_encoder.octets(outcomes.digest),
        copy_encoder.timestamps(outcomes.observed_us),
        copy_encoder.floats(outcomes.pane),
        copy_encoder.floats(outcomes.width_s),
        copy_encoder.floats(outcomes.predicted_value),
        copy_encoder.floats(outcomes.actual_value),
        copy_encoder.floats(outcomes.predicted_lower),
        copy_encoder.floats(outcomes.predicted_upper),
        copy_encoder.flags(outcomes.treated == 1, outcomes.treated < 0),
        copy_encoder.flags(outcomes.conflict),
    )
    streams = copy_encoder.pack(columns, len(_OUTCOME_COLUMNS), _outcome_tails(source, outcomes))
    await copy_encoder.copy(connection, "fidelity_tracking", _OUTCOME_COLUMNS, streams)


async def _without_erased(connection: Connection, outcomes: NewOutcomes) -> NewOutcomes:
    entities = {entity for _, entity, _ in outcomes.own.values() if entity is not None}
    erased = await erased_entities(connection, entities) if entities else None
    if not erased:
        return outcomes
    own = {
        row: (twin, None, None) if entity and erased.is_erased(entity, _line_of(outcomes, row)) else (twin, entity, features)
        for row, (twin, entity, features) in outcomes.own.items()
    }
    return outcomes._replace(own=own)


def _line_of(outcomes: NewOutcomes, row: int) -> str:
    return outcomes.groups[int(outcomes.group_index[row])].line


def _outcome_tails(source: SourceId, outcomes: NewOutcomes) -> list[bytes]:
    """Fate, what outcomes of a group have in common, and what each has alone: encoded once for each fate and group."""
    fates = {fate: copy_encoder.text(fate) for fate in set(outcomes.fates)}
    shared = [copy_encoder.text(str(source)) + _encoded_group(group) for group in outcomes.groups]
    nothing = _encoded_own(None, None, None)
    tails = {(fate, index): head + group + nothing for fate, head in fates.items() for index, group in enumerate(shared)}
    rows = [tails[key] for key in zip(outcomes.fates, outcomes.group_index.tolist(), strict=True)]
    for row, own in outcomes.own.items():
        rows[row] = fates[outcomes.fates[row]] + shared[outcomes.group_index[row]] + _encoded_own(*own)
    return rows


def _encoded_group(group: OutcomeGroup) -> bytes:
    text, uuid = copy_encoder.text, copy_encoder.uuid
    model = text(group.line) + text(group.metric_type) + uuid(group.model_id)
    return model + copy_encoder.texts(group.segments) + uuid(group.simulation_id) + uuid(group.population_id)


def _encoded_own(twin_id: UUID | None, entity_id: str | None, features: str | None) -> bytes:
    return copy_encoder.uuid(twin_id) + copy_encoder.text(entity_id) + copy_encoder.jsonb(features)


class ChampionPeriods(NamedTuple):
    """From when on each model was champion of a line, the first one first, as of a generation of the line."""

    generation: int
    champions: tuple[tuple[datetime, UUID], ...]


_CHAMPION_PERIODS = """
SELECT l.line, l.generation,
       array_agg(g.effective_from ORDER BY g.generation) FILTER (WHERE g.champion IS NOT NULL) AS since,
       array_agg(g.champion ORDER BY g.generation) FILTER (WHERE g.champion IS NOT NULL) AS champions
FROM model_lines l LEFT JOIN model_ledger g ON g.line = l.line AND g.happened IN ('promoted', 'rolled_back')
WHERE l.line = ANY($1)
GROUP BY l.line"""


async def champion_periods(database: Database, lines: Iterable[str]) -> dict[str, ChampionPeriods]:
    """Champions of each of these lines that is registered."""
    rows = await database.fetch(_CHAMPION_PERIODS, sorted(set(lines)))
    return {
        row["line"]: ChampionPeriods(row["generation"], tuple(zip(row["since"] or (), row["champions"] or (), strict=True)))
        for row in rows
    }

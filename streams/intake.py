"""Take a poll slice of outcomes in: one transaction that judges every element, stores, counts, refuses and moves the position."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import numpy as np
import numpy.typing as npt

from engine.windows import pane_start
from schemas import OutcomeEvent, SourceId
from schemas.events import SUM_FIELDS, canonical_digest
from sql import outcome_store as store
from sql.database import Connection, Pool, transaction
from sql.outcome_store import Head, Kind, Line, LineRow, Moved, OutcomeRow, Position, RefusedRow
from sql.refused_store import packed
from streams.judging import Claim, Judged, changes, judge
from streams.library import Library
from streams.parsing import Element, Refusal, parse, raw_elements
from streams.scoring import ALL, Scores, SimulatedTwins, score
from streams.transport import Slice

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

Key = TypeVar("Key")

__all__ = ["Intake", "Taken"]

DIGEST_BYTES = 16
CELL_OUTCOMES = 200
MOST_SPLITS = 64
_N = SUM_FIELDS.index("n")


class LinesChanged(Exception):
    """A line is no longer what the slice was scored by."""

    def __init__(self, lines: set[str]) -> None:
        super().__init__(", ".join(sorted(lines)))
        self.lines = lines


class MoreLines(Exception):
    """Events of the slice were counted in lines that it does not name."""

    def __init__(self, lines: set[str]) -> None:
        super().__init__(", ".join(sorted(lines)))
        self.lines = lines


@dataclass(frozen=True)
class Taken:
    """What came of a slice.

    Attributes:
        rows: rows of ``fidelity_panes`` that have to be said: those it changed, and where it found any of its elements
            already in, all that its source has changed since the slice's first offset.
        watermark: of the source, after the slice.
        fates: how many of its new outcomes had which fate, by line and fate.
        refused: how many of its new elements were refused, by kind.
    """

    source: SourceId
    rows: Sequence[LineRow]
    watermark: datetime | None
    fates: Mapping[tuple[str, str], int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    replayed: int = 0


@dataclass(frozen=True)
class _Scored:
    """The elements of a slice, each with its id, and the scores of those that are outcomes (``rows`` into ``scores``)."""

    source: SourceId
    slice: Slice
    elements: Sequence[Element]
    ids: Sequence[UUID]
    rows: Mapping[int, int]
    scores: Scores
    simulations: Mapping[UUID, SimulatedTwins]


class Intake:
    """Takes slices in.

    Args:
        pool: of the database.
        library: what scoring has to know.
        skew_s: how far outcomes may lie ahead of Kafka's time.
        restatement_s: how far below its source's watermark a pane may still change.
    """

    def __init__(self, pool: Pool, library: Library, skew_s: float, restatement_s: float) -> None:
        self._pool = pool
        self._library = library
        self._skew_s = skew_s
        self._restatement_s = restatement_s

    async def take(self, taken: Slice) -> Taken:
        """Take a slice in; doing it again changes nothing and says the same rows, or newer ones.

        Raises:
            asyncpg.PostgresError: when the transaction failed: nothing happened then.
        """
        source = SourceId(topic=taken.topic, partition=taken.partition, incarnation=taken.incarnation)
        elements = parse(taken.records, self._skew_s)
        ids = store.tracking_ids(source, ((element.offset, element.place) for element in elements))
        more: set[str] = set()
        while True:
            scored = await self._score(source, taken, elements, ids)
            try:
                async with transaction(self._pool) as connection:
                    done, splits = await self._store(connection, scored, more)
            except LinesChanged as change:
                self._library.forget(change.lines)
            except MoreLines as found:
                more |= found.lines
            else:
                await self._split(splits)
                return done

    async def _score(self, source: SourceId, taken: Slice, elements: Sequence[Element], ids: Sequence[UUID]) -> _Scored:
        outcomes = [(at, element.event) for at, element in enumerate(elements) if element.event is not None]
        events = [event for _, event in outcomes]
        known = await self._library.know(events)
        rows = {at: row for row, (at, _) in enumerate(outcomes)}
        return _Scored(source, taken, elements, ids, rows, score(events, known), known.simulations)

    async def _store(self, connection: Connection, scored: _Scored, more: set[str]) -> tuple[Taken, dict[str, int]]:
        source = scored.source
        position = await store.lock_position(connection, source)
        lines = await self._share(connection, scored, more)
        fresh = await _fresh(connection, scored, position)
        accepted = [at for at in fresh if _is_accepted(scored, at)]
        claims = self._claims(scored, accepted, lines, position)
        judged, before = await self._place(connection, claims, lines)
        outcomes = _outcome_rows(scored, accepted, claims, judged)
        refused = _refused_rows(scored, [at for at in fresh if not _is_accepted(scored, at)])
        for twins, rows_named in _named_twins(scored, accepted):
            await store.hold_twins(connection, twins.population, rows_named)
        await store.add_outcomes(connection, source, outcomes)
        await store.add_refused(connection, source, refused)
        changed = changes(before, judged.heads, lines)
        rows = await store.add_changes(connection, source, scored.slice.last_offset, changed)
        splits = _splits(rows, lines)
        if len(fresh) < len(scored.elements):
            rows = await store.rows_since(connection, source, scored.slice.first_offset)
        reached = max((row.observed_at for row in outcomes), default=None)
        await store.add_gaps(connection, source, _gaps([record.offset for record in scored.slice.records], position.last_offset))
        await store.move_position(connection, source, _moved(scored.slice, len(fresh), reached))
        done = Taken(
            source=source,
            rows=rows,
            watermark=max((at for at in (position.watermark, reached) if at is not None), default=None),
            fates=_tally((row.kind.line, row.fate) for row in outcomes),
            refused=_tally(row.kind for row in refused),
            replayed=len(scored.elements) - len(fresh),
        )
        return done, splits

    async def _share(self, connection: Connection, scored: _Scored, more: set[str]) -> dict[str, Line]:
        named = {element.event.line for element in scored.elements if element.event is not None}
        lines = await store.share_lines(connection, named | more)
        stale = {line for line in named if line in lines and lines[line].generation != self._library.generation(line)}
        if stale:
            raise LinesChanged(stale)
        return lines

    def _claims(self, scored: _Scored, accepted: Sequence[int], lines: Mapping[str, Line], position: Position) -> list[Claim]:
        contributions = scored.scores.contributions.tolist()
        reached = position.watermark.timestamp() if position.watermark else None
        claims = []
        for at in accepted:
            event = _event(scored, at)
            observed = event.observed_at.timestamp()
            claims.append(Claim(_head(scored, at, event, observed, lines[event.line], contributions), observed, reached))
            reached = observed if reached is None else max(reached, observed)
        return claims

    async def _place(
        self, connection: Connection, claims: Sequence[Claim], lines: Mapping[str, Line]
    ) -> tuple[Judged, dict[UUID, Head]]:
        """Judge the claims and bring the heads up to date; the second value is what known heads were before."""
        judged = judge(claims, {}, lines, self._restatement_s)
        if not judged.heads:
            return judged, {}
        placed = await store.place_heads(connection, list(judged.heads.values()))
        known = await store.lock_heads(connection, judged.heads.keys() - placed) if len(placed) < len(judged.heads) else {}
        if not known:
            return judged, {}
        strange = {head.line for head in known.values()} - lines.keys()
        if strange:
            raise MoreLines(strange)
        judged = judge(claims, known, lines, self._restatement_s)
        moved = [judged.heads[event] for event, head in known.items() if judged.heads[event] is not head]
        if moved:
            await store.move_heads(connection, moved)
        return judged, known

    async def _split(self, splits: Mapping[str, int]) -> None:
        for line, cells in splits.items():
            await store.split_cells(self._pool, line, cells)


def _event(scored: _Scored, at: int) -> OutcomeEvent:
    event = scored.elements[at].event
    if event is None:
        raise LookupError(f"element {at} is no outcome")
    return event


def _is_accepted(scored: _Scored, at: int) -> bool:
    return at in scored.rows and scored.rows[at] not in scored.scores.refused


async def _fresh(connection: Connection, scored: _Scored, position: Position) -> list[int]:
    """Elements that have no row yet: all above the position, and below it those that are not found."""
    below = [at for at, element in enumerate(scored.elements) if element.offset <= position.last_offset]
    if not below:
        return list(range(len(scored.elements)))
    times = [scored.elements[at].at for at in below]
    stored = await store.stored_already(connection, [scored.ids[at] for at in below], min(times), max(times))
    return [at for at in range(len(scored.elements)) if scored.ids[at] not in stored]


def _head(
    scored: _Scored, at: int, event: OutcomeEvent, observed: float, line: Line, contributions: Sequence[Sequence[int]]
) -> Head:
    row = scored.rows[at]
    place = scored.scores.counted.get(row)
    width = line.pane_s / line.splits
    return Head(
        event_id=event.event_id,
        revision=event.revision,
        digest=canonical_digest(event)[:DIGEST_BYTES],
        line=line.line,
        model_id=scored.scores.model_id[row],
        segments=scored.scores.segments[row],
        pane=None if place is None else pane_start(observed, width),
        width_s=None if place is None else width,
        contribution=None if place is None else contributions[place],
    )


def _named_twins(scored: _Scored, accepted: Iterable[int]) -> list[tuple[SimulatedTwins, list[int]]]:
    """Twins that the outcomes name, as rows of their population, by simulation."""
    found: defaultdict[UUID, list[int]] = defaultdict(list)
    for at in accepted if scored.simulations else ():
        event = _event(scored, at)
        if event.simulation_id is not None and event.twin_id is not None:
            found[event.simulation_id].append(scored.simulations[event.simulation_id].rows[event.twin_id])
    return [(scored.simulations[simulation_id], rows) for simulation_id, rows in sorted(found.items())]


def _outcome_rows(scored: _Scored, accepted: Sequence[int], claims: Sequence[Claim], judged: Judged) -> list[OutcomeRow]:
    scores = scored.scores
    predicted, lower, upper = (_nulls(column) for column in (scores.predicted, scores.lower, scores.upper))
    rows = []
    for at, claim, fate, conflict in zip(accepted, claims, judged.fates, judged.conflicts, strict=True):
        element, row, head = scored.elements[at], scored.rows[at], claim.head
        event = _event(scored, at)
        rows.append(
            OutcomeRow(
                kind=Kind(
                    head.line, event.metric_type, head.model_id, head.segments, event.simulation_id, scores.population_id[row]
                ),
                tracking_id=scored.ids[at],
                tracked_at=element.at,
                source_offset=element.offset,
                element=element.place,
                event_id=event.event_id,
                revision=event.revision,
                digest=head.digest,
                fate=fate,
                conflict=conflict,
                observed_at=event.observed_at,
                pane=head.pane,
                width_s=head.width_s,
                predicted_value=predicted[row],
                actual_value=event.actual_value,
                predicted_lower=lower[row],
                predicted_upper=upper[row],
                twin_id=event.twin_id,
                entity_id=event.entity_id,
                features=None if event.features is None else json.dumps(event.features),
                treated=event.treated,
            )
        )
    return rows


def _nulls(column: npt.NDArray[np.float64]) -> list[float | None]:
    return [value if known else None for value, known in zip(column.tolist(), np.isfinite(column).tolist(), strict=True)]


def _refused_rows(scored: _Scored, refused: Sequence[int]) -> list[RefusedRow]:
    by_offset: defaultdict[int, list[int]] = defaultdict(list)
    for at in refused:
        by_offset[scored.elements[at].offset].append(at)
    records = {record.offset: record for record in scored.slice.records if record.offset in by_offset}
    return [
        _refused_row(scored, at, record, raw[place] if place < len(raw) else record.value)
        for offset, record in records.items()
        for raw in (raw_elements(record.value),)
        for at in by_offset[offset]
        for place in (scored.elements[at].place,)
    ]


def _refused_row(scored: _Scored, at: int, record: ConsumerRecord[bytes | None, bytes | None], raw: bytes | None) -> RefusedRow:
    element = scored.elements[at]
    refusal = element.refusal or Refusal(*scored.scores.refused[scored.rows[at]])
    return RefusedRow(
        refusal_id=scored.ids[at],
        source_offset=element.offset,
        element=element.place,
        tracked_at=element.at,
        key=record.key,
        value=raw,
        headers=packed(record.headers),
        kind=refusal.kind,
        reason=refusal.reason,
        exception=refusal.exception,
    )


def _moved(taken: Slice, elements: int, reached: datetime | None) -> Moved:
    last = taken.records[-1]
    at = datetime.fromtimestamp(last.timestamp / 1000, UTC)
    return Moved(last.offset, elements, reached, at, store.record_digest(last.key, last.value))


def _gaps(offsets: Sequence[int], last: int) -> list[tuple[int, int]]:
    """Runs of offsets that did not come, first to last, above what was read before."""
    above = [last, *(offset for offset in offsets if offset > last)]
    return [(before + 1, after - 1) for before, after in pairwise(above) if after > before + 1]


def _splits(rows: Iterable[LineRow], lines: Mapping[str, Line]) -> dict[str, int]:
    """Lines with a cell that grew too large for the detector, and the number of cells that a pane shall have instead."""
    return {
        line.line: 2 * line.splits
        for found in rows
        for line in (lines[found.line],)
        if found.row.segment == ALL
        and found.row.sums[_N] > CELL_OUTCOMES
        and line.splits < MOST_SPLITS
        and found.row.width_s == line.pane_s / line.splits
    }


def _tally(found: Iterable[Key]) -> dict[Key, int]:
    return dict(Counter(found))

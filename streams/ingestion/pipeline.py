"""Take a poll slice of outcomes in: one transaction that judges every element, stores, counts, refuses and moves the position."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import TypeVar
from uuid import UUID

import asyncpg
import numpy as np
import numpy.typing as npt

from engine.fidelity.windows import pane_start
from schemas import SourceId
from schemas.events import SUM_FIELDS
from schemas.twin_types import ALL_ROWS
from sql import outcome_store as store
from sql.database import Connection, Pool, transaction
from sql.dead_letter_store import RefusedRecord, add_refused
from sql.line_lock import LineGrid, share_lines
from sql.outcome_store import Head, NewHeads, NewOutcomes
from sql.pane_store import LinePaneRow, PaneChange, add_pane_changes, pane_rows_since, split_cells
from sql.source_position_store import Position, PositionUpdate, add_gaps, advance_position, lock_position, record_digest
from streams.ingestion.decoding import ElementRefusal, RefusedElement, arrival_times, decode, raw_elements
from streams.ingestion.outcome_batch import Floats, Integers, Octets, OutcomeBatch, tracking_ids
from streams.ingestion.revisions import PaneGrid, Revision, changes_between, changes_of_new_heads, merge_changes, resolve_revisions
from streams.ingestion.scoring import Scores, SimulatedTwins, score
from streams.ingestion.scoring_context import ContextLoader
from streams.kafka.batch_consumer import PollBatch

Key = TypeVar("Key")
Flags = npt.NDArray[np.bool_]

__all__ = ["IngestResult", "OutcomePipeline", "ScoredBatch"]

CELL_OUTCOMES = 200
MOST_SPLITS = 64
_RACES_AT_MOST = 100
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
class IngestResult:
    """What came of a slice.

    Attributes:
        rows: rows of ``fidelity_panes`` that have to be said: those it changed, and where it found any of its elements
            already in, all that its source has changed since the slice's first offset.
        watermark: of the source, after the slice.
        fates: how many of its new outcomes had which fate, by line and fate.
        refused: those of its elements that are refused now and were not before.
    """

    source: SourceId
    rows: Sequence[LinePaneRow]
    watermark: datetime | None
    fates: Mapping[tuple[str, str], int] = field(default_factory=dict)
    refused: Sequence[RefusedRecord] = ()
    replayed: int = 0


@dataclass(frozen=True)
class ScoredBatch:
    """A slice that was read and scored; nothing of it is stored yet.

    Attributes:
        offsets, arrived: of each record, ``arrived`` in microseconds since 1970.
        ids, digests: of each outcome.
        refused_ids: of each refused element.
    """

    source: SourceId
    slice: PollBatch
    offsets: Integers
    arrived: Integers
    outcomes: OutcomeBatch
    ids: Octets
    digests: Octets
    refused: Sequence[RefusedElement]
    refused_ids: Octets
    scores: Scores
    simulations: Mapping[UUID, SimulatedTwins] = field(default_factory=dict)

    @property
    def n_elements(self) -> int:
        """Outcomes and refused elements."""
        return len(self.outcomes) + len(self.refused)

    @property
    def lines(self) -> set[str]:
        """Lines that its outcomes name."""
        return {words.line for words in self.outcomes.words}


@dataclass(frozen=True)
class _Verdict:
    """What becomes of outcomes that are new and could be scored (``rows``, in their order).

    Attributes:
        pane: start of the cell, NaN where an outcome adds to no sum, as ``width_s``.
        changes: what they add to the cells.
    """

    rows: Integers
    pane: Floats
    width_s: Floats
    fates: list[str]
    conflict: Flags
    changes: list[PaneChange]


class OutcomePipeline:
    """Takes slices in.

    Args:
        pool: of the database.
        library: what scoring has to know.
        skew_s: how far outcomes may lie ahead of Kafka's time.
        restatement_s: how far below its source's watermark a pane may still change.
    """

    def __init__(self, pool: Pool, library: ContextLoader, skew_s: float, restatement_s: float) -> None:
        self._pool = pool
        self._library = library
        self._skew_s = skew_s
        self._restatement_s = restatement_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="slices")  # one: more would only wait for each other

    async def take(self, taken: PollBatch) -> IngestResult:
        """Take a slice in; doing it again changes nothing and says the same rows, or newer ones.

        Raises:
            asyncpg.PostgresError: when the transaction failed: nothing happened then.
        """
        return await self.store(await self.prepare(taken))

    async def prepare(self, taken: PollBatch) -> ScoredBatch:
        """Read and score a slice, away from the event loop; what came before it in its source does not matter here."""
        return await self._score(await self._apart(lambda: _read(taken, self._skew_s)))

    async def store(self, ready: ScoredBatch) -> IngestResult:
        """Store a slice that is next in its source; scored again where a line has changed since.

        Raises:
            asyncpg.PostgresError: when the transaction failed: nothing happened then.
        """
        more: set[str] = set()
        races = 0
        while True:
            try:
                async with transaction(self._pool) as connection:
                    done, splits = await self._store(connection, ready, more)
            except LinesChanged as change:
                self._library.forget(change.lines)
                ready = await self._score(ready)
            except MoreLines as found:
                more |= found.lines
            except asyncpg.UniqueViolationError as clash:
                races += 1
                if clash.table_name != "event_heads" or races > _RACES_AT_MOST:
                    raise
            else:
                for line, cells in splits.items():
                    await split_cells(self._pool, line, cells)
                return done

    async def _score(self, ready: ScoredBatch) -> ScoredBatch:
        known = await self._library.know(ready.outcomes)
        scores = await self._apart(lambda: score(ready.outcomes, known))
        return replace(ready, scores=scores, simulations=known.simulations)

    async def _apart(self, work: Callable[[], Key]) -> Key:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _store(self, connection: Connection, ready: ScoredBatch, more: set[str]) -> tuple[IngestResult, dict[str, int]]:
        source = ready.source
        position = await lock_position(connection, source)
        lines = await self._share(connection, ready, more)
        fresh, fresh_refused = await _fresh(connection, ready, position)
        accepted = _accepted(ready) & fresh
        verdict = await self._judge(connection, ready, np.flatnonzero(accepted), lines, position)
        refused = _refused_rows(ready, fresh & ~accepted, fresh_refused)
        for twins, places in _named_twins(ready, verdict.rows):
            await store.store_and_lock_twins(connection, twins.population, places)
        await store.add_outcomes(connection, source, _new_outcomes(ready, verdict))
        await add_refused(connection, source, refused)
        rows = await add_pane_changes(connection, source, ready.slice.last_offset, verdict.changes)
        splits = _splits(rows, lines)
        n_fresh = int(fresh.sum() + fresh_refused.sum())
        if n_fresh < ready.n_elements:
            rows = await pane_rows_since(connection, source, ready.slice.first_offset)
        reached = _reached(ready.outcomes, verdict.rows)
        await add_gaps(connection, source, _gaps(ready.offsets.tolist(), position.last_offset))
        await advance_position(connection, source, _moved(ready.slice, n_fresh, reached))
        done = IngestResult(
            source=source,
            rows=rows,
            watermark=max((at for at in (position.watermark, reached) if at is not None), default=None),
            fates=_fates(ready.scores, verdict),
            refused=refused,
            replayed=ready.n_elements - n_fresh,
        )
        return done, splits

    async def _share(self, connection: Connection, ready: ScoredBatch, more: set[str]) -> dict[str, LineGrid]:
        named = ready.lines
        lines = await share_lines(connection, named | more)
        stale = {line for line in named if line in lines and lines[line].generation != self._library.generation(line)}
        if stale:
            raise LinesChanged(stale)
        return lines

    async def _judge(
        self, connection: Connection, ready: ScoredBatch, rows: Integers, lines: Mapping[str, LineGrid], position: Position
    ) -> _Verdict:
        """Judge outcomes and bring the heads up to date: new ones first, in the order of their events, then known ones."""
        outcomes, scores = ready.outcomes, ready.scores
        observed = outcomes.observed[rows]
        begun = position.watermark.timestamp() if position.watermark else np.nan
        watermark = np.fmax.accumulate(np.concatenate([[begun], observed]))[:-1]
        grid = PaneGrid.of(scores.kinds, scores.of[rows], lines)
        counts = scores.counts[rows]
        pane = np.where(counts, pane_start(observed, grid.width_s), np.nan)
        width_s = np.where(counts, grid.width_s, np.nan)

        event = outcomes.event_id[rows]
        order = np.argsort(_sortable(event), kind="stable")
        known = np.isin(_sortable(event), _sortable(_stacked(await store.events_with_heads(connection, event[order]))))
        late = grid.settled(observed, watermark, self._restatement_s)
        fates = np.where(late, "too_late", "counted").tolist()
        conflict = np.zeros(len(rows), dtype=np.bool_)
        single = _single(_sortable(event)[order], order)
        head = single & ~known & ~late

        def claims_of(those: Integers) -> list[Revision]:
            return [
                Revision(
                    _head(ready, int(rows[at]), float(pane[at]), float(width_s[at])), float(observed[at]), _known(watermark[at])
                )
                for at in those.tolist()
            ]

        repeated = np.flatnonzero(~single & ~known)
        if len(repeated):
            claims = claims_of(repeated)
            judged = resolve_revisions(claims, {}, lines, self._restatement_s)
            winners = {id(winner) for winner in judged.heads.values()}
            for at, claim, fate, other in zip(repeated.tolist(), claims, judged.fates, judged.conflicts, strict=True):
                fates[at], conflict[at] = fate, other
                head[at] = id(claim.head) in winners
        placed = order[head[order]]
        await store.add_heads(connection, _new_heads(ready, rows[placed], pane[placed], width_s[placed]))

        told: list[PaneChange] = []
        if known.any():
            again = np.flatnonzero(known)
            claims = claims_of(again)
            before = await store.lock_heads(connection, {claim.head.event_id for claim in claims})
            strange = {each.line for each in before.values()} - lines.keys()
            if strange:
                raise MoreLines(strange)
            judged = resolve_revisions(claims, before, lines, self._restatement_s)
            for at, fate, other in zip(again.tolist(), judged.fates, judged.conflicts, strict=True):
                fates[at], conflict[at] = fate, other
            moved = [judged.heads[name] for name, each in before.items() if judged.heads[name] is not each]
            if moved:
                await store.update_heads(connection, moved)
                told = changes_between(before, judged.heads, lines)

        counting = placed[counts[placed]]
        kinds, of, sums = scores.kinds, scores.of[rows[counting]], scores.contributions[rows[counting]]
        fresh = changes_of_new_heads(kinds, of, pane[counting], PaneGrid(*(column[counting] for column in grid)), sums)
        return _Verdict(rows, pane, width_s, fates, conflict, merge_changes(fresh, told))


def _read(taken: PollBatch, skew_s: float) -> ScoredBatch:
    source = SourceId(topic=taken.topic, partition=taken.partition, incarnation=taken.incarnation)
    outcomes, refused = decode(taken.records, skew_s)
    offsets = np.array([record.offset for record in taken.records], dtype=np.int64)
    places = zip(offsets[outcomes.record].tolist(), outcomes.place.tolist(), strict=True)
    return ScoredBatch(
        source=source,
        slice=taken,
        offsets=offsets,
        arrived=arrival_times(taken.records),
        outcomes=outcomes,
        ids=tracking_ids(source, places),
        digests=outcomes.digests(),
        refused=refused,
        refused_ids=tracking_ids(source, ((int(offsets[each.record]), each.place) for each in refused)),
        scores=Scores(len(outcomes)),
    )


def _accepted(ready: ScoredBatch) -> Flags:
    accepted = ready.scores.of >= 0
    accepted[list(ready.scores.refused)] = False
    return accepted


async def _fresh(connection: Connection, ready: ScoredBatch, position: Position) -> tuple[Flags, Flags]:
    """Which outcomes, and which refused elements, have no row yet: all above the position, and below it those not found."""
    records = np.concatenate([ready.outcomes.record, np.array([each.record for each in ready.refused], dtype=np.int64)])
    fresh = ready.offsets[records] > position.last_offset
    if not fresh.all():
        ids = np.concatenate([ready.ids, ready.refused_ids])[~fresh]
        arrived = ready.arrived[records][~fresh]
        stored = await store.stored_ids(connection, ids, _moment(int(arrived.min())), _moment(int(arrived.max())))
        fresh[~fresh] = [made.tobytes() not in stored for made in ids]
    return fresh[: len(ready.outcomes)], fresh[len(ready.outcomes) :]


def _sortable(ids: Octets) -> npt.NDArray[np.bytes_]:
    """Ids in the order of Postgres."""
    return np.ascontiguousarray(ids).view("S16").ravel()


def _stacked(ids: Sequence[bytes]) -> Octets:
    return np.frombuffer(b"".join(ids), dtype=np.uint8).reshape(-1, 16)


def _single(ordered: npt.NDArray[np.bytes_], order: Integers) -> Flags:
    """Which are alone with their value, given the values in order."""
    alike = ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(order), dtype=np.bool_)
    repeated[order[1:][alike]] = True
    repeated[order[:-1][alike]] = True
    return ~repeated


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _head(ready: ScoredBatch, row: int, pane: float, width_s: float) -> Head:
    kind = ready.scores.kinds[ready.scores.of[row]]
    return Head(
        event_id=ready.outcomes.event_of(row),
        revision=int(ready.outcomes.revision[row]),
        digest=ready.digests[row].tobytes(),
        line=kind.line,
        model_id=kind.model_id,
        segments=kind.segments,
        pane=_known(pane),
        width_s=_known(width_s),
        contribution=ready.scores.contributions[row].tolist() if ready.scores.counts[row] else None,
    )


def _new_heads(ready: ScoredBatch, rows: Integers, pane: Floats, width_s: Floats) -> NewHeads:
    return NewHeads(
        event_id=ready.outcomes.event_id[rows],
        revision=ready.outcomes.revision[rows],
        digest=ready.digests[rows],
        groups=ready.scores.kinds,
        group_index=ready.scores.of[rows],
        pane=pane,
        width_s=width_s,
        contribution=ready.scores.contributions[rows],
    )


def _new_outcomes(ready: ScoredBatch, verdict: _Verdict) -> NewOutcomes:
    rows, outcomes, scores = verdict.rows, ready.outcomes, ready.scores
    records = outcomes.record[rows]
    return NewOutcomes(
        tracking_id=ready.ids[rows],
        tracked_us=ready.arrived[records],
        source_offset=ready.offsets[records],
        element_index=outcomes.place[rows],
        event_id=outcomes.event_id[rows],
        revision=outcomes.revision[rows],
        digest=ready.digests[rows],
        observed_us=outcomes.observed_us[rows],
        pane=verdict.pane,
        width_s=verdict.width_s,
        predicted_value=_finite(scores.predicted[rows]),
        actual_value=outcomes.actual[rows],
        predicted_lower=_finite(scores.lower[rows]),
        predicted_upper=_finite(scores.upper[rows]),
        treated=outcomes.treated[rows],
        fates=verdict.fates,
        conflict=verdict.conflict,
        groups=scores.kinds,
        group_index=scores.of[rows],
        own=_own(outcomes, rows),
    )


def _own(outcomes: OutcomeBatch, rows: Integers) -> dict[int, tuple[UUID | None, str | None, str | None]]:
    """Twin, entity and features of those that name any."""
    found = {}
    for place, row in enumerate(rows.tolist() if outcomes.twins or outcomes.entities else ()):
        twin_id = outcomes.twins[row][1] if row in outcomes.twins else None
        entity = outcomes.entities.get(row)
        if twin_id is not None or entity is not None:
            features = json.dumps(entity.features) if entity and entity.features is not None else None
            found[place] = (twin_id, entity.entity_id if entity else None, features)
    return found


def _finite(column: Floats) -> Floats:
    return np.where(np.isfinite(column), column, np.nan)


def _named_twins(ready: ScoredBatch, rows: Integers) -> list[tuple[SimulatedTwins, list[int]]]:
    """Twins that the outcomes name, as rows of their population, by simulation."""
    found: defaultdict[UUID, list[int]] = defaultdict(list)
    for row in rows.tolist() if ready.outcomes.twins else ():
        if row in ready.outcomes.twins:
            simulation_id, twin_id = ready.outcomes.twins[row]
            found[simulation_id].append(ready.simulations[simulation_id].rows[twin_id])
    return [(ready.simulations[simulation_id], places) for simulation_id, places in sorted(found.items())]


def _refused_rows(ready: ScoredBatch, unscored: Flags, fresh: Flags) -> list[RefusedRecord]:
    """Rows of what could not be read or scored, as it came."""
    outcomes, refused = ready.outcomes, ready.scores.refused
    found = [
        (RefusedElement(int(outcomes.record[row]), int(outcomes.place[row]), ElementRefusal(*refused[row])), ready.ids[row])
        for row in np.flatnonzero(unscored).tolist()
    ]
    found += [(each, made) for each, made, new in zip(ready.refused, ready.refused_ids, fresh.tolist(), strict=True) if new]
    by_record: defaultdict[int, list[tuple[RefusedElement, Octets]]] = defaultdict(list)
    for each, made in found:
        by_record[each.record].append((each, made))
    return [row for record, those in sorted(by_record.items()) for row in _rows_of_record(ready, record, those)]


def _rows_of_record(ready: ScoredBatch, number: int, refused: Iterable[tuple[RefusedElement, Octets]]) -> list[RefusedRecord]:
    record = ready.slice.records[number]
    raw = raw_elements(record.value)
    return [
        RefusedRecord(
            refusal_id=UUID(bytes=made.tobytes()),
            source=ready.source,
            offset=record.offset,
            element=each.place,
            at=datetime.fromtimestamp(record.timestamp / 1000, UTC),
            key=record.key,
            value=raw[each.place] if each.place < len(raw) else record.value,
            headers=record.headers,
            kind=each.refusal.kind,
            reason=each.refusal.reason,
            exception=each.refusal.exception,
        )
        for each, made in refused
    ]


def _reached(outcomes: OutcomeBatch, rows: Integers) -> datetime | None:
    """The highest event time of these outcomes."""
    return _moment(int(outcomes.observed_us[rows].max())) if len(rows) else None


def _moment(us: int) -> datetime:
    seconds, rest = divmod(us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)


def _moved(taken: PollBatch, elements: int, reached: datetime | None) -> PositionUpdate:
    last = taken.records[-1]
    at = datetime.fromtimestamp(last.timestamp / 1000, UTC)
    return PositionUpdate(last.offset, elements, reached, at, record_digest(last.key, last.value))


def _gaps(offsets: Sequence[int], last: int) -> list[tuple[int, int]]:
    """Runs of offsets that did not come, first to last, above what was read before."""
    above = [last, *(offset for offset in offsets if offset > last)]
    return [(before + 1, after - 1) for before, after in pairwise(above) if after > before + 1]


def _splits(rows: Iterable[LinePaneRow], lines: Mapping[str, LineGrid]) -> dict[str, int]:
    """Lines with a cell that grew too large for the detector, and the number of cells that a pane shall have instead."""
    return {
        line.line: 2 * line.splits
        for found in rows
        for line in (lines[found.line],)
        if found.row.segment == ALL_ROWS
        and found.row.sums[_N] > CELL_OUTCOMES
        and line.splits < MOST_SPLITS
        and found.row.width_s == line.pane_s / line.splits
    }


def _fates(scores: Scores, verdict: _Verdict) -> dict[tuple[str, str], int]:
    lines = [kind.line for kind in scores.kinds]
    found: Counter[tuple[str, str]] = Counter()
    for (of, fate), count in Counter(zip(scores.of[verdict.rows].tolist(), verdict.fates, strict=True)).items():
        found[lines[of], fate] += count
    return dict(found)

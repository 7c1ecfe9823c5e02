"""State of one model line in the memory of the fidelity agent: its windows, its drift states, and what is not published yet.

All of it is loaded from Postgres, at the start and again wherever a late outcome reaches below what is held.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from uuid import UUID

from engine.fidelity import DetectorState, accumulate, pane_start, panes_of
from schemas import DriftState, PaneRow
from sql import drift_state_store, window_store
from sql.database import Database
from sql.drift_state_store import FloorRow, SeriesState
from sql.model_card_rows import load_card
from sql.published_window_store import published_versions
from sql.window_store import MonitoredLine, Snapshot, SnapshotKey, SourcedRow, Span
from streams.monitoring.drift_detection import DriftEvaluator
from streams.monitoring.window_state import SeriesKey, WindowKey, WindowState

__all__ = ["LineState", "detector_states_before", "line_floor", "load_cards", "load_line", "read_series", "snapshot_key"]

_PANES_PER_READ = 20_000
"""Panes that one statement reads."""
HELD_WINDOWS = 2
"""Windows below the latest pane whose panes are always held."""


@dataclass
class LineState:
    """State of one model line.

    Attributes:
        model_line: settings and state of the line in Postgres, as last read.
        window_state: panes, windows and detectors.
        evaluator: evaluates the drift of its series.
        read_at: time by the clock of Postgres up to which changed rows were read.
        snapshots: version and status of the stored windows that have a held pane.
        drift_states: stored state of each series.
        attempts: number of the latest retrain requested for each series.
        unpublished_states: stored states whose event is not published yet.
        unpublished: windows that changed since they were last published.
        pending_snapshots: windows that have no snapshot of their present version.
        changed_series: series that changed since they were last evaluated.
        alarmed: series whose detector has raised its alarm.
        filling_published_at: monotonic time at which windows that are still filling were last published.
        unshown: series whose newest window has no metrics since the line was loaded; None before any has.
    """

    model_line: MonitoredLine
    window_state: WindowState
    evaluator: DriftEvaluator
    read_at: datetime
    snapshots: dict[WindowKey, Snapshot] = field(default_factory=dict)
    drift_states: dict[SeriesKey, DriftState] = field(default_factory=dict)
    attempts: dict[SeriesKey, int | None] = field(default_factory=dict)
    unpublished_states: Sequence[SeriesState] = ()
    unpublished: set[WindowKey] = field(default_factory=set)
    pending_snapshots: set[WindowKey] = field(default_factory=set)
    changed_series: set[SeriesKey] = field(default_factory=set)
    alarmed: set[SeriesKey] = field(default_factory=set)
    filling_published_at: float = -math.inf
    unshown: Sequence[SeriesKey] | None = None

    @property
    def name(self) -> str:
        """Name of the line."""
        return self.model_line.line

    @property
    def champion(self) -> UUID | None:
        """Id of the champion of the line."""
        return self.model_line.champion

    def current_series(self) -> list[SeriesKey]:
        """The champion's series whose newest pane is not far below the newest of all: outcomes of the others are history."""
        state = self.window_state
        newest = {series: state.newest_pane(series) for series in state.series()}
        low = max(newest.values(), default=-math.inf) - HELD_WINDOWS * state.window_s
        return [series for series, pane in newest.items() if series.model_id == self.champion and pane >= low]

    async def ingest(self, database: Database, source: str, rows: Sequence[PaneRow]) -> set[tuple[SeriesKey, float]]:
        """Apply changed rows and return the panes that they belong to; evicted panes around them are loaded first."""
        await load_cards(database, self.evaluator, {row.model_id for row in rows})
        await self.load_panes(database, self._missing_panes(rows))
        panes = set()
        for row in rows:
            windows = self.window_state.apply_row(source, row)
            self.unpublished.update(windows)
            self.pending_snapshots.update(windows)
            if windows:
                series = SeriesKey(row.model_id, row.segment)
                self.changed_series.add(series)
                panes.add((series, pane_start(row.pane, self.window_state.pane_s)))
        return panes

    async def catch_up(self, database: Database, rows: Iterable[SourcedRow]) -> None:
        """Apply those of the stored rows that no message delivered, and drop windows whose snapshot is stored by now."""
        missed: defaultdict[str, list[PaneRow]] = defaultdict(list)
        for source, row in rows:
            if not self.window_state.is_held(source, row):
                missed[source].append(row)
        for source, source_rows in missed.items():
            await self.ingest(database, source, source_rows)
        stored = {window for window in self.pending_snapshots if self._has_snapshot(window)}
        self.unpublished -= stored
        self.pending_snapshots -= stored

    async def rebuild_detectors(self, database: Database, series: Collection[SeriesKey]) -> None:
        """Compute the start of detectors from the stored cells below the held panes, and hold the latest panes of each series."""
        ordered = sorted(series)
        starts = await detector_states_before(database, self.model_line, self.window_state.held_from, self.evaluator, ordered)
        latest = await window_store.latest_pane_starts(
            database, self.model_line, self.window_state.lowest_pane, self.evaluator.n_min, ordered
        )
        spans = [Span(*key, latest.get(key, math.inf), self.window_state.held_from) for key in ordered]
        self.hold_rows(await self._read_spans(database, [span for span in spans if span.low < span.high]))
        for key, span in zip(ordered, spans, strict=True):
            self.window_state.set_detector_start(key, starts[key], span.low)

    def evict(self) -> None:
        """Evict the panes that will not be needed soon."""
        state = self.window_state
        newest = max((state.newest_pane(series) for series in state.series()), default=-math.inf)
        held_from = max(newest - HELD_WINDOWS * state.window_s, state.floor)
        needed = self.unpublished | self.pending_snapshots
        state.evict(held_from, needed, self.evaluator.n_min, self.evaluator.initial_state)
        held = set(state.windows())
        self.snapshots = {window: snapshot for window, snapshot in self.snapshots.items() if window in held}

    async def load_panes(self, database: Database, panes: Mapping[SeriesKey, set[float]]) -> None:
        """Load panes of which nothing is held yet, with the snapshots of their windows."""
        rows = await self._read_spans(database, contiguous_spans(panes, self.window_state.pane_s))
        for series, starts in panes.items():
            self.window_state.mark_held(series, starts)
        self.hold_rows(rows)

    def hold_rows(self, rows: Iterable[SourcedRow]) -> None:
        """Hold stored rows without marking their windows as changed."""
        for source, row in rows:
            self.window_state.hold_row(source, row)

    def add_snapshots(self, snapshots: Mapping[SnapshotKey, Snapshot]) -> None:
        """Add stored snapshots."""
        for key, snapshot in snapshots.items():
            self.snapshots[window_key(key, self.window_state.pane_s)] = snapshot

    def _missing_panes(self, rows: Iterable[PaneRow]) -> dict[SeriesKey, set[float]]:
        panes: defaultdict[SeriesKey, set[float]] = defaultdict(set)
        for row in rows:
            if missing := self.window_state.missing_panes(row):
                panes[SeriesKey(row.model_id, row.segment)].update(missing)
        return panes

    async def _read_spans(self, database: Database, spans: Sequence[Span]) -> list[SourcedRow]:
        """Read the rows in spans, and add the snapshots of all windows that overlap them."""
        rows: list[SourcedRow] = []
        for group in _grouped(spans, _PANES_PER_READ * self.window_state.pane_s):
            wider = [Span(span.model_id, span.segment, span.low - self.window_state.window_s, span.high) for span in group]
            self.add_snapshots(await window_store.snapshots_within(database, self.name, wider))
            rows += await window_store.rows_within(database, self.name, group)
        return rows

    def _has_snapshot(self, window: WindowKey) -> bool:
        snapshot = self.snapshots.get(window)
        return snapshot is not None and snapshot.version == self.window_state.window_version(window)


async def load_line(
    database: Database,
    model_line: MonitoredLine,
    evaluator: DriftEvaluator,
    read_at: datetime,
    notify: Callable[[str], None] = lambda _step: None,
) -> LineState:
    """Load a line from Postgres: its latest panes, and those of every window without a snapshot.

    Args:
        database: to read from.
        model_line: which line.
        evaluator: evaluates the drift of its series.
        read_at: time by the clock of Postgres up to which rows are read.
        notify: called with each step, as loading a long history takes a while.
    """
    state = _empty_window_state(model_line, await window_store.newest_pane(database, model_line.line))
    line = await _load_drift_states(database, model_line, state, evaluator, read_at)
    first_window = state.lowest_pane + state.pane_s  # the lowest window that is not wholly below the floor
    windows = await _windows_without_snapshot(database, model_line, first_window, notify)
    notify(f"the panes of {len(windows):,} windows")
    line.hold_rows(await window_store.live_rows(database, model_line.line, state.held_from))
    line.add_snapshots(await window_store.snapshots_from(database, model_line.line, state.held_from - state.window_s))
    await line.load_panes(database, _panes_below(state, windows))
    line.pending_snapshots = windows
    published = await published_versions(database, model_line.line)
    line.unpublished = {window for window in windows if published.get(snapshot_key(window)) != state.window_version(window)}
    await load_cards(database, evaluator, {series.model_id for series in state.series()})
    if model_line.champion is not None:
        keys_of_champion = await window_store.model_series(database, model_line.line, model_line.champion)
        series = {SeriesKey(*key) for key in keys_of_champion}
        notify(f"the detectors of {len(series):,} series")
        await line.rebuild_detectors(database, series)
        line.changed_series = series & set(state.series())
    return line


async def _windows_without_snapshot(
    database: Database, model_line: MonitoredLine, low: float, notify: Callable[[str], None]
) -> set[WindowKey]:
    """Find the windows from ``low`` on that have no present snapshot, in ranges of time."""
    ranges = await window_store.pane_ranges(database, model_line.line, low, math.inf)
    windows: set[WindowKey] = set()
    for number, (begin, end) in enumerate(ranges):
        notify(f"its windows, {number:,} of {len(ranges):,} parts of its history are read")
        first, following = (pane_start(time, model_line.pane_s) if math.isfinite(time) else time for time in (begin, end))
        keys = await window_store.windows_without_snapshot(database, model_line, max(first, low), following)
        windows.update(window_key(key, model_line.pane_s) for key in keys)
    return windows


async def _load_drift_states(
    database: Database, model_line: MonitoredLine, state: WindowState, evaluator: DriftEvaluator, read_at: datetime
) -> LineState:
    """A line without panes, with the stored states and alarms of its series."""
    stored = {SeriesKey(row.model_id, row.segment): row for row in await drift_state_store.series_states(database, model_line.line)}
    restarts = await drift_state_store.detector_restarts(database, model_line.line)
    state.restarts = {SeriesKey(*key): pane for key, pane in restarts.items()}
    return LineState(
        model_line=model_line,
        window_state=state,
        evaluator=evaluator,
        read_at=read_at,
        drift_states={series: DriftState(row.state) for series, row in stored.items()},
        attempts={series: row.attempt for series, row in stored.items()},
        unpublished_states=[row for row in stored.values() if not row.published],
        alarmed={SeriesKey(*key) for key in await drift_state_store.alarmed_series(database, model_line.line)},
    )


async def read_series(database: Database, line: LineState, series: SeriesKey) -> WindowState:
    """Read a single series as Postgres has it now, with the boundaries of ``line``."""
    held = line.window_state
    state = WindowState(held.pane_s, held.window_s, held.floor, held.held_from)
    state.restarts = held.restarts
    single = LineState(line.model_line, state, line.evaluator, line.read_at)
    single.hold_rows(await window_store.rows_within(database, line.name, [Span(*series, state.held_from, math.inf)]))
    await single.rebuild_detectors(database, [series])
    return state


async def detector_states_before(
    database: Database,
    model_line: MonitoredLine,
    high: float,
    evaluator: DriftEvaluator,
    series: Sequence[SeriesKey] | None = None,
) -> dict[SeriesKey, DetectorState]:
    """Compute the state of detectors before pane ``high``, from their state at the floor and the stored cells above it.

    Args:
        database: to read from.
        model_line: whose detectors.
        high: start of the first pane that is not included.
        evaluator: has the initial state of each detector.
        series: which ones; all series of the line when omitted.
    """
    floors = {
        SeriesKey(row.model_id, row.segment): row for row in await drift_state_store.detector_floors(database, model_line.line)
    }
    await load_cards(database, evaluator, {key.model_id for key in (floors if series is None else series)})
    states = {key: _state_at_floor(evaluator.initial_state(key), floors.get(key)) for key in (floors if series is None else series)}
    for begin, end in await window_store.pane_ranges(database, model_line.line, line_floor(model_line), high):
        rows = await window_store.cells_between(database, model_line.line, begin, end, series)
        await load_cards(database, evaluator, {row.model_id for row in rows})
        for model_and_segment, cells in groupby(rows, lambda cell: (cell.model_id, cell.segment)):
            key = SeriesKey(*model_and_segment)
            states[key] = accumulate((cell.sums for cell in cells), states.get(key) or evaluator.initial_state(key))
    return states


def _state_at_floor(initial: DetectorState, floor: FloorRow | None) -> DetectorState:
    """State of a detector at the floor of its line; ``initial`` where none was stored."""
    if floor is None:
        return initial
    return DetectorState(tuple(floor.log_values), floor.last_count, floor.log_peak, initial.reference)


async def load_cards(database: Database, evaluator: DriftEvaluator, models: set[UUID]) -> None:
    """Add the cards of models to those of the evaluator.

    Raises:
        UnknownModel: when no model with such an id is registered.
    """
    for model_id in models - evaluator.cards.keys():
        evaluator.cards[model_id] = await load_card(database, model_id)


def line_floor(model_line: MonitoredLine) -> float:
    """Start of the first pane of a line that can still change."""
    return -math.inf if model_line.floor is None else model_line.floor


def window_key(key: SnapshotKey, pane_s: float) -> WindowKey:
    """Key of the window that a snapshot belongs to: times in Postgres are rounded to microseconds, windows start at panes."""
    return WindowKey(SeriesKey(key.model_id, key.segment), round(key.start / pane_s) * pane_s)


def snapshot_key(window: WindowKey) -> SnapshotKey:
    """Key of a window in the database."""
    return SnapshotKey(*window.series, window.start)


def contiguous_spans(panes: Mapping[SeriesKey, set[float]], pane_s: float) -> list[Span]:
    """Join adjacent panes of each series to spans."""
    spans = []
    for series, starts in panes.items():
        numbered = enumerate(sorted(round(start / pane_s) for start in starts))
        # Within a run of adjacent panes, number and position differ by a constant.
        for _, run in groupby(numbered, lambda pair: pair[1] - pair[0]):
            numbers = [number for _, number in run]
            spans.append(Span(*series, numbers[0] * pane_s, (numbers[-1] + 1) * pane_s))
    return spans


def _grouped(spans: Sequence[Span], length_s: float) -> Iterator[list[Span]]:
    """Split spans into groups of about this length together."""
    group: list[Span] = []
    total_s = 0.0
    for span in spans:
        group.append(span)
        total_s += span.high - span.low
        if total_s >= length_s:
            yield group
            group, total_s = [], 0.0
    if group:
        yield group


def _panes_below(state: WindowState, windows: Iterable[WindowKey]) -> dict[SeriesKey, set[float]]:
    """Panes of windows that lie below the panes that are always held."""
    panes: defaultdict[SeriesKey, set[float]] = defaultdict(set)
    for series, start in windows:
        panes[series].update(pane for pane in panes_of(start, state.pane_s, state.window_s) if pane < state.held_from)
    return panes


def _empty_window_state(model_line: MonitoredLine, newest: float | None) -> WindowState:
    floor = line_floor(model_line)
    held_from = floor
    if newest is not None:
        held_from = max(pane_start(newest, model_line.pane_s) - HELD_WINDOWS * model_line.window_s, floor)
    return WindowState(model_line.pane_s, model_line.window_s, floor, held_from)

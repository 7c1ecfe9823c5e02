"""A model line as the fidelity agent holds it: its view, what has to be said of it, and what Postgres knows besides.

All of it comes from Postgres, at the beginning and again wherever a late outcome reaches below what is held.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from uuid import UUID

from engine.fidelity.e_detector import DetectorState, accumulate
from engine.fidelity.windows import pane_start, panes_of
from schemas import DriftState, PaneRow
from sql import window_store as store
from sql.database import Database
from sql.model_card_rows import load_card
from sql.window_store import FloorRow, MonitoredLine, SeriesState, Snapshot, SnapshotKey, SourcedRow, Span
from streams.monitoring.drift_detection import DriftEvaluator
from streams.monitoring.window_state import SeriesKey, WindowKey, WindowState

__all__ = ["LineState", "evidence_before", "load_line", "lowest", "on_grid", "read_series"]

HELD_WINDOWS = 2
"""Windows below the latest pane whose panes are held in any case."""


@dataclass
class LineState:
    """What is held of a line.

    Attributes:
        snapshots: of windows that have a held pane.
        seen_at: Postgres's clock when rows were looked through last.
        due: windows that changed since they were said.
        unsettled: windows without a snapshot of their present version.
        touched: series that changed since they were judged.
        alarmed: series whose detector has raised its alarm.
        said_at: monotonic time when windows that are still filling were said last.
    """

    state: MonitoredLine
    view: WindowState
    judge: DriftEvaluator
    snapshots: dict[WindowKey, Snapshot]
    states: dict[SeriesKey, DriftState]
    attempts: dict[SeriesKey, int | None]
    unsaid: Sequence[SeriesState]
    seen_at: datetime
    due: set[WindowKey] = field(default_factory=set)
    unsettled: set[WindowKey] = field(default_factory=set)
    touched: set[SeriesKey] = field(default_factory=set)
    alarmed: set[SeriesKey] = field(default_factory=set)
    said_at: float = -math.inf

    async def take(self, database: Database, source: str, rows: Sequence[PaneRow]) -> set[tuple[SeriesKey, float]]:
        """Take rows in, with what is stored around them where it is not held, and return the panes that they belong to."""
        panes = set()
        await _learn_cards(database, self.judge, {row.model_id for row in rows})
        await self.read_panes(database, self._unread(rows))
        for row in rows:
            windows = self.view.apply(source, row)
            self.due.update(windows)
            self.unsettled.update(windows)
            if windows:
                series = SeriesKey(row.model_id, row.segment)
                self.touched.add(series)
                panes.add((series, pane_start(row.pane, self.view.pane_s)))
        return panes

    async def catch_up(self, database: Database, found: Iterable[SourcedRow]) -> None:
        """Take in rows that no message has told of."""
        news: defaultdict[str, list[PaneRow]] = defaultdict(list)
        for source, (_, row) in found:
            if not self.view.holds(source, row):
                news[source].append(row)
        for source, rows in news.items():
            await self.take(database, source, rows)
        settled = {window for window in self.unsettled if self._is_settled(window)}
        self.due -= settled
        self.unsettled -= settled

    async def refold(self, database: Database, series: Collection[SeriesKey]) -> None:
        """Let detectors stand before the held panes where the stored cells leave them, and hold the latest panes."""
        asked = sorted(series)
        evidence = await evidence_before(database, self.state, self.view.held_from, self.judge, asked)
        latest = await store.latest_from(database, self.state, _lowest(self.view), self.judge.n_min, asked)
        spans = [Span(*each, latest.get(each, math.inf), self.view.held_from) for each in asked]
        self.hold(await self._read(database, [span for span in spans if span.low < span.high]))
        for each, span in zip(asked, spans, strict=True):
            self.view.begin(each, evidence[each], span.low)

    def forget(self) -> list[tuple[SeriesKey, float]]:
        """Forget what nobody will ask for soon, and return the panes that are no longer held."""
        newest = max((self.view.newest_start(series) for series in self.view.series()), default=-math.inf)
        held_from = max(newest - HELD_WINDOWS * self.view.window_s, self.view.floor)
        dropped = self.view.forget(held_from, self.due | self.unsettled, self.judge.n_min, self.judge.first)
        held = set(self.view.windows())
        self.snapshots = {window: kept for window, kept in self.snapshots.items() if window in held}
        return dropped

    async def read_panes(self, database: Database, panes: Mapping[SeriesKey, set[float]]) -> None:
        """Hold these panes, of which nothing is held yet."""
        rows = await self._read(database, spans_of(panes, self.view.pane_s))
        for series, starts in panes.items():
            self.view.admit(series, starts)
        self.hold(rows)

    def hold(self, rows: Iterable[SourcedRow]) -> None:
        """Take in rows that are no news."""
        for source, found in rows:
            self.view.hold(source, found.row)

    def _unread(self, rows: Iterable[PaneRow]) -> dict[SeriesKey, set[float]]:
        missing: defaultdict[SeriesKey, set[float]] = defaultdict(set)
        for row in rows:
            if unread := self.view.unread(row):
                missing[SeriesKey(row.model_id, row.segment)].update(unread)
        return missing

    async def _read(self, database: Database, spans: Sequence[Span]) -> list[SourcedRow]:
        """What is stored in spans; snapshots of all windows that reach into them are taken in."""
        wider = [Span(each.model_id, each.segment, each.low - self.view.window_s, each.high) for each in spans]
        self.know(await store.snapshots_within(database, self.state.line, wider))
        return await store.rows_within(database, self.state.line, spans)

    def know(self, found: dict[SnapshotKey, Snapshot]) -> None:
        """Take snapshots in."""
        for key, snapshot in found.items():
            self.snapshots[on_grid(key, self.view.pane_s)] = snapshot

    def _is_settled(self, window: WindowKey) -> bool:
        kept = self.snapshots.get(window)
        return kept is not None and kept.version == self.view.version(window)


async def load_line(database: Database, state: MonitoredLine, judge: DriftEvaluator, seen_at: datetime) -> LineState:
    """The line as Postgres has it: its latest panes, and those of every window that no snapshot covers."""
    view = _view(state, await store.newest_pane(database, state.line))
    said = await store.series_states(database, state.line)
    line = LineState(
        state=state,
        view=view,
        judge=judge,
        snapshots={},
        states={SeriesKey(each.model_id, each.segment): DriftState(each.state) for each in said},
        attempts={SeriesKey(each.model_id, each.segment): each.attempt for each in said},
        unsaid=[each for each in said if not each.said],
        seen_at=seen_at,
    )
    line.alarmed = {SeriesKey(*each) for each in await store.alarms(database, state.line)}
    owed = await store.unsettled_windows(database, state, _first_window(view))
    unsettled = {on_grid(key, state.pane_s) for key in owed}
    line.hold(await store.live_rows(database, state.line, view.held_from))
    line.know(await store.snapshots_from(database, state.line, view.held_from - view.window_s))
    await line.read_panes(database, _panes_below(view, unsettled))
    line.due, line.unsettled = set(unsettled), unsettled
    await _learn_cards(database, judge, {series.model_id for series in view.series()})
    if state.champion is not None:
        series = {SeriesKey(*each) for each in await store.series_of(database, state.line, state.champion)}
        await line.refold(database, series)
        line.touched = series & set(view.series())
    return line


async def read_series(database: Database, line: LineState, series: SeriesKey) -> WindowState:
    """A series by itself, as Postgres has it now."""
    view = WindowState(line.view.pane_s, line.view.window_s, line.view.floor, line.view.held_from)
    alone = LineState(line.state, view, line.judge, {}, {}, {}, (), line.seen_at)
    alone.hold(await store.rows_within(database, line.state.line, [Span(*series, view.held_from, math.inf)]))
    await alone.refold(database, [series])
    return view


async def evidence_before(
    database: Database, state: MonitoredLine, high: float, judge: DriftEvaluator, series: Sequence[SeriesKey] | None = None
) -> dict[SeriesKey, DetectorState]:
    """Where the detectors of a line, or of some of its series, stand before a pane, by the floor and the cells that are stored."""
    known = {SeriesKey(row.model_id, row.segment): row for row in await store.detector_floors(database, state.line)}
    cells = await store.cells_between(database, state.line, lowest(state), high, series)
    own = {SeriesKey(*key): list(found) for key, found in groupby(cells, lambda cell: (cell.model_id, cell.segment))}
    wanted = (known.keys() | own.keys()) if series is None else series
    await _learn_cards(database, judge, {each.model_id for each in wanted})
    return {
        each: accumulate((cell.sums for cell in own.get(each, ())), _begun(judge.first(each), known.get(each))) for each in wanted
    }


def _begun(first: DetectorState, floor: FloorRow | None) -> DetectorState:
    """Where a detector stands at the floor of its line."""
    if floor is None:
        return first
    return DetectorState(tuple(floor.log_values), floor.last_count, floor.log_peak, first.log_normalizers)


async def _learn_cards(database: Database, judge: DriftEvaluator, models: set[UUID]) -> None:
    for model_id in models - judge.cards.keys():
        judge.cards[model_id] = await load_card(database, model_id)


def lowest(state: MonitoredLine) -> float:
    """First pane of a line that may still change."""
    return -math.inf if state.floor is None else state.floor


def on_grid(key: SnapshotKey, pane_s: float) -> WindowKey:
    """The window that a snapshot is of: times in Postgres are rounded to microseconds."""
    return WindowKey(SeriesKey(key.model_id, key.segment), round(key.start / pane_s) * pane_s)


def spans_of(panes: Mapping[SeriesKey, set[float]], pane_s: float) -> list[Span]:
    """Runs of panes that follow each other."""
    spans = []
    for series, starts in panes.items():
        numbered = enumerate(sorted(round(start / pane_s) for start in starts))
        for _, run in groupby(numbered, lambda each: each[1] - each[0]):
            found = [number for _, number in run]
            spans.append(Span(*series, found[0] * pane_s, (found[-1] + 1) * pane_s))
    return spans


def _panes_below(view: WindowState, windows: Iterable[WindowKey]) -> dict[SeriesKey, set[float]]:
    """Panes of windows that are not held in any case."""
    found: defaultdict[SeriesKey, set[float]] = defaultdict(set)
    for series, start in windows:
        found[series].update(pane for pane in panes_of(start, view.pane_s, view.window_s) if pane < view.held_from)
    return found


def _view(state: MonitoredLine, newest: float | None) -> WindowState:
    floor = lowest(state)
    held_from = floor if newest is None else max(pane_start(newest, state.pane_s) - HELD_WINDOWS * state.window_s, floor)
    return WindowState(state.pane_s, state.window_s, floor, held_from)


def _lowest(view: WindowState) -> float:
    return view.floor - view.window_s


def _first_window(view: WindowState) -> float:
    """The earliest window that is not wholly below the floor."""
    return view.floor - view.window_s + view.pane_s

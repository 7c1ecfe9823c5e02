"""State of the windows of one model line, built from the newest row of each source: panes, sliding windows and detectors.

Only panes that may change at any moment are held in memory. A pane is evicted once all of its windows have a snapshot, and its rows
are read from Postgres again if a late outcome changes it. Memory therefore grows with the number of open windows and not with the
retention of the data:

    floor |  evicted, in Postgres only           | held_from   held, by source            newest |
          |  summed up in the detector's start   |             one detector state per cell       |

Everything here can be rebuilt from ``fidelity_panes``.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, KeysView
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from engine.fidelity import DetectorState, accumulate, add_sums, negate, pane_start, panes_of, window_starts
from schemas import PaneRow
from schemas.events import SUM_FIELDS
from schemas.twin_types import ALL_ROWS

__all__ = ["SeriesKey", "VersionedSums", "WindowKey", "WindowState"]

_N = SUM_FIELDS.index("n")
_ZEROS = (0,) * len(SUM_FIELDS)


class SeriesKey(NamedTuple):
    """Key of a series: a model and one of its segments."""

    model_id: UUID
    segment: str


class WindowKey(NamedTuple):
    """Key of a window: its series, and its start in seconds since the epoch."""

    series: SeriesKey
    start: float


class VersionedSums(NamedTuple):
    """Version and sums of a row, or of a pane or a window over all sources."""

    version: int
    sums: tuple[int, ...]


class _Cell(NamedTuple):
    """Part of a pane, the smallest unit that the detector reads; a pane with many outcomes is split into several."""

    pane: float
    width_s: float


_EMPTY = VersionedSums(0, _ZEROS)


@dataclass(slots=True)
class _Pane:
    """Newest rows of one pane of a series by cell and source, and their sum."""

    rows: dict[tuple[_Cell, str], VersionedSums] = field(default_factory=dict)
    merged: VersionedSums = _EMPTY


@dataclass(slots=True)
class _SeriesPanes:
    """Held panes of one series, and the path of its detector.

    Attributes:
        starts: of the held panes, ascending.
        cells: sums of each cell from ``held_from`` on, over all sources.
        chain: the same cells, ascending by event time.
        detector_states: state of the detector after each of the first cells of ``chain``. It is shorter than ``chain`` where later
            cells were not evaluated yet, or were invalidated by a change.
        complete_from: all panes from here on are held, as are those of every series from ``WindowState.held_from`` on.
    """

    by_start: dict[float, _Pane] = field(default_factory=dict)
    starts: list[float] = field(default_factory=list)
    cells: dict[_Cell, tuple[int, ...]] = field(default_factory=dict)
    chain: list[_Cell] = field(default_factory=list)
    detector_states: list[DetectorState] = field(default_factory=list)
    complete_from: float = math.inf


class WindowState:
    """Panes, windows and detectors of one model line.

    Args:
        pane_s: length of a pane.
        window_s: length of a window, a whole number of panes.
        floor: windows that end at or below it can no longer change, and are not reported as changed.
        held_from: all panes from here on are held, those below it only where they were loaded.

    Attributes:
        restarts: first pane that counts for the detector of a series, where it was restarted.
        stale_detectors: series with a change below ``held_from``: the start of their detector has to be computed again.
    """

    def __init__(self, pane_s: float, window_s: float, floor: float = -math.inf, held_from: float = -math.inf) -> None:
        self.pane_s = pane_s
        self.window_s = window_s
        self.floor = floor
        self.held_from = held_from
        self.stale_detectors: set[SeriesKey] = set()
        self.restarts: dict[SeriesKey, float] = {}
        self._detector_starts: dict[SeriesKey, DetectorState] = {}
        self._panes: dict[SeriesKey, _SeriesPanes] = {}

    @property
    def lowest_pane(self) -> float:
        """Start of the lowest pane that may be needed: no window that can still change has a pane below it."""
        return self.floor - self.window_s

    # -- applying rows

    def apply_row(self, source: str, row: PaneRow) -> tuple[WindowKey, ...]:
        """Apply a changed row and return the windows that it changes; none when a newer version of the row is held.

        Every pane of these windows has to be held, see :meth:`missing_panes`.
        """
        if not self.hold_row(source, row):
            return ()
        series, start = self._locate(row)
        if row.pane < self.held_from:
            self.stale_detectors.add(series)
        starts = window_starts(start, self.pane_s, self.window_s)
        return tuple(WindowKey(series, window) for window in starts if window + self.window_s > self.floor)

    def hold_row(self, source: str, row: PaneRow) -> bool:
        """Hold a stored row without reporting a change; return False when a newer version of it is held."""
        series, start = self._locate(row)
        pane, cell = self._pane(series, start), _Cell(row.pane, row.width_s)
        previous = pane.rows.get((cell, source), _EMPTY)
        if row.version < previous.version:
            return False
        pane.rows[cell, source] = VersionedSums(row.version, row.sums)
        # The sums are integers, so that replacing a row by adding the difference is exact.
        change = row.sums if previous is _EMPTY else add_sums([row.sums, negate(previous.sums)])
        pane.merged = VersionedSums(pane.merged.version - previous.version + row.version, _add(pane.merged.sums, change))
        if row.pane >= self.held_from:
            _change_cell(self._panes[series], cell, change)
        return True

    def missing_panes(self, row: PaneRow) -> tuple[float, ...]:
        """Panes that have to be loaded before a row can be applied: those of the windows it changes that are not held."""
        series, start = self._locate(row)
        first, *_ = window_starts(start, self.pane_s, self.window_s)
        if first >= self.held_from:
            return ()
        panes = self._panes.get(series) or _SeriesPanes()
        # The windows that contain the pane span from the first start to one pane short of two windows later.
        neighbours = panes_of(first, self.pane_s, 2 * self.window_s - self.pane_s)
        high = self._complete_from(panes)
        return tuple(pane for pane in neighbours if self.lowest_pane <= pane < high and pane not in panes.by_start)

    def mark_held(self, series: SeriesKey, panes: Iterable[float]) -> None:
        """Mark panes as held, also those without rows; the caller adds all of their rows with :meth:`hold_row`."""
        for start in panes:
            self._pane(series, start)

    def is_held(self, source: str, row: PaneRow) -> bool:
        """Whether this version of the row, or a newer one, is held."""
        series, start = self._locate(row)
        panes = self._panes.get(series)
        pane = panes.by_start.get(start) if panes else None
        held = pane.rows.get((_Cell(row.pane, row.width_s), source)) if pane else None
        return held is not None and held.version >= row.version

    # -- reading

    def series(self) -> KeysView[SeriesKey]:
        """All series with held panes."""
        return self._panes.keys()

    def panes(self) -> Iterator[tuple[SeriesKey, float, VersionedSums]]:
        """Series, start, and version and sums over all sources of every held pane."""
        for series, panes in self._panes.items():
            for start, pane in panes.by_start.items():
                yield series, start, pane.merged

    def pane_sums(self, series: SeriesKey, start: float) -> VersionedSums:
        """Version and sums of a pane over all sources."""
        return self._panes[series].by_start[start].merged

    def window_sums(self, window: WindowKey) -> VersionedSums:
        """Version and sums of a window over all sources."""
        return VersionedSums(self.window_version(window), add_sums(pane.sums for pane in self._panes_in(window)))

    def window_version(self, window: WindowKey) -> int:
        """Version of a window: it rises with every change of any of its rows."""
        return sum(pane.version for pane in self._panes_in(window))

    def windows(self) -> Iterator[WindowKey]:
        """Every window with a held pane."""
        for series, panes in self._panes.items():
            yield from {
                WindowKey(series, window): None
                for start in panes.starts
                for window in window_starts(start, self.pane_s, self.window_s)
            }

    def latest_panes(self, series: SeriesKey, n: int) -> tuple[float, float, tuple[int, ...]]:
        """Start, end and sums of the fewest latest panes that hold ``n`` outcomes, or of all panes when they hold fewer."""
        panes = self._panes[series]
        sums: list[tuple[int, ...]] = []
        count = 0
        for start in reversed(panes.starts):
            if sums and start < self._complete_from(panes):
                break
            sums.append(panes.by_start[start].merged.sums)
            count += sums[-1][_N]
            if count >= n:
                break
        return panes.starts[-len(sums)], panes.starts[-1] + self.pane_s, add_sums(sums)

    def segment_sums(self, model_id: UUID, start: float, end: float) -> dict[str, tuple[int, ...]]:
        """Sums of the held panes in [start, end) of each segment of a model."""
        return {
            series.segment: add_sums(pane.merged.sums for at, pane in panes.by_start.items() if start <= at < end)
            for series, panes in self._panes.items()
            if series.model_id == model_id and series.segment != ALL_ROWS
        }

    def newest_pane(self, series: SeriesKey) -> float:
        """Start of the latest pane of a series."""
        return self._panes[series].starts[-1]

    # -- the detector

    def set_detector_start(self, series: SeriesKey, start: DetectorState, complete_from: float) -> None:
        """Set the state of a detector before ``held_from``; all panes of the series are held from ``complete_from`` on."""
        self._detector_starts[series] = start
        self.stale_detectors.discard(series)
        if panes := self._panes.get(series):
            panes.detector_states.clear()
            panes.complete_from = complete_from

    def restart_detector(self, series: SeriesKey, at: float, initial: DetectorState) -> None:
        """Let the detector of a series begin anew with the pane at ``at``, above all that are held."""
        self.restarts[series] = at
        self._detector_starts[series] = initial
        if panes := self._panes.get(series):
            panes.detector_states.clear()

    def detector_state(self, series: SeriesKey, initial: DetectorState) -> DetectorState:
        """State of the detector after all held cells of a series, in order of event time.

        ``initial`` is its state before the first outcome, used when no start was set.
        """
        state = self._detector_starts.get(series, initial)
        panes = self._panes.get(series)
        if panes is None:
            return state
        states = panes.detector_states
        # The detector depends on the order of cells, so only those after the first changed one are evaluated again.
        first = self.restarts.get(series, -math.inf)
        for cell in panes.chain[len(states) :]:
            cells = [panes.cells[cell]] if cell.pane >= first else []
            states.append(accumulate(cells, states[-1] if states else state))
        return states[-1] if states else state

    # -- evicting

    def evict(
        self, held_from: float, needed: Iterable[WindowKey], n: int, initial: Callable[[SeriesKey], DetectorState]
    ) -> list[tuple[SeriesKey, float]]:
        """Evict panes below ``held_from`` and return their keys.

        Panes of the ``needed`` windows stay, and so do the latest panes of each series that hold ``n`` outcomes. ``initial``
        returns the state of a series' detector before its first outcome.
        """
        needed_panes: defaultdict[SeriesKey, set[float]] = defaultdict(set)
        for series, window in needed:
            needed_panes[series].update(panes_of(window, self.pane_s, self.window_s))
        for series, panes in self._panes.items():
            latest, _, _ = self.latest_panes(series, n)
            panes.complete_from = max(latest, self._complete_from(panes))
        self.held_from = max(held_from, self.held_from)
        for series, panes in self._panes.items():
            panes.complete_from = self._complete_from(panes)
            self._advance_detector_start(series, panes, initial(series))
        evicted = [
            (series, start)
            for series, panes in self._panes.items()
            for start in panes.starts
            if start < self.lowest_pane or (start < panes.complete_from and start not in needed_panes[series])
        ]
        for series, start in evicted:
            self._drop(series, start)
        return evicted

    def _advance_detector_start(self, series: SeriesKey, panes: _SeriesPanes, initial: DetectorState) -> None:
        """Let the detector start at ``held_from``: its state there replaces the cells below."""
        self.detector_state(series, initial)
        n_below = bisect_left(panes.chain, _Cell(self.held_from, 0.0))
        if n_below:
            self._detector_starts[series] = panes.detector_states[n_below - 1]
            for cell in panes.chain[:n_below]:
                del panes.cells[cell]
            del panes.chain[:n_below], panes.detector_states[:n_below]

    def _drop(self, series: SeriesKey, start: float) -> None:
        panes = self._panes[series]
        del panes.by_start[start]
        del panes.starts[bisect_left(panes.starts, start)]
        if not panes.starts:
            del self._panes[series]

    def _panes_in(self, window: WindowKey) -> list[VersionedSums]:
        panes = self._panes[window.series].by_start
        return [panes[start].merged for start in panes_of(window.start, self.pane_s, self.window_s) if start in panes]

    def _complete_from(self, panes: _SeriesPanes) -> float:
        return min(panes.complete_from, self.held_from)

    def _locate(self, row: PaneRow) -> tuple[SeriesKey, float]:
        """Series of a row, and start of its pane."""
        return SeriesKey(row.model_id, row.segment), pane_start(row.pane, self.pane_s)

    def _pane(self, series: SeriesKey, start: float) -> _Pane:
        panes = self._panes.setdefault(series, _SeriesPanes())
        if start not in panes.by_start:
            panes.by_start[start] = _Pane()
            insort(panes.starts, start)
        return panes.by_start[start]


def _change_cell(panes: _SeriesPanes, cell: _Cell, change: tuple[int, ...]) -> None:
    """Add a change to the sums of a cell, and invalidate the detector states from that cell on."""
    if cell not in panes.cells:
        insort(panes.chain, cell)
    panes.cells[cell] = _add(panes.cells.get(cell, _ZEROS), change)
    del panes.detector_states[bisect_left(panes.chain, cell) :]


def _add(sums: tuple[int, ...], change: tuple[int, ...]) -> tuple[int, ...]:
    """The sum of both: a start applies a row to each of very many empty panes."""
    return change if sums is _ZEROS else add_sums([sums, change])

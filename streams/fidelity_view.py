"""What the fidelity of a model line looks like, from the newest row of each source: panes, sliding windows, detector cells.

Everything here can be thrown away and made again from ``fidelity_panes``.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from engine.detector import Evidence, fold
from engine.sums import negative, total
from engine.windows import is_stale, merge, pane_start, panes_of, window_starts
from schemas import PaneRow
from schemas.events import SUM_FIELDS
from streams.scoring import ALL

__all__ = ["LineView", "Merged", "Series", "Window"]

_N = SUM_FIELDS.index("n")
_NOTHING = (0,) * len(SUM_FIELDS)


class Series(NamedTuple):
    """A model and a segment of it."""

    model_id: UUID
    segment: str


class Window(NamedTuple):
    """A window of a series; ``start`` in seconds since the epoch."""

    series: Series
    start: float


class Merged(NamedTuple):
    """Version and sums of a pane or a window over all sources."""

    version: int
    sums: tuple[int, ...]


class _Cell(NamedTuple):
    pane: float
    width_s: float


@dataclass
class _Pane:
    """Newest rows of one pane of a series, by cell and source."""

    rows: dict[tuple[_Cell, str], PaneRow] = field(default_factory=dict)
    merged: Merged = field(default_factory=lambda: Merged(0, _NOTHING))


@dataclass
class _Panes:
    """Panes of one series in the order of event time, and its detector, folded as far as nothing has changed since."""

    by_start: dict[float, _Pane] = field(default_factory=dict)
    starts: list[float] = field(default_factory=list)
    cells: dict[_Cell, tuple[int, ...]] = field(default_factory=dict)
    chain: list[_Cell] = field(default_factory=list)
    folded: list[Evidence] = field(default_factory=list)


class LineView:
    """Live panes of one model line.

    Args:
        pane_s: length of a pane.
        window_s: length of a window, a whole number of panes.
        floor: cells below it are folded into ``begun`` already.
        begun: where the detector of a series begins; nowhere for a series that is not named.
    """

    def __init__(
        self, pane_s: float, window_s: float, floor: float = -math.inf, begun: Mapping[Series, Evidence] | None = None
    ) -> None:
        self.pane_s = pane_s
        self.window_s = window_s
        self.floor = floor
        self.begun = dict(begun or {})
        self._panes: dict[Series, _Panes] = {}

    def series(self) -> Iterable[Series]:
        """All series that have panes."""
        return self._panes.keys()

    def apply(self, source: str, row: PaneRow) -> tuple[Window, ...]:
        """Take a row in and return the windows that have to be said: none for a row strictly older than the one that is held."""
        series, cell = Series(row.model_id, row.segment), _Cell(row.pane, row.width_s)
        start = pane_start(row.pane, self.pane_s)
        pane = self._pane(series, start)
        held = pane.rows.get((cell, source))
        if is_stale(row, held):
            return ()
        before = Merged(held.version, held.sums) if held else Merged(0, _NOTHING)
        pane.rows[cell, source] = row
        pane.merged = _moved(pane.merged, before, row)
        if row.segment == ALL:
            self._recount(self._panes[series], cell, total([row.sums, negative(before.sums)]))
        return tuple(Window(series, window) for window in window_starts(start, self.pane_s, self.window_s))

    def rows(self, series: Series, start: float) -> dict[str, list[PaneRow]]:
        """Rows of a pane, by source."""
        found: dict[str, list[PaneRow]] = {}
        for (_, source), row in self._pane(series, start).rows.items():
            found.setdefault(source, []).append(row)
        return found

    def holds(self, source: str, row: PaneRow) -> bool:
        """Whether this row of the source is held, or a newer one."""
        panes = self._panes.get(Series(row.model_id, row.segment))
        pane = panes.by_start.get(pane_start(row.pane, self.pane_s)) if panes else None
        held = pane.rows.get((_Cell(row.pane, row.width_s), source)) if pane else None
        return held is not None and held.version >= row.version

    def window(self, window: Window) -> Merged:
        """What a window adds up to."""
        panes = self._panes[window.series].by_start
        held = [panes[start].merged for start in panes_of(window.start, self.pane_s, self.window_s) if start in panes]
        return Merged(sum(pane.version for pane in held), total(pane.sums for pane in held))

    def windows(self) -> Iterator[Window]:
        """Every window that has a pane."""
        for series, panes in self._panes.items():
            yield from {
                Window(series, window): None
                for start in panes.starts
                for window in window_starts(start, self.pane_s, self.window_s)
            }

    def latest(self, series: Series, n: int) -> tuple[float, float, tuple[int, ...]]:
        """The fewest latest panes that hold ``n`` outcomes, or all of them: where they begin and end, and their sums."""
        panes = self._panes[series]
        held: list[tuple[int, ...]] = []
        count = 0
        for start in reversed(panes.starts):
            held.append(panes.by_start[start].merged.sums)
            count += held[-1][_N]
            if count >= n:
                break
        return panes.starts[-len(held)], panes.starts[-1] + self.pane_s, total(held)

    def newest_start(self, series: Series) -> float:
        """Start of the latest pane."""
        return self._panes[series].starts[-1]

    def evidence(self, series: Series, first: Evidence) -> Evidence:
        """Where the detector of a series stands, chained over its cells in event time."""
        panes = self._panes[series]
        begin = self.begun.get(series, first)
        for cell in panes.chain[len(panes.folded) :]:
            panes.folded.append(fold([panes.cells[cell]], panes.folded[-1] if panes.folded else begin))
        return panes.folded[-1] if panes.folded else begin

    def evidence_before(self, series: Series, pane: float, first: Evidence) -> Evidence:
        """Where the detector stood before the cells from ``pane`` on."""
        self.evidence(series, first)
        panes = self._panes[series]
        place = bisect_left(panes.chain, _Cell(pane, 0.0))
        return panes.folded[place - 1] if place else self.begun.get(series, first)

    def raise_floor(self, floor: float, begun: Mapping[Series, Evidence]) -> list[tuple[Series, float]]:
        """Let detectors begin at a higher floor, drop the panes a window below it, and return those."""
        self.floor, self.begun = floor, {**self.begun, **begun}
        for panes in self._panes.values():
            panes.chain = [cell for cell in panes.chain if cell.pane >= floor]
            panes.folded.clear()
        dropped = [
            (series, start) for series, panes in self._panes.items() for start in panes.starts if start < floor - self.window_s
        ]
        for series, start in dropped:
            self._drop(series, start)
        return dropped

    def version_between(self, low: float, high: float) -> int:
        """Sum of the versions of all rows whose pane begins in [low, high)."""
        found = (
            pane.merged.version for panes in self._panes.values() for start, pane in panes.by_start.items() if low <= start < high
        )
        return sum(found)

    def _drop(self, series: Series, start: float) -> None:
        panes = self._panes[series]
        for cell, _ in panes.by_start.pop(start).rows:
            panes.cells.pop(cell, None)
        panes.starts.remove(start)
        if not panes.starts:
            del self._panes[series]

    def _pane(self, series: Series, start: float) -> _Pane:
        panes = self._panes.setdefault(series, _Panes())
        if start not in panes.by_start:
            panes.by_start[start] = _Pane()
            insort(panes.starts, start)
        return panes.by_start[start]

    def _recount(self, panes: _Panes, cell: _Cell, change: tuple[int, ...]) -> None:
        if cell.pane < self.floor:
            return
        if cell not in panes.cells:
            insort(panes.chain, cell)
        panes.cells[cell] = total([panes.cells.get(cell, _NOTHING), change])
        del panes.folded[bisect_left(panes.chain, cell) :]


def _moved(merged: Merged, before: Merged, row: PaneRow) -> Merged:
    version, sums = merge([row])
    return Merged(merged.version - before.version + version, total([merged.sums, negative(before.sums), sums]))

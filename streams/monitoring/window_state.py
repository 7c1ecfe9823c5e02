"""What the fidelity of a model line looks like, from the newest row of each source: panes, sliding windows, detector cells.

Only panes that may change at any moment are held. A pane whose windows are all settled is forgotten, and its rows are read again
where a late outcome changes it, so that what is held grows with the windows that are open and not with the time that is kept:

    floor |  forgotten, in Postgres only  | held_from   held, by source         newest |
          |   folded into ``begun``       |             chained one by one             |

Everything here can be thrown away and made again from ``fidelity_panes``.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from engine.fidelity.e_detector import DetectorState, accumulate
from engine.fidelity.error_sums import add_sums, negate
from engine.fidelity.windows import pane_start, panes_of, window_starts
from schemas import PaneRow
from schemas.events import SUM_FIELDS

__all__ = ["SeriesKey", "VersionedSums", "WindowKey", "WindowState"]

_N = SUM_FIELDS.index("n")
_NOTHING = (0,) * len(SUM_FIELDS)


class SeriesKey(NamedTuple):
    """A model and a segment of it."""

    model_id: UUID
    segment: str


class WindowKey(NamedTuple):
    """A window of a series; ``start`` in seconds since the epoch."""

    series: SeriesKey
    start: float


class VersionedSums(NamedTuple):
    """Version and sums of a row, or of a pane or a window over all sources."""

    version: int
    sums: tuple[int, ...]


class _Cell(NamedTuple):
    pane: float
    width_s: float


_EMPTY = VersionedSums(0, _NOTHING)


@dataclass(slots=True)
class _Pane:
    """Newest rows of one pane of a series, by cell and source."""

    rows: dict[tuple[_Cell, str], VersionedSums] = field(default_factory=dict)
    merged: VersionedSums = _EMPTY


@dataclass(slots=True)
class _Panes:
    """Held panes of one series in the order of event time, and its detector, folded as far as nothing has changed since.

    From ``whole_from`` on every pane is held, as everywhere from ``held_from`` of the view on.
    """

    by_start: dict[float, _Pane] = field(default_factory=dict)
    starts: list[float] = field(default_factory=list)
    cells: dict[_Cell, tuple[int, ...]] = field(default_factory=dict)
    chain: list[_Cell] = field(default_factory=list)
    folded: list[DetectorState] = field(default_factory=list)
    whole_from: float = math.inf


class WindowState:
    """Held panes of one model line.

    Args:
        pane_s: length of a pane.
        window_s: length of a window, a whole number of panes.
        floor: windows that end at or below it can change no more, and are not told of.
        held_from: panes from here on are all held, those below it only where they were read.

    Attributes:
        stale: series whose detector has to be folded anew below ``held_from``, since something changed there.
    """

    def __init__(self, pane_s: float, window_s: float, floor: float = -math.inf, held_from: float = -math.inf) -> None:
        self.pane_s = pane_s
        self.window_s = window_s
        self.floor = floor
        self.held_from = held_from
        self.stale: set[SeriesKey] = set()
        self._begun: dict[SeriesKey, DetectorState] = {}
        self._panes: dict[SeriesKey, _Panes] = {}

    # -- taking in

    def apply(self, source: str, row: PaneRow) -> tuple[WindowKey, ...]:
        """Take a row in and return the windows that have to be said: none for a row strictly older than the one that is held.

        Every pane of these windows has to be held, see :meth:`unread`.
        """
        if not self.hold(source, row):
            return ()
        series, start = self._place(row)
        if row.pane < self.held_from:
            self.stale.add(series)
        found = window_starts(start, self.pane_s, self.window_s)
        return tuple(WindowKey(series, window) for window in found if window + self.window_s > self.floor)

    def hold(self, source: str, row: PaneRow) -> bool:
        """Take in a row that is no news; False where a newer one is held."""
        series, start = self._place(row)
        pane, cell = self._pane(series, start), _Cell(row.pane, row.width_s)
        before = pane.rows.get((cell, source), _EMPTY)
        if row.version < before.version:
            return False
        pane.rows[cell, source] = VersionedSums(row.version, row.sums)
        change = add_sums([row.sums, negate(before.sums)])
        pane.merged = VersionedSums(pane.merged.version - before.version + row.version, add_sums([pane.merged.sums, change]))
        if row.pane >= self.held_from:
            _recount(self._panes[series], cell, change)
        return True

    def unread(self, row: PaneRow) -> tuple[float, ...]:
        """Panes that have to be read before a row can be applied: those of its windows that are not held."""
        series, start = self._place(row)
        first, *_ = window_starts(start, self.pane_s, self.window_s)
        if first >= self.held_from:
            return ()
        panes = self._panes.get(series) or _Panes()
        around = panes_of(first, self.pane_s, 2 * self.window_s - self.pane_s)
        low, high = self.floor - self.window_s, self._whole_from(panes)
        return tuple(pane for pane in around if low <= pane < high and pane not in panes.by_start)

    def admit(self, series: SeriesKey, panes: Iterable[float]) -> None:
        """Count these panes as held: all of their rows are about to be."""
        for start in panes:
            self._pane(series, start)

    def holds(self, source: str, row: PaneRow) -> bool:
        """Whether this row of the source is held, or a newer one."""
        series, start = self._place(row)
        panes = self._panes.get(series)
        pane = panes.by_start.get(start) if panes else None
        held = pane.rows.get((_Cell(row.pane, row.width_s), source)) if pane else None
        return held is not None and held.version >= row.version

    # -- looking

    def series(self) -> Iterable[SeriesKey]:
        """All series of which panes are held."""
        return self._panes.keys()

    def pane(self, series: SeriesKey, start: float) -> VersionedSums:
        """What a pane adds up to."""
        return self._panes[series].by_start[start].merged

    def window(self, window: WindowKey) -> VersionedSums:
        """What a window adds up to."""
        return VersionedSums(self.version(window), add_sums(pane.sums for pane in self._panes_in(window)))

    def version(self, window: WindowKey) -> int:
        """Version of a window: it rises with every change of any of its rows."""
        return sum(pane.version for pane in self._panes_in(window))

    def windows(self) -> Iterator[WindowKey]:
        """Every window that has a held pane."""
        for series, panes in self._panes.items():
            yield from {
                WindowKey(series, window): None
                for start in panes.starts
                for window in window_starts(start, self.pane_s, self.window_s)
            }

    def latest(self, series: SeriesKey, n: int) -> tuple[float, float, tuple[int, ...]]:
        """The fewest latest panes that hold ``n`` outcomes, or all of them: where they begin and end, and their sums."""
        panes = self._panes[series]
        held: list[tuple[int, ...]] = []
        count = 0
        for start in reversed(panes.starts):
            if held and start < self._whole_from(panes):
                break
            held.append(panes.by_start[start].merged.sums)
            count += held[-1][_N]
            if count >= n:
                break
        return panes.starts[-len(held)], panes.starts[-1] + self.pane_s, add_sums(held)

    def newest_start(self, series: SeriesKey) -> float:
        """Start of the latest pane."""
        return self._panes[series].starts[-1]

    # -- the detector

    def begin(self, series: SeriesKey, evidence: DetectorState, whole_from: float) -> None:
        """Let the detector of a series stand here before ``held_from``; its panes are all held from ``whole_from`` on."""
        self._begun[series] = evidence
        self.stale.discard(series)
        if panes := self._panes.get(series):
            panes.folded.clear()
            panes.whole_from = whole_from

    def evidence(self, series: SeriesKey, first: DetectorState) -> DetectorState:
        """Where the detector of a series stands, chained over its cells in event time."""
        begin = self._begun.get(series, first)
        panes = self._panes.get(series)
        if panes is None:
            return begin
        for cell in panes.chain[len(panes.folded) :]:
            panes.folded.append(accumulate([panes.cells[cell]], panes.folded[-1] if panes.folded else begin))
        return panes.folded[-1] if panes.folded else begin

    # -- forgetting

    def forget(
        self, held_from: float, needed: Iterable[WindowKey], n: int, first: Callable[[SeriesKey], DetectorState]
    ) -> list[tuple[SeriesKey, float]]:
        """Forget panes below ``held_from``, except those of ``needed`` windows and the latest that hold ``n`` outcomes.

        ``first`` tells where the detector of a series stands before its first outcome.

        Returns the panes that are no longer held.
        """
        kept: defaultdict[SeriesKey, set[float]] = defaultdict(set)
        for series, window in needed:
            kept[series].update(panes_of(window, self.pane_s, self.window_s))
        for series, panes in self._panes.items():
            latest, _, _ = self.latest(series, n)
            panes.whole_from = max(latest, self._whole_from(panes))
        self.held_from = max(held_from, self.held_from)
        for series, panes in self._panes.items():
            panes.whole_from = self._whole_from(panes)
            self._fold_below(series, panes, first(series))
        lowest = self.floor - self.window_s
        dropped = [
            (series, start)
            for series, panes in self._panes.items()
            for start in panes.starts
            if start < lowest or (start < panes.whole_from and start not in kept[series])
        ]
        for series, start in dropped:
            self._drop(series, start)
        return dropped

    def _fold_below(self, series: SeriesKey, panes: _Panes, first: DetectorState) -> None:
        self.evidence(series, first)
        place = bisect_left(panes.chain, _Cell(self.held_from, 0.0))
        if place:
            self._begun[series] = panes.folded[place - 1]
            for cell in panes.chain[:place]:
                del panes.cells[cell]
            del panes.chain[:place], panes.folded[:place]

    def _drop(self, series: SeriesKey, start: float) -> None:
        panes = self._panes[series]
        del panes.by_start[start]
        del panes.starts[bisect_left(panes.starts, start)]
        if not panes.starts:
            del self._panes[series]

    def _panes_in(self, window: WindowKey) -> list[VersionedSums]:
        panes = self._panes[window.series].by_start
        return [panes[start].merged for start in panes_of(window.start, self.pane_s, self.window_s) if start in panes]

    def _whole_from(self, panes: _Panes) -> float:
        return min(panes.whole_from, self.held_from)

    def _place(self, row: PaneRow) -> tuple[SeriesKey, float]:
        return SeriesKey(row.model_id, row.segment), pane_start(row.pane, self.pane_s)

    def _pane(self, series: SeriesKey, start: float) -> _Pane:
        panes = self._panes.setdefault(series, _Panes())
        if start not in panes.by_start:
            panes.by_start[start] = _Pane()
            insort(panes.starts, start)
        return panes.by_start[start]


def _recount(panes: _Panes, cell: _Cell, change: tuple[int, ...]) -> None:
    if cell not in panes.cells:
        insort(panes.chain, cell)
    panes.cells[cell] = add_sums([panes.cells.get(cell, _NOTHING), change])
    del panes.folded[bisect_left(panes.chain, cell) :]

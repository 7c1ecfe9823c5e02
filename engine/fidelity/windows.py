"""Event-time arithmetic: panes of one width tile the time line, a window is a run of whole panes.

Times are seconds since the epoch. A window starts at every pane, so windows slide by one pane:

    pane         |  0  |  1  |  2  |  3  |
    window 0     |=================|
    window 1           |=================|
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from engine.fidelity.error_sums import total
from schemas.events import PaneRow

__all__ = [
    "is_closed",
    "is_future",
    "is_stale",
    "is_too_late",
    "lowest_pane",
    "merge",
    "pane_start",
    "panes_in",
    "panes_of",
    "window_starts",
]

Seconds = TypeVar("Seconds", float, npt.NDArray[np.float64])


def pane_start(at: Seconds, width: Seconds | float) -> Seconds:
    """Start of the pane that holds ``at``: a pane holds its start and not its end.

    Example:
        >>> pane_start(899.5, 300)
        600.0
    """
    return at // width * width


def panes_in(window: float, width: float) -> int:
    """Panes of a window.

    Raises:
        ValueError: when the window is not a whole number of panes.
    """
    count = round(window / width)
    if count < 1 or abs(count * width - window) > 1e-9 * window:
        raise ValueError(f"a window of {window} s is not a whole number of panes of {width} s")
    return count


def window_starts(pane: float, width: float, window: float) -> tuple[float, ...]:
    """Starts of the windows that contain a pane, the earliest first.

    Example:
        >>> window_starts(600.0, 300, 900)
        (0, 300, 600)
    """
    index = round(pane / width)
    return tuple(k * width for k in range(index - panes_in(window, width) + 1, index + 1))


def panes_of(window_start: float, width: float, window: float) -> tuple[float, ...]:
    """Starts of a window's panes, the earliest first.

    Example:
        >>> panes_of(300, 300, 900)
        (300, 600, 900)
    """
    index = round(window_start / width)
    return tuple(k * width for k in range(index, index + panes_in(window, width)))


def is_stale(row: PaneRow, kept: PaneRow | None) -> bool:
    """Whether a row is strictly older than the one kept of the same series, pane and source; an equal one is applied again."""
    return kept is not None and row.version < kept.version


def merge(rows: Iterable[PaneRow]) -> tuple[int, tuple[int, ...]]:
    """Version and sums of a window, or of a pane over its sources: both are plain sums over the newest rows."""
    held = tuple(rows)
    return sum(row.version for row in held), total(row.sums for row in held)


def is_future(at: Seconds, now: float, skew: float) -> npt.NDArray[np.bool_] | np.bool_ | bool:
    """Whether ``at`` lies further ahead of ``now`` than clocks may differ."""
    return at > now + skew


def is_closed(window_end: float, watermark: float | None, grace: float) -> bool:
    """Whether event time has passed the window's end by ``grace``; without a watermark nothing is closed."""
    return watermark is not None and watermark >= window_end + grace


def lowest_pane(watermark: float, width: float, restatement: float) -> float:
    """The lowest pane that can still change: those before it lie wholly more than ``restatement`` below the watermark."""
    return pane_start(watermark - restatement, width)


def is_too_late(pane: float, watermark: float | None, width: float, restatement: float) -> bool:
    """Whether a pane may no longer change, given the watermark of its own source just before the record."""
    return watermark is not None and pane < lowest_pane(watermark, width, restatement)

"""Event-time arithmetic: panes of equal width cover the time line, and a window is a sequence of whole panes.

Times are seconds since the epoch. A window starts at every pane, so windows slide by one pane:

    pane         |  0  |  1  |  2  |  3  |
    window 0     |=================|
    window 1           |=================|
"""

from __future__ import annotations

from typing import TypeVar

from schemas.arrays import Floats

__all__ = [
    "is_closed",
    "is_too_late",
    "lowest_pane",
    "pane_start",
    "panes_of",
    "window_starts",
]

Seconds = TypeVar("Seconds", float, Floats)


def pane_start(at: Seconds, width: Seconds | float) -> Seconds:
    """Start of the pane that contains ``at``: a pane includes its start and excludes its end.

    Example:
        >>> pane_start(899.5, 300)
        600.0
    """
    return at // width * width


def panes_per_window(window: float, width: float) -> int:
    """Number of panes in a window.

    Raises:
        ValueError: when the window is not a whole number of panes.
    """
    count = round(window / width)
    if count < 1 or abs(count * width - window) > 1e-9 * window:
        raise ValueError(f"a window of {window} s is not a whole number of panes of {width} s")
    return count


def window_starts(pane: float, width: float, window: float) -> tuple[float, ...]:
    """Starts of the windows that contain a pane, in ascending order.

    Example:
        >>> window_starts(600.0, 300, 900)
        (0, 300, 600)
    """
    index = round(pane / width)
    return tuple(k * width for k in range(index - panes_per_window(window, width) + 1, index + 1))


def panes_of(window_start: float, width: float, window: float) -> tuple[float, ...]:
    """Starts of the panes of a window, in ascending order.

    Example:
        >>> panes_of(300, 300, 900)
        (300, 600, 900)
    """
    index = round(window_start / width)
    return tuple(k * width for k in range(index, index + panes_per_window(window, width)))


def is_closed(window_end: float, watermark: float | None, grace: float) -> bool:
    """Whether the watermark is at least ``grace`` past the end of the window; False without a watermark."""
    return watermark is not None and watermark >= window_end + grace


def lowest_pane(watermark: float, width: float, restatement: float) -> float:
    """The lowest pane that can still change: all before it end more than ``restatement`` below the watermark."""
    return pane_start(watermark - restatement, width)


def is_too_late(pane: float, watermark: float | None, width: float, restatement: float) -> bool:
    """Whether a pane may no longer change, given the watermark of its source just before the record."""
    return watermark is not None and pane < lowest_pane(watermark, width, restatement)

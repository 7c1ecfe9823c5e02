"""Scales, ticks, axes and the placement of labels of the charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from schemas.base import utc_time
from streams.reporting.chart_svg import CHAR_WIDTH, draw_line, draw_text, format_value

__all__ = [
    "LEFT",
    "Scale",
    "draw_number_axis",
    "draw_time_axis",
    "draw_value_axis",
    "draw_vertical_grid",
    "label_extent",
    "linear_scale",
    "spread",
    "stagger",
    "ticks",
    "time_scale",
]

LEFT = 62.0  # room for the values beside the axis
_LINE_HEIGHT = 14
_DAY_S = 86_400
_TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, _DAY_S)


@dataclass(frozen=True)
class Scale:
    """A linear map from values (``low`` to ``high``) to pixels (``start`` to ``end``), rounded to a tenth."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        fraction = (value - self.low) / (self.high - self.low)
        return round(self.start + fraction * (self.end - self.start), 1)


def linear_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale over all values with a margin of 6 % at both ends."""
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Scale(low - margin, high + margin, start, end)


def time_scale(times: Sequence[float], end: float) -> Scale:
    """A horizontal scale over times in seconds with a margin of 2 % at both ends."""
    low, high = min(times), max(times)
    margin = (high - low) * 0.02 or 1.0
    return Scale(low - margin, high + margin, LEFT, end)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values between two ends (low < high), 1, 2 or 5 times a power of ten apart, roughly ``about`` of them.

    >>> ticks(0.0, 1.0, 5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw_step = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw_step))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw_step * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{multiple * step:.12g}") for multiple in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, float]]:
    """Powers of ten between two decimal logarithms, on a short axis also 2 and 5 times them, as pairs of logarithm and value."""
    factors = (1,) if high - low > 2 else (1, 2, 5)
    values = [factor * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for factor in factors]
    return [(math.log10(value), value) for value in values if low <= math.log10(value) <= high]


def _time_tick_step(least_s: float) -> float:
    """The shortest step that reads well on a clock or calendar and is at least this long, in seconds."""
    return next((float(step) for step in _TIME_STEPS_S if step >= least_s), math.ceil(least_s / _DAY_S) * _DAY_S)


def label_extent(x: float, label: str, width: float) -> tuple[float, float]:
    """From where to where the label of a marker reaches: right of the marker, or left of it where the chart ends before."""
    length = CHAR_WIDTH * len(label) + 12
    return (x, x + length) if x + length <= width else (x - length, x)


def stagger(extents: Sequence[tuple[float, float]]) -> list[int]:
    """The row of each extent, such that none overlap in a row, with as few rows as that takes."""
    row_ends: list[float] = []
    rows = [0] * len(extents)
    for index, (left, right) in sorted(enumerate(extents), key=lambda pair: pair[1]):
        row = next((row for row, end in enumerate(row_ends) if end <= left), len(row_ends))
        row_ends[row : row + 1] = [right]
        rows[index] = row
    return rows


def spread(heights: Sequence[float]) -> list[float]:
    """Heights of labels, from top to bottom, moved down where one would be nearer than a line to the label above.

    >>> spread([10.0, 12.0, 60.0])
    [10.0, 24.0, 60.0]
    """
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + _LINE_HEIGHT) if placed else height)
    return placed


def draw_vertical_grid(svg: Element, x: Scale, span: tuple[float, float], form: str) -> None:
    """Draw vertical grid lines with their values, and the line at zero; ``span`` is their top and bottom in pixels."""
    top, bottom = span
    for tick in ticks(x.low, x.high, _tick_count(x, 70)):
        draw_line(svg, "grid", (x(tick), top), (x(tick), bottom))
        draw_text(svg, x(tick), bottom + 17, format_value(tick, form), anchor="middle")
    draw_line(svg, "axis", (x(0.0), top - 4), (x(0.0), bottom))


def draw_value_axis(svg: Element, y: Scale, x: Scale, form: str) -> None:
    """Draw horizontal grid lines with their values at the left."""
    for tick in ticks(y.low, y.high, max(3, int((y.start - y.end) / 26))):
        draw_line(svg, "grid", (x.start, y(tick)), (x.end, y(tick)))
        draw_text(svg, x.start - 8, y(tick) + 4, format_value(tick, form), anchor="end")


def draw_number_axis(svg: Element, x: Scale, bottom: float, label: str, *, form: str, log: bool) -> None:
    """Draw a horizontal axis of numbers; on a logarithmic one the scale is over decimal logarithms."""
    draw_line(svg, "axis", (x.start, bottom), (x.end, bottom))
    positions = _log_ticks(x.low, x.high) if log else [(tick, tick) for tick in ticks(x.low, x.high, _tick_count(x, 90))]
    for position, value in positions:
        _draw_tick(svg, x(position), bottom, format(value, form))
    draw_text(svg, (x.start + x.end) / 2, bottom + 36, label, anchor="middle")


def draw_time_axis(svg: Element, x: Scale, bottom: float) -> None:
    """Draw a horizontal axis of times in UTC; the scale is over seconds since the epoch."""
    draw_line(svg, "axis", (x.start, bottom), (x.end, bottom))
    step = _time_tick_step((x.high - x.low) / max(2, (x.end - x.start) / 110))
    pattern = "%H:%M:%S" if step < 60 else "%H:%M" if step < 43_200 else "%d %b"
    tick = math.ceil(x.low / step) * step
    while tick <= x.high:
        _draw_tick(svg, x(tick), bottom, f"{utc_time(tick):{pattern}}")
        tick += step
    draw_text(svg, x.end + 34, bottom + 17, "UTC")


def _draw_tick(svg: Element, x: float, bottom: float, text: str) -> None:
    draw_line(svg, "axis", (x, bottom), (x, bottom + 4))
    draw_text(svg, x, bottom + 17, text, anchor="middle")


def _tick_count(scale: Scale, pixels: int) -> int:
    """How many ticks fit on a horizontal axis, one every so many pixels."""
    return max(3, int((scale.end - scale.start) / pixels))

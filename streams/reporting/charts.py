"""Charts as SVG text, drawn by pure functions: intervals side by side, figures over time with their limits and marks, and curves.

A page puts ``CHART_STYLE`` once into its ``<style>``; colours follow the reader's light or dark scheme. Each chart has a title and
a description for screen readers, each point says its numbers when pointed at, and no meaning hangs on colour alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Literal
from xml.etree.ElementTree import Element, SubElement, tostring

__all__ = [
    "CHART_STYLE",
    "ChartInterval",
    "ChartSeries",
    "Curve",
    "Line",
    "Mark",
    "Place",
    "Tone",
    "curves_chart",
    "intervals_chart",
    "series_chart",
    "ticks",
]

Tone = Literal["one", "two", "good", "warn", "bad", "muted"]

CHART_STYLE = """
.chart { --ink: light-dark(#1c2430, #e6e9ef); --soft: light-dark(#5b6675, #9aa5b5); --rule: light-dark(#e3e7ed, #2c3442);
  --one: light-dark(#1f5fbf, #79aef5); --two: light-dark(#7a3fb5, #c39bf0); --good: light-dark(#13795b, #4fcf9f);
  --warn: light-dark(#9a6200, #f0b849); --bad: light-dark(#b3261e, #ff8a80); --muted: var(--soft);
  --paper: light-dark(#fff, #12161d);
  display: block; width: 100%; height: auto; font: 12px/1.2 system-ui, -apple-system, "Segoe UI", sans-serif;
  font-variant-numeric: tabular-nums; color-scheme: light dark; }
.chart text { fill: var(--soft); } .chart .strong { fill: var(--ink); font-weight: 600;
  paint-order: stroke; stroke: var(--paper); stroke-width: 5px; stroke-linejoin: round; }
.chart .grid { stroke: var(--rule); } .chart .axis { stroke: var(--soft); }
.chart .one { --tone: var(--one); } .chart .two { --tone: var(--two); } .chart .good { --tone: var(--good); }
.chart .warn { --tone: var(--warn); } .chart .bad { --tone: var(--bad); } .chart .muted { --tone: var(--muted); }
.chart .ink { fill: var(--tone); } .chart .stroke { stroke: var(--tone); fill: none; }
.chart .hollow { stroke: var(--tone); fill: var(--paper); stroke-width: 2; }
.chart .curve { stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .whisker { stroke-width: 3; stroke-linecap: round; }
.chart .band { fill: var(--tone); opacity: 0.14; } .chart .limit { stroke-dasharray: 6 4; } .chart .mark { stroke-dasharray: 2 3; }
"""

_CHAR = 6.6
_ROW = 30


@dataclass(frozen=True)
class ChartInterval:
    """One estimate with its interval; ``note`` stands at the right end of its row."""

    label: str
    estimate: float
    lower: float
    upper: float
    note: str = ""
    tone: Tone = "one"


@dataclass(frozen=True)
class ChartSeries:
    """Values at times; a None breaks the curve. ``margins`` are half widths of a band around the values."""

    label: str
    times: Sequence[datetime]
    values: Sequence[float | None]
    margins: Sequence[float | None] = ()
    tone: Tone = "one"


@dataclass(frozen=True)
class Curve:
    """Values ``y`` at numbers ``x``; ``margins`` are half widths of a band around them."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    margins: Sequence[float] = ()
    tone: Tone = "one"


@dataclass(frozen=True)
class Line:
    """A limit or a baseline: one value for the whole chart."""

    value: float
    label: str
    tone: Tone = "muted"


@dataclass(frozen=True)
class Mark:
    """Something that happened at a moment."""

    at: datetime
    label: str
    tone: Tone = "two"


@dataclass(frozen=True)
class Place:
    """Something that happened at a number."""

    at: float
    label: str
    tone: Tone = "two"


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class _Point:
    at: float
    value: float
    margin: float
    told: str


@dataclass(frozen=True)
class _Upright:
    at: float
    label: str
    tone: Tone
    told: str


def intervals_chart(
    items: Sequence[ChartInterval],
    *,
    title: str,
    description: str,
    form: str = ".1%",
    lines: Sequence[Line] = (),
    width: int = 760,
) -> str:
    """Estimates under each other, each with its interval, as an SVG.

    Args:
        items: from top to bottom.
        title: read out, and shown when the chart is pointed at.
        description: what there is to see, read out.
        form: how a value is written, as for ``format``.
        lines: vertical lines, such as a threshold; zero is always drawn.
        width: in pixels; the chart scales with its container.
    """
    left, right = _margin(item.label for item in items), _margin(item.note for item in items)
    width = max(width, int(left + right + 240))
    x = _scale([0.0, *(line.value for line in lines), *_ends(items)], left, width - right)
    halves = [_CHAR * len(line.label) / 2 + 6 for line in lines]
    rows = _staggered([(x(line.value) - half, x(line.value) + half) for line, half in zip(lines, halves, strict=True)])
    top = 14 + 12 * (max(rows, default=0) + 1)
    bottom = top + _ROW * max(len(items), 1)
    height = bottom + 26
    svg = _canvas(title, description, width, height)
    if not items:
        return _nothing(svg, width, height)
    for tick in ticks(x.low, x.high, max(3, int((x.end - x.start) / 70))):
        _line(svg, "grid", (x(tick), top), (x(tick), bottom))
        _text(svg, x(tick), bottom + 17, _written(tick, form), anchor="middle")
    _line(svg, "axis", (x(0.0), top - 4), (x(0.0), bottom))
    for line, row in zip(lines, rows, strict=True):
        _line(svg, f"stroke limit {line.tone}", (x(line.value), 15 + 12 * row), (x(line.value), bottom))
        _text(svg, x(line.value), 11 + 12 * row, line.label, anchor="middle", tone=line.tone)
    for number, item in enumerate(items):
        _interval_row(svg, item, x, y=top + _ROW * (number + 0.5), width=width, form=form)
    return tostring(svg, encoding="unicode")


def _ends(items: Sequence[ChartInterval]) -> list[float]:
    return [end for item in items for end in (item.lower, item.upper)]


def _interval_row(svg: Element, item: ChartInterval, x: _Scale, *, y: float, width: int, form: str) -> None:
    group = SubElement(svg, "g", {"class": item.tone})
    told = f"{item.label}: {_written(item.estimate, form)}, {_written(item.lower, form)} to {_written(item.upper, form)}"
    SubElement(group, "title").text = f"{told}. {item.note}" if item.note else told
    _line(group, "stroke whisker", (x(item.lower), y), (x(item.upper), y))
    for end in (item.lower, item.upper):
        _line(group, "stroke", (x(end), y - 5), (x(end), y + 5))
    _shape(group, x(item.estimate), y, item.tone, 5.5)
    _text(group, 4, y + 4, item.label, strong=True)
    _text(group, width - 4, y + 4, item.note, anchor="end", tone=item.tone)


def series_chart(
    series: Sequence[ChartSeries],
    *,
    title: str,
    description: str,
    form: str = ".3g",
    lines: Sequence[Line] = (),
    marks: Sequence[Mark] = (),
    width: int = 760,
    height: int = 250,
) -> str:
    """Figures over time with limits across and marks upright, as an SVG.

    Args:
        series: drawn in this order; each is named in the legend when there is more than one.
        title: read out, and shown when the chart is pointed at.
        description: what there is to see, read out.
        form: how a value is written, as for ``format``.
        lines: limits and baselines, named at the right.
        marks: moments, named at the top.
        width: in pixels; the chart scales with its container.
        height: in pixels.
    """
    svg = _canvas(title, description, width, height)
    points = [_points(one, form) for one in series]
    known = [point for one in points for point in one if point is not None]
    if not known:
        return _nothing(svg, width, height)
    right = max(64.0, _margin(line.label for line in lines))
    uprights = [_at_moment(mark) for mark in marks]
    x = _time_scale([p.at for p in known] + [upright.at for upright in uprights], width - right)
    rows = _staggered([_box(x(upright.at), upright.label, width) for upright in uprights])
    top = 12 + 14 * (max(rows, default=-1) + 1) + (18 if len(series) > 1 else 0)
    reach = [end for p in known for end in (p.value - p.margin, p.value + p.margin)] + [line.value for line in lines]
    y = _scale(reach, height - 26, top)
    _value_axis(svg, y, x, form)
    _time_axis(svg, x, height - 26)
    for upright, row in zip(uprights, rows, strict=True):
        _mark(svg, upright, (12 + 14 * row, top, height - 26), x(upright.at), width)
    for line, at in _apart([(line, y(line.value)) for line in lines]):
        _line(svg, f"stroke limit {line.tone}", (x.start, y(line.value)), (x.end, y(line.value)))
        _text(svg, x.end + 8, at + 4, line.label, tone=line.tone)
    for one, told in zip(series, points, strict=True):
        _curve(svg, one.tone, told, x, y)
    if len(series) > 1:
        _legend(svg, series, x.start, top - 10)
    return tostring(svg, encoding="unicode")


def curves_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    description: str,
    x_label: str,
    form: str = ".3g",
    x_form: str = "g",
    log_x: bool = False,
    lines: Sequence[Line] = (),
    marks: Sequence[Place] = (),
    width: int = 760,
    height: int = 270,
) -> str:
    """Figures against a number, as an SVG.

    Args:
        curves: drawn in this order, named in the legend when there is more than one.
        title: read out, and shown when the chart is pointed at.
        description: what there is to see, read out.
        x_label: what the number is, under the axis.
        form: how a value is written, as for ``format``.
        x_form: how the number is written.
        log_x: the same distance for the same factor; every ``x`` positive.
        lines: limits across, named at the right.
        marks: what happened at a number, named at the top.
        width: in pixels; the chart scales with its container.
        height: in pixels.
    """
    svg = _canvas(title, description, width, height)
    if not any(len(curve.x) for curve in curves):
        return _nothing(svg, width, height)
    placed: Callable[[float], float] = math.log10 if log_x else float
    points = [_curve_points(curve, placed, form, x_form) for curve in curves]
    told = [point for one in points for point in one]
    uprights = [_Upright(placed(mark.at), mark.label, mark.tone, f"{mark.label}, at {format(mark.at, x_form)}") for mark in marks]
    ends = [point.at for point in told] + [upright.at for upright in uprights]
    x = _scale(ends, 62.0, width - max(24.0, _margin(line.label for line in lines)))
    rows = _staggered([_box(x(upright.at), upright.label, width) for upright in uprights])
    top = 12 + 14 * (max(rows, default=-1) + 1) + (18 if len(curves) > 1 else 0)
    reach = [end for p in told for end in (p.value - p.margin, p.value + p.margin)] + [line.value for line in lines]
    y = _scale(reach, height - 44, top)
    _value_axis(svg, y, x, form)
    _number_axis(svg, x, height - 44, x_label, [(at, format(value, x_form)) for at, value in _x_ticks(x, log_x)])
    for upright, row in zip(uprights, rows, strict=True):
        _mark(svg, upright, (12 + 14 * row, top, height - 44), x(upright.at), width)
    for line, at in _apart([(line, y(line.value)) for line in lines]):
        _line(svg, f"stroke limit {line.tone}", (x.start, y(line.value)), (x.end, y(line.value)))
        _text(svg, x.end + 8, at + 4, line.label, tone=line.tone)
    for curve, one in zip(curves, points, strict=True):
        _curve(svg, curve.tone, one, x, y)
    if len(curves) > 1:
        _legend(svg, curves, x.start, top - 10)
    return tostring(svg, encoding="unicode")


def _curve_points(curve: Curve, placed: Callable[[float], float], form: str, x_form: str) -> list[_Point]:
    margins = curve.margins or [0.0] * len(curve.x)
    return [
        _Point(placed(at), value, margin, f"{curve.label} {_written(value, form)} at {format(at, x_form)}")
        for at, value, margin in zip(curve.x, curve.y, margins, strict=True)
    ]


def _x_ticks(x: _Scale, log_x: bool) -> list[tuple[float, float]]:
    """Where ticks stand, and the number at each."""
    if not log_x:
        return [(tick, tick) for tick in ticks(x.low, x.high, max(3, int((x.end - x.start) / 90)))]
    powers = range(math.floor(x.low), math.ceil(x.high) + 1)
    values = [factor * 10.0**power for power in powers for factor in ((1,) if x.high - x.low > 2 else (1, 2, 5))]
    return [(math.log10(value), value) for value in values if x.low <= math.log10(value) <= x.high]


def _number_axis(svg: Element, x: _Scale, bottom: float, label: str, marked: Sequence[tuple[float, str]]) -> None:
    _line(svg, "axis", (x.start, bottom), (x.end, bottom))
    for at, words in marked:
        _line(svg, "axis", (x(at), bottom), (x(at), bottom + 4))
        _text(svg, x(at), bottom + 17, words, anchor="middle")
    _text(svg, (x.start + x.end) / 2, bottom + 36, label, anchor="middle")


def _points(series: ChartSeries, form: str) -> list[_Point | None]:
    margins = series.margins or [None] * len(series.values)
    return [
        None if value is None else _Point(at.timestamp(), value, margin or 0.0, _told(series.label, at, value, margin, form))
        for at, value, margin in zip(series.times, series.values, margins, strict=True)
    ]


def _told(label: str, at: datetime, value: float, margin: float | None, form: str) -> str:
    give = f" ± {_written(margin, form)}" if margin else ""
    return f"{label} {_written(value, form)}{give} at {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _curve(svg: Element, tone: Tone, points: Sequence[_Point | None], x: _Scale, y: _Scale) -> None:
    group = SubElement(svg, "g", {"class": tone})
    pieces = [[p for p in piece if p] for broken, piece in groupby(points, lambda p: p is None) if not broken]
    for piece in pieces:
        if any(p.margin for p in piece):
            edge = [(p.at, p.value + p.margin) for p in piece] + [(p.at, p.value - p.margin) for p in reversed(piece)]
            SubElement(group, "polygon", {"class": "band", "points": _path(edge, x, y)})
        SubElement(group, "polyline", {"class": "stroke curve", "points": _path([(p.at, p.value) for p in piece], x, y)})
    for point in (p for piece in pieces for p in piece):
        dot = SubElement(group, "circle", {"class": "ink", "cx": str(x(point.at)), "cy": str(y(point.value)), "r": "3"})
        SubElement(dot, "title").text = point.told


def _path(corners: Iterable[tuple[float, float]], x: _Scale, y: _Scale) -> str:
    return " ".join(f"{x(at)},{y(value)}" for at, value in corners)


def _at_moment(mark: Mark) -> _Upright:
    told = f"{mark.label}, {mark.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return _Upright(mark.at.timestamp(), mark.label, mark.tone, told)


def _mark(svg: Element, mark: _Upright, heights: tuple[float, float, float], at: float, width: int) -> None:
    label, top, bottom = heights
    group = SubElement(svg, "g", {"class": mark.tone})
    SubElement(group, "title").text = mark.told
    _line(group, f"stroke mark {mark.tone}", (at, label + 4), (at, bottom))
    SubElement(group, "path", {"class": "ink", "d": f"M{at - 4},{top - 4}h8l-4,7z"})
    flipped = _box(at, mark.label, width)[0] < at
    _text(group, at - 5 if flipped else at + 5, label, mark.label, anchor="end" if flipped else "start", tone=mark.tone)


def _legend(svg: Element, series: Sequence[ChartSeries | Curve], left: float, y: float) -> None:
    for one in series:
        _line(svg, f"stroke curve {one.tone}", (left, y), (left + 18, y))
        _text(svg, left + 24, y + 4, one.label, strong=True)
        left += 50 + 1.12 * _CHAR * len(one.label)


def _value_axis(svg: Element, y: _Scale, x: _Scale, form: str) -> None:
    for tick in ticks(y.low, y.high, max(3, int((y.start - y.end) / 26))):
        _line(svg, "grid", (x.start, y(tick)), (x.end, y(tick)))
        _text(svg, x.start - 8, y(tick) + 4, _written(tick, form), anchor="end")


def _time_axis(svg: Element, x: _Scale, bottom: float) -> None:
    _line(svg, "axis", (x.start, bottom), (x.end, bottom))
    step = _time_step((x.high - x.low) / max(2, (x.end - x.start) / 110))
    pattern = "%H:%M:%S" if step < 60 else "%H:%M" if step < 43_200 else "%d %b"
    tick = math.ceil(x.low / step) * step
    while tick <= x.high:
        _line(svg, "axis", (x(tick), bottom), (x(tick), bottom + 4))
        _text(svg, x(tick), bottom + 17, f"{datetime.fromtimestamp(tick, UTC):{pattern}}", anchor="middle")
        tick += step
    _text(svg, x.end + 34, bottom + 17, "UTC")


_TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)


def _time_step(least: float) -> float:
    day = 86_400
    return next((float(step) for step in _TIME_STEPS if step >= least), math.ceil(least / day) * day)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values between two ends (low < high), 1, 2 or 5 times a power of ten apart, roughly ``about`` of them.

    >>> ticks(0.0, 1.0, 5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _scale(values: Sequence[float], start: float, end: float) -> _Scale:
    low, high = min(values), max(values)
    spare = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return _Scale(low - spare, high + spare, start, end)


def _time_scale(times: Sequence[float], end: float) -> _Scale:
    low, high = min(times), max(times)
    spare = (high - low) * 0.02 or 1.0
    return _Scale(low - spare, high + spare, 62.0, end)


def _box(at: float, label: str, limit: float) -> tuple[float, float]:
    """From where to where the name of a mark reaches: to the right of it, or to the left where there is no room."""
    long = _CHAR * len(label) + 12
    return (at, at + long) if at + long <= limit else (at - long, at)


def _staggered(boxes: Sequence[tuple[float, float]]) -> list[int]:
    """The row of each box, so that no two in a row overlap, with as few rows as that takes."""
    rows: list[float] = []
    placed = [0] * len(boxes)
    for number, (left, right) in sorted(enumerate(boxes), key=lambda pair: pair[1]):
        row = next((row for row, taken in enumerate(rows) if taken <= left), len(rows))
        rows[row : row + 1] = [right]
        placed[number] = row
    return placed


def _apart(lines: Iterable[tuple[Line, float]]) -> list[tuple[Line, float]]:
    """Where the name of each line stands: beside it, but no nearer than 14 pixels to the one above."""
    placed: list[tuple[Line, float]] = []
    for line, at in sorted(lines, key=lambda pair: pair[1]):
        placed.append((line, max(at, placed[-1][1] + 14) if placed else at))
    return placed


def _margin(labels: Iterable[str]) -> float:
    return 18 + _CHAR * max(map(len, labels), default=0)


def _written(value: float, form: str) -> str:
    return format(value + 0.0, form).replace("-", "\N{MINUS SIGN}")


def _canvas(title: str, description: str, width: int, height: int) -> Element:
    name = hashlib.sha256(f"{title}\n{description}".encode()).hexdigest()[:10]
    svg = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "class": "chart",
            "viewBox": f"0 0 {width} {height}",
            "role": "img",
            "aria-labelledby": f"title-{name} description-{name}",
        },
    )
    SubElement(svg, "title", {"id": f"title-{name}"}).text = title
    SubElement(svg, "desc", {"id": f"description-{name}"}).text = description
    return svg


def _nothing(svg: Element, width: int, height: int) -> str:
    _text(svg, width / 2, height / 2, "nothing to show yet", anchor="middle")
    return tostring(svg, encoding="unicode")


def _line(parent: Element, kind: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    ends = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    SubElement(parent, "line", {"class": kind, **{name: f"{value:g}" for name, value in ends.items()}})


def _text(
    parent: Element, x: float, y: float, words: str, *, anchor: str = "start", tone: Tone | None = None, strong: bool = False
) -> None:
    kind = "strong" if strong else f"ink {tone}" if tone else ""
    SubElement(parent, "text", {"class": kind, "x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor}).text = words


def _shape(parent: Element, x: float, y: float, tone: Tone, r: float) -> None:
    """A disc where all is well, a square where it is bad, a ring where it is open: told apart without colour."""
    if tone == "bad":
        corner = {"x": f"{x - r:g}", "y": f"{y - r:g}"}
        SubElement(parent, "rect", {"class": "ink", **corner, "width": f"{2 * r:g}", "height": f"{2 * r:g}"})
    else:
        kind = "hollow" if tone == "warn" else "ink"
        SubElement(parent, "circle", {"class": kind, "cx": f"{x:g}", "cy": f"{y:g}", "r": f"{r:g}"})

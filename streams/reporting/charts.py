"""Charts as SVG text, drawn by pure functions: estimates with intervals, metrics over time, and curves over a number.

A page puts ``CHART_STYLE`` once into its ``<style>``; colours follow the reader's light or dark scheme. Each chart has a title and
a description for screen readers, each point shows its values when it is pointed at, and no meaning depends on colour alone.

No library serves: a chart must be part of a page that loads nothing and runs no script under a strict Content-Security-Policy,
take its colours from the page's style, and be readable by a screen reader; plotting libraries write images, fixed colours or
scripts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from xml.etree.ElementTree import Element, SubElement

from streams.reporting.chart_axes import (
    LEFT,
    Scale,
    draw_number_axis,
    draw_time_axis,
    draw_value_axis,
    draw_vertical_grid,
    label_extent,
    linear_scale,
    spread,
    stagger,
    time_scale,
)
from streams.reporting.chart_svg import (
    CHAR_WIDTH,
    CHART_STYLE,
    Tone,
    draw_line,
    draw_symbol,
    draw_text,
    empty_chart,
    format_value,
    label_margin,
    new_chart,
    set_tooltip,
    to_text,
)
from streams.reporting.formatting import moment

__all__ = [
    "CHART_STYLE",
    "ChartInterval",
    "ChartSeries",
    "Curve",
    "EventMarker",
    "ReferenceLine",
    "Tone",
    "ValueMarker",
    "curves_chart",
    "intervals_chart",
    "series_chart",
]

_ROW_HEIGHT = 30


@dataclass(frozen=True)
class ChartInterval:
    """One estimate with its interval; ``note`` is written at the right end of its row."""

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
class ReferenceLine:
    """A limit or a baseline: one value across the whole chart."""

    value: float
    label: str
    tone: Tone = "muted"


@dataclass(frozen=True)
class EventMarker:
    """An event at a time, on a chart over time."""

    at: datetime
    label: str
    tone: Tone = "two"


@dataclass(frozen=True)
class ValueMarker:
    """An event at a value of the horizontal axis, on a chart of curves."""

    x: float
    label: str
    tone: Tone = "two"


@dataclass(frozen=True)
class _Point:
    x: float
    value: float
    margin: float
    tooltip: str


@dataclass(frozen=True)
class _Polyline:
    label: str
    tone: Tone
    points: Sequence[_Point | None]


@dataclass(frozen=True)
class _PlacedMarker:
    x: float
    label: str
    tone: Tone
    tooltip: str


def intervals_chart(
    items: Sequence[ChartInterval],
    *,
    title: str,
    description: str,
    form: str = ".1%",
    lines: Sequence[ReferenceLine] = (),
    width: int = 760,
) -> str:
    """Draw estimates under each other, each with its interval, as an SVG.

    Args:
        items: from top to bottom.
        title: read by screen readers, and shown when the chart is pointed at.
        description: what the chart shows, for screen readers.
        form: how a value is written, as for ``format``.
        lines: vertical lines, such as a threshold; zero is always drawn.
        width: in pixels; the chart scales with its container.
    """
    left, right = label_margin(item.label for item in items), label_margin(item.note for item in items)
    width = max(width, int(left + right + 240))
    ends = [end for item in items for end in (item.lower, item.upper)]
    x = linear_scale([0.0, *(line.value for line in lines), *ends], left, width - right)
    rows = stagger([_centred_extent(x(line.value), line.label) for line in lines])
    top = 14 + 12 * (max(rows, default=0) + 1)
    bottom = top + _ROW_HEIGHT * max(len(items), 1)
    height = bottom + 26
    svg = new_chart(title, description, width, height)
    if not items:
        return empty_chart(svg, width, height)
    draw_vertical_grid(svg, x, (top, bottom), form)
    for line, row in zip(lines, rows, strict=True):
        draw_line(svg, f"stroke limit {line.tone}", (x(line.value), 15 + 12 * row), (x(line.value), bottom))
        draw_text(svg, x(line.value), 11 + 12 * row, line.label, anchor="middle", tone=line.tone)
    for index, item in enumerate(items):
        _draw_interval(svg, item, x, y=top + _ROW_HEIGHT * (index + 0.5), width=width, form=form)
    return to_text(svg)


def _centred_extent(x: float, label: str) -> tuple[float, float]:
    half = CHAR_WIDTH * len(label) / 2 + 6
    return x - half, x + half


def _draw_interval(svg: Element, item: ChartInterval, x: Scale, *, y: float, width: int, form: str) -> None:
    group = SubElement(svg, "g", {"class": item.tone})
    estimate, lower, upper = (format_value(value, form) for value in (item.estimate, item.lower, item.upper))
    tooltip = f"{item.label}: {estimate}, {lower} to {upper}"
    set_tooltip(group, f"{tooltip}. {item.note}" if item.note else tooltip)
    draw_line(group, "stroke whisker", (x(item.lower), y), (x(item.upper), y))
    for end in (item.lower, item.upper):
        draw_line(group, "stroke", (x(end), y - 5), (x(end), y + 5))
    draw_symbol(group, x(item.estimate), y, item.tone, 5.5)
    draw_text(group, 4, y + 4, item.label, strong=True)
    draw_text(group, width - 4, y + 4, item.note, anchor="end", tone=item.tone)


def series_chart(
    series: Sequence[ChartSeries],
    *,
    title: str,
    description: str,
    form: str = ".3g",
    lines: Sequence[ReferenceLine] = (),
    markers: Sequence[EventMarker] = (),
    width: int = 760,
    height: int = 250,
) -> str:
    """Draw metrics over time with horizontal limits and vertical event markers, as an SVG.

    Args:
        series: drawn in this order; each is named in the legend when there is more than one.
        title: read by screen readers, and shown when the chart is pointed at.
        description: what the chart shows, for screen readers.
        form: how a value is written, as for ``format``.
        lines: limits and baselines, labelled at the right.
        markers: events, labelled at the top.
        width: in pixels; the chart scales with its container.
        height: in pixels.
    """
    svg = new_chart(title, description, width, height)
    polylines = [_Polyline(item.label, item.tone, _series_points(item, form)) for item in series]
    times = [point.x for point in _points(polylines)]
    if not times:
        return empty_chart(svg, width, height)
    placed = [_place_event(marker) for marker in markers]
    x = time_scale(times + [marker.x for marker in placed], width - max(64.0, label_margin(line.label for line in lines)))
    draw_time_axis(svg, x, height - 26)
    _draw_plot(svg, polylines, placed, lines, x, size=(width, height - 26), form=form)
    return to_text(svg)


def curves_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    description: str,
    x_label: str,
    form: str = ".3g",
    x_form: str = "g",
    log_x: bool = False,
    lines: Sequence[ReferenceLine] = (),
    markers: Sequence[ValueMarker] = (),
    width: int = 760,
    height: int = 270,
) -> str:
    """Draw metrics over a number, as an SVG; the page of the measured evidence (``make evidence``) is drawn with it.

    Args:
        curves: drawn in this order, named in the legend when there is more than one.
        title: read by screen readers, and shown when the chart is pointed at.
        description: what the chart shows, for screen readers.
        x_label: label of the horizontal axis.
        form: how a value is written, as for ``format``.
        x_form: how a number on the horizontal axis is written.
        log_x: whether the horizontal axis is logarithmic; every ``x`` has to be positive then.
        lines: horizontal limits, labelled at the right.
        markers: events at a number, labelled at the top.
        width: in pixels; the chart scales with its container.
        height: in pixels.
    """
    svg = new_chart(title, description, width, height)
    if not any(len(curve.x) for curve in curves):
        return empty_chart(svg, width, height)
    transform: Callable[[float], float] = math.log10 if log_x else float
    polylines = [_Polyline(curve.label, curve.tone, _curve_points(curve, transform, form, x_form)) for curve in curves]
    placed = [
        _PlacedMarker(transform(marker.x), marker.label, marker.tone, f"{marker.label}, at {format(marker.x, x_form)}")
        for marker in markers
    ]
    ends = [point.x for point in _points(polylines)] + [marker.x for marker in placed]
    x = linear_scale(ends, LEFT, width - max(24.0, label_margin(line.label for line in lines)))
    draw_number_axis(svg, x, height - 44, x_label, form=x_form, log=log_x)
    _draw_plot(svg, polylines, placed, lines, x, size=(width, height - 44), form=form)
    return to_text(svg)


def _points(polylines: Iterable[_Polyline]) -> list[_Point]:
    return [point for polyline in polylines for point in polyline.points if point is not None]


def _series_points(series: ChartSeries, form: str) -> list[_Point | None]:
    margins = series.margins or [None] * len(series.values)
    return [
        None if value is None else _Point(at.timestamp(), value, margin or 0.0, _tooltip(series.label, at, value, margin, form))
        for at, value, margin in zip(series.times, series.values, margins, strict=True)
    ]


def _tooltip(label: str, at: datetime, value: float, margin: float | None, form: str) -> str:
    plus_minus = f" ± {format_value(margin, form)}" if margin else ""
    return f"{label} {format_value(value, form)}{plus_minus} at {_utc(at)}"


def _place_event(marker: EventMarker) -> _PlacedMarker:
    return _PlacedMarker(marker.at.timestamp(), marker.label, marker.tone, f"{marker.label}, {_utc(marker.at)}")


def _utc(at: datetime) -> str:
    return f"{moment(at)} UTC"


def _curve_points(curve: Curve, transform: Callable[[float], float], form: str, x_form: str) -> list[_Point]:
    margins = curve.margins or [0.0] * len(curve.x)
    return [
        _Point(transform(x), value, margin, f"{curve.label} {format_value(value, form)} at {format(x, x_form)}")
        for x, value, margin in zip(curve.x, curve.y, margins, strict=True)
    ]


def _draw_plot(
    svg: Element,
    polylines: Sequence[_Polyline],
    markers: Sequence[_PlacedMarker],
    lines: Sequence[ReferenceLine],
    x: Scale,
    *,
    size: tuple[int, int],
    form: str,
) -> None:
    """Draw everything above the horizontal axis; ``size`` is the width of the chart and the height of the axis."""
    width, bottom = size
    rows = stagger([label_extent(x(marker.x), marker.label, width) for marker in markers])
    top = 12 + 14 * (max(rows, default=-1) + 1) + (18 if len(polylines) > 1 else 0)
    reach = [end for point in _points(polylines) for end in (point.value - point.margin, point.value + point.margin)]
    y = linear_scale(reach + [line.value for line in lines], bottom, top)
    draw_value_axis(svg, y, x, form)
    for marker, row in zip(markers, rows, strict=True):
        _draw_marker(svg, marker, x(marker.x), heights=(12 + 14 * row, top, bottom), width=width)
    _draw_reference_lines(svg, lines, x, y)
    for polyline in polylines:
        _draw_polyline(svg, polyline, x, y)
    if len(polylines) > 1:
        _draw_legend(svg, polylines, x.start, top - 10)


def _draw_polyline(svg: Element, polyline: _Polyline, x: Scale, y: Scale) -> None:
    """Draw the band, the curve and the points of each unbroken segment."""
    group = SubElement(svg, "g", {"class": polyline.tone})
    segments = list(_unbroken(polyline.points))
    for segment in segments:
        if any(point.margin for point in segment):
            upper = [(point.x, point.value + point.margin) for point in segment]
            lower = [(point.x, point.value - point.margin) for point in reversed(segment)]
            SubElement(group, "polygon", {"class": "band", "points": _path(upper + lower, x, y)})
        corners = [(point.x, point.value) for point in segment]
        SubElement(group, "polyline", {"class": "stroke curve", "points": _path(corners, x, y)})
    for point in (point for segment in segments for point in segment):
        dot = SubElement(group, "circle", {"class": "ink", "cx": str(x(point.x)), "cy": str(y(point.value)), "r": "3"})
        set_tooltip(dot, point.tooltip)


def _unbroken(points: Sequence[_Point | None]) -> Iterator[list[_Point]]:
    for is_gap, segment in groupby(points, lambda point: point is None):
        if not is_gap:
            yield [point for point in segment if point is not None]


def _path(corners: Iterable[tuple[float, float]], x: Scale, y: Scale) -> str:
    return " ".join(f"{x(position)},{y(value)}" for position, value in corners)


def _draw_marker(svg: Element, marker: _PlacedMarker, x: float, *, heights: tuple[float, float, float], width: int) -> None:
    """Draw a vertical line with a label; ``heights`` of the label, of the top and of the bottom of the plot."""
    label_y, top, bottom = heights
    group = SubElement(svg, "g", {"class": marker.tone})
    set_tooltip(group, marker.tooltip)
    draw_line(group, f"stroke mark {marker.tone}", (x, label_y + 4), (x, bottom))
    SubElement(group, "path", {"class": "ink", "d": f"M{x - 4},{top - 4}h8l-4,7z"})
    is_left = label_extent(x, marker.label, width)[0] < x
    draw_text(group, x - 5 if is_left else x + 5, label_y, marker.label, anchor="end" if is_left else "start", tone=marker.tone)


def _draw_reference_lines(svg: Element, lines: Sequence[ReferenceLine], x: Scale, y: Scale) -> None:
    from_top = sorted(lines, key=lambda line: y(line.value))
    for line, label_y in zip(from_top, spread([y(line.value) for line in from_top]), strict=True):
        draw_line(svg, f"stroke limit {line.tone}", (x.start, y(line.value)), (x.end, y(line.value)))
        draw_text(svg, x.end + 8, label_y + 4, line.label, tone=line.tone)


def _draw_legend(svg: Element, polylines: Sequence[_Polyline], left: float, y: float) -> None:
    for polyline in polylines:
        draw_line(svg, f"stroke curve {polyline.tone}", (left, y), (left + 18, y))
        draw_text(svg, left + 24, y + 4, polyline.label, strong=True)
        left += 50 + 1.12 * CHAR_WIDTH * len(polyline.label)

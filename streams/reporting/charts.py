"""Charts as data: estimates with intervals, metrics over time, and curves over a number.

A page holds each :class:`Chart` as a block of JSON, which the script ``charts.js`` of ``streams.web`` draws with the library that
is vendored there, and beside it the same figures as a table: for those who cannot see it, and where scripts do not run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from streams.reporting.formatting import moment

__all__ = [
    "Chart",
    "ChartInterval",
    "ChartSeries",
    "Curve",
    "EventMarker",
    "ReferenceLine",
    "Tone",
    "ValueMarker",
    "chart_data",
    "chart_table",
    "curves_chart",
    "intervals_chart",
    "series_chart",
]

Tone = Literal["one", "two", "good", "warn", "bad", "muted"]
"""What an element stands for; the page gives each tone a colour for light and for dark schemes, and the script a symbol."""

Kind = Literal["intervals", "times", "numbers"]
_FORM = re.compile(r"\+?,?(\.\d)?[%fg]?", re.ASCII)


@dataclass(frozen=True)
class ChartInterval:
    """One estimate with its interval; ``note`` is written below its label."""

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
class ChartPoint:
    """A point of a curve; ``x`` is a number or milliseconds since the epoch, ``value`` is None where the curve is broken."""

    x: float
    value: float | None
    margin: float | None
    at: str
    text: str


@dataclass(frozen=True)
class ChartCurve:
    """A curve with its points in order."""

    label: str
    tone: Tone
    points: tuple[ChartPoint, ...]


@dataclass(frozen=True)
class ChartMarker:
    """A marker at a place of the horizontal axis, in the unit of the points."""

    x: float
    label: str
    tone: Tone
    at: str


@dataclass(frozen=True)
class Chart:
    """A chart before it is drawn.

    Attributes:
        kind: ``intervals`` below each other, or curves over ``times`` or over ``numbers``.
        description: what the chart shows, for those who do not see it.
        form: how a value is written, as for ``format``.
        x_form: how a number on the horizontal axis is written.
        log_x: whether the horizontal axis is logarithmic.

    Raises:
        ValueError: when a form is none that the script can write, or a logarithmic axis has a number that is not positive.
    """

    kind: Kind
    title: str
    description: str
    form: str
    intervals: tuple[ChartInterval, ...] = ()
    curves: tuple[ChartCurve, ...] = ()
    lines: tuple[ReferenceLine, ...] = ()
    markers: tuple[ChartMarker, ...] = ()
    x_label: str = ""
    x_form: str = "g"
    log_x: bool = False

    def __post_init__(self) -> None:
        for form in (self.form, self.x_form):
            if not _FORM.fullmatch(form):
                raise ValueError(f"the form {form!r} of a chart is none of +, a comma, .0 to .9, and one of %, f and g")
        places = [point.x for curve in self.curves for point in curve.points] + [marker.x for marker in self.markers]
        if self.log_x and min(places, default=1) <= 0:
            raise ValueError(f"a logarithmic axis has positive numbers only, not {min(places):g}")

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.intervals and all(point.value is None for curve in self.curves for point in curve.points)


def intervals_chart(
    items: Sequence[ChartInterval],
    *,
    title: str,
    description: str,
    form: str = ".1%",
    lines: Sequence[ReferenceLine] = (),
) -> Chart:
    """Estimates under each other, each with its interval.

    Args:
        items: from top to bottom.
        title: names the chart.
        description: what the chart shows, for those who do not see it.
        form: how a value is written, as for ``format``.
        lines: vertical lines, such as a threshold; zero is always drawn.
    """
    return Chart("intervals", title, description, form, intervals=tuple(items), lines=tuple(lines))


def series_chart(
    series: Sequence[ChartSeries],
    *,
    title: str,
    description: str,
    form: str = ".3g",
    lines: Sequence[ReferenceLine] = (),
    markers: Sequence[EventMarker] = (),
) -> Chart:
    """Metrics over time, in UTC, with horizontal limits and vertical event markers.

    Args:
        series: drawn in this order; each is named in the legend when there is more than one.
        title: names the chart.
        description: what the chart shows, for those who do not see it.
        form: how a value is written, as for ``format``.
        lines: limits and baselines.
        markers: events.
    """
    curves = tuple(ChartCurve(item.label, item.tone, tuple(_series_points(item, form))) for item in series)
    placed = tuple(ChartMarker(_milliseconds(marker.at), marker.label, marker.tone, _utc(marker.at)) for marker in markers)
    return Chart("times", title, description, form, curves=curves, lines=tuple(lines), markers=placed, x_label="Time (UTC)")


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
) -> Chart:
    """Metrics over a number; the page of the measured evidence (``make evidence``) is drawn with it.

    Args:
        curves: drawn in this order, named in the legend when there is more than one.
        title: names the chart.
        description: what the chart shows, for those who do not see it.
        x_label: label of the horizontal axis.
        form: how a value is written, as for ``format``.
        x_form: how a number on the horizontal axis is written.
        log_x: whether the horizontal axis is logarithmic; every ``x`` has to be positive then.
        lines: horizontal limits.
        markers: events at a number.
    """
    return Chart(
        "numbers",
        title,
        description,
        form,
        curves=tuple(ChartCurve(curve.label, curve.tone, tuple(_curve_points(curve, form, x_form))) for curve in curves),
        lines=tuple(lines),
        markers=tuple(ChartMarker(marker.x, marker.label, marker.tone, _format(marker.x, x_form)) for marker in markers),
        x_label=x_label,
        x_form=x_form,
        log_x=log_x,
    )


def chart_data(chart: Chart) -> dict[str, Any]:
    """What the script draws, as JSON values; a value that is not finite is null."""
    return {
        "kind": chart.kind,
        "title": chart.title,
        "description": chart.description,
        "form": chart.form,
        "x": {"label": chart.x_label, "form": chart.x_form, "log": chart.log_x},
        "intervals": [
            {
                "label": item.label,
                "note": item.note,
                "tone": item.tone,
                "values": [_finite(value) for value in (item.lower, item.estimate, item.upper)],
                "text": _interval_text(item, chart.form),
            }
            for item in chart.intervals
        ],
        "curves": [
            {
                "label": curve.label,
                "tone": curve.tone,
                "points": [[point.x, _finite(point.value), _finite(point.margin), point.text] for point in curve.points],
            }
            for curve in chart.curves
        ],
        "lines": [
            {"value": line.value, "label": line.label, "tone": line.tone} for line in chart.lines if math.isfinite(line.value)
        ],
        "markers": [{"x": marker.x, "label": marker.label, "tone": marker.tone, "at": marker.at} for marker in chart.markers],
    }


def chart_table(chart: Chart) -> tuple[list[str], list[list[str]]]:
    """The figures of a chart as a table: its columns and the formatted cells of its rows, limits and events included."""
    if chart.kind == "intervals":
        return ["Estimate", "Value", "From", "To", "Note"], list(_interval_rows(chart))
    return ["Curve", chart.x_label, "Value", "±"], list(_curve_rows(chart))


def _interval_rows(chart: Chart) -> Iterator[list[str]]:
    for item in chart.intervals:
        yield [item.label, *(_format(value, chart.form) for value in (item.estimate, item.lower, item.upper)), item.note]
    for line in chart.lines:
        yield [line.label, _format(line.value, chart.form), "", "", ""]


def _curve_rows(chart: Chart) -> Iterator[list[str]]:
    for curve in chart.curves:
        for point in curve.points:
            yield [
                curve.label,
                point.at,
                _format(point.value, chart.form),
                _format(point.margin, chart.form) if point.margin else "",
            ]
    for line in chart.lines:
        yield [line.label, "throughout", _format(line.value, chart.form), ""]
    for marker in chart.markers:
        yield [marker.label, marker.at, "", ""]


def _series_points(series: ChartSeries, form: str) -> Iterator[ChartPoint]:
    for at, value, margin in zip(series.times, series.values, _margins(series.margins, series.values), strict=True):
        yield ChartPoint(_milliseconds(at), value, margin, _utc(at), _point_text(series.label, value, margin, _utc(at), form))


def _curve_points(curve: Curve, form: str, x_form: str) -> Iterator[ChartPoint]:
    for x, value, margin in zip(curve.x, curve.y, _margins(curve.margins, curve.y), strict=True):
        at = _format(x, x_form)
        yield ChartPoint(float(x), float(value), margin, at, _point_text(curve.label, value, margin, at, form))


def _margins(margins: Sequence[float | None], values: Sequence[object]) -> Iterable[float | None]:
    return margins or [None] * len(values)


def _point_text(label: str, value: float | None, margin: float | None, at: str, form: str) -> str:
    plus_minus = f" ± {_format(margin, form)}" if margin else ""
    return f"{label} {_format(value, form)}{plus_minus} at {at}"


def _interval_text(item: ChartInterval, form: str) -> str:
    estimate, lower, upper = (_format(value, form) for value in (item.estimate, item.lower, item.upper))
    text = f"{item.label}: {estimate}, {lower} to {upper}"
    return f"{text}. {item.note}" if item.note else text


def _format(value: float | None, form: str) -> str:
    """A value as for ``format``, with a minus sign in place of a hyphen, without a negative zero; a dash where it is missing."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    return format(value + 0.0, form).replace("-", "\N{MINUS SIGN}")


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _milliseconds(at: datetime) -> float:
    return at.timestamp() * 1000


def _utc(at: datetime) -> str:
    return f"{moment(at)} UTC"

"""Reads the state of the service and renders it: overview, text reports, the report of a retrain, charts, and formats of numbers.

It imports ``streams.monitoring`` and what lies below it, ``engine``, ``sql`` and ``schemas``; it does not import the web. The
modules that read (``overview``, ``text``, ``retrain_report``) are imported by themselves, as they load the engine.
"""

from streams.reporting.charts import (
    CHART_STYLE,
    ChartInterval,
    ChartSeries,
    Curve,
    EventMarker,
    ReferenceLine,
    Tone,
    ValueMarker,
    curves_chart,
    intervals_chart,
    series_chart,
)
from streams.reporting.formatting import (
    ago,
    change,
    clock,
    count,
    line_title,
    moment,
    number,
    plain_words,
    share,
    short_id,
    signed_number,
    signed_share,
    span,
    standard_error,
)

__all__ = [
    "CHART_STYLE",
    "ChartInterval",
    "ChartSeries",
    "Curve",
    "EventMarker",
    "ReferenceLine",
    "Tone",
    "ValueMarker",
    "ago",
    "change",
    "clock",
    "count",
    "curves_chart",
    "intervals_chart",
    "line_title",
    "moment",
    "number",
    "plain_words",
    "series_chart",
    "share",
    "short_id",
    "signed_number",
    "signed_share",
    "span",
    "standard_error",
]

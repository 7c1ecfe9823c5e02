"""Reads the state of the service and renders it: overview, text reports, the report of a retrain, charts, and formats of numbers.

It imports ``streams.monitoring`` and what lies below it, ``engine``, ``sql`` and ``schemas``; it does not import the web.
``overview``, ``text`` and ``retrain_report`` load the engine and are imported by themselves: a command that only formats numbers
does without it.
"""

from streams.reporting.charts import (
    Chart,
    ChartInterval,
    ChartSeries,
    EventMarker,
    ReferenceLine,
    Tone,
    chart_data,
    chart_table,
    intervals_chart,
    series_chart,
)
from streams.reporting.formatting import (
    align_columns,
    campaign_label,
    count,
    effect,
    in_utc,
    labelled,
    line_title,
    moment,
    number,
    one_decimal,
    plain_words,
    segment_label,
    share,
    short_id,
    signed_number,
    signed_share,
    signed_share_range,
    standard_error,
    state_label,
)

__all__ = [
    "Chart",
    "ChartInterval",
    "ChartSeries",
    "EventMarker",
    "ReferenceLine",
    "Tone",
    "align_columns",
    "campaign_label",
    "chart_data",
    "chart_table",
    "count",
    "effect",
    "in_utc",
    "intervals_chart",
    "labelled",
    "line_title",
    "moment",
    "number",
    "one_decimal",
    "plain_words",
    "segment_label",
    "series_chart",
    "share",
    "short_id",
    "signed_number",
    "signed_share",
    "signed_share_range",
    "standard_error",
    "state_label",
]

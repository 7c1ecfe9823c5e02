"""Reads the state of the service and renders it: overview, text reports, the report of a retrain, charts, and formats of numbers.

It imports ``streams.monitoring`` and what lies below it, ``engine``, ``sql`` and ``schemas``; it does not import the web.
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
from streams.reporting.overview import HistoryPoint, LineOverview, Overview, SegmentWindow, SeriesHistory, read_overview
from streams.reporting.retrain_report import RetrainReport, load_retrain_report
from streams.reporting.text import line_text, model_facts, simulation_text, weighted_error, windows_dict, windows_text

__all__ = [
    "CHART_STYLE",
    "ChartInterval",
    "ChartSeries",
    "Curve",
    "EventMarker",
    "HistoryPoint",
    "LineOverview",
    "Overview",
    "ReferenceLine",
    "RetrainReport",
    "SegmentWindow",
    "SeriesHistory",
    "Tone",
    "ValueMarker",
    "curves_chart",
    "intervals_chart",
    "line_text",
    "load_retrain_report",
    "model_facts",
    "read_overview",
    "series_chart",
    "simulation_text",
    "weighted_error",
    "windows_dict",
    "windows_text",
]

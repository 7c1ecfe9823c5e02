"""Monitors models in service: windows of fidelity metrics, drift detection, alarms, and estimates before outcomes arrive.

It imports the engine, the stores and the packages below it: ``kafka``, ``metrics``, ``settings``, ``retries`` and ``errors``. The
fidelity agent imports :mod:`streams.monitoring.line_monitor` directly, since that module needs the Kafka app.
"""

from streams.monitoring.drift_detection import DriftEvaluator, loss_text, multiple_text
from streams.monitoring.performance_estimation import latest_cohorts, level_weights, pending_labels
from streams.monitoring.window_state import SeriesKey, WindowKey, WindowState

__all__ = [
    "DriftEvaluator",
    "SeriesKey",
    "WindowKey",
    "WindowState",
    "latest_cohorts",
    "level_weights",
    "loss_text",
    "multiple_text",
    "pending_labels",
]

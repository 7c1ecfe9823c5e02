"""Builds the event of a window, and sets the metrics of the newest windows and of baselines."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Literal

from engine.fidelity import Detection, window_starts
from schemas import FidelityWindow, line_parts
from schemas.twin_models import Baseline
from schemas.twin_types import ALL_ROWS
from sql.window_store import Snapshot
from streams.metrics import (
    BASELINE_CORRELATION,
    BASELINE_COVERAGE,
    BASELINE_MAE,
    EVIDENCE,
    WINDOW_CORRELATION,
    WINDOW_COVERAGE,
    WINDOW_MAE,
    WINDOW_OUTCOMES,
    WINDOW_RMSE,
)
from streams.monitoring.line_state import LineState
from streams.monitoring.window_state import WindowKey, WindowState

__all__ = ["ends_at_newest_pane", "set_baseline_metrics", "set_window_metrics", "window_event"]


def window_event(line: LineState, window: WindowKey, *, closed: bool) -> FidelityWindow:
    """Build the event of a window; that of the newest one of a champion's series includes the evidence of the detector."""
    series, start = window
    version, sums = line.window_state.window_sums(window)
    end = start + line.window_state.window_s
    is_current = series.model_id == line.champion and ends_at_newest_pane(line.window_state, window)
    evidence = line.evaluator.evidence_ratio(line.window_state, series) if is_current else None
    detection = Detection.CHANGE if is_current and series in line.alarmed else Detection.NONE
    assessment = line.evaluator.assess_window(series, (start, end), sums, evidence, detection)
    metrics = assessment.metrics
    if is_current and series.segment == ALL_ROWS:
        metrics = line.evaluator.add_effective_n(metrics, series.model_id, _segment_sums(line.window_state, window))
    return FidelityWindow(
        line=line.name,
        model_id=series.model_id,
        metric_type=line_parts(line.name)[2],
        segment=series.segment,
        window_start=datetime.fromtimestamp(start, UTC),
        window_end=datetime.fromtimestamp(end, UTC),
        status=_status(line.snapshots.get(window), version, closed=closed),
        version=version,
        metrics=metrics,
        state=assessment.state,
        evidence_ratio=evidence,
    )


def _segment_sums(window_state: WindowState, window: WindowKey) -> dict[str, tuple[int, ...]]:
    """Sums of all segments of the same model in the same span of time."""
    model_id = window.series.model_id
    segments = [series for series in window_state.series() if series.model_id == model_id and series.segment != ALL_ROWS]
    return {series.segment: window_state.window_sums(WindowKey(series, window.start)).sums for series in segments}


def ends_at_newest_pane(window_state: WindowState, window: WindowKey) -> bool:
    """Whether a window ends with the latest pane of its series: later windows are still filling."""
    newest = window_state.newest_pane(window.series)
    return window.start == window_starts(newest, window_state.pane_s, window_state.window_s)[0]


def set_window_metrics(event: FidelityWindow) -> None:
    """Set the metrics of the newest window of a series; an undefined value is NaN, missing evidence leaves its metric as it is."""
    labels = {"line": event.line, "segment": event.segment}
    values = {
        WINDOW_OUTCOMES: event.metrics.n,
        WINDOW_MAE: event.metrics.mae,
        WINDOW_RMSE: event.metrics.rmse,
        WINDOW_CORRELATION: event.metrics.correlation,
        WINDOW_COVERAGE: event.metrics.coverage_95pct,
        EVIDENCE: event.evidence_ratio,
    }
    for gauge, value in values.items():
        if value is not None or gauge is not EVIDENCE:
            gauge.labels(**labels).set(math.nan if value is None else value)


def set_baseline_metrics(line: str, baseline: Baseline) -> None:
    """Set the metrics of the baseline of a line's champion; an undefined value is NaN."""
    values = {
        BASELINE_MAE: baseline.mae,
        BASELINE_CORRELATION: baseline.correlation,
        BASELINE_COVERAGE: baseline.coverage_95pct,
    }
    for gauge, value in values.items():
        gauge.labels(line=line).set(math.nan if value is None else value)


def _status(snapshot: Snapshot | None, version: int, *, closed: bool) -> Literal["open", "final", "restated"]:
    if not closed:
        return "open"
    if snapshot is None:
        return "final"
    return snapshot.status if snapshot.version == version else "restated"

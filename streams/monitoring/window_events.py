"""What is said of a window, and shown of the newest ones."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Literal

from engine.fidelity.drift_rules import Detection
from engine.fidelity.windows import window_starts
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

__all__ = ["is_fullest", "show", "show_baseline", "window_event"]


def window_event(line: LineState, window: WindowKey, *, closed: bool) -> FidelityWindow:
    """What a window looks like now; the newest one of a champion's series also tells where its detector stands."""
    series, start = window
    version, sums = line.view.window(window)
    end = start + line.view.window_s
    tells = series.model_id == line.state.champion and is_fullest(line.view, window)
    evidence = line.judge.evidence(line.view, series) if tells else None
    detection = Detection.CHANGE if tells and series in line.alarmed else Detection.NONE
    assessment = line.judge.assess_window(series, (start, end), sums, evidence, detection)
    metrics = assessment.metrics
    if tells and series.segment == ALL_ROWS:
        metrics = line.judge.add_effective_n(metrics, series.model_id, _segment_sums(line, window))
    return FidelityWindow(
        line=line.state.line,
        model_id=series.model_id,
        metric_type=line_parts(line.state.line)[2],
        segment=series.segment,
        window_start=datetime.fromtimestamp(start, UTC),
        window_end=datetime.fromtimestamp(end, UTC),
        status=_status(line.snapshots.get(window), version, closed=closed),
        version=version,
        metrics=metrics,
        state=assessment.state,
        evidence_ratio=evidence,
    )


def _segment_sums(line: LineState, window: WindowKey) -> dict[str, tuple[int, ...]]:
    """Sums of all segments of the same model and span of time."""
    model_id = window.series.model_id
    segments = [series for series in line.view.series() if series.model_id == model_id and series.segment != ALL_ROWS]
    return {series.segment: line.view.window(WindowKey(series, window.start)).sums for series in segments}


def is_fullest(view: WindowState, window: WindowKey) -> bool:
    """Whether the window ends with the latest pane of its series: later ones are still filling."""
    return window.start == window_starts(view.newest_start(window.series), view.pane_s, view.window_s)[0]


def show(event: FidelityWindow) -> None:
    """Let the metrics tell of a window."""
    labels = {"line": event.line, "segment": event.segment}
    shown = {
        WINDOW_OUTCOMES: event.metrics.n,
        WINDOW_MAE: event.metrics.mae,
        WINDOW_RMSE: event.metrics.rmse,
        WINDOW_CORRELATION: event.metrics.correlation,
        WINDOW_COVERAGE: event.metrics.coverage_95pct,
        EVIDENCE: event.evidence_ratio,
    }
    for gauge, value in shown.items():
        if value is not None or gauge is not EVIDENCE:
            gauge.labels(**labels).set(math.nan if value is None else value)


def show_baseline(line: str, baseline: Baseline) -> None:
    """Let the metrics tell what the champion of a line is held against."""
    shown = {
        BASELINE_MAE: baseline.mae,
        BASELINE_CORRELATION: baseline.correlation,
        BASELINE_COVERAGE: baseline.coverage_95pct,
    }
    for gauge, value in shown.items():
        gauge.labels(line=line).set(math.nan if value is None else value)


def _status(snapshot: Snapshot | None, version: int, *, closed: bool) -> Literal["open", "final", "restated"]:
    if not closed:
        return "open"
    if snapshot is None:
        return "final"
    return snapshot.status if snapshot.version == version else "restated"

"""Sets the metrics of a model line, and removes them when this process no longer reads the line.

Only the process that reads a line has its gauges: two processes must not report different values of one series. So every gauge of a
line is set here, and removed when its partition is revoked, its champion changes or its segment has no recent outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from engine.fidelity import rule_limit
from schemas import DRIFT_RULES, TWIN_TYPES, DriftRule, FidelityWindow, line_parts
from schemas.fidelity_models import EstimatedFidelity, Labels
from schemas.twin_models import Baseline
from streams.metrics import (
    BASELINE_CORRELATION,
    BASELINE_COVERAGE,
    BASELINE_MAE,
    DRIFT_LIMIT,
    ESTIMATED_MAE,
    EVIDENCE,
    INPUT_SHIFT,
    PREDICTIONS,
    SEGMENT_VALUES,
    TASK_FAILURES,
    VERDICTS,
    WINDOW_CORRELATION,
    WINDOW_COVERAGE,
    WINDOW_MAE,
    WINDOW_OUTCOMES,
    WINDOW_OUTLIERS,
    WINDOW_RMSE,
    WINDOW_ROBUST_MAE,
    start_at_zero,
)

__all__ = [
    "remove_line_metrics",
    "restart_rule_metrics",
    "retain_segment_metrics",
    "set_baseline_metrics",
    "set_estimate_metrics",
    "set_label_metrics",
    "set_segment_metrics",
    "set_window_metrics",
    "start_line_counters",
]

_SEGMENT_GAUGES = (
    *(WINDOW_OUTCOMES, WINDOW_OUTLIERS, WINDOW_MAE, WINDOW_ROBUST_MAE, WINDOW_RMSE, WINDOW_CORRELATION, WINDOW_COVERAGE),
    EVIDENCE,
)
_ESTIMATE_GAUGES = (ESTIMATED_MAE, INPUT_SHIFT)
_LINE_GAUGES = (
    *(*_SEGMENT_GAUGES, *_ESTIMATE_GAUGES),
    *(BASELINE_MAE, BASELINE_CORRELATION, BASELINE_COVERAGE, DRIFT_LIMIT, PREDICTIONS, SEGMENT_VALUES),
)


def start_line_counters(line: str) -> None:
    """Let the counters of a line exist before their first event."""
    start_at_zero(TASK_FAILURES, role=["fidelity"], task=[f"line {line}"])
    start_at_zero(VERDICTS, line=[line], rule=[rule.name for rule in DRIFT_RULES])


def restart_rule_metrics(line: str) -> None:
    """Let the counters of new rules exist before they fire, and remove the limits of all: the present ones are set again."""
    start_line_counters(line)
    DRIFT_LIMIT.remove_by_labels({"line": line})


def remove_line_metrics(line: str) -> None:
    """Remove every gauge of a line."""
    for gauge in _LINE_GAUGES:
        gauge.remove_by_labels({"line": line})


def retain_segment_metrics(line: str, segments: Collection[str]) -> None:
    """Remove the gauges of all segments of a line but these."""
    (family,) = WINDOW_OUTCOMES.collect()
    for labels in [sample.labels for sample in family.samples]:
        if labels["line"] == line and labels["segment"] not in segments:
            for gauge in _SEGMENT_GAUGES:
                gauge.remove(line, labels["segment"])


def set_window_metrics(event: FidelityWindow) -> None:
    """Set the metrics of the newest window of a series; an undefined value is NaN, missing evidence leaves its metric as it is."""
    labels = {"line": event.line, "segment": event.segment}
    values = {
        WINDOW_OUTCOMES: event.metrics.n,
        WINDOW_OUTLIERS: event.metrics.n_outliers,
        WINDOW_MAE: event.metrics.mae,
        WINDOW_ROBUST_MAE: event.metrics.mae_robust,
        WINDOW_RMSE: event.metrics.rmse,
        WINDOW_CORRELATION: event.metrics.correlation,
        WINDOW_COVERAGE: event.metrics.coverage_95pct,
        EVIDENCE: event.evidence_ratio,
    }
    for gauge, value in values.items():
        if value is not None or gauge is not EVIDENCE:
            gauge.labels(**labels).set(math.nan if value is None else value)


def set_baseline_metrics(line: str, baseline: Baseline, rules: Iterable[DriftRule] = DRIFT_RULES) -> None:
    """Set the metrics of the baseline of a line's champion and the limits that follow from it; an undefined value is NaN."""
    values = {
        BASELINE_MAE: baseline.mae,
        BASELINE_CORRELATION: baseline.correlation,
        BASELINE_COVERAGE: baseline.coverage_95pct,
    }
    for gauge, value in values.items():
        gauge.labels(line=line).set(math.nan if value is None else value)
    for rule in rules:
        limit = rule_limit(rule, baseline)
        DRIFT_LIMIT.labels(line=line, rule=rule.name).set(math.nan if limit is None else limit)


def set_estimate_metrics(line: str, estimate: EstimatedFidelity | None) -> None:
    """Set the metrics of the newest estimate of a line; columns and values that it does not have are removed."""
    for gauge in _ESTIMATE_GAUGES:
        gauge.remove_by_labels({"line": line})
    if estimate is not None:
        if estimate.mae is not None:
            ESTIMATED_MAE.labels(line=line).set(estimate.mae)
        for column in estimate.columns:
            INPUT_SHIFT.labels(line=line, column=column.name).set(column.psi / column.limit)


def set_label_metrics(line: str, labels: Iterable[Labels]) -> None:
    """Set the number of predictions of a line by the state of their outcomes."""
    cohorts = list(labels)
    for state in ("matured", "missing", "pending", "expired"):
        PREDICTIONS.labels(line=line, state=state).set(sum(getattr(cohort, state) for cohort in cohorts))


def set_segment_metrics(line: str, counts: Mapping[str, int]) -> None:
    """Set the number of segment values with series of their own, by dimension."""
    for dimension in TWIN_TYPES[line_parts(line)[0]].segments:
        SEGMENT_VALUES.labels(line=line, dimension=dimension).set(counts.get(dimension, 0))

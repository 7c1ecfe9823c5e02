"""Fidelity of predictions: exact error sums, windows of event time, drift rules, the sequential detector, and baselines.

All of it is pure computation on arrays and integers; it imports only ``schemas``.
"""

from engine.fidelity.baseline import FEWEST_ROWS, HoldoutRows, compute_baseline
from engine.fidelity.bias import bias_verdict
from engine.fidelity.drift_rules import (
    Detection,
    Reference,
    comparison_text,
    evaluate_rules,
    next_state,
    requests_retrain,
    rule_limit,
    standing_texts,
)
from engine.fidelity.e_detector import AVERAGE_RUN_LENGTH, LOSSES, DetectorState, accumulate, discoveries, series_reference
from engine.fidelity.effective_sample_size import effective_n
from engine.fidelity.error_sums import (
    LARGEST_CONTRIBUTION,
    LIMIT,
    N_MOMENTS,
    OUTLIER_DEVIATIONS,
    add_sums,
    contributions,
    fidelity_metrics,
    in_range,
    interval_coverage,
    metrics_from_moments,
    moments,
    moments_in,
    negate,
    sum_groups,
)
from engine.fidelity.input_drift import estimate_fidelity
from engine.fidelity.label_delay import count_labels, survivorship_weights, weighted_mae
from engine.fidelity.robust_error import robust_mae, winsorised_mean
from engine.fidelity.segment_mix import dominating_segment
from engine.fidelity.windows import is_closed, is_too_late, lowest_pane, pane_start, panes_of, window_starts

__all__ = [
    "AVERAGE_RUN_LENGTH",
    "FEWEST_ROWS",
    "LARGEST_CONTRIBUTION",
    "LIMIT",
    "LOSSES",
    "N_MOMENTS",
    "OUTLIER_DEVIATIONS",
    "Detection",
    "DetectorState",
    "HoldoutRows",
    "Reference",
    "accumulate",
    "add_sums",
    "bias_verdict",
    "comparison_text",
    "compute_baseline",
    "contributions",
    "count_labels",
    "discoveries",
    "dominating_segment",
    "effective_n",
    "estimate_fidelity",
    "evaluate_rules",
    "fidelity_metrics",
    "in_range",
    "interval_coverage",
    "is_closed",
    "is_too_late",
    "lowest_pane",
    "metrics_from_moments",
    "moments",
    "moments_in",
    "negate",
    "next_state",
    "pane_start",
    "panes_of",
    "requests_retrain",
    "robust_mae",
    "rule_limit",
    "series_reference",
    "standing_texts",
    "sum_groups",
    "survivorship_weights",
    "weighted_mae",
    "window_starts",
    "winsorised_mean",
]

"""Promotion of models: the rows that a challenger is trained on, and the comparison that decides whether it becomes champion.

It imports ``engine.twins`` and ``schemas``.
"""

from engine.promotion.carry_over import (
    ENOUGH_NEW_ROWS,
    MIN_NEW_ROWS,
    adjust_history,
    estimate_onset,
    estimate_onset_of_bias,
    estimate_onset_of_misses,
    split_rows,
)
from engine.promotion.cross_fitting import cross_fitted_predictions, out_of_fold_predictions
from engine.promotion.promotion_gate import GATE_ENTITIES, GATE_ROWS, Basis, Comparison, Difference, Predictions, compare_models

__all__ = [
    "ENOUGH_NEW_ROWS",
    "GATE_ENTITIES",
    "GATE_ROWS",
    "MIN_NEW_ROWS",
    "Basis",
    "Comparison",
    "Difference",
    "Predictions",
    "adjust_history",
    "compare_models",
    "cross_fitted_predictions",
    "estimate_onset",
    "estimate_onset_of_bias",
    "estimate_onset_of_misses",
    "out_of_fold_predictions",
    "split_rows",
]

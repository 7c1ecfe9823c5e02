"""Promotion of models: the rows that a challenger is trained on, and the comparison that decides whether it becomes champion.

It imports ``engine.twins`` and ``schemas``.
"""

from engine.promotion.carry_over import ENOUGH_NEW_ROWS, MIN_NEW_ROWS, adjust_history, estimate_onset, split_rows
from engine.promotion.promotion_gate import GATE_ROWS, Comparison, Difference, Predictions, compare_models

__all__ = [
    "ENOUGH_NEW_ROWS",
    "GATE_ROWS",
    "MIN_NEW_ROWS",
    "Comparison",
    "Difference",
    "Predictions",
    "adjust_history",
    "compare_models",
    "estimate_onset",
    "split_rows",
]

"""How outcomes vary between the real rows behind a population, and how well the model predicts them there: the size of a real test.

A model that separates specialties well may know nothing about the people of one specialty, so both are measured within the filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from engine.twins.joint_model import JointModel
from schemas.arrays import Flags, Floats
from schemas.filters import Condition
from schemas.twin_models import FEWEST_FOR_CORRELATION, OutcomeSpread

__all__ = ["TrainingOutcomes", "measure_spread"]

PRIOR_ROWS = 50
"""Rows of the whole table that are mixed into the figures of a part of it, as shrinkage."""

EXTREME = 10.0
"""Distance from the median, in robust standard deviations, at which outcomes are cut: an error is likelier there than a person."""

MOST_SLIPS = 5
"""Extreme outcomes that may be errors; more of them recur, and an experiment will meet them too: none is cut then."""

_IQR_SD, _TAILS_SD = 1.349, 4.653
"""Standard deviations of a normal distribution between its quartiles, and between its first and last percentile."""


@dataclass(frozen=True)
class TrainingOutcomes:
    """Outcomes of a model's training rows with their out-of-fold predictions, by which a population's spread is measured.

    Attributes:
        joint: its last column is the outcome.
        expected: out-of-fold expected outcome of each training row, ``(rows,)``, units of the target.
    """

    joint: JointModel
    expected: Floats

    def spread(self, required: Sequence[Condition]) -> OutcomeSpread:
        """The spread of outcomes between the rows that satisfy every condition."""
        matching = np.ones(self.joint.n_rows, dtype=bool)
        for condition in required:
            matching &= condition.mask(self.joint.training(condition.column))
        return measure_spread(self.joint.columns[-1].training_values, self.expected, matching)


def measure_spread(outcome: Floats, expected: Floats, matching: Flags) -> OutcomeSpread:
    """Standard deviation of outcomes within ``matching``, and their correlation with the predictions.

    Up to 5 outcomes farther than 10 robust standard deviations from the median are counted at that distance. The correlation is the
    smaller of Pearson's and of the one that the ranks imply, so that a few rows cannot make it. Both are shrunk toward the whole
    table, as if 50 of its rows belonged to the part.

    Args:
        outcome: of the training rows, ``(rows,)``, units of the target.
        expected: out-of-fold predictions of the same rows, ``(rows,)``.
        matching: rows within the filter, ``(rows,)``.

    References:
        Pearson (1907), On further methods of determining correlation: ``2 sin(pi r / 6)`` from a rank correlation ``r``.

    Example:
        >>> outcome = np.arange(1000.0)
        >>> measure_spread(outcome, outcome, outcome < 100).correlation is None
        True
        >>> round(measure_spread(outcome, outcome, outcome < 500).correlation, 2)
        1.0
    """
    bounded, n_extreme = _bounded(outcome, matching)
    n = int(matching.sum())
    weight = n / (n + PRIOR_ROWS)
    variance = weight * float(bounded[matching].var()) + (1.0 - weight) * float(bounded.var())
    return OutcomeSpread(
        n=n, sd=float(np.sqrt(variance)), n_extreme=n_extreme, correlation=_shrunk_correlation(bounded, expected, matching, weight)
    )


def _bounded(outcome: Floats, matching: Flags) -> tuple[Floats, int]:
    """All outcomes within the bounds of the matching ones, and how many matching ones were cut."""
    first, lower, median, upper, last = np.percentile(outcome[matching], [1, 25, 50, 75, 99])
    distance = EXTREME * max((upper - lower) / _IQR_SD, (last - first) / _TAILS_SD)
    if not distance > 0:
        return outcome, 0
    bounded = np.clip(outcome, median - distance, median + distance)
    n_extreme = int((bounded != outcome)[matching].sum())
    return (bounded, n_extreme) if n_extreme <= MOST_SLIPS else (outcome, 0)


def _shrunk_correlation(outcome: Floats, expected: Floats, matching: Flags, weight: float) -> float | None:
    """The correlation within ``matching``, averaged on Fisher's scale with that of the whole; None where it cannot be claimed."""
    if matching.sum() < FEWEST_FOR_CORRELATION:
        return None
    part, whole = _correlation(outcome[matching], expected[matching]), _correlation(outcome, expected)
    if part is None or whole is None:
        return None
    part, whole = (np.arctanh(np.clip(value, -0.999_999, 0.999_999)) for value in (part, whole))
    return float(np.tanh(weight * part + (1.0 - weight) * whole))


def _correlation(outcome: Floats, expected: Floats) -> float | None:
    """The smaller of Pearson's correlation and of the one that the ranks imply; None where one of the two is constant."""
    if np.ptp(outcome) == 0 or np.ptp(expected) == 0:
        return None
    ranks = np.corrcoef(rankdata(outcome), rankdata(expected))[0, 1]
    return float(min(np.corrcoef(outcome, expected)[0, 1], 2.0 * np.sin(np.pi * ranks / 6.0)))

"""Status of predictions whose outcomes arrive late, and weights that correct for outcomes which arrive selectively."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from engine.fidelity.error_sums import QUANTUM, Moments, moments_in
from schemas.fidelity_models import Labels
from schemas.twin_models import Baseline

__all__ = ["count_labels", "survivorship_weights", "weighted_mae"]


def count_labels(age_s: float, predicted: int, arrived: int, missing: int, expire_s: float) -> Labels:
    """Count predictions of one age by status: without an outcome they are pending, and expired from ``expire_s`` on.

    Example:
        >>> count_labels(10.0, 100, 70, 5, expire_s=60.0).pending, count_labels(90.0, 100, 70, 5, expire_s=60.0).expired
        (25, 25)
    """
    rest = max(predicted - arrived - missing, 0)
    late = age_s >= expire_s
    return Labels(age_s=age_s, matured=arrived, missing=missing, pending=0 if late else rest, expired=rest if late else 0)


def survivorship_weights(predicted: Mapping[str, int], arrived: Mapping[str, int]) -> dict[str, float]:
    """Compute the weight of an outcome of each level, so that levels count by their share of predictions and not of outcomes.

    Weights average 1 over the outcomes that arrived. A level without any outcome has no weight, since nothing represents it.

    Example:
        >>> survivorship_weights({"a": 50, "b": 50}, {"a": 40, "b": 10})
        {'a': 0.625, 'b': 2.5}
    """
    levels = [level for level, count in predicted.items() if count > 0 and arrived.get(level, 0) > 0]
    n_predicted, n_arrived = sum(predicted[level] for level in levels), sum(arrived[level] for level in levels)
    return {level: predicted[level] / n_predicted * n_arrived / arrived[level] for level in levels}


def weighted_mae(sums: Mapping[str, Sequence[int]], weights: Mapping[str, float], baseline: Baseline) -> tuple[float, float] | None:
    """Compute the weighted mean absolute error and its standard error; None when no weighted level has two outcomes.

    This is the post-stratified mean: its error comes from within the levels, whose shares are treated as exact.

    Args:
        sums: of each level, in the order of ``SUM_FIELDS``.
        weights: of an outcome of each level.
        baseline: of the model.

    References:
        Holt, Smith (1979), Post stratification. JRSS A 142.
    """
    by_level = {level: moments_in(sums[level]) for level in weights if level in sums}
    moments = {level: m for level, m in by_level.items() if m.n > 1}
    total = sum(weights[level] * m.n for level, m in moments.items())
    if not total:
        return None
    shares = {level: weights[level] * m.n / total for level, m in moments.items()}
    mean = sum(shares[level] * m.absolute_error / m.n for level, m in moments.items())
    variance = sum(shares[level] ** 2 * _mean_variance(m) for level, m in moments.items())
    unit = QUANTUM * baseline.scale
    return unit * mean, unit * math.sqrt(variance)


def _mean_variance(m: Moments) -> float:
    """Variance of the mean absolute error of a level, in squared quanta."""
    return (m.error_squared - m.absolute_error**2 / m.n) / (m.n - 1) / m.n

"""Predictions that still wait for their outcome, and what those that arrived can tell of those that did not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from engine.fidelity.error_sums import QUANTUM, Moments
from schemas.fidelity_models import Labels
from schemas.twin_models import Baseline

__all__ = ["count_labels", "survivorship_weights", "weighted_mae"]


def count_labels(age_s: float, predicted: int, arrived: int, missing: int, expire_s: float) -> Labels:
    """What became of predictions of one age: those neither in nor known to be missing are pending, and from ``expire_s`` expired.

    Example:
        >>> labels(10.0, 100, 70, 5, expire_s=60.0).pending, labels(90.0, 100, 70, 5, expire_s=60.0).expired
        (25, 25)
    """
    rest = max(predicted - arrived - missing, 0)
    late = age_s >= expire_s
    return Labels(age_s=age_s, matured=arrived, missing=missing, pending=0 if late else rest, expired=rest if late else 0)


def survivorship_weights(predicted: Mapping[str, int], arrived: Mapping[str, int]) -> dict[str, float]:
    """Weight of an outcome of each level, so that levels count by their share of the predictions and not of what has arrived.

    Weights average 1 over the outcomes that arrived. A level of which nothing arrived has no weight: nobody speaks for it.

    Example:
        >>> survivorship_weights({"a": 50, "b": 50}, {"a": 40, "b": 10})
        {'a': 0.625, 'b': 2.5}
    """
    heard = [level for level, count in predicted.items() if count > 0 and arrived.get(level, 0) > 0]
    said, came = sum(predicted[level] for level in heard), sum(arrived[level] for level in heard)
    return {level: predicted[level] / said * came / arrived[level] for level in heard}


def weighted_mae(sums: Mapping[str, Sequence[int]], weights: Mapping[str, float], baseline: Baseline) -> tuple[float, float] | None:
    """Mean absolute error with the levels' weights, and its standard error; None where no weighted level has two outcomes.

    The post-stratified mean: the error within each level, the levels' shares taken for known.

    Args:
        sums: of each level, in the order of ``SUM_FIELDS``.
        weights: of an outcome of each level.
        baseline: of the model.

    References:
        Holt, Smith (1979), Post stratification. JRSS A 142.
    """
    found = {level: Moments(*sums[level][: len(Moments._fields)]) for level in weights if level in sums}
    known = {level: m for level, m in found.items() if m.n > 1}
    total = sum(weights[level] * m.n for level, m in known.items())
    if not total:
        return None
    shares = {level: weights[level] * m.n / total for level, m in known.items()}
    mean = sum(shares[level] * m.absolute_error / m.n for level, m in known.items())
    variance = sum(shares[level] ** 2 * _mean_variance(m) for level, m in known.items())
    unit = QUANTUM * baseline.scale
    return unit * mean, unit * math.sqrt(variance)


def _mean_variance(m: Moments) -> float:
    """Variance of the mean absolute error of a level, in squared quanta."""
    return (m.error_squared - m.absolute_error**2 / m.n) / (m.n - 1) / m.n

"""Estimates and intervals from simulated draws, robust to draws that are not finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from schemas.arrays import Floats

__all__ = ["Summary", "interval", "simultaneous_half_width", "standard_deviation", "summary"]


_IQR_OF_NORMAL = 1.3489795003921634


@dataclass(frozen=True)
class Summary:
    """Estimate and interval of draws; ``robust`` where they come from median and quartiles."""

    estimate: float
    lower: float
    upper: float
    robust: bool = False


def interval(draws: Floats, confidence_level: float) -> Floats:
    """Central interval of draws along the last axis: lower and upper ends.

    Draw ``i`` of ``n`` in ascending order has the probability ``(i - 0.5) / n`` (Hazen), as in
    ``engine.effects.effect_model.normal_draws``.

    References:
        Hyndman, Fan (1996), Sample quantiles in statistical packages. The American Statistician 50 (definition 5).

    Example:
        >>> interval(np.arange(100.0), 0.50).tolist()
        [24.5, 74.5]
    """
    tail = (1.0 - confidence_level) / 2.0
    return _quantiles(np.sort(draws, axis=-1), (tail, 1.0 - tail))


def _quantiles(ordered: Floats, probabilities: Sequence[float]) -> Floats:
    """Quantiles along the last axis of sorted draws; equal to ``np.quantile(..., method="hazen")``, which sorts at each call."""
    n = ordered.shape[-1]
    position = np.clip(np.asarray(probabilities) * n - 0.5, 0.0, n - 1.0)
    below = np.minimum(position.astype(int), max(n - 2, 0))
    low, high = ordered[..., below], ordered[..., np.minimum(below + 1, n - 1)]
    return np.moveaxis(low + (high - low) * (position - below), -1, 0)


def summary(draws: Floats, confidence_level: float) -> Summary:
    """Mean and central interval of draws; from median and quartiles where some are not finite or the mean is an outlier.

    Raises:
        ValueError: when fewer than half of the draws are finite.

    Example:
        >>> summary(np.arange(100.0), 0.50)
        Summary(estimate=49.5, lower=24.5, upper=74.5, robust=False)
    """
    finite = np.sort(draws[np.isfinite(draws)])
    if len(finite) * 2 < len(draws):
        raise ValueError(f"only {len(finite)} of {len(draws)} draws are finite: check the priors")
    tail = (1.0 - confidence_level) / 2.0
    lower, low, median, high, upper = _quantiles(finite, (tail, 0.25, 0.5, 0.75, 1.0 - tail)).tolist()
    if len(finite) == len(draws) and abs(finite.mean() - median) <= high - low:
        return Summary(float(draws.mean()), lower, upper)
    reach = (high - low) / _IQR_OF_NORMAL * float(ndtri((1.0 + confidence_level) / 2.0))
    return Summary(median, median - reach, median + reach, robust=True)


def standard_deviation(values: Floats) -> float:
    """Standard deviation of values; from the quartiles of the finite ones where some are not finite.

    Example:
        >>> standard_deviation(np.array([1.0, 2.0, 3.0])), round(standard_deviation(np.array([1.0, 2.0, 3.0, np.inf])), 2)
        (1.0, 0.74)
    """
    if np.isfinite(values).all():
        if len(values) < 2 or values.min() == values.max():  # the mean of equal values may be rounded, by some processors
            return 0.0
        return float(values.std(ddof=1))
    finite = values[np.isfinite(values)]
    return float(np.subtract(*np.quantile(finite, [0.75, 0.25]))) / _IQR_OF_NORMAL if len(finite) else 0.0


def simultaneous_half_width(draws: Floats, confidence_level: float) -> Floats:
    """Half widths of simultaneous intervals around the means of rows of draws, shape ``(rows,)`` for ``(rows, n_draws)``.

    The best of several candidates is selected after a comparison of all, so the intervals must hold jointly. Each is the same
    number of standard deviations wide: the quantile of the largest standardised distance of any row (max-t).

    References:
        Westfall, Young (1993), Resampling-Based Multiple Testing.

    Example:
        >>> draws = np.random.default_rng(0).standard_normal((2, 10_000))
        >>> simultaneous_half_width(draws, 0.95).round(1).tolist()
        [2.2, 2.2]
    """
    spread = draws.std(axis=1, keepdims=True)
    distance = np.abs(draws - draws.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    return np.asarray(np.quantile(distance.max(axis=0), confidence_level) * spread[:, 0])

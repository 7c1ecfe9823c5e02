"""What a real experiment found, from its rows: effects with errors that are robust to how it was assigned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["EffectEstimate", "RegressionLine", "cluster_sums", "relative_effect", "robust_fit"]

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class EffectEstimate(NamedTuple):
    """An effect and its standard error, as an ``ExperimentResult`` takes them."""

    effect: float
    standard_error: float
    n_treated: int
    n_control: int


def relative_effect(
    outcome: Sequence[float] | Array, treated: Sequence[bool] | npt.NDArray[np.bool_], clusters: npt.ArrayLike | None = None
) -> EffectEstimate:
    """How much more the treated did, as a share of what the controls did: ``mean(treated) / mean(control) - 1``.

    This is how yes/no outcomes (a visit, a vote) enter a calibration. The error is that of the delta method, robust to clusters.

    Args:
        outcome: of each person, shape ``(n,)``, not negative on average.
        treated: who was, shape ``(n,)``.
        clusters: the unit that was assigned, where that was not the person.

    Raises:
        ValueError: when the controls did nothing on average, so that nothing can be a share of it.

    References:
        Deng, Knoblich, Lu (2018), Applying the delta method in metric analytics. KDD.

    Example:
        >>> found = relative_effect([1, 1, 1, 0] * 100 + [1, 0, 1, 0] * 100, [True] * 400 + [False] * 400)
        >>> round(found.effect, 3), round(found.standard_error, 3)
        (0.5, 0.087)
    """
    y, chosen = np.asarray(outcome, dtype=float), np.asarray(treated, dtype=bool)
    of = np.arange(len(y)) if clusters is None else pd.factorize(np.asarray(clusters))[0]
    with_it, without = _mean(y[chosen], of[chosen]), _mean(y[~chosen], of[~chosen])
    if not without[0] > 0:
        raise ValueError(f"the controls' average is {without[0]:g}: a relative effect needs a positive one")
    ratio = with_it[0] / without[0]
    variance = (with_it[1] + ratio**2 * without[1]) / without[0] ** 2
    return EffectEstimate(ratio - 1.0, float(np.sqrt(variance)), int(chosen.sum()), int((~chosen).sum()))


@dataclass(frozen=True)
class RegressionLine:
    """A straight line fitted to clustered rows; ``covariance`` of intercept and slope at the centre of ``x``."""

    center: float
    level: float
    slope: float
    covariance: Array
    left_out_residuals: Array
    n_clusters: int

    def at(self, x: Array) -> Array:
        """Values of the line."""
        return self.level + self.slope * (x - self.center)

    def variance_at(self, x: float) -> float:
        """Variance of its value."""
        place = np.array([1.0, x - self.center])
        return float(place @ self.covariance @ place)


def robust_fit(x: Array, y: Array, clusters: Ints) -> RegressionLine:
    """Least squares of ``y`` on ``x``, errors robust to clusters (CR1; HC1 where each row is its own), shapes ``(n,)``.

    A constant ``x`` explains nothing: the line is flat.

    References:
        Cameron, Miller (2015), A practitioner's guide to cluster-robust inference. Journal of Human Resources 50.

    Example:
        >>> line = robust_fit(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 3.1, 4.9, 7.0]), np.arange(4))
        >>> round(line.slope, 2), line.at(np.array([4.0])).round(1).tolist()
        (1.98, [9.0])
    """
    center = float(x.mean())
    z = x - center
    squares = float(z @ z)
    usable = squares > 1e-12 * max(1.0, center**2) * len(x)
    slope = float(z @ y / squares) if usable else 0.0
    residuals = y - y.mean() - slope * z
    leverage = 1.0 / len(x) + (z**2 / squares if usable else 0.0)
    bread = np.diag([1.0 / len(x), 1.0 / squares if usable else 0.0])
    scores = np.array([cluster_sums(residuals, clusters), cluster_sums(residuals * z, clusters)])
    groups = scores.shape[1]
    spare = groups / (groups - 1) * (len(x) - 1) / (len(x) - 2)
    covariance = spare * bread @ (scores @ scores.T) @ bread
    return RegressionLine(center, float(y.mean()), slope, covariance, residuals / (1.0 - leverage), groups)


def cluster_sums(values: Array, clusters: Ints) -> Array:
    """Sum of the values of each cluster, in the order of their numbers.

    Example:
        >>> cluster_sums(np.array([1.0, 2.0, 3.0]), np.array([7, 3, 7])).tolist()
        [2.0, 4.0]
    """
    _, place = np.unique(clusters, return_inverse=True)
    return np.asarray(np.bincount(place, values), dtype=float)


def _mean(values: Array, clusters: Ints) -> tuple[float, float]:
    """A mean and its variance, robust to clusters."""
    mean = float(values.mean())
    sums = cluster_sums(values - mean, clusters)
    return mean, len(sums) / (len(sums) - 1) * float(sums @ sums) / len(values) ** 2

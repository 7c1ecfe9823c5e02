"""Estimate effects from the rows of a real experiment, with standard errors robust to clustered assignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.experiments.arms import parse_arms, require_filled
from schemas.arrays import Flags, Floats, Integers

__all__ = ["EffectEstimate", "RegressionLine", "assignment_units", "clustered_mean", "relative_effect", "robust_fit"]


class EffectEstimate(NamedTuple):
    """An effect with its standard error and the sizes of the arms, as in an ``ExperimentResult``."""

    effect: float
    standard_error: float
    n_treated: int
    n_control: int


def relative_effect(
    outcome: Sequence[float] | Floats, treated: Sequence[Any] | Flags, clusters: npt.ArrayLike | None = None
) -> EffectEstimate:
    """Relative effect on the mean outcome, ``mean(treated) / mean(control) - 1``.

    Public API for callers with rows of their own: an ``ExperimentResult`` has its ``effect`` as a fraction, so a trial with yes/no
    outcomes (a visit, a vote) is entered as this relative change. The standard error is that of the delta method, robust to
    clusters.

    Args:
        outcome: of each person, shape ``(n,)``, positive on average among controls.
        treated: arm of each person, shape ``(n,)``: flags, or values that ``parse_arms`` reads.
        clusters: the unit of assignment of each person, shape ``(n,)``; by default each person is a unit.

    Raises:
        ValueError: when the mean of the controls is not positive, an arm is empty, outcomes are missing, or an arm or a cluster is
            not named.

    References:
        Deng, Knoblich, Lu (2018), Applying the delta method in metric analytics. KDD.

    Example:
        >>> estimate = relative_effect([1, 1, 1, 0] * 100 + [1, 0, 1, 0] * 100, [True] * 400 + [False] * 400)
        >>> round(estimate.effect, 3), round(estimate.standard_error, 3)
        (0.5, 0.087)
    """
    y, is_treated = np.asarray(outcome, dtype=float), parse_arms(treated)
    missing = np.flatnonzero(~np.isfinite(y))
    if len(missing):
        raise ValueError(
            f"{len(missing)} outcomes are missing, the first at position {missing[0]}: leave out people without an outcome"
        )
    if is_treated.all() or not is_treated.any():
        raise ValueError(f"all {len(y)} people are {'treated' if is_treated.any() else 'controls'}: an effect needs both arms")
    units = assignment_units(clusters, len(y))
    treated_mean, treated_variance, _ = clustered_mean(y[is_treated], units[is_treated])
    control_mean, control_variance, _ = clustered_mean(y[~is_treated], units[~is_treated])
    if not control_mean > 0:
        raise ValueError(f"the mean outcome of the controls is {control_mean:g}: a relative effect needs a positive one")
    ratio = treated_mean / control_mean
    variance = (treated_variance + ratio**2 * control_variance) / control_mean**2
    return EffectEstimate(ratio - 1.0, float(np.sqrt(variance)), int(is_treated.sum()), int((~is_treated).sum()))


def assignment_units(clusters: npt.ArrayLike | None, n: int) -> Integers:
    """Number of the unit of assignment of each of ``n`` rows, shape ``(n,)``; without clusters each row is a unit.

    Raises:
        ValueError: for a missing or blank cluster, with the rows.

    Example:
        >>> assignment_units(["clinic b", "clinic a", "clinic b"], 3).tolist()
        [0, 1, 0]
    """
    if clusters is None:
        return np.arange(n)
    require_filled(clusters, "clusters")
    return pd.factorize(np.asarray(clusters))[0]


@dataclass(frozen=True)
class RegressionLine:
    """A straight line fitted to clustered rows.

    Attributes:
        center: mean of ``x``.
        level: value of the line at the centre.
        slope: change of ``y`` per unit of ``x``.
        covariance: of level and slope, ``(2, 2)``.
        left_out_residuals: residual of each row from the line fitted without it, ``(n,)``.
        n_clusters: units of assignment.
    """

    center: float
    level: float
    slope: float
    covariance: Floats
    left_out_residuals: Floats
    n_clusters: int

    def predict(self, x: Floats) -> Floats:
        """Values of the line at ``x``, shape ``(n,)``."""
        return self.level + self.slope * (x - self.center)

    def prediction_variance(self, x: float) -> float:
        """Variance of the value at ``x``."""
        row = np.array([1.0, x - self.center])
        return float(row @ self.covariance @ row)


def robust_fit(x: Floats, y: Floats, clusters: Integers) -> RegressionLine:
    """Least squares of ``y`` on ``x``, shapes ``(n,)``, with errors robust to clusters (CR1; HC1 where each row is a cluster).

    For a constant ``x`` the slope is 0.

    References:
        Cameron, Miller (2015), A practitioner's guide to cluster-robust inference. Journal of Human Resources 50.

    Example:
        >>> line = robust_fit(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 3.1, 4.9, 7.0]), np.arange(4))
        >>> round(line.slope, 2), line.predict(np.array([4.0])).round(1).tolist()
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
    correction = groups / (groups - 1) * (len(x) - 1) / (len(x) - 2)
    covariance = correction * bread @ (scores @ scores.T) @ bread
    return RegressionLine(center, float(y.mean()), slope, covariance, residuals / (1.0 - leverage), groups)


def cluster_sums(values: Floats, clusters: Integers) -> Floats:
    """Sum of the values in each cluster, in ascending order of the cluster numbers.

    Example:
        >>> cluster_sums(np.array([1.0, 2.0, 3.0]), np.array([7, 3, 7])).tolist()
        [2.0, 4.0]
    """
    _, index = np.unique(clusters, return_inverse=True)
    return np.asarray(np.bincount(index, values), dtype=float)


class ClusteredMean(NamedTuple):
    """A mean, its variance robust to clusters, and the number of clusters."""

    mean: float
    variance: float
    n_clusters: int


def clustered_mean(values: Floats, clusters: Integers) -> ClusteredMean:
    """Mean of the values, shape ``(n,)``, whose errors are correlated within clusters.

    Example:
        >>> clustered_mean(np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0, 1, 1]))
        ClusteredMean(mean=2.0, variance=1.0, n_clusters=2)
    """
    mean = float(values.mean())
    sums = cluster_sums(values - mean, clusters)
    return ClusteredMean(mean, len(sums) / (len(sums) - 1) * float(sums @ sums) / len(values) ** 2, len(sums))

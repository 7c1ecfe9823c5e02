"""Sample size, power and minimum detectable effect of a real experiment, from the variance of outcomes between people.

The variance of simulated effects is not used: it does not measure how outcomes differ between people.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from scipy.special import ndtri, stdtrit
from scipy.stats import nct

from engine.effects.outcome_changes import unknown_base
from engine.effects.twin_sums import TwinSums
from schemas.base import require_between
from schemas.twin_models import OutcomeSpread
from schemas.twin_types import Target

__all__ = [
    "SampleSize",
    "achieved_power",
    "adjustable_correlation",
    "design_effect",
    "minimum_detectable_effect",
    "required_sample_size",
    "sample_size_for",
    "two_sample",
]

GUENTHER_ERROR = 0.5
"""Bound on the treated people that Guenther's formula is short by (0.44 at most: four treated per control, three deviations)."""

TEST_POWER = 0.80
"""Power of the experiment that a simulation's result proposes."""

MAX_CORRELATION = 0.99
"""Largest correlation that adjustment is expected to profit from: it never removes all of the variance."""


LARGEST_RATIO = 1e6
"""Standard deviations of the outcome per change to detect, beyond which no experiment is large enough."""


class SampleSize(NamedTuple):
    """People in each arm."""

    n_treated: int
    n_control: int

    @property
    def total(self) -> int:
        """People in both arms."""
        return self.n_treated + self.n_control


@lru_cache(maxsize=256)  # simulations on the same twins ask for the same sizes
def two_sample(
    effect: float,
    outcome_sd: float,
    *,
    alpha: float = 0.05,
    power: float = 0.80,
    control_ratio: float = 1.0,
    design_effect: float = 1.0,
    correlation: float = 0.0,
) -> SampleSize:
    """Size of a two-sided two-sample t-test that detects ``effect`` with probability ``power`` at least.

    Guenther's formula gives the size; where it could be one person short, the exact power decides.

    Args:
        effect: difference of the means to detect, in units of the outcome.
        outcome_sd: standard deviation of one person's outcome.
        alpha: probability of a significant result without an effect.
        power: probability of a significant result with the effect.
        control_ratio: people in the control arm per treated one.
        design_effect: factor by which clustered assignment inflates the variance.
        correlation: of the outcome with a covariate that is adjusted for, such as the twin's prediction: it leaves
            ``1 - correlation**2`` of the variance (PROCOVA, CUPED).

    Raises:
        ValueError: for an argument out of its range.

    References:
        Guenther (1981), Sample size formulas for normal theory t tests. The American Statistician 35.
        Schuler et al. (2022), Increasing the efficiency of randomized trial estimates via linear adjustment for a prognostic
        score. International Journal of Biostatistics 18.

    Example:
        >>> two_sample(effect=0.5, outcome_sd=1.0)
        SampleSize(n_treated=64, n_control=64)
    """
    _check_test(alpha, correlation)
    _check_finite(effect=effect, outcome_sd=outcome_sd, control_ratio=control_ratio, design_effect=design_effect)
    require_between("power", power, 0, 1)
    if not abs(effect) > 0 or not outcome_sd > 0 or not control_ratio > 0 or not design_effect >= 1:
        raise ValueError(
            f"effect {effect} must not be 0, outcome_sd {outcome_sd} and control_ratio {control_ratio} must be positive,"
            f" design_effect {design_effect} at least 1"
        )
    variance = (outcome_sd / effect) ** 2 * (1.0 - correlation**2)
    normal = (1.0 + 1.0 / control_ratio) * _quantiles(alpha, power) ** 2 * variance
    treated = (normal + _t_correction(alpha, control_ratio)) * design_effect
    size = _arms(treated, control_ratio)
    if size.n_treated - treated >= GUENTHER_ERROR * design_effect:
        return size
    options = {"alpha": alpha, "design_effect": design_effect, "correlation": correlation}
    while _degrees_of_freedom(size, design_effect) <= 0 or achieved_power(size, effect, outcome_sd, **options) < power:
        treated += 1.0
        size = _arms(treated, control_ratio)
    return size


def required_sample_size(
    effect: float, per_effect: float, outcome_sd: float, unit: str, *, alpha: float, power: float, correlation: float | None
) -> dict[str, Any]:
    """Size of a real experiment that detects ``effect``, as the field of a simulation result; the reason where it is undefined.

    Args:
        effect: to detect, a fraction.
        per_effect: change of the outcome for an effect of 1, in ``unit``.
        outcome_sd: standard deviation of one person's outcome, in ``unit``.
        unit: of the outcome.
        alpha: probability of a significant result without an effect.
        power: probability of a significant result with the effect.
        correlation: of outcome and prediction; None where it is unknown.
    """
    change = effect * per_effect
    if not outcome_sd > 0 or not change > 0 or outcome_sd / change > LARGEST_RATIO:
        return {"missing": f"no sample size for a change of {change:g} in outcomes with a standard deviation of {outcome_sd:g}"}
    plain = two_sample(change, outcome_sd, alpha=alpha, power=power)
    adjusted = two_sample(change, outcome_sd, alpha=alpha, power=power, correlation=adjustable_correlation(correlation))
    return {
        "minimum_detectable_effect": effect,
        "minimum_detectable_change": change,
        "unit": unit,
        "outcome_sd": outcome_sd,
        "alpha": alpha,
        "power": power,
        "n_treated": plain.n_treated,
        "n_control": plain.n_control,
        "prediction_correlation": correlation,
        "n_treated_adjusted": adjusted.n_treated,
        "n_control_adjusted": adjusted.n_control,
    }


def sample_size_for(
    effect: float, sums: TwinSums, spread: OutcomeSpread | None, target: Target, confidence_level: float
) -> dict[str, Any]:
    """Size of a real experiment that detects ``effect`` on these twins; the reason under ``missing`` where it is undefined.

    Args:
        effect: to detect, a fraction.
        sums: over the twins.
        spread: of the outcomes of the real rows behind them; None where it is unknown.
        target: what the effect is on.
        confidence_level: of the experiment's interval.
    """
    outcome_sd = spread.sd if spread else sums.outcome_sd
    if outcome_sd is None:
        return {"missing": f"these twins have no drawn {target.name}, so its variance is unknown"}
    if not sums.n_with_base:
        return {"missing": unknown_base(target)}
    size = required_sample_size(
        effect,
        sums.base / sums.n_with_base,
        outcome_sd,
        target.unit,
        alpha=round(1.0 - confidence_level, 12),
        power=TEST_POWER,
        correlation=spread.correlation if spread else None,
    )
    return size | {"real_rows": spread.n if spread else None, "n_extreme": spread.n_extreme if spread else 0}


def minimum_detectable_effect(
    size: SampleSize,
    outcome_sd: float,
    *,
    alpha: float = 0.05,
    power: float = 0.80,
    design_effect: float = 1.0,
    correlation: float = 0.0,
) -> float:
    """Smallest effect that a test of this size detects with probability ``power``, in units of the outcome.

    Raises:
        ValueError: for an argument out of its range, or a size too small for a test.

    References:
        Bloom (1995), Minimum detectable effects. Evaluation Review 19.

    Example:
        >>> round(minimum_detectable_effect(SampleSize(64, 64), outcome_sd=1.0), 2)
        0.5
    """
    _check_test(alpha, correlation)
    _check_finite(outcome_sd=outcome_sd, design_effect=design_effect)
    require_between("power", power, 0, 1)
    ratio = size.n_control / size.n_treated
    treated = size.n_treated / design_effect - _t_correction(alpha, ratio)
    if treated <= 0:
        raise ValueError(f"{size.n_treated} treated and {size.n_control} controls are too few for a test")
    deviation = outcome_sd * math.sqrt((1.0 - correlation**2) * (1.0 + 1.0 / ratio) / treated)
    return _quantiles(alpha, power) * deviation


def achieved_power(
    size: SampleSize,
    effect: float,
    outcome_sd: float,
    *,
    alpha: float = 0.05,
    design_effect: float = 1.0,
    correlation: float = 0.0,
) -> float:
    """Probability that a two-sided test of this size detects ``effect``, in units of the outcome.

    Clustered assignment divides the size by its design effect, adjustment for a covariate the variance, as in :func:`two_sample`.

    Raises:
        ValueError: for an argument out of its range, or a size too small for a variance.

    References:
        Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, chapter 2: the noncentral t distribution.

    Example:
        >>> round(achieved_power(SampleSize(64, 64), effect=0.5, outcome_sd=1.0), 3)
        0.801
    """
    _check_test(alpha, correlation)
    _check_finite(effect=effect, outcome_sd=outcome_sd, design_effect=design_effect)
    treated, control = size.n_treated / design_effect, size.n_control / design_effect
    freedom = _degrees_of_freedom(size, design_effect)
    if not freedom > 0 or not outcome_sd > 0 or not min(treated, control) > 0:
        raise ValueError(
            f"{size.n_treated} treated and {size.n_control} controls with a deviation of {outcome_sd:g}: too few for a test"
        )
    deviation = outcome_sd * math.sqrt((1.0 - correlation**2) * (1.0 / treated + 1.0 / control))
    noncentrality, limit = abs(effect) / deviation, float(stdtrit(freedom, 1.0 - alpha / 2.0))
    return float(nct.sf(limit, freedom, noncentrality) + nct.sf(limit, freedom, -noncentrality))


def design_effect(cluster_size: float, intraclass_correlation: float, size_variation: float = 0.0) -> float:
    """Factor by which assignment of whole clusters inflates the variance; ``size_variation`` is the CV of their sizes.

    References:
        Eldridge, Ashby, Kerry (2006), Sample size for cluster randomized trials. International Journal of Epidemiology 35.

    Example:
        >>> design_effect(cluster_size=21, intraclass_correlation=0.05)
        2.0
    """
    _check_finite(cluster_size=cluster_size, size_variation=size_variation)
    if not cluster_size >= 1 or not 0 <= intraclass_correlation <= 1 or not size_variation >= 0:
        raise ValueError(
            f"cluster_size {cluster_size} must be at least 1, intraclass_correlation {intraclass_correlation} lie in [0, 1],"
            f" size_variation {size_variation} not be negative"
        )
    return 1.0 + ((size_variation**2 + 1.0) * cluster_size - 1.0) * intraclass_correlation


def adjustable_correlation(measured: float | None) -> float:
    """Correlation of outcome and prediction by which adjustment reduces the variance: 0 where it is unknown or negative.

    Example:
        >>> adjustable_correlation(0.4), adjustable_correlation(None), adjustable_correlation(1.0)
        (0.4, 0.0, 0.99)
    """
    return min(max(measured or 0.0, 0.0), MAX_CORRELATION)


def _arms(treated: float, control_ratio: float) -> SampleSize:
    return SampleSize(math.ceil(treated), math.ceil(treated * control_ratio))


def _degrees_of_freedom(size: SampleSize, design_effect: float) -> float:
    return size.total / design_effect - 2.0


def _quantiles(alpha: float, power: float) -> float:
    return float(ndtri(1.0 - alpha / 2.0) + ndtri(power))


def _t_correction(alpha: float, control_ratio: float) -> float:
    """Additional treated people because the variance is estimated."""
    return float(ndtri(1.0 - alpha / 2.0)) ** 2 / (2.0 * (1.0 + control_ratio))


def _check_test(alpha: float, correlation: float) -> None:
    require_between("alpha", alpha, 0, 1)
    require_between("correlation", correlation, -1, 1)


def _check_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} {value} must be a finite number")

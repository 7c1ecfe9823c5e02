"""Analyse the rows of a finished experiment: its effect overall and by subgroup, adjusted for what was known before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri, stdtr, stdtrit

from engine.effects import Groups, group_by_level
from engine.experiments.arms import MISMATCH_P, parse_arms
from engine.experiments.experiment_analysis import assignment_units, cluster_sums
from schemas.arrays import Flags, Floats, Integers
from schemas.columns import encode_levels
from schemas.subgroup_results import MAX_SUBGROUPS, SubgroupResult
from schemas.twin_types import Target

__all__ = ["FEWEST_OF_SUBGROUP", "TrialAnalysis", "analyse_trial"]

FEWEST_OF_SUBGROUP = 10
"""Fewest units of assignment in each arm of a subgroup whose effect is reported."""

_FEWEST = 3
_SKEWED = 0.3  # simulated intervals held the effect in 92 to 97 % of experiments below it, above it in 74 to 93 %
_EXACT = 1e-3  # error over the unadjusted one below which covariates hold the outcomes themselves
_FEW_CLUSTERS = 20
_UNITS_PER_COVARIATE = 5  # in the smaller arm, beyond those that an arm needs at least
_MOST_LEVELS = 50
_SHOWN = 3
_HIGH = 0.975


class Contrast(NamedTuple):
    """An effect with its standard error, people and units of assignment in the treated and the control arm."""

    effect: float
    standard_error: float
    people: tuple[int, int]
    units: tuple[int, int]


@dataclass(frozen=True)
class TrialAnalysis:
    """What an experiment measured, as a fraction on the target's scale, positive = desired.

    Attributes:
        overall: adjusted for the covariates.
        unadjusted: without them.
        covariates: their names, without those that could not be used.
        subgroups: effects by level of each dimension, each from its own people alone.
        skipped: dimensions and levels without an effect, with the reason.
        warnings: what to doubt.
    """

    overall: Contrast
    unadjusted: Contrast
    covariates: tuple[str, ...] = ()
    subgroups: tuple[SubgroupResult, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def saved(self) -> float:
        """Share of the variance that the adjustment took away; below 0 where it added some."""
        return 1.0 - (self.overall.standard_error / self.unadjusted.standard_error) ** 2


@dataclass(frozen=True)
class _Rows:
    """Outcomes ``(n,)``, arms ``(n,)``, units of assignment ``(n,)``, covariates ``(n, k)``, levels that effects are a share of."""

    outcome: Floats
    treated: Flags
    units: Integers
    covariates: Floats
    level: Floats | None

    def where(self, mask: Flags) -> _Rows:
        level = None if self.level is None else self.level[mask]
        return _Rows(self.outcome[mask], self.treated[mask], self.units[mask], self.covariates[mask], level)

    def unadjusted(self) -> _Rows:
        return _Rows(self.outcome, self.treated, self.units, self.covariates[:, :0], self.level)

    def arm_units(self) -> tuple[int, int]:
        return len(np.unique(self.units[self.treated])), len(np.unique(self.units[~self.treated]))


def analyse_trial(
    outcome: npt.ArrayLike,
    treated: npt.ArrayLike,
    target: Target,
    *,
    clusters: npt.ArrayLike | None = None,
    covariates: Mapping[str, npt.ArrayLike] = MappingProxyType({}),
    level: npt.ArrayLike | None = None,
    dimensions: pd.DataFrame | None = None,
) -> TrialAnalysis:
    """Estimate the effect of an experiment, with errors robust to unequal variances and to clustered assignment.

    Each arm has its own regression on the covariates, and both are compared at the covariates' mean; the twin's prediction as the
    covariate is CUPED. It stays unbiased for any covariate from before the experiment, because the arms were assigned at random.
    A relative effect has the error of the delta method. The standard error is widened for few units of assignment, so that 1.96 of
    it are the half width of Student's 95 % interval.

    Args:
        outcome: of each person, ``(n,)``, in the unit of the target.
        treated: arm of each person, ``(n,)``: flags, or values that ``parse_arms`` reads.
        target: says what an effect is a fraction of, and which direction is desired.
        clusters: unit of assignment of each person, ``(n,)``; by default each person is one.
        covariates: numbers from before the experiment by name, each ``(n,)``; a missing one counts as average.
        level: value of the feature ``target.share_of``, ``(n,)``, where the target has one.
        dimensions: levels of each person by dimension, ``n`` rows.

    Raises:
        ValueError: for missing outcomes, an arm with fewer than three units, a cluster with people of both arms, outcomes without
            any variance, or a relative effect on a mean that is not positive.

    References:
        Lin (2013), Agnostic notes on regression adjustments to experimental data. Annals of Applied Statistics 7.
        Deng, Xu, Kohavi, Walker (2013), Improving the sensitivity of online controlled experiments (CUPED). WSDM.
        Cameron, Miller (2015), A practitioner's guide to cluster-robust inference. Journal of Human Resources 50.

    Example:
        >>> from schemas.twin_types import TWIN_TYPES, TwinType
        >>> rng = np.random.default_rng(0)
        >>> prediction, treated = rng.normal(0.0, 0.2, 2000), rng.random(2000) < 0.5
        >>> outcome = prediction + 0.05 * treated + rng.normal(0.0, 0.1, 2000)
        >>> analysis = analyse_trial(
        ...     outcome, treated, TWIN_TYPES[TwinType.HCP].target(), covariates={"prediction": prediction}
        ... )
        >>> round(analysis.overall.effect, 2), round(analysis.saved, 1)
        (0.05, 0.8)
    """
    is_treated = parse_arms(treated)
    y = _complete_outcomes(np.asarray(outcome, dtype=float))
    units = assignment_units(clusters, len(y))
    _require_whole_clusters(units, is_treated, clusters)
    levels = None if level is None or target.share_of is None else np.abs(np.asarray(level, dtype=float))
    everyone = _Rows(y, is_treated, units, np.empty((len(y), 0)), levels)
    _require_arms(everyone)
    names, x, unusable = _usable(covariates, is_treated)
    room = (min(everyone.arm_units()) - _FEWEST) // _UNITS_PER_COVARIATE
    dropped = dict.fromkeys(names[max(room, 0) :], "too few units of assignment to adjust for it")
    names, x = names[: len(names) - len(dropped)], x[:, : len(names) - len(dropped)]
    everyone = _Rows(y, is_treated, units, x, levels)
    overall, unadjusted = _contrast(everyone, target), _contrast(everyone.unadjusted(), target)
    _require_noise(overall, unadjusted, names)
    subgroups, skipped = _subgroups(everyone, dimensions if dimensions is not None else pd.DataFrame(index=range(len(y))), target)
    return TrialAnalysis(
        overall=overall,
        unadjusted=unadjusted,
        covariates=names,
        subgroups=tuple(subgroups),
        skipped={**unusable, **dropped, **skipped},
        warnings=tuple(_warnings(everyone, names, target, is_clustered=clusters is not None)),
    )


def _complete_outcomes(outcome: Floats) -> Floats:
    missing = np.flatnonzero(~np.isfinite(outcome))
    if len(missing):
        raise ValueError(
            f"{len(missing):,} outcomes are missing, the first in row {missing[0] + 1} (the first row of values is 1): leave out"
            " people without an outcome, and say so where one arm lost more of them"
        )
    return outcome


def _require_whole_clusters(units: Integers, treated: Flags, clusters: npt.ArrayLike | None) -> None:
    """Refuse clusters with people of both arms: they were not the units of assignment."""
    if clusters is None:
        return
    shared = np.intersect1d(units[treated], units[~treated])
    if len(shared):
        names = [str(np.asarray(clusters)[np.flatnonzero(units == unit)[0]]) for unit in shared[:_SHOWN]]
        raise ValueError(
            f"{len(shared):,} of {len(np.unique(units)):,} clusters have people of both arms, such as {', '.join(names)}: whole"
            " clusters are assigned to one arm. Where people were assigned within clusters, leave out the column of clusters; where"
            " the arms have different clusters of the same name, name them apart"
        )


def _require_arms(rows: _Rows) -> None:
    for name, n in zip(("treated", "control"), rows.arm_units(), strict=True):
        if n == 0:
            everyone = "controls" if name == "treated" else "treated"
            raise ValueError(
                f"the {name} arm is empty: all {len(rows.outcome):,} people are {everyone}, and an effect needs both arms"
            )
        if n < _FEWEST:
            raise ValueError(f"the {name} arm has {n} units of assignment: at least {_FEWEST} are needed for a standard error")


def _usable(covariates: Mapping[str, npt.ArrayLike], treated: Flags) -> tuple[tuple[str, ...], Floats, dict[str, str]]:
    """Names of the covariates that vary in both arms, these standardised, ``(n, k)``, and why others cannot be used."""
    columns, unusable = {}, {}
    for name, values in covariates.items():
        column = np.asarray(values, dtype=float)
        present = np.isfinite(column)
        spread = float(column[present].std()) if present.any() else 0.0
        constant = [arm for arm, rows in (("treated", treated), ("control", ~treated)) if not _varies(column[rows & present])]
        if constant:
            where = "in either arm" if len(constant) > 1 else f"in the {constant[0]} arm"
            unusable[name] = f"it does not vary {where}: only a number from before the experiment that varies in both can adjust"
        else:
            columns[name] = np.where(present, (column - column[present].mean()) / spread, 0.0)
    return tuple(columns), np.column_stack([*columns.values()]) if columns else np.empty((len(treated), 0)), unusable


def _varies(values: Floats) -> bool:
    return len(values) > 1 and float(np.ptp(values)) > 0.0


def _require_noise(overall: Contrast, unadjusted: Contrast, covariates: Sequence[str]) -> None:
    """Refuse outcomes without any noise, and those that covariates hold already."""
    if not (np.isfinite(overall.effect) and 0 < unadjusted.standard_error < np.inf):
        raise ValueError(
            f"the effect is {overall.effect:g} with a standard error of {unadjusted.standard_error:g}: outcomes that differ between"
            " units of assignment, and are no larger than numbers can be, are needed"
        )
    if overall.standard_error < _EXACT * unadjusted.standard_error:
        raise ValueError(
            f"the covariates ({', '.join(covariates)}) explain all outcomes exactly: leave out columns that hold the outcome itself"
        )


class _ArmFit(NamedTuple):
    mean: float
    slopes: Floats
    variance: float


def _fit_arm(y: Floats, x: Floats, units: Integers) -> _ArmFit:
    """Least squares of ``y`` on covariates: the value where they are 0, its variance (CR1), and the slopes."""
    center = x.mean(axis=0)
    design = np.column_stack([np.ones(len(y)), x - center])  # so that covariates that depend on each other leave the mean alone
    bread = np.linalg.pinv(design.T @ design, hermitian=True)
    coefficients = bread @ design.T @ y
    residuals = y - design @ coefficients
    scores = np.array([cluster_sums(residuals * column, units) for column in design.T])
    groups, size = scores.shape[1], int(np.linalg.matrix_rank(design))
    correction = groups / (groups - 1) * (len(y) - 1) / (len(y) - size)
    at_zero = np.append(1.0, -center)
    error = at_zero @ bread @ scores
    return _ArmFit(float(at_zero @ coefficients), coefficients[1:], float(correction * error @ error))


def _contrast(rows: _Rows, target: Target) -> Contrast:
    """The effect among some rows, and its error."""
    x = rows.covariates[:, [all(_varies(column[arm]) for arm in (rows.treated, ~rows.treated)) for column in rows.covariates.T]]
    x = x - x.mean(axis=0)
    treated, control = (_fit_arm(rows.outcome[arm], x[arm], rows.units[arm]) for arm in (rows.treated, ~rows.treated))
    effect, weights = _scaled(treated.mean, control.mean, rows, target)
    slope = weights[0] * treated.slopes + weights[1] * control.slopes
    variance = (
        weights[0] ** 2 * treated.variance + weights[1] ** 2 * control.variance + slope @ _mean_covariance(x, rows.units) @ slope
    )
    units = rows.arm_units()
    freedom = max(min(units) - 1 - x.shape[1], 1)
    error = float(np.sqrt(variance)) * float(stdtrit(freedom, _HIGH) / ndtri(_HIGH))
    if not any(np.ptp(rows.outcome[arm]) for arm in (rows.treated, ~rows.treated)):
        raise ValueError("all outcomes of each arm are equal: they give no standard error")
    return Contrast(effect, error, (int(rows.treated.sum()), int((~rows.treated).sum())), units)


def _scaled(treated: float, control: float, rows: _Rows, target: Target) -> tuple[float, tuple[float, float]]:
    """The effect in the target's scale from the means of the arms, and its derivatives by them."""
    sign = float(target.direction)
    if target.scale == "additive":
        return sign * (treated - control), (sign, -sign)
    if target.share_of is not None:
        base = float("nan") if rows.level is None else float(rows.level.mean())
        if not base > 0:
            raise ValueError(
                f"an effect on {target.name} is a share of {target.share_of}, whose mean is {base:g}: fill this column"
            )
        return sign * (treated - control) / base, (sign / base, -sign / base)
    if not control > 0:
        raise ValueError(f"the mean outcome of the controls is {control:g}: a relative effect needs a positive one")
    return sign * (treated / control - 1.0), (sign / control, -sign * treated / control**2)


def _mean_covariance(x: Floats, units: Integers) -> Floats:
    """Covariance of the covariates' mean, ``(k, k)``, robust to clusters."""
    if not x.shape[1]:
        return np.empty((0, 0))
    sums = np.array([cluster_sums(column, units) for column in x.T])
    groups = sums.shape[1]
    return np.asarray(groups / max(groups - 1, 1) * (sums @ sums.T) / len(x) ** 2)


def _subgroups(rows: _Rows, dimensions: pd.DataFrame, target: Target) -> tuple[list[SubgroupResult], dict[str, str]]:
    results: list[SubgroupResult] = []
    skipped: dict[str, str] = {}
    for name in map(str, dimensions):
        groups = group_by_level(encode_levels(dimensions[name]), name)
        n = len(groups.labels)
        if not 2 <= n <= _MOST_LEVELS or len(results) + n > MAX_SUBGROUPS:
            skipped[name] = f"{n:,} levels: from 2 to {_MOST_LEVELS} are reported, {MAX_SUBGROUPS} of all dimensions"
            continue
        measured, few = _by_level(rows, name, groups, target)
        results += measured
        if few:
            shown = f"{', '.join(few[:_SHOWN])}{' ...' if len(few) > _SHOWN else ''}"
            skipped[name] = f"{len(few):,} levels with fewer than {FEWEST_OF_SUBGROUP} units in an arm, or equal outcomes: {shown}"
    return results, skipped


def _by_level(rows: _Rows, name: str, groups: Groups, target: Target) -> tuple[list[SubgroupResult], list[str]]:
    """Effects in the levels of a dimension, and the levels that cannot have one."""
    results, few = [], []
    for code, label in enumerate(groups.labels, start=1):
        part = rows.where(groups.codes == code)
        smaller = min(part.arm_units())
        room = (smaller - FEWEST_OF_SUBGROUP) // _UNITS_PER_COVARIATE
        part = part if part.covariates.shape[1] <= room else part.unadjusted()
        try:
            contrast = _contrast(part, target) if smaller >= FEWEST_OF_SUBGROUP else None
        except ValueError:  # no variance, or no positive mean
            contrast = None
        if contrast is None:
            few.append(label)
            continue
        effect, error, (n_treated, n_control), _ = contrast
        results.append(
            SubgroupResult(
                dimension=name, level=label, effect=effect, standard_error=error, n_treated=n_treated, n_control=n_control
            )
        )
    return results, few


def _warnings(rows: _Rows, covariates: Sequence[str], target: Target, *, is_clustered: bool) -> Iterator[str]:
    smaller = min(rows.arm_units())
    if smaller < _FEW_CLUSTERS:
        units = "clusters" if is_clustered else "people"
        yield f"only {smaller} {units} in the smaller arm: its standard error is rough, {_FEW_CLUSTERS} or more are needed"
    for name, column in zip(covariates, rows.covariates.T, strict=True):
        arms = [_fit_arm(column[arm], np.empty((arm.sum(), 0)), rows.units[arm]) for arm in (rows.treated, ~rows.treated)]
        distance = abs(arms[0].mean - arms[1].mean) / np.hypot(*(np.sqrt(arm.variance) for arm in arms))
        if (p := 2.0 * stdtr(smaller - 1, -distance)) < MISMATCH_P:
            yield (
                f"{name} differs between the arms (p = {p:.1g}, below {MISMATCH_P:g}): arms that were assigned at random differ by"
                " less, unless it was changed by the experiment"
            )
    for name, arm in (("treated", rows.treated), ("control", ~rows.treated)):
        if not np.ptp(rows.outcome[arm]):
            yield f"all outcomes of the {name} arm are equal: its mean counts as exact, and the interval is too narrow"
    if (skewness := _skewness_of_estimate(rows, target)) > _SKEWED:
        yield (
            f"the outcome has so long a tail that the estimate is skewed (skewness {skewness:.1f}, {_SKEWED:g} is harmless): its"
            " interval holds the effect in less than 95 % of experiments; more people, or an outcome with a cap, mend that"
        )


def _skewness_of_estimate(rows: _Rows, target: Target) -> float:
    """Skewness of the effect's sampling distribution, as it is estimated from the units of assignment.

    Tails of arms of equal size cancel in a difference. In a share of the controls' mean they do not: there it is that of an arm.

    References:
        Kohavi, Deng, Longbotham, Xu (2014), Seven rules of thumb for web site experimenters. KDD (rule 7).
    """
    sums = []
    for arm, sign in ((rows.treated, 1.0), (~rows.treated, -1.0)):
        outcome = rows.outcome[arm]
        shares = cluster_sums(outcome - outcome.mean(), rows.units[arm]) / len(outcome)
        sums.append((sign * float((shares**3).sum()), float((shares**2).sum())))
    is_difference = target.scale == "additive" or target.share_of is not None
    pooled = [tuple(np.sum(sums, axis=0).tolist())] if is_difference else sums
    return max((abs(third) / float(second**1.5) for third, second in pooled if second > 0), default=0.0)

"""Learn from experiments who responds, by which channel, and at which dose.

Parameters are coefficients of moderators, factors of channels, doses of half the maximal response, and deviations of levels of a
feature from what the moderators explain. To first order the effect that an experiment observed is its base effect times
``1 + loading @ parameters``, so that overall effects learn them together with the base effect
(:mod:`engine.effects.effect_posterior`). Effects in subgroups differ from each other by the experiment's own effect times the
difference of their loadings: they are compared within an experiment and a feature, where the base effect and the dose are the same,
and the posterior mean and variance of its own effect are the scale. So every experiment counts once: its subgroups beside each
other, and its overall effect.

Levels deviate in all campaigns alike, and a part of it in one campaign only. How much they deviate is learned too, over a few
sizes. Subgroups by several features of one experiment count as independent of each other.

References:
    Dixon, Simon (1991), Bayesian subset analysis. Biometrics 47 (exchangeable deviations of subgroups).
    Jones, Ohlssen, Neuenschwander, Racine, Branson (2011), Bayesian models for subgroup analysis in clinical trials. Clinical
    Trials 8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from engine.effects.learned_parameters import CHANNEL, Moments, learned_parameters
from schemas.arrays import Flags, Floats
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.effect_priors import LearnedParameters
from schemas.events import ExperimentResult
from schemas.filters import conditions
from schemas.interventions import INTERVENTIONS, MODERATORS, Channel, Moderator
from schemas.level_meaning import meaning_key, moderating_level
from schemas.simulation_models import GroupReach, Reach
from schemas.subgroup_results import SubgroupResult

__all__ = [
    "HALVES",
    "LEVEL_SDS",
    "OWN_DOSE_SHARE",
    "OWN_SHARE",
    "Beliefs",
    "OwnEffects",
    "Parameters",
    "learn_from_subgroups",
    "loadings",
    "parameters_of",
    "taught",
]

HALVES = ("contacts", "weeks", "intensity")

LEVEL_SDS: Mapping[float, float] = {0.03: 0.4, 0.10: 0.4, 0.30: 0.2}
"""Standard deviations of levels' deviations, logarithms of a factor, with their prior probabilities."""

OWN_SHARE = 0.25
"""Share of the variance of a level's deviation that is of one campaign only."""

OWN_DOSE_SHARE = 0.25
"""The same of the factor of a channel and of a dose of half the maximal response.

A channel suits some campaigns and people better than others. Were it common to all, it would be learned with too much certainty in
worlds with such interactions, and from successes alone, which are by the channel that suits.
"""

_TAUGHT = 0.02  # change of a parameter's distribution, in its standard deviations
_COMPLETE = 0.95  # share of an experiment's precision above which the levels of a feature hold all of its people

Level = tuple[str, str]


class Parameters(NamedTuple):
    """The ``q`` parameters that experiments load on.

    Attributes:
        names, levels: as for :class:`schemas.effect_priors.LearnedParameters`; the levels follow the names.
        mean, sd: prior in the catalogue, ``(q,)``; 0 for levels.
        own: part of the variance that is of one campaign only, so that others teach nothing about it, ``(q,)``.
        deviates: which are about a level that subgroups were reported of, and may deviate beyond the catalogue, ``(q,)``.
        dimensions: features of whose levels effects were reported.
    """

    names: tuple[str, ...]
    levels: tuple[Level, ...]
    mean: Floats
    sd: Floats
    own: Floats
    deviates: Flags
    dimensions: tuple[str, ...]

    def about(self, dimension: str, level: str) -> int:
        """Index of the parameter about a level of a feature."""
        term = _moderator_term(dimension, level)
        if term in self.names:
            return self.names.index(term)
        return len(self.names) + self.levels.index((dimension, meaning_key(dimension, level)))


@dataclass(frozen=True)
class Beliefs:
    """Normal distribution of the parameters' deviations from the catalogue, and the mean variance between levels.

    Attributes:
        mean, covariance: ``(q,)`` and ``(q, q)``.
        level_variance: of levels' deviations, in all campaigns and in one together.
    """

    mean: Floats
    covariance: Floats
    level_variance: float

    @classmethod
    def of_catalogue(cls, parameters: Parameters) -> Beliefs:
        """What is believed before any subgroup is known."""
        variance = sum(weight * sd**2 for sd, weight in LEVEL_SDS.items())
        diagonal = parameters.sd**2 - parameters.own + parameters.deviates * (1.0 - OWN_SHARE) * variance
        return cls(np.zeros(len(diagonal)), np.diag(diagonal), variance)


class OwnEffects(NamedTuple):
    """Posterior mean and variance of each experiment's own effect, ``(k,)`` each."""

    mean: Floats
    variance: Floats


def parameters_of(
    intervention_type: str,
    results: Sequence[ExperimentResult],
    others: Sequence[ExperimentResult],
    reaches: Mapping[str, Reach],
) -> Parameters:
    """The parameters that any of the experiments on one intervention, or the subgroups of others, can tell about."""
    entry = INTERVENTIONS[intervention_type]
    coefficients = {
        name: prior
        for moderator in MODERATORS
        for name, prior in (
            {moderator.column: moderator.slope}
            if moderator.slope
            else {f"{moderator.column}={level}": prior for level, prior in moderator.levels.items()}
        ).items()
    }
    reported = {(group.dimension, group.level) for result in (*results, *others) for group in result.subgroups}
    own_terms = {term for dimension, level in reported if (term := _moderator_term(dimension, level)) is not None}
    about = own_terms | {dimension for dimension, _ in reported}
    for result in (*results, *others):
        if (reach := reaches.get(result.experiment_id)) is not None:
            slopes = [reach.slopes, *(group.slopes for group in reach.groups)]
            about |= {name for part in slopes for name, slope in part.items() if slope}
    terms = [name for name in catalogue_in_effect().moderator_terms if name in about and coefficients[name].sd > 0]
    channels = sorted({channel for result in results if entry.channels[channel := Channel(result.intervention.channel)].sd > 0})
    halves = (entry.half_contacts, entry.half_weeks, entry.half_intensity)
    priors = [
        *((coefficients[name].mean, coefficients[name].sd) for name in terms),
        *((entry.channels[channel].mean, entry.channels[channel].sd) for channel in channels),
        *((0.0, half.spread) for half in halves),
    ]
    own_terms &= set(terms)
    levels = sorted({(name, meaning_key(name, level)) for name, level in reported if _moderator_term(name, level) not in own_terms})
    names = (*terms, *(f"{CHANNEL}{channel.value}" for channel in channels), *HALVES)
    mean, sd = np.transpose([*priors, *((0.0, 0.0) for _ in levels)])
    deviates = np.array([*(name in own_terms for name in names), *(True for _ in levels)])
    own = np.zeros(len(sd))
    own[len(terms) : len(names)] = OWN_DOSE_SHARE * sd[len(terms) : len(names)] ** 2
    return Parameters(names, tuple(levels), mean, sd, own, deviates, tuple(sorted({dimension for dimension, _ in reported})))


def _moderator_term(dimension: str, level: str) -> str | None:
    """Name of the coefficient of a moderator that is about a level; None where the catalogue has none."""
    moderator = next((moderator for moderator in MODERATORS if moderator.column == dimension), None)
    listed = None if moderator is None else moderating_level(moderator, level)
    return None if listed is None else f"{dimension}={listed}"


def loadings(
    parameters: Parameters,
    results: Sequence[ExperimentResult],
    reaches: Mapping[str, Reach],
    half_slopes: Floats,
) -> Floats:
    """Growth of the logarithm of each experiment's effect by each parameter, ``(k, q)``, for each response to dose.

    Args:
        parameters: of these experiments.
        results: the experiments.
        reaches: of each, by id.
        half_slopes: growth by the logarithms of ``HALVES`` for each response, ``(responses, k, 3)``.

    Returns:
        Array ``(responses, k, q)``.
    """
    rows = np.zeros((len(results), len(parameters.mean)))
    for row, result in zip(rows, results, strict=True):
        reach = reaches.get(result.experiment_id)
        slopes = dict(reach.slopes) if reach else {}
        slopes[f"{CHANNEL}{result.intervention.channel}"] = 1.0
        row[: len(parameters.names)] = [slopes.get(name, 0.0) for name in parameters.names]
    n = len(parameters.names)
    rows[:, n:] = _shares(parameters.levels, results)
    by_response = np.tile(rows, (len(half_slopes), 1, 1))
    by_response[:, :, n - len(HALVES) : n] = half_slopes
    return by_response


def _shares(levels: Sequence[Level], results: Sequence[ExperimentResult]) -> Floats:
    """Share of each level in the people of each experiment, ``(k, levels)``; the usual one where it did not tell."""
    shares = np.array([[_share(result, *level) for level in levels] for result in results]).reshape(len(results), len(levels))
    is_told = ~np.isnan(shares)
    usual = np.where(is_told, shares, 0.0).sum(axis=0) / np.maximum(is_told.sum(axis=0), 1)
    return np.where(is_told, shares, usual)


def _share(result: ExperimentResult, dimension: str, level: str) -> float:
    """Share of a level in the people of one experiment; nan where it is unknown."""
    groups = [group for group in result.subgroups if group.dimension == dimension]
    if groups:
        people = sum(group.n_treated + group.n_control for group in groups if meaning_key(dimension, group.level) == level)
        return people / (result.n_treated + result.n_control)
    for condition in conditions(result.twin_type, result.filters):
        if condition.column == dimension and condition.operator == "in":
            allowed = {meaning_key(dimension, value) for value in condition.values}
            return (level in allowed) / len(allowed)
    return float("nan")


def learn_from_subgroups(
    parameters: Parameters, results: Sequence[ExperimentResult], reaches: Mapping[str, Reach], own: OwnEffects
) -> Beliefs:
    """Update the parameters by effects in subgroups, summed over the sizes of levels' deviations.

    Args:
        parameters: of these experiments.
        results: the experiments.
        reaches: of each, by id.
        own: of each experiment, in the order of ``results``.
    """
    comparisons = [
        _comparison(parameters, result, [*groups], reaches.get(result.experiment_id), mean, variance)
        for result, mean, variance in zip(results, own.mean.tolist(), own.variance.tolist(), strict=True)
        for _, groups in groupby(_distinct_levels(result.subgroups), key=lambda group: group.dimension)
    ]
    fitted = [_update(parameters, comparisons, sd) for sd in LEVEL_SDS]
    log_weight = np.log([*LEVEL_SDS.values()]) + [evidence for *_, evidence in fitted]
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    means = np.array([mean for mean, _, _ in fitted])
    mean = weight @ means
    covariance = np.tensordot(weight, [covariance for _, covariance, _ in fitted], axes=1)
    covariance += ((means - mean) * weight[:, None]).T @ (means - mean)
    return Beliefs(mean, covariance, float(weight @ np.square([*LEVEL_SDS])))


def taught(parameters: Parameters, moments: Moments, beliefs: Beliefs) -> LearnedParameters | None:
    """What is stored of the parameters: those that differ from the catalogue, and all levels; None where there are none.

    Args:
        parameters: of which experiments could tell.
        moments: their posterior; means are differences from the catalogue.
        beliefs: of the levels.
    """
    covariance = moments.covariance + np.diag(parameters.own)
    prior_sd = np.sqrt(np.diagonal(Beliefs.of_catalogue(parameters).covariance) + parameters.own)
    narrowed = np.abs(prior_sd - np.sqrt(np.diagonal(covariance)))
    differs = np.abs(moments.mean) + np.abs(moments.with_score) + narrowed > _TAUGHT * prior_sd
    n = len(parameters.names)
    differs[n:] = True
    if not differs.any():
        return None
    level_sd = math.sqrt(beliefs.level_variance) if parameters.dimensions else 0.0
    return learned_parameters(
        [name for name, is_taught in zip(parameters.names, differs[:n], strict=True) if is_taught],
        parameters.levels,
        Moments((parameters.mean + moments.mean)[differs], covariance[np.ix_(differs, differs)], moments.with_score[differs]),
        parameters.dimensions,
        (math.sqrt(OWN_SHARE) * level_sd, level_sd),
    )


def _in_order(group: SubgroupResult) -> tuple[str, str]:
    return group.dimension, meaning_key(group.dimension, group.level)


def _distinct_levels(subgroups: Sequence[SubgroupResult]) -> list[SubgroupResult]:
    """The subgroups in order, those of one level in several spellings as one: of effects weighted by their precision."""
    return [_pooled([*alike]) for _, alike in groupby(sorted(subgroups, key=_in_order), key=_in_order)]


def _pooled(alike: Sequence[SubgroupResult]) -> SubgroupResult:
    if len(alike) == 1:
        return alike[0]
    effect, error = np.array([(group.effect, group.standard_error) for group in alike]).T
    precision = 1.0 / error**2
    fields = {"effect": float(precision @ effect / precision.sum()), "standard_error": float(precision.sum() ** -0.5)}
    people = {arm: sum(getattr(group, arm) for group in alike) for arm in ("n_treated", "n_control")}
    return alike[0].model_copy(update=fields | people)


class _Comparison(NamedTuple):
    """Subgroups of one experiment by one feature, arrays of length ``g``.

    ``effect - expected = common + loading @ parameters + noise``, with any ``common``; ``own`` is the variance of the deviation of
    one campaign for a variance of 1 between levels.
    """

    effect: Floats
    expected: Floats
    loading: Floats
    noise: Floats
    own: Floats


def _comparison(
    parameters: Parameters,
    result: ExperimentResult,
    groups: Sequence[SubgroupResult],
    reach: Reach | None,
    mean: float,
    variance: float,
) -> _Comparison:
    """The subgroups by one feature, with all other people as one more where the levels do not hold all."""
    reaches = {(group.dimension, meaning_key(group.dimension, group.level)): group for group in (reach.groups if reach else ())}
    moderated = [reaches.get(_in_order(group)) or _alone(group, result.intervention.channel) for group in groups]
    factor = np.array([group.mean for group in moderated])
    loading = np.array([[group.slopes.get(name, 0.0) for name in parameters.names] for group in moderated])
    loading = np.hstack([loading, np.zeros((len(groups), len(parameters.levels)))])
    for row, group in zip(loading, groups, strict=True):
        row[parameters.about(group.dimension, group.level)] = 1.0
    effect, error = np.array([(group.effect, group.standard_error) for group in groups]).T
    own = np.ones(len(groups))
    precision = 1.0 / error**2
    remaining = 1.0 / result.standard_error**2 - precision.sum()
    if remaining * result.standard_error**2 > 1.0 - _COMPLETE:
        average = np.array([(reach.slopes if reach else {}).get(name, 0.0) for name in parameters.names])
        average = np.append(average, np.zeros(len(parameters.levels)))
        rest = (average / result.standard_error**2 - precision @ loading) / remaining
        rest[len(parameters.names) :] = 0.0
        loading = np.vstack([loading, rest])
        factor = np.append(factor, max((1.0 / result.standard_error**2 - precision @ factor) / remaining, 0.0))
        effect = np.append(effect, (result.effect / result.standard_error**2 - precision @ effect) / remaining)
        error, own = np.append(error, remaining**-0.5), np.append(own, 0.0)
    square = mean**2 + variance
    doubted = loading**2 @ np.diagonal(Beliefs.of_catalogue(parameters).covariance)
    doubt = variance * ((factor - factor.mean()) ** 2 + factor**2 * doubted)
    return _Comparison(effect, mean * factor, mean * factor[:, None] * loading, error**2 + doubt, square * factor**2 * own)


def _alone(group: SubgroupResult, channel: str) -> GroupReach:
    """Moderators of a subgroup where no twins tell more: those of its own level."""
    slopes: dict[str, float] = {}
    log_factor = 0.0
    for moderator in MODERATORS:
        if moderator.column != group.dimension or (moderator.channels and Channel(channel) not in moderator.channels):
            continue
        if moderator.slope is not None:
            value = _standardised(moderator, group.level)
            slopes[moderator.column], log_factor = value, moderator.slope.mean * value
        elif (level := moderating_level(moderator, group.level)) is not None:
            slopes[f"{moderator.column}={level}"], log_factor = 1.0, moderator.levels[level].mean
    return GroupReach(dimension=group.dimension, level=group.level, mean=float(np.exp(log_factor)), slopes=slopes)


def _standardised(moderator: Moderator, level: str) -> float:
    """A level of a number, in spreads from its centre; 0 where it is none."""
    try:
        return (float(level) - moderator.center) / moderator.spread
    except ValueError:
        return 0.0


def _update(parameters: Parameters, comparisons: Sequence[_Comparison], level_sd: float) -> tuple[Floats, Floats, float]:
    """Mean and covariance of the parameters if levels deviate by ``level_sd``, and the logarithm of the evidence for it."""
    sd = np.sqrt(parameters.sd**2 - parameters.own + parameters.deviates * (1.0 - OWN_SHARE) * level_sd**2)
    information, pull, evidence = np.eye(len(sd)), np.zeros(len(sd)), 0.0
    for comparison in comparisons:
        weight = 1.0 / (comparison.noise + comparison.own * OWN_SHARE * level_sd**2)
        apart = np.diag(weight) - np.outer(weight, weight) / weight.sum()
        distance, loading = comparison.effect - comparison.expected, comparison.loading * sd
        information += loading.T @ apart @ loading
        pull += loading.T @ apart @ distance
        evidence += 0.5 * (np.log(weight).sum() - np.log(weight.sum()) - distance @ apart @ distance)
    covariance = np.linalg.inv(information)
    mean = covariance @ pull
    evidence += 0.5 * float(pull @ mean - np.linalg.slogdet(information)[1])
    return sd * mean, covariance * np.outer(sd, sd), evidence

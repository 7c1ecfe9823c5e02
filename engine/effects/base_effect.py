"""The distribution of an intervention's base effect: tails of priors that nobody has tested, and draws of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from engine.effects.effect_posterior import mixture_quantiles, without_experiments
from engine.effects.normal_draws import normal_draws, strata
from schemas.arrays import Floats
from schemas.effect_priors import EFFECTS_METHOD, QUANTILE_SCORES, EffectPrior, EffectScenario

__all__ = [
    "RESPONSES",
    "SCORES",
    "BaseEffect",
    "Response",
    "draw_base_effect",
    "effect_by_score",
    "prior_interval",
    "with_quantiles",
    "with_responses",
    "with_tails",
]


class Response(NamedTuple):
    """A shape of the response: factors of the catalogue's doses of half the maximal response, and its prior probability."""

    contacts: float
    weeks: float
    intensity: float
    probability: float


RESPONSES: tuple[Response, ...] = (
    Response(1.0, 1.0, 1.0, 0.36),
    Response(0.1, 0.1, 1.0, 0.20),
    Response(0.1, 1.0, 1.0, 0.07),
    Response(1.0, 0.1, 1.0, 0.08),
    Response(40.0, 0.1, 40.0, 0.12),
    Response(40.0, 1.0, 40.0, 0.05),
    Response(1.0, 40.0, 1.0, 0.04),
    Response(40.0, 40.0, 40.0, 0.05),
    Response(0.1, 40.0, 1.0, 0.03),
)
"""At a factor of 0.1 the first contact (or week) has nearly the whole effect, at 40 the effect is nearly proportional to the dose.

Whether more visits do more could not be told from 34 comparisons of visits to prescribers (O'Brien et al. 2007, Educational
outreach visits. Cochrane Database of Systematic Reviews), so a response that saturates at once has a substantial share.
"""

SCORES = np.array(QUANTILE_SCORES)
"""Normal scores of the quantiles of a scenario, ``(q,)``."""

_USUAL_DRAWS = 1000


class BaseEffect(NamedTuple):
    """Draws of the base effect ``(n_draws,)``, of the factors of the doses of half the maximal response, and its normal scores.

    The scores are of what all variants have in common.
    """

    effect: Floats
    contacts: float | Floats = 1.0
    weeks: float | Floats = 1.0
    intensity: float | Floats = 1.0
    score: Floats = np.zeros(0)


def with_tails(prior: EffectPrior) -> EffectPrior:
    """A prior that no experiment has tested, with the tails of :mod:`engine.effects.effect_posterior` around its mean.

    A prior without uncertainty stays as it is.
    """
    if prior.sd == 0:
        return prior
    return _with_scenarios(prior, _tails(prior.mean, prior.sd))


def with_responses(prior: EffectPrior) -> EffectPrior:
    """A normal prior that holds at the reference dose, with the uncertain response to other doses.

    A prior without uncertainty stays as it is.
    """
    if prior.sd == 0:
        return prior
    return _with_scenarios(prior, _scenarios(tuple((prior.mean + prior.sd * SCORES).tolist())))


def with_quantiles(prior: EffectPrior, quantiles: tuple[float, ...]) -> EffectPrior:
    """A prior whose base effect has these quantiles at ``SCORES``, with the uncertain response to other doses."""
    return _with_scenarios(prior, _scenarios(quantiles))


def _with_scenarios(prior: EffectPrior, scenarios: tuple[EffectScenario, ...]) -> EffectPrior:
    return prior.model_copy(update={"method": EFFECTS_METHOD, "scenarios": scenarios, "correlation": MEAN_CORRELATION})


def _scenarios(quantiles: tuple[float, ...]) -> tuple[EffectScenario, ...]:
    return tuple(
        EffectScenario(
            weight=response.probability,
            contacts=response.contacts,
            weeks=response.weeks,
            intensity=response.intensity,
            quantiles=quantiles,
        )
        for response in RESPONSES
    )


MEAN_CORRELATION = 0.6
"""Correlation of an untested variant's effect with what all variants have in common: the root of the share of the variance."""


@lru_cache(maxsize=256)
def _tails(mean: float, sd: float) -> tuple[EffectScenario, ...]:
    """Quantiles of the next campaign's effect, shifted in their middle so that the mean of usual draws is that of the prior."""
    posterior = without_experiments(mean, sd)
    quantiles = mixture_quantiles(*posterior.next_campaign(), SCORES)
    middle = np.exp(-0.5 * SCORES**2)
    usual = strata(_USUAL_DRAWS)
    for _ in range(2):
        missing = mean - float(_from_score(usual, quantiles).mean())
        quantiles = quantiles + missing / float(_from_score(usual, middle).mean()) * middle
    return _scenarios(tuple(np.maximum.accumulate(quantiles).tolist()))


def draw_base_effect(prior: EffectPrior, n_draws: int, seed: int, variant: str | None = None) -> BaseEffect:
    """Draws of the base effect of the next campaign, from the variance of the mean and that between campaigns.

    Campaigns with different variants share what all variants have in common; without a variant all are the same campaign.

    Example:
        >>> prior = EffectPrior(intervention_type="email_campaign", mean=0.05, sd=0.03, between_sd=0.04)
        >>> round(float(draw_base_effect(prior, 1000, seed=0).effect.std()), 3)
        0.05
    """
    common = score = normal_draws(1, n_draws, seed, f"{prior.intervention_type} effect")[0]
    tested = prior.variants.get(variant) if variant is not None else None
    if variant is not None:
        shared = tested.correlation if tested else prior.correlation
        own = normal_draws(1, n_draws, seed, f"{prior.intervention_type} variant {variant}")[0]
        score = shared * score + float(np.sqrt(1.0 - shared**2)) * own
    if not prior.scenarios:
        return BaseEffect(prior.mean + float(np.hypot(prior.sd, prior.between_sd)) * score, score=common)
    quantiles = [scenario.quantiles for scenario in prior.scenarios] if tested is None else list(tested.quantiles)
    shape = _draw_scenario(prior, n_draws, seed)
    effect = np.empty(n_draws)
    for number, ordered in enumerate(quantiles):
        rows = shape == number
        effect[rows] = _from_score(score[rows], np.array(ordered))
    factors = np.array([(scenario.contacts, scenario.weeks, scenario.intensity) for scenario in prior.scenarios])
    contacts, weeks, intensity = factors[shape].T
    return BaseEffect(effect, contacts, weeks, intensity, common)


def _draw_scenario(prior: EffectPrior, n_draws: int, seed: int) -> npt.NDArray[np.intp]:
    upto = np.cumsum([scenario.weight for scenario in prior.scenarios])
    level = ndtr(normal_draws(1, n_draws, seed, f"{prior.intervention_type} response")[0]) * upto[-1]
    return np.asarray(np.minimum(np.searchsorted(upto, level), len(upto) - 1))


def effect_by_score(quantiles: Sequence[float]) -> float:
    """Covariance of an effect with its normal score, given its quantiles at ``SCORES``.

    Example:
        >>> round(effect_by_score((0.05 + 0.02 * SCORES).tolist()), 4)
        0.02
    """
    usual = strata(_USUAL_DRAWS)
    return float((usual * _from_score(usual, np.array(quantiles))).mean() / (usual**2).mean())


def _from_score(score: Floats, quantiles: Floats) -> Floats:
    """Quantiles at normal scores: linear between those that are stored, and beyond them with the slope at the end."""
    inside = np.interp(score, SCORES, quantiles)
    step = SCORES[1] - SCORES[0]
    below = np.minimum(score - SCORES[0], 0.0) * (quantiles[1] - quantiles[0]) / step
    above = np.maximum(score - SCORES[-1], 0.0) * (quantiles[-1] - quantiles[-2]) / step
    return np.asarray(inside + below + above)


def prior_interval(prior: EffectPrior, level: float = 0.95) -> tuple[float, float]:
    """Central interval of the base effect of the next campaign.

    Example:
        >>> prior = EffectPrior(intervention_type="email_campaign", mean=0.05, sd=0.03, between_sd=0.04)
        >>> [round(end, 3) for end in prior_interval(prior)]
        [-0.048, 0.148]
    """
    scores = ndtri([(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    if not prior.scenarios:
        low, high = (prior.mean + float(np.hypot(prior.sd, prior.between_sd)) * scores).tolist()
        return low, high
    return _interval(prior.scenarios, *scores.tolist())


@lru_cache(maxsize=256)
def _interval(scenarios: tuple[EffectScenario, ...], low: float, high: float) -> tuple[float, float]:
    usual = strata(_USUAL_DRAWS)
    drawn = np.concatenate([_from_score(usual, np.array(scenario.quantiles)) for scenario in scenarios])
    weight = np.repeat([scenario.weight for scenario in scenarios], len(usual))
    order = np.argsort(drawn, kind="stable")
    upto = np.cumsum(weight[order]) / weight.sum()
    lower, upper = np.interp(ndtr([low, high]), upto, drawn[order]).tolist()
    return lower, upper

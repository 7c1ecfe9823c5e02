"""The recommendation that follows from a simulated effect, and the doubts that keep it from a decision without a test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.effects.base_effect import prior_interval
from engine.effects.effect_model import contacts, dose_response, reference_dose, typical_dose
from schemas.base import count_of
from schemas.effect_priors import EffectPrior
from schemas.interventions import REFERENCE_INTENSITY
from schemas.simulation_models import InterventionConfig, SimulationRecommendation

__all__ = ["ENOUGH_EXPERIMENTS", "FAR_DOSE", "Criteria", "Recommendation", "dose_distance", "effect_text", "recommend"]

FAR_DOSE = 4.0
"""Factor in contacts, weeks or intensity from every tested dose beyond which no decision is made without a test."""

ENOUGH_EXPERIMENTS = 3
"""Experiments from which on an effect is believed that contradicts the catalogue."""

_IN_PLURAL = "calibrated by 1 real experiments"
_TELLS_BORROWED = 4  # method: answers of earlier ones are repeated as they were
_FARTHEST = 30.0  # logarithm of the largest distance


class Criteria(NamedTuple):
    """What a decision needs.

    Attributes:
        min_effect: smallest effect worth a deployment, a fraction.
        confidence: probability that a decision needs.
        require_test: a deployment needs a real experiment on its intervention.
    """

    min_effect: float
    confidence: float
    require_test: bool = False


class Recommendation(NamedTuple):
    """A recommendation with its reason; ``rests_on_assumption`` where it is to deploy what no experiment has tested."""

    decision: SimulationRecommendation
    reason: str
    rests_on_assumption: bool = False


def recommend(
    estimate: float, worthwhile: float, prior: EffectPrior, config: InterventionConfig, criteria: Criteria, unit: str
) -> Recommendation:
    """The decision by the probability that the effect is worthwhile, unless the effect is too little tested for it.

    Args:
        estimate: average effect.
        worthwhile: probability that it reaches ``criteria.min_effect``.
        prior: of the intervention; one of method 1 is judged by the probability alone, as it was then.
        config: the intervention.
        criteria: what a decision needs.
        unit: of the effect.
    """
    decision, reason = _by_probability(estimate, worthwhile, criteria, unit)
    if prior.method == 1 or decision is SimulationRecommendation.TEST_FURTHER:
        return Recommendation(decision, reason)
    doubt = _doubt(decision, prior, config, criteria)
    if doubt is not None:
        return Recommendation(SimulationRecommendation.TEST_FURTHER, f"{reason}, but {doubt}: test it first")
    if decision is SimulationRecommendation.DEPLOY and prior.n_experiments == 0:
        return Recommendation(
            decision, f"{reason}; this rests on an assumption of the catalogue that no experiment has tested", True
        )
    return Recommendation(decision, reason)


def dose_distance(prior: EffectPrior, config: InterventionConfig) -> float:
    """Factor between the dose of a campaign and the nearest tested one, in contacts, weeks or intensity; at least 1.

    While no experiment is known, the reference dose of the catalogue is the nearest.

    Example:
        >>> once = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="once", duration_weeks=2)
        >>> dose_distance(EffectPrior(intervention_type="email_campaign", mean=0.05, sd=0.02), once)
        6.0
    """
    intensity = REFERENCE_INTENSITY if config.intensity is None else config.intensity
    own = np.log([contacts(config.frequency, config.duration_weeks), config.duration_weeks, intensity])
    doses = [np.log([dose.contacts, dose.weeks, dose.intensity]) for dose in prior.tested or (reference_dose(),)]
    distance = float(np.abs(np.array(doses) - own).max(axis=1).min())
    return round(float(np.exp(min(distance, _FARTHEST))), 9)


def effect_text(prior: EffectPrior, config: InterventionConfig, factor: float) -> str:
    """The factors that an effect is a product of, as a sentence; ``factor`` is the mean of those of the twins."""
    source = f"learned from {_experiments(prior)}" if prior.n_experiments else "not yet tested by an experiment"
    if prior.borrowed and prior.method >= _TELLS_BORROWED:
        source = f"{source}, {prior.borrowed}"
    dose = float(dose_response(config, typical_dose(config)))
    return (
        f"a base effect of {prior.mean:.1%} {_spread_text(prior)} ({source}), of which this channel, frequency, duration and"
        f" intensity reach {dose:.0%}, and these twins {factor:.0%} of that"
    )


def _experiments(prior: EffectPrior) -> str:
    """How many experiments a prior has learned from; answers by one that has them in the plural are repeated as they were."""
    return "1 experiments" if _IN_PLURAL in prior.source else count_of(prior.n_experiments, "experiment")


def _by_probability(estimate: float, worthwhile: float, criteria: Criteria, unit: str) -> tuple[SimulationRecommendation, str]:
    threshold, needed = criteria.min_effect, criteria.confidence
    chance = f"the effect reaches {threshold:.1%} {unit} with probability {worthwhile:.0%}"
    if worthwhile >= needed and estimate > 0:
        return SimulationRecommendation.DEPLOY, f"{chance}; {needed:.0%} are enough to deploy"
    if 1.0 - worthwhile >= needed:
        return SimulationRecommendation.DO_NOT_DEPLOY, f"{chance}, so it stays below with at least the {needed:.0%} needed"
    return SimulationRecommendation.TEST_FURTHER, f"{chance}; {needed:.0%} either way are needed for a decision without a test"


def _doubt(decision: SimulationRecommendation, prior: EffectPrior, config: InterventionConfig, criteria: Criteria) -> str | None:
    """Why a decision has to wait for a test; None where it has not."""
    distance = dose_distance(prior, config)
    if distance > FAR_DOSE:
        nearest = "any tested one" if prior.tested else "the reference dose, and none is tested"
        return f"its dose is a factor of {distance:.1f} from {nearest}, more than {FAR_DOSE:g}"
    if decision is not SimulationRecommendation.DEPLOY:
        return None
    if criteria.require_test and prior.n_experiments == 0:
        return "this line demands a real experiment before a deployment, and there is none"
    if prior.contradicted and prior.n_experiments < ENOUGH_EXPERIMENTS:
        return (
            f"what was found contradicts the catalogue, and {prior.n_experiments} of the {ENOUGH_EXPERIMENTS} experiments that"
            " outweigh it are known"
        )
    return None


def _spread_text(prior: EffectPrior) -> str:
    if prior.method == 1:
        return f"± {float(np.hypot(prior.sd, prior.between_sd)):.1%}"
    low, high = prior_interval(prior)
    return f"({low:.1%} to {high:.1%})"

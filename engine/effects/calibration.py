"""Calibrate the effect of an intervention by real experiments: a Bayesian hierarchical model, integrated over its parameters.

The model is that of :mod:`engine.effects.effect_posterior`. The response to dose is learned with it: for each of a few shapes of
the response (:data:`engine.effects.base_effect.RESPONSES`) the effects that experiments observed at their doses are converted to
the reference dose, and shapes under which they agree with each other and with the catalogue weigh more. So an effect that was seen
at a small dose is not blown up by a response that nobody has tested, and the interval widens with the distance from tested doses.
Estimates shrink toward the prior by their noise, which also corrects the winner's curse of testing what looked best.

No library serves: a sampler such as PyMC needs seconds and gives slightly different numbers with each build, while a calibration
must give the same prior whenever it is repeated from the stored experiments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from engine.effects.base_effect import SCORES, effect_by_score
from engine.effects.effect_model import catalogue_prior, tested_dose
from engine.effects.effect_posterior import NormalMixture, Posterior, mixture_quantiles
from engine.effects.experiment_fits import (
    Inputs,
    ResponseFit,
    dose_reach,
    fit_responses,
    own_effects,
    square_root,
    variant_numbers,
)
from engine.effects.learned_parameters import Moments
from engine.effects.parameter_learning import Beliefs, OwnEffects, learn_from_subgroups, parameters_of, taught
from engine.effects.similar_campaigns import borrow, effects_elsewhere
from schemas.arrays import Floats
from schemas.base import count_of
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.effect_priors import EFFECTS_METHOD, EffectPrior, EffectScenario, LearnedParameters, VariantEffect
from schemas.events import ExperimentResult
from schemas.interventions import INTERVENTIONS
from schemas.simulation_models import Reach

__all__ = ["CONTRADICTION", "calibrate", "surprise"]

CONTRADICTION = 2.0
"""Predictive standard deviations from the catalogue's expectation beyond which an experiment contradicts it."""


def calibrate(
    prior: EffectPrior,
    experiments: Iterable[ExperimentResult],
    reaches: Mapping[str, Reach] = MappingProxyType({}),
    others: Iterable[ExperimentResult] = (),
) -> EffectPrior:
    """Update the prior of an effect by a set of real experiments; the result does not depend on their order.

    Args:
        prior: the catalogue's prior, version 0.
        experiments: on this intervention, at any dose and in any population; repeated results count once.
        reaches: share of the base effect that each experiment reached, by its id (:meth:`SimulationEngine.reach` on twins of the
            people in the experiment); without an entry an average population is assumed, and only the dose counts.
        others: experiments on other interventions with the same people: their subgroups teach who responds, and while this one
            has no experiment, those by its own channel how far the catalogue is off (:mod:`engine.effects.similar_campaigns`).

    Returns:
        The mean with its standard deviation ``sd``, and ``between_sd`` such that the 95 % interval of the next campaign's true
        effect is as wide as that of the posterior; its whole distribution by the shape of the response, and that of each variant.
        Its version is the number of experiments; without any it is ``prior`` itself. Experiments that measure another outcome, in
        another unit or on another kind of people do not count.

    Raises:
        ValueError: for a prior that is calibrated already, experiments on another intervention, or different results with the same
            id.

    References:
        Gelman et al. (2013), sections 5.4 and 5.5.

    Example:
        >>> from datetime import UTC, datetime
        >>> from engine.effects.effect_model import catalogue_prior
        >>> from schemas import InterventionConfig
        >>> e_mails = InterventionConfig(
        ...     intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12
        ... )
        >>> spring = ExperimentResult(
        ...     experiment_id="spring",
        ...     observed_at=datetime(2026, 3, 1, tzinfo=UTC),
        ...     twin_type="hcp",
        ...     brand="kisqali",
        ...     intervention=e_mails,
        ...     effect=0.02,
        ...     standard_error=0.01,
        ...     n_treated=400,
        ...     n_control=400,
        ... )
        >>> calibrated = calibrate(catalogue_prior("email_campaign"), [spring])
        >>> 0.02 < calibrated.mean < 0.05, calibrated.n_experiments
        (True, 1)
    """
    if prior.version != 0:
        raise ValueError(
            f"prior version {prior.version} is already calibrated by experiments: start from the catalogue's, version 0"
        )
    results = [result for result in _distinct_results(prior, experiments) if result.measures_target]
    elsewhere = sorted((result for result in others if _teaches(result, prior)), key=lambda result: result.experiment_id)
    if prior.sd == 0:
        return prior
    if not results:
        return borrow(prior, elsewhere, reaches)
    results.sort(key=lambda result: (result.variant is None, result.variant or "", result.experiment_id))
    reporting = [result for result in elsewhere if result.subgroups]
    inputs = Inputs(prior, results, reaches, parameters_of(prior.intervention_type, results, reporting, reaches))
    beliefs = Beliefs.of_catalogue(inputs.parameters)
    if reporting or any(result.subgroups for result in results):
        effects = own_effects(fit_responses(inputs, beliefs)), effects_elsewhere(reporting, elsewhere, reaches)
        both = OwnEffects(*map(np.concatenate, zip(*effects, strict=True)))
        beliefs = learn_from_subgroups(inputs.parameters, [*results, *reporting], reaches, both)
    return _calibrated(inputs, fit_responses(inputs, beliefs), beliefs)


def _teaches(result: ExperimentResult, prior: EffectPrior) -> bool:
    """Whether an experiment on another intervention tells anything about that of ``prior``."""
    kind = result.intervention.intervention_type
    return result.measures_target and kind != prior.intervention_type and kind in INTERVENTIONS and catalogue_prior(kind).sd > 0


def _calibrated(inputs: Inputs, fits: Sequence[ResponseFit], beliefs: Beliefs) -> EffectPrior:
    prior, results, reaches, _ = inputs
    posteriors, weight = [fit.posterior for fit in fits], np.array([fit.weight for fit in fits])
    quantiles = [mixture_quantiles(*posterior.next_campaign(), SCORES).tolist() for posterior in posteriors]
    points = np.concatenate([share * posterior.weight for share, posterior in zip(weight, posteriors, strict=True)])
    mean, variance = (np.concatenate([getattr(posterior, name) for posterior in posteriors]) for name in ("mean", "variance"))
    following = [posterior.next_campaign() for posterior in posteriors]
    next_weight = np.concatenate([share * part.weight for share, part in zip(weight, following, strict=True)])
    next_mean, next_sd = (np.concatenate([getattr(part, name) for part in following]) for name in ("mean", "sd"))
    total_sd = NormalMixture(next_weight, next_mean, next_sd).equivalent_sd
    sd = min(NormalMixture(points, mean, np.sqrt(variance)).equivalent_sd, total_sd)
    return EffectPrior(
        intervention_type=prior.intervention_type,
        mean=float(points @ mean),
        sd=sd,
        between_sd=float(np.sqrt(max(total_sd**2 - sd**2, 0.0))),
        version=len(results),
        n_experiments=prior.n_experiments + len(results),
        source=f"calibrated by {count_of(len(results), 'real experiment')} on a prior of {prior.mean:g} with a deviation of"
        f" {prior.sd:g}",
        method=EFFECTS_METHOD,
        scenarios=tuple(
            EffectScenario(
                weight=share,
                contacts=response.contacts,
                weeks=response.weeks,
                intensity=response.intensity,
                quantiles=tuple(ordered),
            )
            for (response, share, _, _), ordered in zip(fits, quantiles, strict=True)
        ),
        variants=_variant_effects(results, posteriors, weight),
        correlation=min(1.0, sd / total_sd),
        tested=tuple(dict.fromkeys((*prior.tested, *(tested_dose(result.intervention) for result in results)))),
        contradicted=any(abs(surprise(prior, result, reaches.get(result.experiment_id))) > CONTRADICTION for result in results),
        learned=_learned(inputs, fits, beliefs, quantiles),
    )


def _learned(
    inputs: Inputs, fits: Sequence[ResponseFit], beliefs: Beliefs, quantiles: Sequence[Sequence[float]]
) -> LearnedParameters | None:
    """What the experiments taught about the parameters; None where that is nothing."""
    parameters, weight = inputs.parameters, np.array([fit.weight for fit in fits])
    root, shared = square_root(beliefs.covariance), [fit.posterior.shared() for fit in fits]
    means = np.array([part.mean for part in shared])
    mean = weight @ means
    covariance = np.tensordot(weight, [part.covariance for part in shared], axes=1)
    covariance += ((means - mean) * weight[:, None]).T @ (means - mean)
    covariance = root @ covariance @ root.T
    by_score = float(weight @ [effect_by_score(ordered) for ordered in quantiles])
    with_score = root @ (weight @ np.array([part.with_effect for part in shared])) / by_score
    mean = beliefs.mean + root @ mean
    return taught(parameters, Moments(mean, covariance, with_score), beliefs)


def _variant_effects(
    results: Sequence[ExperimentResult], posteriors: Sequence[Posterior], weight: Floats
) -> dict[str, VariantEffect]:
    effects = {}
    for number, result in zip(variant_numbers(results).tolist(), results, strict=True):
        if result.variant is None or result.variant in effects:
            continue
        ordered, correlation = [], 0.0
        for share, posterior in zip(weight.tolist(), posteriors, strict=True):
            following, shared = posterior.next_of_variant(number)
            ordered.append(tuple(mixture_quantiles(*following, SCORES).tolist()))
            correlation += share * shared
        effects[result.variant] = VariantEffect(quantiles=tuple(ordered), correlation=min(1.0, correlation))
    return effects


def surprise(prior: EffectPrior, experiment: ExperimentResult, reach: Reach | None = None) -> float:
    """Distance of an experiment's effect from the one that ``prior`` predicts for it, in predictive standard deviations.

    The prediction has the uncertainty of the mean, the spread between experiments, that of the reach, and the standard error.

    Args:
        prior: without this experiment.
        experiment: on the prior's intervention.
        reach: share of the base effect that it reached, as for :func:`calibrate`.

    References:
        Box (1980), Sampling and Bayes' inference in scientific modelling and robustness. JRSS A 143 (prior predictive check).

    Example:
        >>> from datetime import UTC, datetime
        >>> from engine.effects.effect_model import catalogue_prior
        >>> from schemas import InterventionConfig
        >>> e_mails = InterventionConfig(
        ...     intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12
        ... )
        >>> spring = ExperimentResult(
        ...     experiment_id="spring",
        ...     observed_at=datetime(2026, 3, 1, tzinfo=UTC),
        ...     twin_type="hcp",
        ...     brand="kisqali",
        ...     intervention=e_mails,
        ...     effect=0.20,
        ...     standard_error=0.01,
        ...     n_treated=400,
        ...     n_control=400,
        ... )
        >>> round(surprise(catalogue_prior("email_campaign"), spring, Reach(mean=1.0)), 2)  # 0.15 / sqrt(0.02**2 + 0.01**2)
        6.71
    """
    reach = reach or dose_reach(experiment.intervention, catalogue_in_effect().sha256)
    parts = (
        experiment.standard_error,
        reach.mean * prior.sd,
        reach.mean * prior.between_sd,
        reach.sd * np.hypot(prior.mean, prior.sd),
    )
    return float((experiment.effect - reach.mean * prior.mean) / np.linalg.norm(parts))


def _distinct_results(prior: EffectPrior, experiments: Iterable[ExperimentResult]) -> list[ExperimentResult]:
    """One result per experiment, in the order of their ids."""
    by_id: dict[str, ExperimentResult] = {}
    for experiment in experiments:
        if experiment.intervention.intervention_type != prior.intervention_type:
            raise ValueError(
                f"experiment {experiment.experiment_id} is about {experiment.intervention.intervention_type},"
                f" not {prior.intervention_type}"
            )
        if by_id.setdefault(experiment.experiment_id, experiment) != experiment:
            raise ValueError(f"experiment {experiment.experiment_id} has two different results")
    return [by_id[name] for name in sorted(by_id)]

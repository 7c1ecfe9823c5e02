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

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from engine.effects.base_effect import RESPONSES, SCORES, Response, effect_by_score
from engine.effects.effect_model import dose_response, draw_dose, reference_dose, tested_dose, typical_dose
from engine.effects.effect_posterior import Observations, Posterior, fit, mixture_quantiles, prior_components
from engine.effects.learned_parameters import Moments, learned_parameters
from engine.effects.parameter_learning import (
    OWN_SHARE,
    Beliefs,
    OwnEffects,
    Parameters,
    learn_from_subgroups,
    loadings,
    parameters_of,
)
from schemas.arrays import Floats
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.effect_priors import EFFECTS_METHOD, EffectPrior, EffectScenario, LearnedParameters, VariantEffect
from schemas.events import ExperimentResult
from schemas.simulation_models import InterventionConfig, Reach

__all__ = ["CONTRADICTION", "calibrate", "surprise"]

CONTRADICTION = 2.0
"""Predictive standard deviations from the catalogue's expectation beyond which an experiment contradicts it."""

_DOSE_DRAWS = 1000
_HIGH = 0.975
_SEVERAL_CHANNELS = 0.25
"""Uncertainty of the reach, as a share of it, where an experiment used several channels: nobody knows which one had the effect."""

_NEGLIGIBLE = 1e-3  # weight of a shape of the response
_TAUGHT = 0.02  # change of a parameter's distribution, in its standard deviations


def calibrate(
    prior: EffectPrior, experiments: Iterable[ExperimentResult], reaches: Mapping[str, Reach] = MappingProxyType({})
) -> EffectPrior:
    """Update the prior of an effect by a set of real experiments; the result does not depend on their order.

    Args:
        prior: the catalogue's prior, version 0.
        experiments: on this intervention, at any dose and in any population; repeated results count once.
        reaches: share of the base effect that each experiment reached, by its id (:meth:`SimulationEngine.reach` on twins of the
            people in the experiment); without an entry an average population is assumed, and only the dose counts.

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
    if not results or prior.sd == 0:
        return prior
    results.sort(key=lambda result: (result.variant is None, result.variant or "", result.experiment_id))
    inputs = _Inputs(prior, results, reaches, parameters_of(results, reaches))
    beliefs = Beliefs.of_catalogue(inputs.parameters)
    if any(result.subgroups for result in results):
        beliefs = learn_from_subgroups(inputs.parameters, results, reaches, _own_effects(_fit_all(inputs, beliefs)))
    fits = _fit_all(inputs, beliefs)
    return _calibrated(inputs, fits, beliefs)


class _Inputs(NamedTuple):
    """What a calibration is given, and the parameters that it can learn."""

    prior: EffectPrior
    results: Sequence[ExperimentResult]
    reaches: Mapping[str, Reach]
    parameters: Parameters


class _Fit(NamedTuple):
    """The posterior if the response has one shape, the weight of this shape, and the reach of each experiment, ``(k,)``."""

    response: Response
    weight: float
    posterior: Posterior
    reach: Floats


def _fit_all(inputs: _Inputs, beliefs: Beliefs) -> list[_Fit]:
    """The posterior for each shape of the response that is not negligible, with its weight."""
    root = _root(beliefs.covariance)
    fitted = [_fit(inputs, response, beliefs, root) for response in RESPONSES]
    weight = _weights([posterior.log_evidence for posterior, _ in fitted])
    likely = np.flatnonzero(weight >= _NEGLIGIBLE)
    weight = weight[likely] / weight[likely].sum()
    return [_Fit(RESPONSES[i], share, *fitted[i]) for i, share in zip(likely.tolist(), weight.tolist(), strict=True)]


def _fit(inputs: _Inputs, response: Response, beliefs: Beliefs, root: Floats) -> tuple[Posterior, Floats]:
    """The posterior if the response has this shape, and the reaches; its evidence is that of the effects as they were observed.

    The uncertainty of the reach is scaled by the effect that the prior expects, not by the observed one: the next campaign at that
    dose has the same uncertainty, so a surprising result must not be attributed to it.
    """
    prior, results = inputs.prior, inputs.results
    rows = [_base_effect(result, inputs.reaches.get(result.experiment_id), response) for result in results]
    effect, sampling, reach, doubt = np.transpose(rows)
    scale = float(np.hypot(prior.mean, prior.sd))
    slopes = loadings(inputs.parameters, results, inputs.reaches, partial(_half_slopes, response=response))
    slopes = slopes * _explained(inputs.parameters, slopes, doubt)[:, None]
    several = np.array([_SEVERAL_CHANNELS if len(result.channels) > 1 else 0.0 for result in results])
    left = np.hypot(several, np.sqrt(np.maximum(doubt**2 - slopes**2 @ inputs.parameters.sd**2, 0.0)))
    observed = Observations(
        effect - scale * (slopes @ beliefs.mean),
        np.hypot(sampling, scale * left),
        sampling,
        _variant_numbers(results),
        scale * (slopes @ root),
    )
    posterior = fit(prior_components(prior.mean, prior.sd), observed)
    return replace(posterior, log_evidence=posterior.log_evidence - float(np.log(reach).sum())), reach


def _explained(parameters: Parameters, slopes: Floats, doubt: Floats) -> Floats:
    """Factor of each experiment's loadings, such that they explain at most the uncertainty of its reach, ``(k,)``."""
    explained = np.sqrt(slopes**2 @ parameters.sd**2)
    return np.where(explained > doubt, doubt / np.where(explained > 0, explained, 1.0), 1.0)


def _half_slopes(result: ExperimentResult, response: Response) -> tuple[float, ...]:
    """Growth of the logarithm of the response by that of each dose of half the maximal one."""
    halves, tested, usual = typical_dose(result.intervention, *response[:3]), tested_dose(result.intervention), reference_dose()
    return (
        _half_slope(tested.contacts, usual.contacts, halves.half_contacts),
        _half_slope(tested.weeks, usual.weeks, halves.half_weeks),
        _half_slope(tested.intensity, usual.intensity, halves.half_intensity),
    )


def _half_slope(amount: float, reference: float, half: float | Floats) -> float:
    """Derivative of ``log(amount / (amount + half)) - log(reference / (reference + half))`` by ``log(half)``."""
    return float(half / (reference + half) - half / (amount + half))


def _root(covariance: Floats) -> Floats:
    own, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(own, 0.0)))


def _own_effects(fits: Sequence[_Fit]) -> OwnEffects:
    """Posterior mean and variance of the effect of each experiment in its own people, at its own dose."""
    moments = [(fit.weight, fit.reach, *fit.posterior.campaigns()) for fit in fits]
    mean = sum(weight * reach * first for weight, reach, first, _ in moments)
    square = sum(weight * reach**2 * second for weight, reach, _, second in moments)
    return OwnEffects(np.asarray(mean), np.maximum(square - mean**2, 0.0))


def _variant_numbers(results: Sequence[ExperimentResult]) -> npt.NDArray[np.intp]:
    """Number of each result's variant, in order; one without a name is alone."""
    is_new = [
        number == 0 or result.variant is None or result.variant != results[number - 1].variant
        for number, result in enumerate(results)
    ]
    return np.cumsum(is_new) - 1


def _weights(log_evidence: Sequence[float]) -> Floats:
    log_weight = np.log([response.probability for response in RESPONSES]) + np.array(log_evidence)
    weight = np.exp(log_weight - log_weight.max())
    return np.asarray(weight / weight.sum())


def _calibrated(inputs: _Inputs, fits: Sequence[_Fit], beliefs: Beliefs) -> EffectPrior:
    prior, results, reaches, _ = inputs
    posteriors, weight = [fit.posterior for fit in fits], np.array([fit.weight for fit in fits])
    quantiles = [mixture_quantiles(*posterior.next_campaign(), SCORES).tolist() for posterior in posteriors]
    points = np.concatenate([share * posterior.weight for share, posterior in zip(weight, posteriors, strict=True)])
    mean, variance = (np.concatenate([getattr(posterior, name) for posterior in posteriors]) for name in ("mean", "variance"))
    following = [posterior.next_campaign() for posterior in posteriors]
    next_weight = np.concatenate([share * part.weight for share, part in zip(weight, following, strict=True)])
    next_mean, next_sd = (np.concatenate([getattr(part, name) for part in following]) for name in ("mean", "sd"))
    total_sd = _equivalent_sd(next_weight, next_mean, next_sd)
    sd = min(_equivalent_sd(points, mean, np.sqrt(variance)), total_sd)
    return EffectPrior(
        intervention_type=prior.intervention_type,
        mean=float(points @ mean),
        sd=sd,
        between_sd=float(np.sqrt(max(total_sd**2 - sd**2, 0.0))),
        version=len(results),
        n_experiments=prior.n_experiments + len(results),
        source=f"calibrated by {len(results)} real experiments on a prior of {prior.mean:g} with a deviation of {prior.sd:g}",
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


def _equivalent_sd(weight: Floats, mean: Floats, sd: Floats) -> float:
    """Standard deviation of the normal distribution whose 95 % interval is as wide as that of a mixture."""
    score = float(ndtri(_HIGH))
    low, high = mixture_quantiles(weight, mean, sd, np.array([-score, score])).tolist()
    return float(high - low) / (2.0 * score)


def _learned(
    inputs: _Inputs, fits: Sequence[_Fit], beliefs: Beliefs, quantiles: Sequence[Sequence[float]]
) -> LearnedParameters | None:
    """What the experiments taught about the parameters; None where that is nothing."""
    parameters, weight = inputs.parameters, np.array([fit.weight for fit in fits])
    root, shared = _root(beliefs.covariance), [fit.posterior.shared() for fit in fits]
    means = np.array([part.mean for part in shared])
    mean = weight @ means
    covariance = np.tensordot(weight, [part.covariance for part in shared], axes=1)
    covariance += ((means - mean) * weight[:, None]).T @ (means - mean)
    covariance = root @ covariance @ root.T
    by_score = float(weight @ [effect_by_score(ordered) for ordered in quantiles])
    with_score = root @ (weight @ np.array([part.with_effect for part in shared])) / by_score
    mean = beliefs.mean + root @ mean
    prior_sd = np.sqrt(np.diagonal(Beliefs.of_catalogue(parameters).covariance))
    taught = np.abs(mean) + np.abs(with_score) + np.abs(prior_sd - np.sqrt(np.diagonal(covariance))) > _TAUGHT * prior_sd
    n = len(parameters.names)
    taught[n:] = True
    if not taught.any():
        return None
    level_sd = math.sqrt(beliefs.level_variance)
    return learned_parameters(
        [name for name, is_taught in zip(parameters.names, taught[:n], strict=True) if is_taught],
        parameters.levels,
        Moments((parameters.mean + mean)[taught], covariance[np.ix_(taught, taught)], with_score[taught]),
        sorted({group.dimension for result in inputs.results for group in result.subgroups}),
        (math.sqrt(OWN_SHARE) * level_sd, level_sd),
    )


def _variant_effects(
    results: Sequence[ExperimentResult], posteriors: Sequence[Posterior], weight: Floats
) -> dict[str, VariantEffect]:
    effects = {}
    for number, result in zip(_variant_numbers(results).tolist(), results, strict=True):
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
    reach = reach or _dose_reach(experiment.intervention, catalogue_in_effect().sha256)
    parts = (
        experiment.standard_error,
        reach.mean * prior.sd,
        reach.mean * prior.between_sd,
        reach.sd * np.hypot(prior.mean, prior.sd),
    )
    return float((experiment.effect - reach.mean * prior.mean) / np.linalg.norm(parts))


def _base_effect(experiment: ExperimentResult, reach: Reach | None, response: Response) -> tuple[float, float, float, float]:
    """Base effect estimated by an experiment, its standard error, its reach, and the reach's relative standard deviation."""
    catalogue = catalogue_in_effect().sha256
    reach = reach or _dose_reach(experiment.intervention, catalogue)
    mean = reach.mean * _relative_response(experiment.intervention.model_copy(update={"variant": None}), response, catalogue)
    return experiment.effect / mean, experiment.standard_error / mean, mean, reach.sd / reach.mean


@lru_cache(maxsize=4096)
def _relative_response(config: InterventionConfig, response: Response, _catalogue: str) -> float:
    """Response to the dose of an experiment if it has this shape, as a multiple of that in the catalogue."""
    learned = typical_dose(config, response.contacts, response.weeks, response.intensity)
    return float(dose_response(config, learned) / dose_response(config, typical_dose(config)))


@lru_cache(maxsize=256)
def _dose_reach(config: InterventionConfig, _catalogue: str) -> Reach:
    drawn = np.broadcast_to(dose_response(config, draw_dose(config, _DOSE_DRAWS, seed=0)), _DOSE_DRAWS)
    return Reach(mean=float(drawn.mean()), sd=float(drawn.std()))


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

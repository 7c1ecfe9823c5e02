"""The posterior of base effects given experiments, for each shape of the response to dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.effects.base_effect import RESPONSES, Response
from engine.effects.effect_model import dose_response, draw_dose, reference_dose, tested_dose, typical_dose
from engine.effects.effect_posterior import Components, Observations, Posterior, fit, given_past, prior_components
from engine.effects.parameter_learning import Beliefs, OwnEffects, Parameters, loadings
from schemas.arrays import Floats
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.effect_priors import EffectPrior
from schemas.events import ExperimentResult
from schemas.interventions import INTERVENTIONS
from schemas.simulation_models import InterventionConfig, Reach

__all__ = ["Inputs", "ResponseFit", "dose_reach", "fit_responses", "own_effects", "square_root", "variant_numbers"]

_DOSE_DRAWS = 1000
_SEVERAL_CHANNELS = 0.25
"""Uncertainty of the reach, as a share of it, where an experiment used several channels: nobody knows which one had the effect."""

_NEGLIGIBLE = 1e-3  # weight of a shape of the response


class Inputs(NamedTuple):
    """What a calibration is given, and the parameters that it can learn."""

    prior: EffectPrior
    results: Sequence[ExperimentResult]
    reaches: Mapping[str, Reach]
    parameters: Parameters


class ResponseFit(NamedTuple):
    """The posterior if the response has one shape, the weight of this shape, and the reach of each experiment, ``(k,)``."""

    response: Response
    weight: float
    posterior: Posterior
    reach: Floats


def fit_responses(inputs: Inputs, beliefs: Beliefs) -> list[ResponseFit]:
    """The posterior for each shape of the response that is not negligible, with its weight."""
    root = square_root(beliefs.covariance)
    doses = _doses(inputs.results)
    slopes = loadings(inputs.parameters, inputs.results, inputs.reaches, doses.half_slopes)
    fitted = [_fit(inputs, *shape, beliefs, root) for shape in zip(doses.relative_response, slopes, strict=True)]
    weight = _weights([posterior.log_evidence for posterior, _ in fitted])
    likely = np.flatnonzero(weight >= _NEGLIGIBLE)
    weight = weight[likely] / weight[likely].sum()
    return [ResponseFit(RESPONSES[i], share, *fitted[i]) for i, share in zip(likely.tolist(), weight.tolist(), strict=True)]


def _fit(inputs: Inputs, relative_response: Floats, slopes: Floats, beliefs: Beliefs, root: Floats) -> tuple[Posterior, Floats]:
    """The posterior if the response has one shape, and the reaches; its evidence is that of the effects as they were observed.

    The uncertainty of the reach is scaled by the effect that the prior expects, not by the observed one: the next campaign at that
    dose has the same uncertainty, so a surprising result must not be attributed to it.
    """
    prior, results = inputs.prior, inputs.results
    rows = [_observed(result, inputs.reaches.get(result.experiment_id)) for result in results]
    effect, sampling, reach, doubt = np.transpose(rows)
    reach = reach * relative_response
    effect, sampling = effect / reach, sampling / reach
    scale = float(np.hypot(prior.mean, prior.sd))
    slopes = slopes * _explained(inputs.parameters, slopes, doubt)[:, None]
    several = np.array([_SEVERAL_CHANNELS if len(result.channels) > 1 else 0.0 for result in results])
    common = inputs.parameters.sd**2 - inputs.parameters.own
    left = np.hypot(several, np.sqrt(np.maximum(doubt**2 - slopes**2 @ common, 0.0)))
    observed = Observations(
        effect - scale * (slopes @ beliefs.mean),
        np.hypot(sampling, scale * left),
        sampling,
        variant_numbers(results),
        scale * (slopes @ root),
    )
    posterior = fit(_components(prior), observed)
    return replace(posterior, log_evidence=posterior.log_evidence - float(np.log(reach).sum())), reach


def _components(prior: EffectPrior) -> Components:
    """The prior of the mean effect, given the past experiments that the catalogue's effect was pooled from."""
    components, past = prior_components(prior.mean, prior.sd), INTERVENTIONS[prior.intervention_type].past_experiments
    if not past:
        return components
    effect, error = np.array([(experiment.effect, experiment.standard_error) for experiment in past]).T
    return given_past(components, effect, error)


def _explained(parameters: Parameters, slopes: Floats, doubt: Floats) -> Floats:
    """Factor of each experiment's loadings, such that they explain at most the uncertainty of its reach, ``(k,)``."""
    explained = np.sqrt(slopes**2 @ parameters.sd**2)
    return np.where(explained > doubt, doubt / np.where(explained > 0, explained, 1.0), 1.0)


class _Doses(NamedTuple):
    """What each shape of the response says of the dose of each experiment.

    Attributes:
        relative_response: response as a multiple of that in the catalogue, ``(responses, k)``.
        half_slopes: growth of its logarithm by that of each dose of half the maximal one, ``(responses, k, 3)``.
    """

    relative_response: Floats
    half_slopes: Floats


def _doses(results: Sequence[ExperimentResult]) -> _Doses:
    """The doses of experiments; many have the same one, which is computed once."""
    catalogue = catalogue_in_effect().sha256
    by_config: dict[InterventionConfig, npt.NDArray[np.floating]] = {}
    for result in results:
        if (config := result.intervention) not in by_config:
            dose = config.model_copy(update={"variant": None})
            rows = [(_relative_response(dose, shape, catalogue), *_half_slopes(dose, shape)) for shape in RESPONSES]
            by_config[config] = np.array(rows)
    stacked = np.stack([by_config[result.intervention] for result in results], axis=1)
    return _Doses(stacked[:, :, 0], stacked[:, :, 1:])


def _half_slopes(config: InterventionConfig, response: Response) -> tuple[float, ...]:
    """Growth of the logarithm of the response by that of each dose of half the maximal one."""
    halves, tested, usual = typical_dose(config, *response[:3]), tested_dose(config), reference_dose()
    return (
        _half_slope(tested.contacts, usual.contacts, halves.half_contacts),
        _half_slope(tested.weeks, usual.weeks, halves.half_weeks),
        _half_slope(tested.intensity, usual.intensity, halves.half_intensity),
    )


def _half_slope(amount: float, reference: float, half: float | Floats) -> float:
    """Derivative of ``log(amount / (amount + half)) - log(reference / (reference + half))`` by ``log(half)``."""
    return float(half / (reference + half) - half / (amount + half))


def square_root(covariance: Floats) -> Floats:
    """A matrix whose product with its transpose is ``covariance``, ``(q, q)``."""
    own, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(own, 0.0)))


def own_effects(fits: Sequence[ResponseFit]) -> OwnEffects:
    """Posterior mean and variance of the effect of each experiment in its own people, at its own dose."""
    moments = [(fit.weight, fit.reach, *fit.posterior.campaigns()) for fit in fits]
    mean = sum(weight * reach * first for weight, reach, first, _ in moments)
    square = sum(weight * reach**2 * second for weight, reach, _, second in moments)
    return OwnEffects(np.asarray(mean), np.maximum(square - mean**2, 0.0))


def variant_numbers(results: Sequence[ExperimentResult]) -> npt.NDArray[np.intp]:
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


def _observed(experiment: ExperimentResult, reach: Reach | None) -> tuple[float, float, float, float]:
    """Effect that an experiment observed, its standard error, its reach by the catalogue, and the reach's relative deviation."""
    reach = reach or dose_reach(experiment.intervention, catalogue_in_effect().sha256)
    return experiment.effect, experiment.standard_error, reach.mean, reach.sd / reach.mean


@lru_cache(maxsize=4096)
def _relative_response(config: InterventionConfig, response: Response, _catalogue: str) -> float:
    """Response to the dose of an experiment if it has this shape, as a multiple of that in the catalogue."""
    learned = typical_dose(config, response.contacts, response.weeks, response.intensity)
    return float(dose_response(config, learned) / dose_response(config, typical_dose(config)))


@lru_cache(maxsize=256)
def dose_reach(config: InterventionConfig, _catalogue: str) -> Reach:
    """Reach of a campaign in average people: that of its dose."""
    drawn = np.broadcast_to(dose_response(config, draw_dose(config, _DOSE_DRAWS, seed=0)), _DOSE_DRAWS)
    return Reach(mean=float(drawn.mean()), sd=float(drawn.std()))

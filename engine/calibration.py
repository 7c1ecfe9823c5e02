"""What real experiments teach about an intervention's effect: a hierarchical normal model, integrated over all its unknowns.

Experiments differ in their true effects, not only by chance::

    observed[i] ~ N(true[i], error[i]**2)      true[i] ~ N(mean, between**2)

Both ``mean`` and ``between`` are unknown. Given ``between`` everything is normal and in closed form; ``between`` itself is summed
over on a grid with its posterior weight (a moment estimate of it would be too sure of itself after a few experiments). Estimates
shrink toward the prior by their noise, which is also what answers the winner's curse of having tested what looked best.

References:
    Gelman et al. (2013), Bayesian Data Analysis, 3rd edition, sections 5.4 and 5.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from engine.effects import dose_response, drawn_dose
from schemas.events import ExperimentResult
from schemas.simulation_models import EffectPrior, InterventionConfig

__all__ = ["calibrate"]

Array = npt.NDArray[np.float64]

BETWEEN_SHARE = 0.5
"""Scale of ``between`` (half-normal) as a share of the prior's standard deviation; the mean has the rest of the variance."""

_GRID = (np.arange(400) + 0.5) / 100.0  # of between, in scales of its prior
_DOSE_DRAWS = 1000
_HIGH = 0.975


def calibrate(prior: EffectPrior, experiments: Iterable[ExperimentResult]) -> EffectPrior:
    """What is believed of an effect after a set of real experiments; their order changes no digit.

    Args:
        prior: the catalogue's belief, version 0.
        experiments: on this intervention, at any dose; the same one twice counts once.

    Returns:
        The mean with its standard deviation ``sd``, and ``between_sd`` such that the 95 % interval of the next campaign's true
        effect is that of the posterior. Its version is the number of experiments; without any it is ``prior`` itself.

    Raises:
        ValueError: for a prior that is calibrated already, experiments on another intervention, or two of the same id that differ.
    """
    if prior.version != 0:
        raise ValueError(
            f"prior version {prior.version} has learned from experiments already: start from the catalogue's, version 0"
        )
    known = _by_id(prior, experiments)
    if not known or prior.sd == 0:
        return prior
    observed, error = np.transpose([_at_reference_dose(experiment, prior) for experiment in known])
    posterior = _posterior(prior, observed, error)
    low, high = posterior.quantile(1 - _HIGH), posterior.quantile(_HIGH)
    mean, sd = posterior.mean_and_deviation()
    total_sd = (high - low) / (2 * float(ndtri(_HIGH)))
    return EffectPrior(
        intervention_type=prior.intervention_type,
        mean=mean,
        sd=sd,
        between_sd=float(np.sqrt(max(total_sd**2 - sd**2, 0.0))),
        version=len(known),
        n_experiments=len(known),
        source=f"calibrated by {len(known)} real experiments on a prior of {prior.mean:g} with a deviation of {prior.sd:g}",
    )


@dataclass(frozen=True)
class _Posterior:
    """A mixture over the grid of ``between``: the weight of each value, and mean and variance of the mean given it."""

    between: Array
    weight: Array
    mean: Array
    variance: Array

    def mean_and_deviation(self) -> tuple[float, float]:
        """Of the mean effect."""
        center = float(self.weight @ self.mean)
        return center, float(np.sqrt(self.weight @ (self.variance + (self.mean - center) ** 2)))

    def quantile(self, probability: float) -> float:
        """Of the true effect of the next campaign."""
        spread = np.sqrt(self.variance + self.between**2)
        reach = 10.0 * spread.max()
        lowest, highest = self.mean.min() - reach, self.mean.max() + reach
        below = lambda effect: float(self.weight @ ndtr((effect - self.mean) / spread)) - probability  # noqa: E731
        return float(brentq(below, lowest, highest, xtol=1e-12))


def _posterior(prior: EffectPrior, observed: Array, error: Array) -> _Posterior:
    """Mixture over ``between`` given effects ``(k,)`` with standard errors ``(k,)``."""
    scale = BETWEEN_SHARE * prior.sd
    between = np.asarray(_GRID * scale)
    prior_precision = 1.0 / (prior.sd**2 - scale**2)
    variance = error**2 + between[:, None] ** 2
    precision = prior_precision + (1.0 / variance).sum(axis=1)
    mean = (prior_precision * prior.mean + (observed / variance).sum(axis=1)) / precision
    misfit = ((observed - mean[:, None]) ** 2 / variance + np.log(variance)).sum(axis=1)
    log_weight = -0.5 * (misfit + prior_precision * (mean - prior.mean) ** 2 + np.log(precision) + _GRID**2)
    weight = np.exp(log_weight - log_weight.max())
    return _Posterior(between, weight / weight.sum(), np.asarray(mean), np.asarray(1.0 / precision))


def _at_reference_dose(experiment: ExperimentResult, prior: EffectPrior) -> tuple[float, float]:
    """Effect and standard error that the experiment would have had at the reference dose; the dose response is uncertain too."""
    reached, spread = _response(experiment.intervention)
    doubt = spread * float(np.hypot(prior.mean, prior.sd))
    return experiment.effect / reached, float(np.hypot(experiment.standard_error, doubt)) / reached


@lru_cache(maxsize=256)
def _response(config: InterventionConfig) -> tuple[float, float]:
    """Mean and standard deviation of the dose response."""
    drawn = np.broadcast_to(dose_response(config, drawn_dose(config, _DOSE_DRAWS, seed=0)), _DOSE_DRAWS)
    return float(drawn.mean()), float(drawn.std())


def _by_id(prior: EffectPrior, experiments: Iterable[ExperimentResult]) -> list[ExperimentResult]:
    known: dict[str, ExperimentResult] = {}
    for experiment in experiments:
        if experiment.intervention.intervention_type != prior.intervention_type:
            raise ValueError(
                f"experiment {experiment.experiment_id} is about {experiment.intervention.intervention_type},"
                f" not {prior.intervention_type}"
            )
        if known.setdefault(experiment.experiment_id, experiment) != experiment:
            raise ValueError(f"experiment {experiment.experiment_id} is told in two ways")
    return [known[name] for name in sorted(known)]

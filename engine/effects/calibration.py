"""What real experiments teach about an intervention's effect: a hierarchical model, integrated over all its unknowns.

Experiments differ in their true effects, not only by chance::

    observed[i] ~ N(true[i], error[i]**2)      true[i] ~ N(mean, between**2)

Neither ``mean`` nor ``between`` is known (campaigns always differ: a ``between`` of 0 has no density, a large one a heavy tail),
nor whether the catalogue is any good: ``mean`` follows its prior or, with a small probability, a normal distribution that is wider
by an unknown factor, so that experiments which flatly contradict the catalogue are believed. Given ``between`` and that factor
everything is normal and in closed form; both are summed over on a grid with their posterior weight (a moment estimate would be too
sure of itself after a few experiments). Estimates shrink toward the prior by their noise, which is also what answers the winner's
curse of having tested what looked best.

References:
    Pérez, Pericchi, Ramírez (2017), The scaled beta2 distribution as a robust prior for scales. Bayesian Analysis 12.
    Gelman et al. (2013), Bayesian Data Analysis, 3rd edition, sections 5.4 and 5.5.
    O'Hagan, Pericchi (2012), Bayesian heavy-tailed models and conflict resolution. Brazilian Journal of Probability 26.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from engine.effects.effect_model import dose_response, draw_dose
from schemas.events import ExperimentResult
from schemas.simulation_models import EffectPrior, InterventionConfig, Reach

__all__ = ["calibrate"]

Array = npt.NDArray[np.float64]

BETWEEN_SCALE = 0.3684
"""In standard deviations of the prior: the square of ``between`` is twice the square of this times an F(2, 6) variable."""

MEAN_SCALE = 0.7090
"""Of ``mean`` where the catalogue is right; with the scale above, the next campaign's effect has the prior's 95 % interval."""

CATALOGUE_WRONG = 0.01
"""Probability that the catalogue is wrong by an unknown factor."""

_BETWEEN = BETWEEN_SCALE * np.geomspace(0.02, 300.0, 60)  # in standard deviations of the prior, as the next
_WIDER = np.geomspace(2.0, 1000.0, 20)
_MEAN = MEAN_SCALE * np.concatenate([[1.0], _WIDER])
_LOG_PRIOR = np.log(np.concatenate([[1.0 - CATALOGUE_WRONG], np.full(20, CATALOGUE_WRONG / 20)]))[:, None] + (
    2.0 * np.log(_BETWEEN) - 4.0 * np.log1p((_BETWEEN / BETWEEN_SCALE) ** 2 / 6.0)  # F(2, 6), on a grid of logarithms
)
_DOSE_DRAWS = 1000
_HIGH = 0.975


def calibrate(
    prior: EffectPrior, experiments: Iterable[ExperimentResult], reaches: Mapping[str, Reach] = MappingProxyType({})
) -> EffectPrior:
    """What is believed of an effect after a set of real experiments; their order changes no digit.

    Args:
        prior: the catalogue's belief, version 0.
        experiments: on this intervention, at any dose and on anyone; the same one twice counts once.
        reaches: share of the base effect that each experiment reached, by its id (:meth:`SimulationEngine.reach` on twins of the
            people it was made on); one that is not named was made on average people, and only its dose counts.

    Returns:
        The mean with its standard deviation ``sd``, and ``between_sd`` such that the 95 % interval of the next campaign's true
        effect is that of the posterior. Its version is the number of experiments; without any it is ``prior`` itself.

    Raises:
        ValueError: for a prior that is calibrated already, experiments on another intervention, or two of the same id that differ.

    References:
        Gelman et al. (2013), sections 5.4 and 5.5.

    Example:
        >>> from datetime import UTC, datetime
        >>> from engine.effects.effect_model import catalogue_prior
        >>> e_mails = InterventionConfig(
        ...     intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12
        ... )
        >>> found = ExperimentResult(
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
        >>> believed = calibrate(catalogue_prior("email_campaign"), [found])
        >>> 0.02 < believed.mean < 0.05, believed.n_experiments
        (True, 1)
    """
    if prior.version != 0:
        raise ValueError(
            f"prior version {prior.version} has learned from experiments already: start from the catalogue's, version 0"
        )
    known = _by_id(prior, experiments)
    if not known or prior.sd == 0:
        return prior
    observed, error = np.transpose([_at_reference(each, prior, reaches.get(each.experiment_id)) for each in known])
    posterior = _posterior(prior, observed, error)
    low, high = posterior.quantile(1 - _HIGH), posterior.quantile(_HIGH)
    mean, sd = posterior.mean_and_deviation()
    total_sd = (high - low) / (2 * float(ndtri(_HIGH)))
    return EffectPrior(
        intervention_type=prior.intervention_type,
        mean=mean,
        sd=min(sd, total_sd),
        between_sd=float(np.sqrt(max(total_sd**2 - sd**2, 0.0))),
        version=len(known),
        n_experiments=len(known),
        source=f"calibrated by {len(known)} real experiments on a prior of {prior.mean:g} with a deviation of {prior.sd:g}",
    )


@dataclass(frozen=True)
class _Posterior:
    """A mixture over ``m`` points: the weight of each, and ``between``, mean and variance of the mean given it, all ``(m,)``."""

    weight: Array
    mean: Array
    variance: Array
    between: Array

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
    """Mixture over the grid given effects ``(k,)`` with standard errors ``(k,)``."""
    between = prior.sd * _BETWEEN
    prior_variance = (prior.sd * _MEAN[:, None]) ** 2
    variance = error**2 + between[:, None] ** 2
    distance = observed - prior.mean
    precision = 1.0 / prior_variance + (1.0 / variance).sum(axis=1)
    shift = (distance / variance).sum(axis=1) / precision
    misfit = (distance**2 / variance + np.log(variance)).sum(axis=1) - shift**2 * precision
    log_weight = _LOG_PRIOR - 0.5 * (misfit + np.log(prior_variance) + np.log(precision))
    weight = np.exp(log_weight - log_weight.max()).ravel()
    likely = weight > 1e-12 * weight.max()
    ends = (prior.mean + shift, 1.0 / precision, np.broadcast_to(between, precision.shape))
    return _Posterior(weight[likely] / weight[likely].sum(), *(each.ravel()[likely] for each in ends))


def _at_reference(experiment: ExperimentResult, prior: EffectPrior, reach: Reach | None) -> tuple[float, float]:
    """Base effect that an experiment found, with its standard error: what it reached of that is uncertain too.

    By as much as the prior expects, not by what was found: the next campaign at that dose shares this doubt, so a surprise must not
    be put down to it.
    """
    reach = reach or _of_the_dose(experiment.intervention)
    effect, error = experiment.effect / reach.mean, experiment.standard_error / reach.mean
    return effect, float(np.hypot(error, np.hypot(prior.mean, prior.sd) * reach.sd / reach.mean))


@lru_cache(maxsize=256)
def _of_the_dose(config: InterventionConfig) -> Reach:
    drawn = np.broadcast_to(dose_response(config, draw_dose(config, _DOSE_DRAWS, seed=0)), _DOSE_DRAWS)
    return Reach(mean=float(drawn.mean()), sd=float(drawn.std()))


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

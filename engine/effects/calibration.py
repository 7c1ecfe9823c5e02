"""Calibrate the effect of an intervention by real experiments: a Bayesian hierarchical model, integrated over its parameters.

Experiments differ in their true effects, not only by sampling error::

    observed[i] ~ N(true[i], error[i]**2)      true[i] ~ N(mean, between**2)

``between`` has a prior without mass at 0 (campaigns always differ) and with a heavy tail. ``mean`` follows the catalogue's prior
or, with a small probability, a normal distribution that is wider by an unknown factor, so that experiments which contradict the
catalogue outweigh it. Given ``between`` and that factor, the posterior is normal and in closed form; both are summed over on a grid
with their posterior weights (a moment estimate would be overconfident after a few experiments). Estimates shrink toward the prior
by their noise, which also corrects the winner's curse of testing what looked best.

No library serves: a sampler such as PyMC needs seconds and gives slightly different numbers with each build, while a calibration
must give the same prior whenever it is repeated from the stored experiments.

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
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from engine.effects.effect_model import dose_response, draw_dose
from schemas.arrays import Floats
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.events import ExperimentResult
from schemas.simulation_models import EffectPrior, InterventionConfig, Reach

__all__ = ["BETWEEN_SCALE", "CATALOGUE_WRONG", "MEAN_SCALE", "calibrate", "surprise"]


BETWEEN_SCALE = 0.3684
"""Scale of ``between`` in standard deviations of the prior: its square is twice the square of this times an F(2, 6) variable."""

MEAN_SCALE = 0.7090
"""Standard deviation of ``mean``, in standard deviations of the prior, where the catalogue is right.

With ``BETWEEN_SCALE``, the effect of the next campaign then has the prior's 95 % interval.
"""

CATALOGUE_WRONG = 0.01
"""Prior probability that the catalogue is wrong, with an uncertainty wider by an unknown factor."""

_BETWEEN = BETWEEN_SCALE * np.geomspace(0.02, 300.0, 60)  # in standard deviations of the prior, like _MEAN
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
    """Update the prior of an effect by a set of real experiments; the result does not depend on their order.

    Args:
        prior: the catalogue's prior, version 0.
        experiments: on this intervention, at any dose and in any population; repeated results count once.
        reaches: share of the base effect that each experiment reached, by its id (:meth:`SimulationEngine.reach` on twins of the
            people in the experiment); without an entry an average population is assumed, and only the dose counts.

    Returns:
        The mean with its standard deviation ``sd``, and ``between_sd`` such that the 95 % interval of the next campaign's true
        effect is that of the posterior. Its version is the number of experiments; without any it is ``prior`` itself.

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
    results = _distinct_results(prior, experiments)
    if not results or prior.sd == 0:
        return prior
    observed, error = np.transpose([_base_effect(result, prior, reaches.get(result.experiment_id)) for result in results])
    posterior = _posterior(prior, observed, error)
    low, high = posterior.quantile(1 - _HIGH), posterior.quantile(_HIGH)
    mean, sd = posterior.mean_and_deviation()
    total_sd = (high - low) / (2 * float(ndtri(_HIGH)))
    return EffectPrior(
        intervention_type=prior.intervention_type,
        mean=mean,
        sd=min(sd, total_sd),
        between_sd=float(np.sqrt(max(total_sd**2 - sd**2, 0.0))),
        version=len(results),
        n_experiments=len(results),
        source=f"calibrated by {len(results)} real experiments on a prior of {prior.mean:g} with a deviation of {prior.sd:g}",
    )


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


@dataclass(frozen=True)
class _Posterior:
    """The posterior as a mixture over ``m`` grid points.

    Attributes:
        weight: posterior weight of each point, ``(m,)``.
        mean, variance: of the mean effect given the point, ``(m,)``.
        between: standard deviation between campaigns at the point, ``(m,)``.
    """

    weight: Floats
    mean: Floats
    variance: Floats
    between: Floats

    def mean_and_deviation(self) -> tuple[float, float]:
        """Mean and standard deviation of the mean effect."""
        center = float(self.weight @ self.mean)
        return center, float(np.sqrt(self.weight @ (self.variance + (self.mean - center) ** 2)))

    def quantile(self, probability: float) -> float:
        """Quantile of the true effect of the next campaign."""
        spread = np.sqrt(self.variance + self.between**2)
        reach = 10.0 * spread.max()
        lowest, highest = self.mean.min() - reach, self.mean.max() + reach
        below = lambda effect: float(self.weight @ ndtr((effect - self.mean) / spread)) - probability  # noqa: E731
        return float(brentq(below, lowest, highest, xtol=1e-12))


def _posterior(prior: EffectPrior, observed: Floats, error: Floats) -> _Posterior:
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
    return _Posterior(weight[likely] / weight[likely].sum(), *(array.ravel()[likely] for array in ends))


def _base_effect(experiment: ExperimentResult, prior: EffectPrior, reach: Reach | None) -> tuple[float, float]:
    """Base effect estimated by an experiment, with a standard error that includes the uncertainty of its reach.

    The uncertainty of the reach is scaled by the effect that the prior expects, not by the observed one: the next campaign at that
    dose has the same uncertainty, so a surprising result must not be attributed to it.
    """
    reach = reach or _dose_reach(experiment.intervention, catalogue_in_effect().sha256)
    effect, error = experiment.effect / reach.mean, experiment.standard_error / reach.mean
    return effect, float(np.hypot(error, np.hypot(prior.mean, prior.sd) * reach.sd / reach.mean))


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

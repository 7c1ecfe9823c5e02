"""The posterior of an intervention's base effect given experiments, as a mixture of normal distributions.

Experiments differ in their true effects, not only by sampling error; with the same variant (message, creative) they differ less::

    observed[i] ~ N(true[i], error[i]**2)
    true[i]     ~ N(variant[v], (1 - BETWEEN_VARIANTS) * between**2)
    variant[v]  ~ N(mean, BETWEEN_VARIANTS * between**2)

``mean`` follows a mixture of normal components (:func:`prior_components`): the catalogue's own distribution, nothing at all, and
several times as much. ``between`` is proportional to the size of the component, with a heavy tail and without mass at 0. Given the
component and ``between`` everything is normal and in closed form; both are summed over on a grid.

Experiments may have been told because they were successes: the likelihood of each is divided by the probability that it is told,
with an unknown probability for those that are not significant, summed over too (Andrews and Kasy).

References:
    Baker, Jackson (2008), A new approach to outliers in meta-analysis. Health Care Management Science 11.
    Lee, Thompson (2008), Flexible parametric models for random-effects distributions. Statistics in Medicine 27.
    Andrews, Kasy (2019), Identification of and correction for publication bias. American Economic Review 109.
    Azevedo, Deng, Montiel Olea, Rao, Weyl (2020), A/B testing with fat tails. Journal of Political Economy 128.
    DellaVigna, Linos (2022), RCTs to scale: comprehensive evidence from two nudge units. Econometrica 90.
    Gelman et al. (2013), Bayesian Data Analysis, 3rd edition, sections 5.4 and 5.5.
    Pérez, Pericchi, Ramírez (2017), The scaled beta2 distribution as a robust prior for scales. Bayesian Analysis 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from engine.effects.observation_precision import ObservationPrecision
from schemas.arrays import Flags, Floats

__all__ = [
    "BETWEEN_SCALE",
    "BETWEEN_VARIANTS",
    "HARMS",
    "MEAN_SCALE",
    "NOTHING_WORKS",
    "SEVERAL_TIMES",
    "UNUSUAL",
    "Components",
    "NormalMixture",
    "Observations",
    "Posterior",
    "Shared",
    "fit",
    "given_past",
    "mixture_quantiles",
    "prior_components",
    "without_experiments",
]

BETWEEN_SCALE = 0.4540
"""Scale of ``between`` in units of its component: its square is twice the square of this times an F(2, 6) variable."""

MEAN_SCALE = 0.6000
"""Standard deviation of ``mean``, in standard deviations of the prior, where the catalogue is right.

With ``BETWEEN_SCALE``, the effect of the next campaign then has the prior's 95 % interval.
"""

NOTHING_WORKS = 0.06
"""Prior probability that campaigns of a type do nothing.

Of 34 comparisons of visits to prescribers with no visit, few have no effect (O'Brien et al. 2007); among changes of web services
it is most of them (Kohavi, Tang, Xu 2020, Trustworthy Online Controlled Experiments, chapter 1). This is the lower end.
"""

SEVERAL_TIMES = 0.10
"""Prior probability that campaigns of a type do at least 1.5 times as much as the catalogue says.

The share above a multiple falls with its square: 2.5 % exceed three times as much. In 126 trials of two nudge units effects at
scale were a sixth of the published ones (DellaVigna, Linos 2022): one source may be off by such a factor. Effects of A/B tests have
power-law tails (Azevedo et al. 2020).
"""

HARMS = 0.02
"""Prior probability that campaigns of a type harm, by any multiple."""

BETWEEN_VARIANTS = 0.75
"""Share of the variance between campaigns that is between variants; the rest is between campaigns with the same one."""

UNUSUAL = 0.05
"""Probability that the next campaign differs from the mean by several times as much as campaigns usually do.

True effects of trials have longer tails than a normal distribution (Baker, Jackson 2008; Lee, Thompson 2008). A few experiments
seldom show them, so they are assumed for the next campaign; the experiments that were made are taken as usual ones.
"""

_ALIKE = BETWEEN_VARIANTS, 1.0 - BETWEEN_VARIANTS  # covariance of true effects with one variant, and of one with itself beside it
_UNUSUAL_SPREAD = 3.0
_TAIL = 2.0
_MULTIPLES = 1.5 * 1.35 ** (np.arange(22) + 0.5)  # middles of equal steps of the logarithm
_HARMFUL = -0.5 * 1.8 ** (np.arange(12) + 0.5)
_WIDTH = 0.15  # standard deviation of a component around its multiple, as a share of it
_SPREAD = 0.40  # unit of ``between`` as a share of the multiple
_BETWEEN = BETWEEN_SCALE * np.geomspace(0.04, 80.0, 30)
_LOG_BETWEEN = 2.0 * np.log(_BETWEEN) - 4.0 * np.log1p((_BETWEEN / BETWEEN_SCALE) ** 2 / 6.0)  # F(2, 6), on a grid of logarithms
_LOG_BETWEEN = _LOG_BETWEEN - np.log(np.exp(_LOG_BETWEEN).sum())
_SIGNIFICANT = 1.959964
_TOLD = np.array([1.0, 0.3, 0.1, 0.02])  # probability that a result is told which is not significant
_LOG_TOLD = np.log([0.7, 0.1, 0.1, 0.1])
_UNLIKELY = 12.0  # logarithms below the most likely point at which one is left out
_LEFT_OUT = 1e-6
_GRID, _SMALLEST = 160, 1e-15
_KEPT_FITS = 36  # those of four sets of experiments
_NODES = np.linspace(-4.5, 4.5, 13)
_NODE_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.exp(-0.5 * _NODES**2).sum()


class Components(NamedTuple):
    """Components of the prior of ``mean``, arrays ``(m,)``: log weight, centre, standard deviation, and unit of ``between``."""

    log_weight: Floats
    center: Floats
    sd: Floats
    unit: Floats


class Observations(NamedTuple):
    """Base effects that experiments have observed, arrays ``(k,)``.

    Attributes:
        effect, error: estimate with its standard error, which includes the uncertainty of its own reach.
        sampling: the standard error alone.
        variant: number of each experiment's variant, ascending from 0; one without a name has its own.
        loading: what each owes to ``q`` standard normal parameters that experiments have in common (factors of channels,
            coefficients of moderators), ``(k, q)``.
    """

    effect: Floats
    error: Floats
    sampling: Floats
    variant: npt.NDArray[np.intp]
    loading: Floats = np.zeros((0, 0))

    @property
    def total_error(self) -> Floats:
        """Standard error with what is due to the parameters, ``(k,)``."""
        if not self.loading.size:
            return self.error
        return np.asarray(np.sqrt(self.error**2 + (self.loading**2).sum(axis=1)))


class NormalMixture(NamedTuple):
    """A mixture of normal distributions: weights, means and standard deviations, ``(m,)`` each."""

    weight: Floats
    mean: Floats
    sd: Floats

    @property
    def equivalent_sd(self) -> float:
        """Standard deviation of the normal distribution whose 95 % interval is as wide as that of the mixture."""
        low, high = mixture_quantiles(*self, np.array([-_SIGNIFICANT, _SIGNIFICANT])).tolist()
        return float(high - low) / (2.0 * _SIGNIFICANT)


class Shared(NamedTuple):
    """Posterior of the ``q`` parameters that experiments have in common: mean, covariance, covariance with the mean effect."""

    mean: Floats
    covariance: Floats
    with_effect: Floats


@dataclass(frozen=True)
class Posterior:
    """The posterior as a mixture over ``p`` points.

    Attributes:
        log_evidence: logarithm of the density of the observations.
        weight: posterior weight of each point, ``(p,)``.
        mean, variance: of the mean effect given the point, ``(p,)``.
        between: standard deviation between campaigns at the point, ``(p,)``.
        precision: of the observations given the mean effect and the point.
        observations: that it is given.
    """

    log_evidence: float
    weight: Floats
    mean: Floats
    variance: Floats
    between: Floats
    precision: ObservationPrecision
    observations: Observations

    def next_campaign(self) -> NormalMixture:
        """The effect of the next campaign."""
        return self._next(self.mean, self.variance, self.between**2)

    def next_of_variant(self, variant: int) -> tuple[NormalMixture, float]:
        """The same for the next campaign with a tested variant, and its correlation with what all variants have in common."""
        observed, own = self.observations, BETWEEN_VARIANTS * self.between**2
        rows = observed.variant == variant
        gain = own[:, None] * self.precision.times(rows.astype(float))
        common = (1.0 - gain.sum(axis=1)) ** 2 * self.variance
        remaining = own * (1.0 - gain[:, rows].sum(axis=1))
        between = (1.0 - BETWEEN_VARIANTS) * self.between**2
        correlation = float(np.sqrt(self.weight @ common / (self.weight @ (common + remaining + between))))
        return self._next(self.mean + self._expected(gain), common + remaining, between), correlation

    def _next(self, mean: Floats, variance: Floats, between: Floats) -> NormalMixture:
        """A mixture of usual campaigns, and of unusual ones where there are experiments; the prior has its own tails."""
        usual = np.sqrt(variance + between)
        if not len(self.observations.effect):
            return NormalMixture(self.weight, mean, usual)
        return NormalMixture(
            np.concatenate([(1.0 - UNUSUAL) * self.weight, UNUSUAL * self.weight]),
            np.tile(mean, 2),
            np.concatenate([usual, np.sqrt(variance + _UNUSUAL_SPREAD**2 * between)]),
        )

    def campaigns(self) -> tuple[Floats, Floats]:
        """Mean and second moment of the true base effect of each experiment, ``(k,)`` each."""
        precision, square = self.precision, (self.between**2)[:, None]
        mean = self.mean[:, None] + square * precision.alike_times(self._residual(), *_ALIKE)
        own = square * (sum(_ALIKE) - square * precision.quadratic(*_ALIKE))
        gain = square * precision.alike_times(precision.times(np.ones(len(self.observations.effect))), *_ALIKE)
        variance = own + (1.0 - gain) ** 2 * self.variance[:, None]
        return self.weight @ mean, self.weight @ (mean**2 + variance)

    def shared(self) -> Shared:
        """Posterior of the parameters that the observations load on."""
        slope = -self.precision.loaded(np.ones(len(self.observations.effect)))  # of their means by the mean effect
        means = self.precision.loaded(self.observations.effect - self.mean[:, None])
        mean = self.weight @ means
        apart, effect_apart = means - mean, self.mean - self.weight @ self.mean
        covariance = np.tensordot(self.weight, self.precision.remaining, axes=1)
        covariance += (slope * (self.weight * self.variance)[:, None]).T @ slope + (apart * self.weight[:, None]).T @ apart
        return Shared(mean, covariance, self.weight @ (slope * self.variance[:, None] + apart * effect_apart[:, None]))

    def _residual(self) -> Floats:
        """Precision times the distances of the observations from the mean effect, ``(p, k)``."""
        return self.precision.times(self.observations.effect - self.mean[:, None])

    def _expected(self, gain: Floats) -> Floats:
        return np.asarray(np.einsum("pk,pk->p", gain, self.observations.effect - self.mean[:, None]))


@lru_cache(maxsize=256)
def prior_components(mean: float, sd: float) -> Components:
    """Components of the prior of ``mean`` for a catalogue entry, the first around the entry itself.

    So an experiment that confirms the entry leaves its mean. Multiples are of it, or of 2.5 standard deviations where that is more.
    """
    unit = float(np.copysign(max(abs(mean), sd / _SPREAD), mean))
    factors = np.concatenate([_MULTIPLES, _HARMFUL])
    shares = np.concatenate([_shares(_MULTIPLES, SEVERAL_TIMES), _shares(-_HARMFUL, HARMS)])
    size = np.abs(unit * factors)
    return Components(
        np.log(np.concatenate([[1.0 - NOTHING_WORKS - shares.sum(), NOTHING_WORKS], shares])),
        np.concatenate([[mean, 0.0], unit * factors]),
        np.concatenate([[MEAN_SCALE * sd, 0.25 * sd], _WIDTH * size]),
        np.concatenate([[sd, 0.5 * sd], np.maximum(sd, _SPREAD * size)]),
    )


def given_past(components: Components, effect: Floats, error: Floats) -> Components:
    """The prior components of a catalogue's effect that rests on past experiments, each weighed by how well it explains these.

    Pooled experiments have answered already whether the campaign does nothing, or several times as much, as far as they are
    precise: an agreeing new one then narrows the interval, which with the tails of a mere assumption it would widen.

    Args:
        components: of :func:`prior_components`.
        effect: of the past experiments, ``(k,)``.
        error: their standard errors, ``(k,)``.
    """
    spread = error**2 + (BETWEEN_SCALE * components.unit[:, None]) ** 2
    covariance = spread[:, :, None] * np.eye(len(effect)) + (components.sd**2)[:, None, None]
    distance = effect - components.center[:, None]
    misfit = np.einsum("pi,pi->p", distance, np.linalg.solve(covariance, distance[..., None])[..., 0])
    log_weight = components.log_weight - 0.5 * (misfit + np.linalg.slogdet(covariance)[1])
    return components._replace(log_weight=log_weight - float(_log_sum(log_weight, axis=0)))


def _shares(multiples: npt.NDArray[np.floating], total: float) -> Floats:
    shares = multiples**-_TAIL
    return np.asarray(total * shares / shares.sum())


def without_experiments(mean: float, sd: float) -> Posterior:
    """The prior of a catalogue entry that nobody has tested, as a mixture whose mean is that of the entry.

    Several times as much is likelier than harm, so the middle lies below the entry.
    """
    components = prior_components(mean, sd)
    own, others = np.exp(components.log_weight[0]), np.exp(components.log_weight[1:])
    below = (mean - float(others @ components.center[1:])) / own
    components = components._replace(center=np.concatenate([[below], components.center[1:]]))
    weight = np.exp(components.log_weight[:, None] + _LOG_BETWEEN)
    between = components.unit[:, None] * _BETWEEN
    centers, sds = (np.repeat(array, len(_BETWEEN)) for array in (components.center, components.sd))
    none = Observations(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.intp))
    return Posterior(0.0, weight.ravel() / weight.sum(), centers, sds**2, between.ravel(), _precision(none, between.ravel()), none)


def fit(components: Components, observations: Observations) -> Posterior:
    """The posterior given at least one experiment.

    The last ones are kept: with each experiment the same ones are asked for by its own campaign, by each that borrows from it, and
    for what was to be expected of it.

    References:
        Gelman et al. (2013), sections 5.4 and 5.5; Andrews, Kasy (2019), section 2 (the term of selection).
    """
    return _fit(_Content(components, observations))


class _Content:
    """What a posterior follows from; equal where all numbers are."""

    def __init__(self, components: Components, observations: Observations) -> None:
        self.components, self.observations = components, observations
        self._bytes = tuple((array.shape, array.tobytes()) for array in (*components, *observations))

    def __eq__(self, content: object) -> bool:
        return isinstance(content, _Content) and self._bytes == content._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)


@lru_cache(maxsize=_KEPT_FITS)
def _fit(content: _Content) -> Posterior:
    components, observations = content.components, content.observations
    between = (components.unit[:, None] * _BETWEEN).ravel()
    log_prior = (components.log_weight[:, None] + _LOG_BETWEEN).ravel()
    center, prior_variance = (np.repeat(array, len(_BETWEEN)) for array in (components.center, components.sd**2))
    possible = _possible(log_prior, center, prior_variance, between, observations)
    log_prior, center, prior_variance, between = (array[possible] for array in (log_prior, center, prior_variance, between))
    precision = _precision(observations, between)
    distance = observations.effect - center[:, None]
    weighted = precision.times(distance)
    joint = 1.0 / prior_variance + precision.times(np.ones(len(observations.effect))).sum(axis=1)
    shift = weighted.sum(axis=1) / joint
    misfit = np.einsum("pi,pi->p", weighted, distance) + precision.log_determinant - shift**2 * joint
    log_weight = log_prior - 0.5 * (misfit + np.log(prior_variance) + np.log(joint))
    return _correct_selection(log_weight, center + shift, 1.0 / joint, between, precision, observations)


def _possible(log_prior: Floats, center: Floats, prior_variance: Floats, between: Floats, observed: Observations) -> Flags:
    """Points that are not far less likely than others, were the observations independent: with and without what they share."""
    possible = np.zeros(len(center), dtype=bool)
    for error in (observed.error, observed.total_error):
        variance = error**2 + between[:, None] ** 2
        distance = observed.effect - center[:, None]
        joint = 1.0 / prior_variance + (1.0 / variance).sum(axis=1)
        shift = (distance / variance).sum(axis=1) / joint
        misfit = (distance**2 / variance + np.log(variance)).sum(axis=1) - shift**2 * joint
        log_weight = log_prior - 0.5 * (misfit + np.log(prior_variance) + np.log(joint))
        possible |= log_weight > log_weight.max() - 2.0 * _UNLIKELY
    return possible


def _precision(observations: Observations, between: Floats) -> ObservationPrecision:
    """Precision of the observations given the mean effect and each value of ``between``, ``(p,)``."""
    square, loading = between**2, observations.loading
    return ObservationPrecision(
        1.0 / (observations.error**2 + (1.0 - BETWEEN_VARIANTS) * square[:, None]),
        BETWEEN_VARIANTS * square,
        np.flatnonzero(np.diff(observations.variant, prepend=-1)),
        loading if loading.size else np.zeros((len(observations.effect), 0)),
    )


def _correct_selection(
    log_weight: Floats, mean: Floats, variance: Floats, between: Floats, precision: ObservationPrecision, observed: Observations
) -> Posterior:
    """Reweight the points and move their means by the probability that the experiments are told, at nodes of each mean."""
    rough = log_weight + _log_told(mean[:, None], between, precision, observed)[:, 0]
    likely = rough > rough.max() - _UNLIKELY
    log_weight, mean, variance, between = (array[likely] for array in (log_weight, mean, variance, between))
    precision = precision.select(likely)
    nodes = mean[:, None] + np.sqrt(variance)[:, None] * _NODES
    log_nodes = _log_told(nodes, between, precision, observed) + np.log(_NODE_WEIGHTS)
    log_factor = _log_sum(log_nodes, axis=1)
    node_weight = np.exp(log_nodes - log_factor[:, None])
    moved = (node_weight * nodes).sum(axis=1)
    spread = (node_weight * (nodes - moved[:, None]) ** 2).sum(axis=1)
    log_weight = log_weight + log_factor
    evidence = float(_log_sum(log_weight, axis=0))
    return Posterior(evidence, np.exp(log_weight - evidence), moved, spread, between, precision, observed)


def _log_told(mean: Floats, between: Floats, precision: ObservationPrecision, observed: Observations) -> Floats:
    """Logarithm of the term of selection at means ``(p, nodes)``, summed over how likely results without significance are told.

    What experiments share has made them succeed or fail together: they are told as likely as it is given their effects.
    """
    expected, variance = mean[..., None], observed.error**2 + between[:, None] ** 2
    if observed.loading.size:
        shared = precision.loaded(observed.effect) @ observed.loading.T
        by_mean = precision.loaded(np.ones(len(observed.effect))) @ observed.loading.T
        expected = expected * (1.0 - by_mean[:, None, :]) + shared[:, None, :]
        variance = variance + precision.unexplained()
    success = ndtr((expected - _SIGNIFICANT * observed.sampling) / np.sqrt(variance)[:, None, :])
    n_failures = int((observed.effect <= _SIGNIFICANT * observed.sampling).sum())
    logs = [
        log_prior + n_failures * np.log(share) - np.log(share + (1.0 - share) * success).sum(axis=-1)
        for share, log_prior in zip(_TOLD.tolist(), _LOG_TOLD.tolist(), strict=True)
    ]
    return _log_sum(np.array(logs), axis=0)


def mixture_quantiles(weight: Floats, mean: Floats, sd: Floats, scores: Floats) -> Floats:
    """Quantiles of a mixture of normal distributions at normal scores, in the shape of ``scores``.

    The distribution function is computed on a grid that is denser around the middle; between its points its normal score is linear,
    as it is everywhere for a normal distribution.

    Example:
        >>> mixture_quantiles(np.array([1.0]), np.array([0.0]), np.array([1.0]), np.array([0.0, 1.96])).round(3).tolist()
        [0.0, 1.96]
    """
    likely = weight > _LEFT_OUT * weight.max()
    weight, mean, sd = weight[likely] / weight[likely].sum(), mean[likely], sd[likely]
    center, unit = float(weight @ mean), float(weight @ sd) / 2.0
    lowest, highest = float((mean - 9.0 * sd).min()) - center, float((mean + 9.0 * sd).max()) - center
    grid = center + unit * np.sinh(np.linspace(np.arcsinh(lowest / unit), np.arcsinh(highest / unit), _GRID))
    below = ndtr((grid[:, None] - mean) / sd) @ weight
    return np.asarray(np.interp(scores, ndtri(np.clip(below, _SMALLEST, 1.0 - _SMALLEST)), grid))


def _log_sum(logs: Floats, axis: int) -> Floats:
    """Logarithm of the sum of exponentials along an axis."""
    largest = logs.max(axis=axis, keepdims=True)
    return np.asarray(np.log(np.exp(logs - largest).sum(axis=axis)) + np.squeeze(largest, axis))

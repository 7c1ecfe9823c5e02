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

from schemas.arrays import Floats

__all__ = [
    "BETWEEN_SCALE",
    "BETWEEN_VARIANTS",
    "HARMS",
    "MEAN_SCALE",
    "NOTHING_WORKS",
    "SEVERAL_TIMES",
    "Components",
    "Observations",
    "Posterior",
    "fit",
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
        effect, error: estimate with its standard error, which includes the uncertainty of the reach.
        sampling: the standard error alone.
        variant: number of each experiment's variant, ascending from 0; one without a name has its own.
    """

    effect: Floats
    error: Floats
    sampling: Floats
    variant: npt.NDArray[np.intp]


@dataclass(frozen=True)
class Posterior:
    """The posterior as a mixture over ``p`` points.

    Attributes:
        log_evidence: logarithm of the density of the observations.
        weight: posterior weight of each point, ``(p,)``.
        mean, variance: of the mean effect given the point, ``(p,)``.
        between: standard deviation between campaigns at the point, ``(p,)``.
        observations: that it is given.
    """

    log_evidence: float
    weight: Floats
    mean: Floats
    variance: Floats
    between: Floats
    observations: Observations

    def next_campaign(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the effect of the next campaign at each point, ``(p,)`` each."""
        return self.mean, np.sqrt(self.variance + self.between**2)

    def next_of_variant(self, variant: int) -> tuple[Floats, Floats, float]:
        """The same for the next campaign with a tested variant, and its correlation with what all variants have in common."""
        observations, between = self.observations, self.between[:, None] ** 2
        rows = observations.variant == variant
        precision = 1.0 / (observations.error[rows] ** 2 + (1.0 - BETWEEN_VARIANTS) * between)
        total = precision.sum(axis=1)
        observed = (precision * observations.effect[rows]).sum(axis=1) / total
        own = BETWEEN_VARIANTS * self.between**2
        shared = 1.0 / (1.0 + total * own)  # share of what all variants have in common
        common = shared**2 * self.variance
        variance = common + shared * own + (1.0 - BETWEEN_VARIANTS) * self.between**2
        correlation = float(np.sqrt(self.weight @ common / (self.weight @ variance)))
        return self.mean * shared + observed * (1.0 - shared), np.sqrt(variance), correlation


@lru_cache(maxsize=256)
def prior_components(mean: float, sd: float) -> Components:
    """Components of the prior of ``mean`` for a catalogue entry; their mean is that of the entry.

    Multiples are of its mean, or of 2.5 standard deviations where that is more.

    Example:
        >>> components = prior_components(0.05, 0.02)
        >>> round(float(np.exp(components.log_weight) @ components.center), 6)
        0.05
    """
    unit = float(np.copysign(max(abs(mean), sd / _SPREAD), mean))
    factors = np.concatenate([_MULTIPLES, _HARMFUL])
    shares = np.concatenate([_shares(_MULTIPLES, SEVERAL_TIMES), _shares(-_HARMFUL, HARMS)])
    own = 1.0 - NOTHING_WORKS - shares.sum()
    center = (mean - unit * float(shares @ factors)) / own
    size = np.abs(unit * factors)
    return Components(
        np.log(np.concatenate([[own, NOTHING_WORKS], shares])),
        np.concatenate([[center, 0.0], unit * factors]),
        np.concatenate([[MEAN_SCALE * sd, 0.25 * sd], _WIDTH * size]),
        np.concatenate([[sd, 0.5 * sd], np.maximum(sd, _SPREAD * size)]),
    )


def _shares(multiples: npt.NDArray[np.floating], total: float) -> Floats:
    shares = multiples**-_TAIL
    return np.asarray(total * shares / shares.sum())


def without_experiments(components: Components) -> Posterior:
    """The prior itself as a mixture."""
    weight = np.exp(components.log_weight[:, None] + _LOG_BETWEEN)
    between = components.unit[:, None] * _BETWEEN
    mean, sd = (np.repeat(array, len(_BETWEEN)) for array in (components.center, components.sd))
    none = Observations(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.intp))
    return Posterior(0.0, weight.ravel() / weight.sum(), mean, sd**2, between.ravel(), none)


def fit(components: Components, observations: Observations) -> Posterior:
    """The posterior given at least one experiment; observations must be sorted by their variant.

    References:
        Gelman et al. (2013), sections 5.4 and 5.5; Andrews, Kasy (2019), section 2 (the term of selection).
    """
    between = components.unit[:, None] * _BETWEEN
    center, prior_variance = components.center[:, None, None], components.sd[:, None] ** 2
    precision = 1.0 / (observations.error**2 + (1.0 - BETWEEN_VARIANTS) * between[..., None] ** 2)
    starts = np.unique(observations.variant, return_index=True)[1]
    distance = observations.effect - center
    total = np.add.reduceat(precision, starts, axis=-1)
    by_variant = np.add.reduceat(precision * distance, starts, axis=-1) / total
    within = distance - by_variant[..., np.searchsorted(starts, np.arange(len(observations.effect)), side="right") - 1]
    variance = 1.0 / total + BETWEEN_VARIANTS * between[..., None] ** 2
    joint = 1.0 / prior_variance + (1.0 / variance).sum(axis=-1)
    shift = (by_variant / variance).sum(axis=-1) / joint
    misfit = (precision * within**2 - np.log(precision)).sum(axis=-1) + np.log(total).sum(axis=-1)
    misfit += (by_variant**2 / variance + np.log(variance)).sum(axis=-1) - shift**2 * joint
    log_weight = components.log_weight[:, None] + _LOG_BETWEEN - 0.5 * (misfit + np.log(prior_variance) + np.log(joint))
    mean = components.center[:, None] + shift
    return _correct_selection(log_weight.ravel(), mean.ravel(), (1.0 / joint).ravel(), between.ravel(), observations)


def _correct_selection(log_weight: Floats, mean: Floats, variance: Floats, between: Floats, observed: Observations) -> Posterior:
    """Reweight the points and move their means by the probability that the experiments are told, at nodes of each mean."""
    rough = log_weight + _log_told(mean[:, None], between, observed)[:, 0]
    likely = rough > rough.max() - _UNLIKELY
    log_weight, mean, variance, between = (array[likely] for array in (log_weight, mean, variance, between))
    nodes = mean[:, None] + np.sqrt(variance)[:, None] * _NODES
    log_nodes = _log_told(nodes, between, observed) + np.log(_NODE_WEIGHTS)
    log_factor = _log_sum(log_nodes, axis=1)
    node_weight = np.exp(log_nodes - log_factor[:, None])
    moved = (node_weight * nodes).sum(axis=1)
    spread = (node_weight * (nodes - moved[:, None]) ** 2).sum(axis=1)
    log_weight = log_weight + log_factor
    evidence = float(_log_sum(log_weight, axis=0))
    return Posterior(evidence, np.exp(log_weight - evidence), moved, spread, between, observed)


def _log_told(mean: Floats, between: Floats, observed: Observations) -> Floats:
    """Logarithm of the term of selection at means ``(p, nodes)``, summed over how likely results without significance are told."""
    spread = np.sqrt(observed.error**2 + between[:, None, None] ** 2)
    success = ndtr((mean[..., None] - _SIGNIFICANT * observed.sampling) / spread)
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

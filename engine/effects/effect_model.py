"""What an intervention does to a twin: base effect x dose response x the twin's own factor, each believed and not known.

The effect of twin ``i`` under parameter draw ``d`` is::

    effect[d] * dose[d] * exp(mean @ x[:, i]) * (1 + deviation[d] @ x[:, i])

``x`` is the design: its moderators, centred and scaled, so that a twin at the centre of everything has the factor 1. The
deviations of the moderators' coefficients enter to first order (they are about 0.1), which makes every average over twins linear
in the draws: group means of the design come first, and neither cost nor uncertainty depends on the number of twins times draws.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from schemas.columns import Columns
from schemas.interventions import (
    CONTACTS_A_MONTH,
    INTERVENTIONS,
    MODERATORS,
    REFERENCE_FREQUENCY,
    REFERENCE_INTENSITY,
    REFERENCE_WEEKS,
    Channel,
    Frequency,
    Moderator,
    Positive,
    Uncertain,
)
from schemas.simulation_models import EffectPrior, InterventionConfig

__all__ = [
    "Design",
    "Dose",
    "build_design",
    "catalogue_prior",
    "dose_response",
    "draw_dose",
    "draw_effect",
    "normal_draws",
    "typical_dose",
]

Array = npt.NDArray[np.float64]

_FURTHEST = 4.0  # spreads from its centre beyond which a feature bends an effect no further
_WEEKS_A_MONTH = 52 / 12


def catalogue_prior(intervention_type: str) -> EffectPrior:
    """What the catalogue believes of an intervention, version 0.

    Example:
        >>> catalogue_prior("speaker_program_invitation").mean
        0.12
    """
    entry = INTERVENTIONS[intervention_type]
    return EffectPrior(intervention_type=entry.name, mean=entry.effect.mean, sd=entry.effect.sd, source=entry.source)


def normal_draws(rows: int, n_draws: int, seed: int, purpose: str) -> Array:
    """Standard normal draws, shape ``(rows, n_draws)``, the same for the same seed and purpose whatever else is drawn.

    Each row holds the midpoints of ``n_draws`` equally likely strata in random order (a Latin hypercube): its mean is 0 and its
    quantiles are the normal distribution's, so 1,000 draws leave hardly any noise in an interval.

    References:
        McKay, Beckman, Conover (1979), A comparison of three methods for selecting values of input variables. Technometrics 21.

    Example:
        >>> drawn = normal_draws(1, 1000, seed=0, purpose="an example")
        >>> drawn.shape, abs(round(float(drawn.mean()), 12))
        ((1, 1000), 0.0)
    """
    rng = np.random.default_rng([seed, zlib.crc32(purpose.encode())])
    drawn = np.tile(_strata(n_draws), (rows, 1))
    rng.permuted(drawn, axis=1, out=drawn)
    return drawn


@lru_cache(maxsize=8)
def _strata(n_draws: int) -> Array:
    midpoints = np.asarray(ndtri((np.arange(n_draws) + 0.5) / n_draws), dtype=float)
    midpoints.flags.writeable = False
    return midpoints


@dataclass(frozen=True)
class Dose:
    """Parameters of a dose response, numbers or arrays of shape ``(n_draws,)``; ``channel`` is the log of its factor."""

    half_contacts: float | Array
    half_weeks: float | Array
    half_intensity: float | Array
    channel: float | Array


def typical_dose(config: InterventionConfig) -> Dose:
    """The parameters at their medians.

    Example:
        >>> e_mails = InterventionConfig(intervention_type="email_campaign", channel="mail", frequency="once", duration_weeks=2)
        >>> typical_dose(e_mails)
        Dose(half_contacts=3.0, half_weeks=4.0, half_intensity=1.0, channel=-0.2)
    """
    entry = INTERVENTIONS[config.intervention_type]
    return Dose(
        entry.half_contacts.median,
        entry.half_weeks.median,
        entry.half_intensity.median,
        entry.channels[Channel(config.channel)].mean,
    )


def draw_dose(config: InterventionConfig, n_draws: int, seed: int) -> Dose:
    """The parameters as draws; two configurations of one intervention share theirs.

    Example:
        >>> e_mails = InterventionConfig(intervention_type="email_campaign", channel="mail", frequency="once", duration_weeks=2)
        >>> round(float(np.median(draw_dose(e_mails, 1000, seed=0).half_weeks)), 2)
        4.0
    """
    entry = INTERVENTIONS[config.intervention_type]
    halves = normal_draws(3, n_draws, seed, f"{entry.name} dose")
    channel = normal_draws(1, n_draws, seed, f"{entry.name} by {config.channel}")[0]
    return Dose(
        _positive(entry.half_contacts, halves[0]),
        _positive(entry.half_weeks, halves[1]),
        _positive(entry.half_intensity, halves[2]),
        _normal(entry.channels[Channel(config.channel)], channel),
    )


def dose_response(config: InterventionConfig, dose: Dose) -> Array:
    """Share of the base effect that a configuration reaches, shape of the parameters of ``dose``.

    Exactly 1 at the reference dose (own channel, monthly, 12 weeks, intensity 1); it rises with contacts, weeks and intensity, ever
    more slowly, toward a greatest response (a hyperbola each, the Emax model without baseline).

    References:
        Holford, Sheiner (1981), Understanding the dose-effect relationship. Clinical Pharmacokinetics 6.

    Example:
        >>> monthly = InterventionConfig(
        ...     intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12, intensity=None
        ... )
        >>> float(dose_response(monthly, typical_dose(monthly)))
        1.0
    """
    made, usual = contacts(config.frequency, config.duration_weeks), contacts(REFERENCE_FREQUENCY, REFERENCE_WEEKS)
    intensity = REFERENCE_INTENSITY if config.intensity is None else config.intensity
    return np.asarray(
        _saturating(made, usual, dose.half_contacts)
        * _saturating(config.duration_weeks, REFERENCE_WEEKS, dose.half_weeks)
        * _saturating(intensity, REFERENCE_INTENSITY, dose.half_intensity)
        * np.exp(dose.channel)
    )


def contacts(frequency: str, weeks: float) -> float:
    """Contacts over the whole duration: at least one.

    Example:
        >>> contacts("once", 12), contacts("weekly", 12)
        (1.0, 12.0)
    """
    return max(1.0, float(CONTACTS_A_MONTH[Frequency(frequency)]) * weeks / _WEEKS_A_MONTH)


def draw_effect(prior: EffectPrior, n_draws: int, seed: int) -> Array:
    """Draws of the base effect of one more campaign, shape ``(n_draws,)``: uncertain in the mean and from one to the next.

    Example:
        >>> prior = EffectPrior(intervention_type="email_campaign", mean=0.05, sd=0.03, between_sd=0.04)
        >>> round(float(draw_effect(prior, 1000, seed=0).std()), 3)
        0.05
    """
    sd = float(np.hypot(prior.sd, prior.between_sd))
    return np.asarray(prior.mean + sd * normal_draws(1, n_draws, seed, f"{prior.intervention_type} effect")[0])


@dataclass(frozen=True)
class Design:
    """Moderators of twins: ``terms`` of shape ``(p, n)``, and for each the coefficient that is believed.

    Attributes:
        names: of the terms, ``feature`` or ``feature=level``.
        channels: of the moderator behind each term; empty where it matters everywhere.
    """

    terms: Array
    names: tuple[str, ...]
    coefficients: tuple[Uncertain, ...]
    channels: tuple[frozenset[Channel], ...]

    def among(self, chosen: npt.NDArray[np.bool_]) -> Design:
        """The design of the chosen twins."""
        return self if chosen.all() else Design(self.terms[:, chosen], self.names, self.coefficients, self.channels)

    def believed(self, channel: str) -> tuple[Array, Array]:
        """Mean and standard deviation of the coefficients for one channel, each ``(p,)``; 0 where a moderator does not matter."""
        matters = np.array([not only or Channel(channel) in only for only in self.channels], dtype=float)
        mean = np.array([c.mean for c in self.coefficients], dtype=float) * matters
        return mean, np.array([c.sd for c in self.coefficients], dtype=float) * matters

    def factors(self, channel: str) -> Array:
        """Each twin's factor at the mean coefficients, shape ``(n,)``."""
        return np.asarray(np.exp(weighted_sum(self.terms, self.believed(channel)[0])))

    def deviations(self, channel: str, n_draws: int, seed: int) -> Array:
        """Draws of the coefficients' distances from their means, shape ``(p, n_draws)``; a term has the same in every design."""
        sd = self.believed(channel)[1]
        drawn = normal_draws(len(_TERMS), n_draws, seed, "moderators")
        return sd[:, None] * drawn[[_TERMS.index(name) for name in self.names]]


_TERMS = tuple(
    term
    for moderator in MODERATORS
    for term in ([moderator.column] if moderator.slope else [f"{moderator.column}={level}" for level in moderator.levels])
)


def build_design(frame: pd.DataFrame | Columns) -> Design:
    """The design of twins; moderators that ``frame`` lacks, and missing values, bend nothing.

    Example:
        >>> design = build_design(pd.DataFrame({"decile": [10, None], "adoption_stage": ["Innovators", "unheard of"]}))
        >>> design.names
        ('decile', 'adoption_stage=innovator')
        >>> design.factors("email").round(2).tolist()
        [1.39, 1.0]
    """
    columns = frame if isinstance(frame, Columns) else Columns(frame)
    found = [term for moderator in MODERATORS if moderator.column in columns for term in _terms(moderator, columns)]
    terms = np.empty((len(found), len(columns)))
    for term, into in zip(found, terms, strict=True):
        term.fill(into)
    return Design(
        terms,
        tuple(term.name for term in found),
        tuple(term.coefficient for term in found),
        tuple(term.channels for term in found),
    )


class _Term(NamedTuple):
    """One row of a design, and how to fill it."""

    name: str
    coefficient: Uncertain
    channels: frozenset[Channel]
    fill: Callable[[Array], None]


def _terms(moderator: Moderator, columns: Columns) -> list[_Term]:
    column = moderator.column
    if moderator.slope is not None:
        return [_Term(column, moderator.slope, moderator.channels, partial(_standardise, moderator, columns.numbers(column)))]
    codes, found = columns.levels(column)
    levels = [_spelled(level) for level in found]
    return [
        _Term(f"{column}={level}", coefficient, moderator.channels, partial(_indicate, codes, levels, level))
        for level, coefficient in moderator.levels.items()
        if level in levels
    ]


def _standardise(moderator: Moderator, values: Array, into: Array) -> None:
    np.subtract(values, moderator.center, out=into)
    into /= moderator.spread
    np.clip(into, -_FURTHEST, _FURTHEST, out=into)
    np.copyto(into, 0.0, where=np.isnan(into))


def _indicate(codes: npt.NDArray[np.intp], levels: Sequence[str], level: str, into: Array) -> None:
    of_code = np.array([*(found == level for found in levels), False], dtype=float)  # the last one is code -1: missing
    np.take(of_code, codes, out=into, mode="wrap")


def _spelled(level: object) -> str:
    """A level in lower case with underscores, without a plural s.

    >>> _spelled("Early Adopters")
    'early_adopter'
    """
    return re.sub(r"[^a-z0-9]+", "_", str(level).lower()).removesuffix("s")


def weighted_sum(terms: Array, weights: Array) -> Array:
    """Sum of terms times weights, added in one order whatever the number of threads: ``(n,)``."""
    total, product = np.zeros(terms.shape[1]), np.empty(terms.shape[1])
    for term, weight in zip(terms, weights, strict=True):
        total += np.multiply(term, weight, out=product)
    return total


def _saturating(amount: float, usual: float, half: float | Array) -> float | Array:
    return (amount / (amount + half)) / (usual / (usual + half))


def _normal(believed: Uncertain, z: Array) -> Array:
    return believed.mean + believed.sd * z


def _positive(believed: Positive, z: Array) -> Array:
    return believed.median * np.exp(believed.spread * z)

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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

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
    "catalogue_prior",
    "design_of",
    "dose_response",
    "drawn_dose",
    "drawn_effect",
    "normals",
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


def normals(rows: int, n_draws: int, seed: int, purpose: str) -> Array:
    """Standard normal draws, shape ``(rows, n_draws)``, the same for the same seed and purpose whatever else is drawn.

    Each row holds the midpoints of ``n_draws`` equally likely strata in random order (a Latin hypercube): its mean is 0 and its
    quantiles are the normal distribution's, so 1,000 draws leave hardly any noise in an interval.

    References:
        McKay, Beckman, Conover (1979), A comparison of three methods for selecting values of input variables. Technometrics 21.
    """
    rng = np.random.default_rng([seed, zlib.crc32(purpose.encode())])
    return rng.permuted(np.tile(_strata(n_draws), (rows, 1)), axis=1)


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
    """The parameters at their medians."""
    entry = INTERVENTIONS[config.intervention_type]
    return Dose(
        entry.half_contacts.median,
        entry.half_weeks.median,
        entry.half_intensity.median,
        entry.channels[Channel(config.channel)].mean,
    )


def drawn_dose(config: InterventionConfig, n_draws: int, seed: int) -> Dose:
    """The parameters as draws; two configurations of one intervention share theirs."""
    entry = INTERVENTIONS[config.intervention_type]
    halves = normals(3, n_draws, seed, f"{entry.name} dose")
    channels = normals(len(Channel), n_draws, seed, f"{entry.name} channel")
    channel = Channel(config.channel)
    return Dose(
        _positive(entry.half_contacts, halves[0]),
        _positive(entry.half_weeks, halves[1]),
        _positive(entry.half_intensity, halves[2]),
        _normal(entry.channels[channel], channels[list(Channel).index(channel)]),
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


def drawn_effect(prior: EffectPrior, n_draws: int, seed: int) -> Array:
    """Draws of the base effect of one more campaign, shape ``(n_draws,)``: uncertain in the mean and from one to the next."""
    sd = float(np.hypot(prior.sd, prior.between_sd))
    return np.asarray(prior.mean + sd * normals(1, n_draws, seed, f"{prior.intervention_type} effect")[0])


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
        return np.asarray(np.exp(weighted(self.terms, self.believed(channel)[0])))

    def deviations(self, channel: str, n_draws: int, seed: int) -> Array:
        """Draws of the coefficients' distances from their means, shape ``(p, n_draws)``."""
        sd = self.believed(channel)[1]
        drawn = [normals(1, n_draws, seed, f"moderator {name}")[0] for name in self.names]
        return sd[:, None] * np.reshape(drawn, (len(sd), n_draws))


def design_of(frame: pd.DataFrame, moderators: Sequence[Moderator] = MODERATORS) -> Design:
    """The design of twins; moderators that ``frame`` lacks, and missing values, bend nothing."""
    found = [term for moderator in moderators if moderator.column in frame for term in _terms(moderator, frame[moderator.column])]
    return Design(
        np.reshape([values for _, values, _, _ in found], (len(found), len(frame))),
        tuple(name for name, _, _, _ in found),
        tuple(coefficient for _, _, coefficient, _ in found),
        tuple(channels for _, _, _, channels in found),
    )


Term = tuple[str, Array, Uncertain, frozenset[Channel]]


def _terms(moderator: Moderator, column: pd.Series[Any]) -> list[Term]:
    if moderator.slope is not None:
        return [(moderator.column, _standardised(moderator, column), moderator.slope, moderator.channels)]
    codes, found = pd.factorize(column)
    levels = [_spelled(level) for level in found.tolist()]
    return [
        (f"{moderator.column}={level}", _indicator(codes, levels, level), coefficient, moderator.channels)
        for level, coefficient in moderator.levels.items()
        if level in levels
    ]


def _standardised(moderator: Moderator, column: pd.Series[Any]) -> Array:
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    z = np.clip((values - moderator.center) / moderator.spread, -_FURTHEST, _FURTHEST)
    return np.where(np.isnan(z), 0.0, z)


def _indicator(codes: npt.NDArray[np.intp], levels: Sequence[str], level: str) -> Array:
    of_code = np.array([*(found == level for found in levels), False], dtype=float)  # the last one is code -1: missing
    return of_code[codes]


def _spelled(level: object) -> str:
    """A level in lower case with underscores, without a plural s.

    >>> _spelled("Early Adopters")
    'early_adopter'
    """
    return re.sub(r"[^a-z0-9]+", "_", str(level).lower()).removesuffix("s")


def weighted(terms: Array, weights: Array) -> Array:
    """Sum of terms times weights, added in one order whatever the number of threads: ``(n,)``."""
    return np.asarray(np.add.reduce(weights[:, None] * terms, axis=0))


def _saturating(amount: float, usual: float, half: float | Array) -> float | Array:
    return (amount / (amount + half)) / (usual / (usual + half))


def _normal(believed: Uncertain, z: Array) -> Array:
    return believed.mean + believed.sd * z


def _positive(believed: Positive, z: Array) -> Array:
    return believed.median * np.exp(believed.spread * z)

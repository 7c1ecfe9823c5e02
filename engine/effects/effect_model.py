"""The effect of an intervention on a twin: base effect x dose response x the twin's own factor, each with a prior distribution.

The effect of twin ``i`` under parameter draw ``d`` is::

    effect[d] * dose[d] * exp(mean @ x[:, i]) * (1 + deviation[d] @ x[:, i])

``x`` holds the moderators of the design, centred and scaled, so that a twin with average moderators has the factor 1. The
deviations of the moderators' coefficients enter to first order (they are about 0.1), which makes every average over twins linear
in the draws: averages of the design over twins are computed once, and the cost does not grow with the number of twins times draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.effects.base_effect import with_responses, with_tails
from engine.effects.learned_parameters import CHANNEL, NOTHING_LEARNED, ParameterDraws, is_learned
from engine.effects.level_reading import AS_DECLARED, LevelReading
from engine.effects.normal_draws import normal_draws
from engine.effects.twin_factors import TwinFactors
from schemas.arrays import Flags, Floats
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.columns import Columns
from schemas.effect_priors import EFFECTS_METHOD, LearnedParameters, TestedDose
from schemas.interventions import (
    CONTACTS_PER_MONTH,
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
    "catalogue_priors",
    "contacts",
    "dose_response",
    "draw_dose",
    "is_moderated",
    "reference_dose",
    "tested_dose",
    "typical_dose",
    "weighted_sum",
]


_FACTORS_IN_MEMORY = 8
_MAX_DEVIATION = 4.0  # spreads from its centre at which the influence of a feature is capped
_WEEKS_PER_MONTH = 52 / 12


def catalogue_prior(intervention_type: str) -> EffectPrior:
    """The prior effect of an intervention in the catalogue, version 0; without tails where it rests on past experiments.

    Example:
        >>> catalogue_prior("speaker_program_invitation").mean
        0.12
    """
    prior, past = _normal_prior(intervention_type), len(INTERVENTIONS[intervention_type].past_experiments)
    return (
        with_responses(prior.model_copy(update={"n_experiments": past, "tested": (reference_dose(),)}))
        if past
        else with_tails(prior)
    )


def catalogue_priors(method: int) -> Mapping[str, EffectPrior]:
    """Priors by intervention, as far as a method needs others than :func:`catalogue_prior`: simulations that it pins repeat."""
    if method == 1:
        return {name: _normal_prior(name) for name in INTERVENTIONS}
    if method < EFFECTS_METHOD:
        return {name: catalogue_prior(name).model_copy(update={"method": method}) for name in INTERVENTIONS}
    return {}


def _normal_prior(intervention_type: str) -> EffectPrior:
    entry = INTERVENTIONS[intervention_type]
    return EffectPrior(intervention_type=entry.name, mean=entry.effect.mean, sd=entry.effect.sd, source=entry.source)


@dataclass(frozen=True)
class Dose:
    """Parameters of a dose response, numbers or arrays of shape ``(n_draws,)``.

    Attributes:
        half_contacts, half_weeks, half_intensity: dose of half the maximal response, in contacts, weeks, and intensity.
        channel: log of the factor of the channel.
    """

    half_contacts: float | Floats
    half_weeks: float | Floats
    half_intensity: float | Floats
    channel: float | Floats


def typical_dose(config: InterventionConfig, contacts: float = 1.0, weeks: float = 1.0, intensity: float = 1.0) -> Dose:
    """The dose-response parameters at their medians, with factors of the halves as for :func:`draw_dose`.

    Example:
        >>> e_mails = InterventionConfig(intervention_type="email_campaign", channel="mail", frequency="once", duration_weeks=2)
        >>> typical_dose(e_mails)
        Dose(half_contacts=3.0, half_weeks=4.0, half_intensity=1.0, channel=-0.2)
    """
    entry = INTERVENTIONS[config.intervention_type]
    return Dose(
        entry.half_contacts.median * contacts,
        entry.half_weeks.median * weeks,
        entry.half_intensity.median * intensity,
        entry.channels[Channel(config.channel)].mean,
    )


def draw_dose(
    config: InterventionConfig,
    n_draws: int,
    seed: int,
    contacts: float | Floats = 1.0,
    weeks: float | Floats = 1.0,
    intensity: float | Floats = 1.0,
    learned: ParameterDraws = NOTHING_LEARNED,
) -> Dose:
    """Draws of the dose-response parameters; configurations of the same intervention share them.

    Args:
        config: of which the channel counts.
        n_draws: their number.
        seed: of the draws.
        contacts: factor of the contacts of half the maximal response, such as that of an
            :class:`~schemas.effect_priors.EffectScenario`, a number or ``(n_draws,)``.
        weeks: the same factor of the weeks.
        intensity: the same factor of the intensity.
        learned: draws of parameters that experiments taught, which take the place of the catalogue's.

    Example:
        >>> e_mails = InterventionConfig(intervention_type="email_campaign", channel="mail", frequency="once", duration_weeks=2)
        >>> round(float(np.median(draw_dose(e_mails, 1000, seed=0).half_weeks)), 2)
        4.0
    """
    entry = INTERVENTIONS[config.intervention_type]
    halves = normal_draws(3, n_draws, seed, f"{entry.name} dose")
    channel = normal_draws(1, n_draws, seed, f"{entry.name} by {config.channel}")[0]
    own_channel = learned.of(f"{CHANNEL}{Channel(config.channel).value}")
    return Dose(
        _positive(entry.half_contacts, halves[0], learned.of("contacts")) * contacts,
        _positive(entry.half_weeks, halves[1], learned.of("weeks")) * weeks,
        _positive(entry.half_intensity, halves[2], learned.of("intensity")) * intensity,
        _normal(entry.channels[Channel(config.channel)], channel) if own_channel is None else own_channel,
    )


def dose_response(config: InterventionConfig, dose: Dose) -> Floats:
    """Share of the base effect that a configuration reaches, in the shape of the parameters of ``dose``.

    It is exactly 1 at the reference dose (own channel, monthly, 12 weeks, intensity 1) and rises with contacts, weeks and intensity
    toward a maximum (a hyperbola each, the Emax model without baseline).

    References:
        Holford, Sheiner (1981), Understanding the dose-effect relationship. Clinical Pharmacokinetics 6.

    Example:
        >>> monthly = InterventionConfig(
        ...     intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12, intensity=None
        ... )
        >>> float(dose_response(monthly, typical_dose(monthly)))
        1.0
    """
    n_contacts, reference = contacts(config.frequency, config.duration_weeks), contacts(REFERENCE_FREQUENCY, REFERENCE_WEEKS)
    intensity = REFERENCE_INTENSITY if config.intensity is None else config.intensity
    return np.asarray(
        _saturating(n_contacts, reference, dose.half_contacts)
        * _saturating(config.duration_weeks, REFERENCE_WEEKS, dose.half_weeks)
        * _saturating(intensity, REFERENCE_INTENSITY, dose.half_intensity)
        * np.exp(dose.channel)
    )


def reference_dose() -> TestedDose:
    """The dose at which base effects of the catalogue hold.

    Example:
        >>> reference_dose().weeks
        12.0
    """
    n_contacts = contacts(REFERENCE_FREQUENCY, REFERENCE_WEEKS)
    return TestedDose(contacts=n_contacts, weeks=REFERENCE_WEEKS, intensity=REFERENCE_INTENSITY)


def tested_dose(campaign: InterventionConfig) -> TestedDose:
    """The dose of a campaign.

    Example:
        >>> e_mails = InterventionConfig(intervention_type="email_campaign", channel="mail", frequency="once", duration_weeks=2)
        >>> tested_dose(e_mails).contacts
        1.0
    """
    intensity = REFERENCE_INTENSITY if campaign.intensity is None else campaign.intensity
    n_contacts = contacts(campaign.frequency, campaign.duration_weeks)
    return TestedDose(contacts=n_contacts, weeks=campaign.duration_weeks, intensity=intensity)


def contacts(frequency: str, weeks: float) -> float:
    """Number of contacts over the whole duration, at least one.

    Example:
        >>> contacts("once", 12), contacts("weekly", 12)
        (1.0, 12.0)
    """
    return max(1.0, float(CONTACTS_PER_MONTH[Frequency(frequency)]) * weeks / _WEEKS_PER_MONTH)


@dataclass(frozen=True)
class Design:
    """Moderators of twins with their prior coefficients.

    Attributes:
        terms: centred and scaled moderators, shape ``(p, n)``.
        names: of the terms, ``feature`` or ``feature=level``.
        coefficients: prior of each term's coefficient.
        channels: channels in which each term matters; empty for all.
        levels: what the last terms are about, where these are deviations of levels of features, without a coefficient of their own.
    """

    terms: Floats
    names: tuple[str, ...]
    coefficients: tuple[Uncertain, ...]
    channels: tuple[frozenset[Channel], ...]
    levels: tuple[tuple[str, str], ...] = ()
    _factors: dict[bytes, TwinFactors] = field(default_factory=dict, init=False, repr=False, compare=False)

    def select(self, mask: Flags) -> Design:
        """The design of the twins where ``mask`` ``(n,)`` is true."""
        return self if mask.all() else replace(self, terms=self.terms[:, mask])

    def coefficients_of(self, channel: str, learned: ParameterDraws = NOTHING_LEARNED) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the coefficients in one channel, each ``(p,)``; 0 where a moderator does not matter.

        The mean is the learned one where there is one.
        """
        matters = np.array([not channels or Channel(channel) in channels for channels in self.channels], dtype=float)
        n = len(self.names) - len(self.levels)
        named = [
            learned.named[name][0] if name in learned.named else prior.mean
            for name, prior in zip(self.names[:n], self.coefficients, strict=False)
        ]
        mean = np.array([*named, *(learned.levels[level][0] for level in self.levels)], dtype=float) * matters
        return mean, np.array([c.sd for c in self.coefficients], dtype=float) * matters

    def factors(self, channel: str, learned: ParameterDraws = NOTHING_LEARNED) -> Floats:
        """Each twin's factor at the mean coefficients, shape ``(n,)``."""
        return self.twin_factors(channel, learned).factors

    def twin_factors(self, channel: str, learned: ParameterDraws = NOTHING_LEARNED) -> TwinFactors:
        """The factors with what follows from them; those of the last few mean coefficients are kept."""
        mean = self.coefficients_of(channel, learned)[0]
        if (key := mean.tobytes()) not in self._factors:
            while len(self._factors) >= _FACTORS_IN_MEMORY:
                self._factors.pop(next(iter(self._factors)), None)
            self._factors[key] = TwinFactors(np.asarray(np.exp(weighted_sum(self.terms, mean))), self.terms)
        return self._factors[key]

    @property
    def n_bytes(self) -> int:
        """Bytes of the terms and of the factors in memory."""
        return self.terms.nbytes + sum(twins.n_bytes for twins in list(self._factors.values()))

    def deviations(self, channel: str, n_draws: int, seed: int, learned: ParameterDraws = NOTHING_LEARNED) -> Floats:
        """Draws of the coefficients' deviations from their means, shape ``(p, n_draws)``; a term has the same in every design."""
        mean, sd = self.coefficients_of(channel, learned)
        terms, n = catalogue_in_effect().moderator_terms, len(self.names) - len(self.levels)
        drawn = normal_draws(len(terms), n_draws, seed, "moderators")
        rows = np.zeros((len(self.names), n_draws))
        rows[:n] = sd[:n, None] * drawn[[terms.index(name) for name in self.names[:n]]]
        for number, name in enumerate(self.names[:n]):
            if name in learned.named and sd[number]:
                rows[number] = learned.named[name][1] - mean[number]
        for number, level in enumerate(self.levels, start=n):
            rows[number] = learned.levels[level][1] - mean[number]
        return rows


def build_design(
    frame: pd.DataFrame | Columns,
    levels: Sequence[tuple[str, str]] = (),
    reading: LevelReading = AS_DECLARED,
    *,
    with_absent: bool = False,
) -> Design:
    """Build the design of twins; moderators that ``frame`` lacks, and missing values, have no influence.

    Args:
        frame: features of the twins.
        levels: of features, in the form of :func:`schemas.levels.level_key`, each a term of its own.
        reading: which level a value is.
        with_absent: with terms for levels of moderators that no twin has.

    Example:
        >>> design = build_design(pd.DataFrame({"decile": [10, None], "adoption_stage": ["Innovators", "unheard of"]}))
        >>> design.names
        ('decile', 'adoption_stage=innovator')
        >>> design.factors("email").round(2).tolist()
        [1.39, 1.0]
    """
    columns = frame if isinstance(frame, Columns) else Columns(frame)
    terms_of = partial(_terms, columns=columns, reading=reading, with_absent=with_absent)
    fillers = [term for moderator in MODERATORS if moderator.column in columns for term in terms_of(moderator)]
    present = tuple((column, level) for column, level in levels if column in columns)
    fillers += [_level_term(columns, column, level, reading) for column, level in present]
    terms = np.empty((len(fillers), len(columns)))
    for term, out in zip(fillers, terms, strict=True):
        term.fill(out)
    return Design(
        terms,
        tuple(term.name for term in fillers),
        tuple(term.coefficient for term in fillers),
        tuple(term.channels for term in fillers),
        present,
    )


class _Term(NamedTuple):
    """One row of a design, and the function that writes its values into an array ``(n,)``."""

    name: str
    coefficient: Uncertain
    channels: frozenset[Channel]
    fill: Callable[[Floats], None]


def _terms(moderator: Moderator, columns: Columns, reading: LevelReading, *, with_absent: bool) -> list[_Term]:
    column = moderator.column
    if moderator.slope is not None:
        return [_Term(column, moderator.slope, moderator.channels, partial(_standardise, moderator, columns.numbers(column)))]
    codes, values = columns.levels(column)
    levels = [reading.moderating(moderator, level) for level in values]
    return [
        _Term(f"{column}={level}", coefficient, moderator.channels, partial(_indicate, codes, levels, level))
        for level, coefficient in moderator.levels.items()
        if with_absent or level in levels
    ]


def _level_term(columns: Columns, column: str, level: str, reading: LevelReading) -> _Term:
    codes, values = columns.levels(column)
    keys = [reading.key(column, value) for value in values]
    own = reading.key(column, level)
    return _Term(f"{column}={level}", Uncertain(0.0, 0.0), frozenset(), partial(_indicate, codes, keys, own))


def _standardise(moderator: Moderator, values: Floats, out: Floats) -> None:
    np.subtract(values, moderator.center, out=out)
    out /= moderator.spread
    np.clip(out, -_MAX_DEVIATION, _MAX_DEVIATION, out=out)
    np.copyto(out, 0.0, where=np.isnan(out))


def _indicate(codes: npt.NDArray[np.intp], levels: Sequence[str | None], level: str, out: Floats) -> None:
    indicators = np.array([*(candidate == level for candidate in levels), False], dtype=float)  # the last is code -1: missing
    np.take(indicators, codes, out=out, mode="wrap")


def is_moderated(column: str, level: object, learned: LearnedParameters | None = None, reading: LevelReading = AS_DECLARED) -> bool:
    """Whether a moderator or an experiment is about this level of a column; else it is as an average twin, by assumption.

    >>> is_moderated("region", "Rural"), is_moderated("region", "south"), is_moderated("priority_tier", 1)
    (True, False, True)
    """
    moderator = next((moderator for moderator in MODERATORS if moderator.column == column), None)
    if learned is not None and is_learned(learned, column, level, reading):
        return True
    return moderator is not None and (moderator.slope is not None or reading.moderating(moderator, level) is not None)


def weighted_sum(terms: Floats, weights: Floats) -> Floats:
    """Sum of terms times weights, ``(n,)``, in a fixed order so that the last digits do not depend on threads."""
    total, product = np.zeros(terms.shape[1]), np.empty(terms.shape[1])
    for term, weight in zip(terms, weights, strict=True):
        total += np.multiply(term, weight, out=product)
    return total


def _saturating(amount: float, reference: float, half: float | Floats) -> float | Floats:
    return (amount / (amount + half)) / (reference / (reference + half))


def _normal(prior: Uncertain, z: Floats) -> Floats:
    return prior.mean + prior.sd * z


def _positive(prior: Positive, z: Floats, learned: Floats | None = None) -> Floats:
    return prior.median * np.exp(prior.spread * z if learned is None else learned)

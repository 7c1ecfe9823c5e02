"""Worlds whose true effects are drawn from the catalogue's priors, implemented independently of the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from engine.effects.base_effect import RESPONSES
from engine.effects.effect_posterior import BETWEEN_SCALE, HARMS, MEAN_SCALE, NOTHING_WORKS, SEVERAL_TIMES
from schemas import INTERVENTIONS, MODERATORS, InterventionConfig
from schemas.arrays import Floats
from schemas.interventions import Intervention, Positive, Uncertain

__all__ = ["COEFFICIENT_PRIORS", "Terms", "World", "draw_campaigns", "matters", "moderator_terms", "right_campaigns"]

Terms = Mapping[tuple[str, str], Floats]
"""Moderators of people by feature and level (empty for a number), arrays of shape ``(n,)``."""

CONTACTS_PER_WEEK = {"once": 0.0, "quarterly": 4 / 52, "monthly": 12 / 52, "biweekly": 0.5, "weekly": 1.0}
REFERENCE_CONTACTS, REFERENCE_WEEKS, REFERENCE_INTENSITY = 12 * 12 / 52, 12.0, 1.0


class World:
    """One draw of all uncertain parameters; without tails the catalogue is right about effects and the response to dose."""

    def __init__(self, rng: np.random.Generator, *, has_tails: bool = True) -> None:
        draw = draw_campaigns if has_tails else right_campaigns
        self.base = {name: float(rng.normal(*draw(rng, entry.effect))) for name, entry in INTERVENTIONS.items()}
        self.channel = {
            (name, channel.value): math.exp(_normal(rng, prior))
            for name, entry in INTERVENTIONS.items()
            for channel, prior in entry.channels.items()
        }
        self.halves = {name: _halves(rng, entry, has_tails=has_tails) for name, entry in INTERVENTIONS.items()}
        self.coefficients = {term: _normal(rng, prior) for term, prior in COEFFICIENT_PRIORS.items()}

    def dose(self, config: InterventionConfig) -> float:
        """Share of the base effect that a configuration reaches."""
        contacts = max(1.0, CONTACTS_PER_WEEK[config.frequency] * config.duration_weeks)
        amounts = (contacts, config.duration_weeks, config.intensity or 1.0)
        usual = (REFERENCE_CONTACTS, REFERENCE_WEEKS, REFERENCE_INTENSITY)
        reached = [
            a / (a + half) / (u / (u + half))
            for a, u, half in zip(amounts, usual, self.halves[config.intervention_type], strict=True)
        ]
        return math.prod(reached) * self.channel[config.intervention_type, config.channel]

    def factors(self, people: Terms, channel: str) -> Floats:
        """Each person's effect as a multiple of the base effect, shape ``(n,)``."""
        log = [self.coefficients[term] * values for term, values in people.items() if matters(term, channel)]
        return np.exp(np.sum(log, axis=0))

    def average_effect(self, config: InterventionConfig, people: Terms, base: float | None = None) -> float:
        """True average effect of a campaign on people; ``base`` replaces the base effect of this world."""
        effect = self.base[config.intervention_type] if base is None else base
        return effect * self.dose(config) * float(self.factors(people, config.channel).mean())


def moderator_terms(people: pd.DataFrame) -> Terms:
    """Moderators of people: numbers in spreads from their centre, 1 at a level and 0 elsewhere."""
    return {
        (moderator.column, level): (
            (people[moderator.column].to_numpy(float) - moderator.center) / moderator.spread
            if moderator.slope
            else (people[moderator.column] == level).to_numpy(float)
        )
        for moderator in MODERATORS
        if moderator.column in people
        for level in (moderator.levels or [""])
    }


COEFFICIENT_PRIORS = {
    (moderator.column, level): prior
    for moderator in MODERATORS
    for level, prior in ({"": moderator.slope} if moderator.slope else moderator.levels).items()
}
"""Prior coefficients of the catalogue by feature and level."""


def matters(term: tuple[str, str], channel: str) -> bool:
    """Whether a term moderates effects in this channel."""
    channels = {moderator.column: moderator.channels for moderator in MODERATORS}[term[0]]
    return not channels or channel in channels


def right_campaigns(rng: np.random.Generator, effect: Uncertain) -> tuple[float, float]:
    """Mean of all campaigns of a type, and the standard deviation between them, where the catalogue is right."""
    return float(rng.normal(effect.mean, MEAN_SCALE * effect.sd)), effect.sd * _spread(rng)


def draw_campaigns(rng: np.random.Generator, effect: Uncertain) -> tuple[float, float]:
    """The same in a world that may have no effect, a multiple of it, or harm."""
    kind = rng.choice(4, p=[1.0 - NOTHING_WORKS - SEVERAL_TIMES - HARMS, NOTHING_WORKS, SEVERAL_TIMES, HARMS])
    if kind == 0:
        return float(rng.normal(_own_center(effect), MEAN_SCALE * effect.sd)), effect.sd * _spread(rng)
    if kind == 1:
        return float(rng.normal(0.0, 0.25 * effect.sd)), 0.5 * effect.sd * _spread(rng)
    multiple = float(1.0 / np.sqrt(rng.uniform())) * (1.5 if kind == 2 else -0.5)  # a Pareto distribution with index 2
    center = multiple * effect.mean
    return float(rng.normal(center, 0.15 * abs(center))), max(effect.sd, 0.4 * abs(center)) * _spread(rng)


def _own_center(effect: Uncertain) -> float:
    """Centre of the catalogue's own part, such that the mean of all is that of the catalogue; the mean multiples are 3 and -1."""
    others = SEVERAL_TIMES * 3.0 + HARMS * -1.0
    return effect.mean * (1.0 - others) / (1.0 - NOTHING_WORKS - SEVERAL_TIMES - HARMS)


def _spread(rng: np.random.Generator) -> float:
    return BETWEEN_SCALE * float(np.sqrt(2.0 * rng.f(2, 6)))


def _halves(rng: np.random.Generator, entry: Intervention, *, has_tails: bool) -> tuple[float, float, float]:
    contacts, weeks, intensity = (_positive(rng, half) for half in (entry.half_contacts, entry.half_weeks, entry.half_intensity))
    if not has_tails:
        return contacts, weeks, intensity
    response = RESPONSES[rng.choice(len(RESPONSES), p=[response.probability for response in RESPONSES])]
    return contacts * response.contacts, weeks * response.weeks, intensity * response.intensity


def _normal(rng: np.random.Generator, prior: Uncertain) -> float:
    return float(rng.normal(prior.mean, prior.sd))


def _positive(rng: np.random.Generator, prior: Positive) -> float:
    return prior.median * math.exp(rng.normal(0.0, prior.spread))

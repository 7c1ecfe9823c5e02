"""Worlds in which interventions do what was drawn from the catalogue's beliefs, written out plainly beside the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from schemas import INTERVENTIONS, MODERATORS, InterventionConfig
from schemas.interventions import Positive, Uncertain

__all__ = ["BELIEVED", "Terms", "World", "matters", "terms_of"]

Array = npt.NDArray[np.float64]
Terms = Mapping[tuple[str, str], Array]
"""Of some people, by feature and level (empty for a number), arrays of shape ``(n,)``."""

CONTACTS_A_WEEK = {"once": 0.0, "quarterly": 4 / 52, "monthly": 12 / 52, "biweekly": 0.5, "weekly": 1.0}
REFERENCE_CONTACTS, REFERENCE_WEEKS, REFERENCE_INTENSITY = 12 * 12 / 52, 12.0, 1.0


class World:
    """One draw of everything that the catalogue believes and does not know."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.base = {name: _drawn(rng, entry.effect) for name, entry in INTERVENTIONS.items()}
        self.channel = {
            (name, channel.value): math.exp(_drawn(rng, believed))
            for name, entry in INTERVENTIONS.items()
            for channel, believed in entry.channels.items()
        }
        self.halves = {
            name: tuple(_positive(rng, half) for half in (entry.half_contacts, entry.half_weeks, entry.half_intensity))
            for name, entry in INTERVENTIONS.items()
        }
        self.coefficients = {term: _drawn(rng, believed) for term, believed in BELIEVED.items()}

    def dose(self, config: InterventionConfig) -> float:
        """Share of the base effect that a configuration reaches."""
        contacts = max(1.0, CONTACTS_A_WEEK[config.frequency] * config.duration_weeks)
        amounts = (contacts, config.duration_weeks, config.intensity or 1.0)
        usual = (REFERENCE_CONTACTS, REFERENCE_WEEKS, REFERENCE_INTENSITY)
        reached = [
            a / (a + half) / (u / (u + half))
            for a, u, half in zip(amounts, usual, self.halves[config.intervention_type], strict=True)
        ]
        return math.prod(reached) * self.channel[config.intervention_type, config.channel]

    def factors(self, people: Terms, channel: str) -> Array:
        """How many times the usual effect each of some people has, shape ``(n,)``."""
        log = [self.coefficients[term] * values for term, values in people.items() if matters(term, channel)]
        return np.exp(np.sum(log, axis=0))

    def average_effect(self, config: InterventionConfig, people: Terms, base: float | None = None) -> float:
        """What a campaign really does to some people on average; ``base`` is that of one campaign among many."""
        effect = self.base[config.intervention_type] if base is None else base
        return effect * self.dose(config) * float(self.factors(people, config.channel).mean())


def terms_of(people: pd.DataFrame) -> Terms:
    """What bends an effect on some people: numbers in spreads from their centre, 1 at a level and 0 elsewhere."""
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


BELIEVED = {
    (moderator.column, level): believed
    for moderator in MODERATORS
    for level, believed in ({"": moderator.slope} if moderator.slope else moderator.levels).items()
}
"""Coefficients of the catalogue by feature and level."""


def matters(term: tuple[str, str], channel: str) -> bool:
    """Whether a term bends what this channel does."""
    only = {moderator.column: moderator.channels for moderator in MODERATORS}[term[0]]
    return not only or channel in only


def _drawn(rng: np.random.Generator, believed: Uncertain) -> float:
    return float(rng.normal(believed.mean, believed.sd))


def _positive(rng: np.random.Generator, believed: Positive) -> float:
    return believed.median * math.exp(rng.normal(0.0, believed.spread))

"""Draws of what experiments have taught beside the base effect: who responds, by which channel, and at which dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from engine.effects.level_reading import LevelReading, reading_of
from engine.effects.normal_draws import normal_draws
from schemas.arrays import Floats
from schemas.effect_priors import EffectPrior, LearnedParameters
from schemas.interventions import MODERATORS

__all__ = [
    "CHANNEL",
    "NOTHING_LEARNED",
    "UNREPORTED_LEVEL_SD",
    "Moments",
    "ParameterDraws",
    "draw_parameters",
    "is_learned",
    "learned_parameters",
    "level_spread",
]

CHANNEL = "channel:"
UNREPORTED_LEVEL_SD = 0.15
"""Standard deviation of a level's deviation from what moderators explain, where no experiment has reported levels of the feature.

It is that of :data:`engine.effects.parameter_learning.LEVEL_SDS`.
"""

_LEVELS_DEVIATE = 3  # method
_NEGLIGIBLE = 1e-12
_DIGITS = 6


class ParameterDraws(NamedTuple):
    """Draws of parameters by name, and of deviations by level of a feature, each with its mean; ``(n_draws,)``."""

    named: Mapping[str, tuple[float, Floats]]
    levels: Mapping[tuple[str, str], tuple[float, Floats]]

    def of(self, name: str) -> Floats | None:
        """Draws of a parameter; None where nothing was learned about it."""
        return self.named[name][1] if name in self.named else None


NOTHING_LEARNED = ParameterDraws({}, {})


def draw_parameters(learned: LearnedParameters | None, score: Floats, seed: int) -> ParameterDraws:
    """Joint draws of the learned parameters, given the normal scores of the base effect ``(n_draws,)``.

    Example:
        >>> learned = LearnedParameters(names=("decile",), mean=(0.1,), shared=(0.0,), factor=((0.02,),))
        >>> mean, draws = draw_parameters(learned, np.zeros(1000), seed=0).named["decile"]
        >>> mean, round(float(draws.std()), 3)
        (0.1, 0.02)
    """
    if learned is None:
        return NOTHING_LEARNED
    own = normal_draws(len(learned.mean), len(score), seed, "learned parameters")
    rows = [
        (mean, mean + shared * score + _sum(factor, own))
        for mean, shared, factor in zip(learned.mean, learned.shared, learned.factor, strict=True)
    ]
    n = len(learned.names)
    return ParameterDraws(dict(zip(learned.names, rows[:n], strict=True)), dict(zip(learned.levels, rows[n:], strict=True)))


def _sum(weights: Sequence[float], rows: Floats) -> Floats:
    """Sum of weights times rows in a fixed order, so that the last digits do not depend on threads."""
    total, product = np.zeros(rows.shape[1]), np.empty(rows.shape[1])
    for weight, row in zip(weights, rows, strict=False):
        total += np.multiply(row, weight, out=product)
    return total


def level_spread(prior: EffectPrior, dimension: str, level: str) -> float:
    """Standard deviation of a subgroup's effect beyond the parameters that are drawn, as a share of the average effect.

    Methods before the third took subgroups as exactly what moderators explain.
    """
    if prior.method < _LEVELS_DEVIATE:
        return 0.0
    learned = prior.learned
    if learned is None or dimension not in learned.dimensions:
        return UNREPORTED_LEVEL_SD
    reading = reading_of(prior.method)
    is_seen = is_learned(learned, dimension, level, reading) or _is_moderator_learned(learned, dimension, level, reading)
    return learned.spread if is_seen else learned.unseen


def is_learned(learned: LearnedParameters, dimension: str, level: object, reading: LevelReading) -> bool:
    """Whether a deviation of this level of a feature was learned."""
    key = reading.key(dimension, level)
    return any(name == dimension and reading.key(name, text) == key for name, text in learned.levels)


def _is_moderator_learned(learned: LearnedParameters, dimension: str, level: str, reading: LevelReading) -> bool:
    term = next((reading.moderating(moderator, level) for moderator in MODERATORS if moderator.column == dimension), None)
    return term is not None and f"{dimension}={term}" in learned.names


class Moments(NamedTuple):
    """Mean ``(q,)``, covariance ``(q, q)``, and covariance with the normal score of the base effect ``(q,)``."""

    mean: Floats
    covariance: Floats
    with_score: Floats


def learned_parameters(
    names: Sequence[str],
    levels: Sequence[tuple[str, str]],
    moments: Moments,
    dimensions: Sequence[str],
    level_sds: tuple[float, float],
) -> LearnedParameters:
    """The joint distribution as it is stored, in few digits.

    Args:
        names: of the first of the ``q`` parameters.
        levels: of the others.
        moments: of all.
        dimensions: features of whose levels effects were reported.
        level_sds: standard deviations of a level's deviation: in one campaign, and of one without a report.
    """
    covariance, shared = moments.covariance, moments.with_score
    spread, unseen = level_sds
    own, vectors = np.linalg.eigh(covariance - np.outer(shared, shared))
    scale = np.sqrt(np.maximum(own, _NEGLIGIBLE))
    upper = np.asarray(np.linalg.qr((vectors * scale).T, mode="r"))  # its square is the covariance without negative eigenvalues
    factor = upper.T
    factor = factor * np.where(np.diagonal(factor) < 0, -1.0, 1.0)
    return LearnedParameters(
        names=tuple(names),
        levels=tuple(levels),
        mean=tuple(map(_short, moments.mean)),
        shared=tuple(map(_short, shared)),
        factor=tuple(tuple(map(_short, row[: number + 1])) for number, row in enumerate(factor)),
        dimensions=tuple(dimensions),
        spread=_short(spread),
        unseen=_short(unseen),
    )


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")

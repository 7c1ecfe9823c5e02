"""Sums over twins from which the result of a simulation follows.

Draws of parameters act on averages over twins only (see :mod:`engine.effects.effect_draws`), so a result needs no twin once these
sums are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.effects.subgroups import LevelSums
from schemas.arrays import Floats

__all__ = ["TwinSums"]


@dataclass(frozen=True)
class TwinSums:
    """Sums over the twins of a simulation; moments are those of :meth:`engine.effects.effect_draws.EffectDraws.moments`.

    Attributes:
        n_twins: of the population, with those outside of the filters.
        totals: moments of each intervention that is compared, ``(3 + p,)`` each.
        groups: moments of the first one by dimension and level.
        change: moments of the first one with each factor multiplied by the twin's change for an effect of 1, ``(3 + p,)``.
        n_with_base: twins whose change is known.
        base: sum of the absolute changes for an effect of 1.
        outcome_sd: standard deviation of the drawn outcomes, in the unit of the target; None where these twins have none.
    """

    n_twins: int
    totals: tuple[Floats, ...]
    groups: Mapping[str, LevelSums]
    change: Floats
    n_with_base: int
    base: float
    outcome_sd: float | None

    @property
    def n(self) -> int:
        """Twins within the filters."""
        return int(self.totals[0][0])

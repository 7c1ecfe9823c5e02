"""Draws of an intervention's effect on twins: on average, by twin, and by subgroup, without an array of twins times draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.effects.effect_model import weighted_sum
from engine.effects.normal_draws import normal_draws
from engine.effects.subgroups import shrinkage
from engine.effects.twin_factors import TwinFactors
from schemas.arrays import Floats

__all__ = ["FEW_REAL_ROWS", "AverageDraws", "EffectDraws"]

FEW_REAL_ROWS = 200
"""Real rows below which twins can hardly be told from others of the same few rows; averages over such twins are widened."""


@dataclass(frozen=True)
class AverageDraws:
    """Draws of average effects, from sums over twins and draws of parameters.

    Attributes:
        sums: of the moments of :class:`~engine.effects.twin_factors.TwinFactors` over all twins, ``(3 + p,)``; the first is their
            number.
        scale: draws of base effect times dose, ``(n_draws,)``.
        deviations: draws of the coefficients' deviations from their means, ``(p, n_draws)``.
        real_rows: that the twins are based on; None where the number is unknown. With fewer than 200 the twins' factors are those
            of a small sample, and the error of its mean is drawn as well.
        seed: of that error: the same for all interventions on the same twins.
    """

    sums: Floats
    scale: Floats
    deviations: Floats
    real_rows: float | None = None
    seed: int = 0

    @cached_property
    def average(self) -> Floats:
        """Average effect under each draw, shape ``(n_draws,)``."""
        _, level, square, *slopes = self.sums / self.sums[0]
        draws = np.asarray(self.scale * (level + weighted_sum(self.deviations, np.array(slopes))))
        error = float(self._row_error(np.array([self._within(square, level)]), np.ones(1))[0])
        return draws + error * normal_draws(1, len(self.scale), self.seed, "real rows")[0] if 0.0 < error < np.inf else draws

    def _within(self, square: Floats, level: Floats) -> Floats:
        """Variance of twins' effects from the means of their squared factors and of their factors."""
        return np.asarray(np.maximum(square - level**2, 0.0) * self.scale.mean() ** 2)

    def _row_error(self, within: Floats, shares: Floats) -> Floats:
        """Standard error of the average effect of each group that has this share of the twins, from its number of real rows.

        ``sqrt(within / rows)`` below 200 rows, else 0: there it is a few percent of the spread of the effect itself.
        """
        if self.real_rows is None:
            return np.zeros(len(within))
        rows = np.maximum(self.real_rows * shares, 1.0)
        return np.where(rows < FEW_REAL_ROWS, np.sqrt(within / rows), 0.0)

    def by_group(self, sums: Sequence[Floats], seed: int) -> tuple[Floats, Floats]:
        """Twins in each group, shape ``(groups,)``, and draws of its average effect, shape ``(groups, n_draws)``.

        Args:
            sums: sums of the moments in the groups of each dimension, ``(3 + p, 1 + groups)`` each, first those of the twins
                without a group; in the result the groups of all dimensions follow each other.
            seed: of the uncertainty that partial pooling leaves.
        """
        # The twins without a group pool with the groups: the average that groups are drawn toward includes them.
        present = [dimension[:, dimension[0] > 0] for dimension in sums]
        is_group = np.concatenate([np.arange(dimension.shape[1])[dimension[0] > 0] > 0 for dimension in sums])
        n, level, squares, *slopes = np.concatenate(present, axis=1)
        draws = self.scale * ((level[:, None] + np.transpose(slopes).reshape(len(n), -1) @ self.deviations) / n[:, None])
        draws -= self.average
        within = self._within(squares / n, level / n)
        ends = np.cumsum([dimension.shape[1] for dimension in present])[:-1]
        by_dimension = zip(*(np.split(values, ends) for values in (draws.mean(axis=1), n, within)), strict=True)
        share, sd = np.concatenate([shrinkage(*dimension) for dimension in by_dimension], axis=1)
        draws *= share[:, None]
        # Groups are reported one by one, never jointly: one row of draws serves all of them.
        sd = np.sqrt(sd**2 + (share * self._row_error(within, n / self.sums[0])) ** 2)
        draws += sd[:, None] * normal_draws(1, len(self.scale), seed, "subgroups")
        draws += self.average
        return n[is_group], draws[is_group]


@dataclass(frozen=True)
class EffectDraws:
    """Factors of twins and draws of parameters, from which effects are computed.

    Attributes:
        twins: their factors at the mean coefficients, and their moderators.
        scale: draws of base effect times dose, ``(n_draws,)``.
        deviations: draws of the coefficients' deviations from their means, ``(p, n_draws)``.
        real_rows: that the twins are based on; None where the number is unknown. With fewer than 200 the twins' factors are those
            of a small sample, and the error of its mean is drawn as well.
        seed: of that error: the same for all interventions on the same twins.
    """

    twins: TwinFactors
    scale: Floats
    deviations: Floats
    real_rows: float | None = None
    seed: int = 0

    @property
    def factors(self) -> Floats:
        """Each twin's factor at the mean coefficients, ``(n,)``."""
        return self.twins.factors

    @cached_property
    def over_twins(self) -> AverageDraws:
        """Draws of averages over these twins."""
        return AverageDraws(self.twins.totals, self.scale, self.deviations, self.real_rows, self.seed)

    @property
    def average(self) -> Floats:
        """Average effect under each draw, shape ``(n_draws,)``."""
        return self.over_twins.average

    def expected(self) -> Floats:
        """Expected effect on each twin, shape ``(n,)``."""
        slopes = np.mean(self.deviations * self.scale, axis=1)
        return np.asarray(self.factors * (self.scale.mean() + weighted_sum(self.twins.terms, slopes)))

    def by_twin(self, rows: slice) -> Floats:
        """Effect on each twin of these rows under each draw, shape ``(rows, n_draws)``."""
        effects = self.twins.terms[:, rows].T @ self.deviations
        effects += 1.0
        effects *= self.scale
        effects *= self.factors[rows, None]
        return effects

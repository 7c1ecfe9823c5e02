"""Draws of an intervention's effect on twins: on average, by twin, and by subgroup, without an array of twins times draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.effects.effect_model import weighted_sum
from engine.effects.normal_draws import normal_draws
from engine.effects.subgroups import shrinkage
from schemas.arrays import Floats

__all__ = ["EffectDraws"]


@dataclass(frozen=True)
class EffectDraws:
    """Factors of twins and draws of parameters, from which effects are computed.

    Attributes:
        factors: each twin's factor at the mean coefficients, ``(n,)``.
        terms: moderators of the twins, ``(p, n)``.
        scale: draws of base effect times dose, ``(n_draws,)``.
        deviations: draws of the coefficients' deviations from their means, ``(p, n_draws)``.
    """

    factors: Floats
    terms: Floats
    scale: Floats
    deviations: Floats

    def moments(self) -> Iterator[Floats]:
        """Per twin the terms that all averages are sums of: 1, its factor, the squared factor, the factor times each moderator.

        The arrays ``(n,)`` are yielded one after another, the later ones in the same memory.
        """
        yield np.ones(len(self.factors))
        yield self.factors
        product = np.square(self.factors)
        yield product
        for term in self.terms:
            yield np.multiply(self.factors, term, out=product)

    @cached_property
    def average(self) -> Floats:
        """Average effect under each draw, shape ``(n_draws,)``."""
        _, level, _, *slopes = [moment.mean() for moment in self.moments()]
        return np.asarray(self.scale * (level + weighted_sum(self.deviations, np.array(slopes))))

    def expected(self) -> Floats:
        """Expected effect on each twin, shape ``(n,)``."""
        slopes = np.mean(self.deviations * self.scale, axis=1)
        return np.asarray(self.factors * (self.scale.mean() + weighted_sum(self.terms, slopes)))

    def by_twin(self, rows: slice) -> Floats:
        """Effect on each twin of these rows under each draw, shape ``(rows, n_draws)``."""
        effects = self.terms[:, rows].T @ self.deviations
        effects += 1.0
        effects *= self.scale
        effects *= self.factors[rows, None]
        return effects

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
        within = np.maximum(squares / n - (level / n) ** 2, 0.0) * self.scale.mean() ** 2
        ends = np.cumsum([dimension.shape[1] for dimension in present])[:-1]
        by_dimension = zip(*(np.split(values, ends) for values in (draws.mean(axis=1), n, within)), strict=True)
        share, sd = np.concatenate([shrinkage(*dimension) for dimension in by_dimension], axis=1)
        draws *= share[:, None]
        # Groups are reported one by one, never jointly: one row of draws serves all of them.
        draws += sd[:, None] * normal_draws(1, len(self.scale), seed, "subgroups")
        draws += self.average
        return n[is_group], draws[is_group]

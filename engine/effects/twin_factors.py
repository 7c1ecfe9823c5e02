"""Factors of twins, with the averages and sums over them that all effects are computed from.

They depend on the twins and on the mean coefficients alone, not on draws: simulations on the same twins share them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from engine.effects.subgroups import Groups, LevelSums, sums_by_group
from schemas.arrays import Floats

__all__ = ["TwinFactors"]


@dataclass(frozen=True, eq=False)
class TwinFactors:
    """Factors of twins at the mean coefficients.

    Attributes:
        factors: shape ``(n,)``.
        terms: moderators of the twins, ``(p, n)``.
    """

    factors: Floats
    terms: Floats
    _last_sums: list[tuple[Sequence[Groups], list[Floats]]] = field(default_factory=list, init=False, repr=False)
    _last_product: list[tuple[Floats, TwinFactors]] = field(default_factory=list, init=False, repr=False)

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
    def totals(self) -> Floats:
        """Sums of the moments over the twins, ``(3 + p,)``."""
        return np.array([moment.sum() for moment in self.moments()])

    def sums(self, groupings: Sequence[Groups]) -> list[Floats]:
        """Sums of the moments in the groups of each grouping, as :func:`sums_by_group` returns them."""
        for last, sums in self._last_sums:
            if len(last) == len(groupings) and all(map(operator.is_, last, groupings)):
                return sums
        self._last_sums[:] = [(groupings, sums_by_group(groupings, self.moments()))]
        return self._last_sums[0][1]

    def sums_by_dimension(self, groupings: Mapping[str, Groups]) -> dict[str, LevelSums]:
        """Sums of the moments in the groups of each dimension."""
        if not groupings:
            return {}
        sums = self.sums(list(groupings.values()))
        return {name: LevelSums(groups.labels, of_name) for (name, groups), of_name in zip(groupings.items(), sums, strict=True)}

    def times(self, weights: Floats) -> TwinFactors:
        """The factors times weights ``(n,)``, 0 where these are nan."""
        for last, product in self._last_product:
            if last is weights:
                return product
        product = TwinFactors(self.factors * np.where(np.isfinite(weights), weights, 0.0), self.terms)
        self._last_product[:] = [(weights, product)]
        return product

    @property
    def n_bytes(self) -> int:
        """Bytes of the factors, and of those times weights."""
        return self.factors.nbytes + sum(product.factors.nbytes for _, product in self._last_product)

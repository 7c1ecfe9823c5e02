"""What simulations on the same twins share: it equals, bit for bit, what each would compute alone."""

from __future__ import annotations

import numpy as np

from engine.effects import Groups, TwinFactors
from engine.effects.subgroups import sums_by_group
from schemas.arrays import Floats

N = 500


def some_factors() -> TwinFactors:
    rng = np.random.default_rng(0)
    return TwinFactors(rng.gamma(4.0, 0.25, N), rng.standard_normal((3, N)))


def some_groups(n_groups: int) -> Groups:
    codes = np.random.default_rng(n_groups).integers(0, n_groups + 1, N)
    return Groups(codes, tuple(f"group {number}" for number in range(n_groups)))


def equal(first: list[Floats], second: list[Floats]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def test_totals_over_their_number_are_the_means_of_the_moments() -> None:
    twins = some_factors()
    for _ in range(2):
        n, *totals = twins.totals
        level, square, *slopes = [total / n for total in totals]
        assert (level, square) == (twins.factors.mean(), np.square(twins.factors).mean())
        assert slopes == [(twins.factors * term).mean() for term in twins.terms]


def test_sums_are_of_the_groups_that_are_asked_for_whatever_was_asked_before() -> None:
    twins, few, many = some_factors(), some_groups(2), some_groups(9)
    for groupings in ([few], [few], [many], [few, many], [many, few], [few]):
        assert equal(twins.sums(groupings), sums_by_group(groupings, some_factors().moments()))


def test_products_are_with_the_weights_that_are_given_whatever_was_given_before() -> None:
    twins, weights = some_factors(), np.linspace(-1.0, 1.0, N)
    weights[:5] = np.nan
    for factor in (weights, weights, weights * 2.0, weights):
        product = twins.times(factor)
        assert np.array_equal(product.factors, twins.factors * np.nan_to_num(factor))
        assert np.array_equal(product.totals, TwinFactors(product.factors, twins.terms).totals)

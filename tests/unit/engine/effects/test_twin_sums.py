"""Sums of blocks of twins: a commutative monoid, so that nobody can tell who added them in which order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.effects import ExactSums, LevelSums, TwinSums

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)
KEYS = st.sampled_from(
    [("n",), ("change",), ("total", 0), ("group", "region", "west"), ("group", "decile", 3), ("group", "x", None)]
)
SUMS = st.dictionaries(KEYS, st.tuples(st.integers(), st.integers())).map(ExactSums)


@given(SUMS, SUMS, SUMS)
def test_sums_are_a_commutative_monoid(a: ExactSums, b: ExactSums, c: ExactSums):
    assert a.merge(b.merge(c)) == a.merge(b).merge(c) == ExactSums.merge_all([a, b, c])
    assert a.merge(b) == b.merge(a)
    assert ExactSums({}).merge(a) == a == a.merge(ExactSums({}))
    assert a.merge(b).to_bytes() == b.merge(a).to_bytes()


@given(SUMS)
def test_bytes_give_the_same_sums_again(sums: ExactSums):
    assert ExactSums.from_bytes(sums.to_bytes()) == sums


def sums_of(total: list[float], groups: LevelSums, outcome_sd: float | None = None) -> TwinSums:
    return TwinSums(7, (np.array(total),), {"region": groups}, np.array(total), 5, 2.5, outcome_sd)


@given(st.lists(FINITE, min_size=1, max_size=4))
def test_a_sum_is_exact_to_2_to_the_minus_65(values: list[float]):
    groups = LevelSums((), np.zeros((2, 1)))
    parts = [ExactSums.from_sums(sums_of([1.0, value], groups)) for value in values]
    total = ExactSums.merge_all(parts).to_sums().totals[0][1] if abs(sum(values)) < 1e300 else None
    if total is not None:
        assert total == pytest.approx(math.fsum(values), rel=1e-15, abs=len(values) * 2**-64)


def test_levels_of_blocks_are_grouped_as_those_of_one_table():
    first = LevelSums(("West", "north"), np.array([[1.0, 2.0, 4.0]]))
    second = LevelSums(("west", "south", "north"), np.array([[0.0, 5.0, 1.0, 1.0]]))
    merged = ExactSums.merge_all([ExactSums.from_sums(sums_of([4.0], groups)) for groups in (first, second)]).to_sums()
    assert (merged.n_twins, merged.n, merged.n_with_base, merged.base) == (14, 8, 10, 5.0)
    assert merged.groups["region"].labels == ("north", "south", "west")
    assert merged.groups["region"].sums.tolist() == [[1.0, 5.0, 1.0, 7.0]]
    assert merged.outcome_sd is None


def test_a_sum_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="the factors of some twins are too large"):
        ExactSums.from_sums(sums_of([1.0, math.inf], LevelSums((), np.zeros((2, 1)))))

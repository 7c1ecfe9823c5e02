"""Donors have equal shares of the rows of their leaf, and resampled rows are in proportion to their weights."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.twins.resampling import assign_donors, resample


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_each_donor_of_a_leaf_has_the_same_number_of_rows(times: int, donors: int, seed: int) -> None:
    starts = np.array([0, donors, donors + 3])
    leaves = np.repeat([0, 1], [times * donors, times * 3])
    positions = assign_donors(leaves, starts, np.random.default_rng(seed))
    assert (np.bincount(positions, minlength=donors + 3) == times).all()
    assert (positions[leaves == 1] >= donors).all()


@given(
    st.lists(st.just(0.0) | st.floats(0.01, 5), min_size=1, max_size=30).filter(any), st.integers(1, 200), st.integers(0, 2**32 - 1)
)
def test_a_row_is_resampled_as_often_as_its_weight_up_to_rounding(weights: list[float], n: int, seed: int) -> None:
    """Systematic resampling draws each row the floor or the ceiling of its expected number."""
    drawn = np.bincount(resample(np.array(weights), n, np.random.default_rng(seed)), minlength=len(weights))
    expected = n * np.array(weights) / sum(weights)
    assert drawn.sum() == n
    assert (np.abs(drawn - expected) < 1 + 1e-6).all()

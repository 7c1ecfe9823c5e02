"""Marginals describe the values of one column and restore them; shifted values stay in range and on the grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from engine.twins.marginal import DrawnColumn, fit_marginal


def test_a_missing_value_is_the_first_of_the_support_and_is_restored() -> None:
    values = pd.Series([2.5, np.nan, 1.0, 2.5], name="visits")
    column = fit_marginal(values, categorical=False)
    np.testing.assert_array_equal(column.support, [np.nan, 1.0, 2.5])
    assert column.has_gaps
    pd.testing.assert_series_equal(column.training, values)


def test_scores_are_normal_quantiles_of_mid_ranks() -> None:
    column = fit_marginal(pd.Series([1, 1, 2, 5], name="visits"), categorical=False)
    assert column.scores == pytest.approx(norm.ppf([0.25, 0.625, 0.875]))


def test_levels_of_a_category_are_restored_in_their_dtype() -> None:
    values = pd.Series(["south", None, "north"], name="region")
    column = fit_marginal(values, categorical=True)
    assert column.levels == ("north", "south")
    assert not column.is_continuous
    pd.testing.assert_series_equal(column.training, values)


def test_a_frequent_value_of_a_continuous_column_is_a_point_mass() -> None:
    values = np.concatenate([np.zeros(50), np.random.default_rng(0).normal(size=950)])
    column = fit_marginal(pd.Series(values, name="cost"), categorical=False)
    assert column.is_continuous
    assert column.support[column.atoms].tolist() == [0.0]


def test_shifted_values_are_clipped_to_the_observed_range_and_point_masses_stay() -> None:
    values = np.concatenate([np.zeros(50), np.random.default_rng(0).uniform(1, 2, 950)])
    column = fit_marginal(pd.Series(values, name="cost"), categorical=False)
    shifted = column.shift(np.array([0.0, 1.5, 1.9]), np.array([0.5, 0.25, 9.0]))
    assert shifted == pytest.approx([0.0, 1.75, values.max()])


def test_drawn_values_are_those_of_their_donors() -> None:
    column = fit_marginal(pd.Series([3.0, 1.0, 2.0], name="visits"), categorical=False)
    drawn = DrawnColumn.from_donors(column, np.array([2, 0, 0]))
    assert drawn.values.tolist() == [2.0, 3.0, 3.0]
    assert drawn.take(np.array([0])).donors.tolist() == [2]

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.fidelity.error_sums import LIMIT, QUANTUM, add_sums, contributions, fidelity_metrics, in_range, negate, sum_groups
from schemas.events import SUM_FIELDS
from tests.populations import BASELINE


def outcomes(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    predicted = rng.normal(0.02, 0.2, n)
    return predicted, predicted + rng.normal(0, 0.13, n)


def rows(predicted, actual, half_width=0.26):
    predicted = np.asarray(predicted, dtype=float)
    return contributions(predicted, actual, predicted - half_width, predicted + half_width, BASELINE)


def window(predicted, actual, **kwargs):
    return fidelity_metrics(add_sums(rows(predicted, actual, **kwargs).tolist()), BASELINE)


def test_metrics_equal_those_of_numpy_and_scipy():
    predicted, actual = outcomes(2000)
    metrics = window(predicted, actual)
    error = predicted - actual
    step = QUANTUM * BASELINE.scale
    assert metrics.n == metrics.n_interval == 2000
    assert metrics.mae == pytest.approx(np.abs(error).mean(), abs=step)
    assert metrics.rmse == pytest.approx(np.sqrt((error**2).mean()), abs=step)
    assert metrics.bias == pytest.approx(error.mean(), abs=step)
    assert metrics.correlation == pytest.approx(stats.pearsonr(predicted, actual).statistic, abs=1e-7)
    assert metrics.coverage_95pct == (np.abs(error) <= 0.26).mean()
    assert metrics.n_outliers == (np.abs(error) > 3 * BASELINE.rmse).sum()


def test_standard_errors_equal_those_of_scipy():
    predicted, actual = outcomes(2000)
    standard_errors = window(predicted, actual).standard_errors
    error = predicted - actual
    r = stats.pearsonr(predicted, actual).statistic
    assert standard_errors["mae"] == pytest.approx(stats.sem(np.abs(error)), rel=1e-3)
    assert standard_errors["bias"] == pytest.approx(stats.sem(error), rel=1e-3)
    assert standard_errors["correlation"] == pytest.approx((1 - r**2) / np.sqrt(1997), rel=1e-5)
    inside = int((np.abs(error) <= 0.26).sum())
    wilson = stats.binomtest(inside, 2000).proportion_ci(confidence_level=2 * stats.norm.cdf(1) - 1, method="wilson")
    assert standard_errors["coverage_95pct"] == pytest.approx((wilson.high - wilson.low) / 2, rel=1e-9)


def test_intervals_of_correlation_and_coverage_equal_those_of_scipy():
    predicted, actual = outcomes(60)
    intervals = window(predicted, actual).intervals
    fisher = stats.pearsonr(predicted, actual).confidence_interval(0.95)
    inside = int((np.abs(predicted - actual) <= 0.26).sum())
    wilson = stats.binomtest(inside, 60).proportion_ci(0.95, method="wilson")
    assert intervals["correlation"] == pytest.approx(fisher, abs=1e-6)
    assert intervals["coverage_95pct"] == pytest.approx(wilson, rel=1e-9)


def test_the_standard_error_of_the_mae_is_the_standard_deviation_of_many_maes():
    windows = [window(*outcomes(400, seed)) for seed in range(300)]
    deviation = np.std([metrics.mae for metrics in windows], ddof=1)
    assert np.mean([metrics.standard_errors["mae"] for metrics in windows]) == pytest.approx(deviation, rel=0.15)


def test_a_constant_window_has_no_correlation_and_names_the_constant_column():
    metrics = window([0.1, 0.2, 0.3], [0.7, 0.7, 0.7])
    assert metrics.correlation is None
    assert metrics.missing["correlation"] == "constant: actual"
    assert "predicted and actual" in window([0.1, 0.1], [0.7, 0.7]).missing["correlation"]


def test_a_constant_is_recognised_far_from_the_reference():
    metrics = window(np.linspace(0, 1, 10_000), np.full(10_000, 2499.123456))
    assert metrics.missing["correlation"] == "constant: actual"


def test_a_single_outcome_has_a_mae_and_no_correlation():
    metrics = window([0.1], [0.3])
    assert metrics.mae == pytest.approx(0.2, abs=QUANTUM)
    assert metrics.missing["correlation"] == "fewer than 2 outcomes"
    assert "mae" not in metrics.standard_errors


def test_errors_of_exactly_zero_count():
    metrics = window([0.0, 0.0, 0.1], [0.0, 0.0, 0.0])
    assert metrics.n == 3
    assert metrics.mae == pytest.approx(0.1 / 3, abs=QUANTUM)


def test_coverage_counts_only_outcomes_with_an_interval():
    lower, upper = np.array([-1.0, np.nan, np.nan]), np.array([1.0, np.nan, np.nan])
    metrics = fidelity_metrics(add_sums(contributions([0.0, 0, 0], [0.5, 9, 9], lower, upper, BASELINE).tolist()), BASELINE)
    assert (metrics.n, metrics.n_interval, metrics.coverage_95pct) == (3, 1, 1.0)
    bare = fidelity_metrics(add_sums(contributions([0.0], [1.0], [np.nan], [np.nan], BASELINE).tolist()), BASELINE)
    assert bare.coverage_95pct is None
    assert bare.missing["coverage_95pct"] == "no outcome came with an interval"


def test_an_empty_window_has_no_metrics_and_raises_no_error():
    metrics = fidelity_metrics(add_sums([]), BASELINE)
    assert metrics.n == 0
    assert metrics.mae is None
    assert set(metrics.missing) == {"mae", "rmse", "bias", "correlation", "coverage_95pct"}


def test_half_of_a_correction_gives_metrics_and_raises_no_error():
    before, after = rows([0.0], [0.1])[0].tolist(), rows([0.0], [2400.0])[0].tolist()
    elsewhere = rows([0.1, 0.2], [0.1, 0.3]).tolist()
    half = fidelity_metrics(add_sums([*elsewhere, add_sums([after, negate(before)]), negate(after)]), BASELINE)
    assert half.n == 1
    assert half.rmse is not None


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(-2400, 2400), st.floats(-2400, 2400)), min_size=1, max_size=30),
    st.integers(0, 2**32 - 1),
)
def test_order_batches_and_corrections_change_no_digit(pairs, seed):
    predicted, actual = np.array(pairs).T
    all_rows = rows(predicted, actual)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(all_rows))
    batches = sum_groups(all_rows[shuffled], rng.integers(0, 4, len(all_rows)), 4)
    retracted = rows([12.5], [-2400.0])[0].tolist()
    assert add_sums([*batches, retracted, negate(retracted)]) == add_sums(all_rows.tolist())


def test_a_value_is_rounded_once_and_errors_are_those_of_rounded_values():
    step = QUANTUM * BASELINE.scale
    (row,) = rows([BASELINE.center + 1.46 * step], [BASELINE.center - 1.46 * step]).tolist()
    sums = dict(zip(SUM_FIELDS, row, strict=True))
    assert (sums["predicted"], sums["actual"], sums["absolute_error"]) == (1, -1, 2)


def test_the_largest_squares_add_up_without_overflow():
    edge = BASELINE.center + LIMIT * BASELINE.scale
    largest = contributions(
        np.full(50, edge), np.full(50, -edge + 2 * BASELINE.center), np.full(50, np.nan), np.full(50, np.nan), BASELINE
    )
    (summed,) = sum_groups(largest, np.zeros(50, dtype=int), 1)
    assert summed[SUM_FIELDS.index("predicted_squared")] == 50 * 10**18 > 2**63
    assert summed[SUM_FIELDS.index("product")] == -50 * 10**18
    assert summed == add_sums(largest.tolist())


def test_a_group_without_rows_adds_up_to_zeros():
    all_rows = rows(*outcomes(3))
    empty, full = sum_groups(all_rows, np.ones(3, dtype=int), 2)
    assert empty == (0,) * len(SUM_FIELDS)
    assert full == add_sums(all_rows.tolist())
    assert sum_groups(all_rows[:0], np.zeros(0, dtype=int), 1) == [(0,) * len(SUM_FIELDS)]


def test_sums_are_plain_python_integers():
    (summed,) = sum_groups(rows(*outcomes(3)), np.zeros(3, dtype=int), 1)
    assert {type(value) for value in summed} == {int}


@pytest.mark.parametrize("refused", [np.nan, np.inf, -np.inf, 2600.0, -2600.0, 1.7e308])
def test_a_value_out_of_range_is_refused_with_its_value(refused):
    assert in_range([0.0, refused], [0.0, 0.0], BASELINE).tolist() == [True, False]
    assert in_range([0.0, 0.0], [0.0, refused], BASELINE).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"lie further than 10000 x 0.25 from 0.02"):
        rows([0.0, 0.1], [0.0, refused])


def test_a_retracted_outlier_does_not_change_the_correlation():
    predicted, actual = outcomes(500)
    without_outlier = rows(predicted, actual).tolist()
    outlier = rows([2400.0], [-2400.0])[0].tolist()
    assert fidelity_metrics(add_sums([*without_outlier, outlier, negate(outlier)]), BASELINE) == fidelity_metrics(
        add_sums(without_outlier), BASELINE
    )

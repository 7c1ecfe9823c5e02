from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from engine.fidelity.baseline import FEWEST_ROWS, HoldoutRows, compute_baseline
from engine.fidelity.input_drift import bin_counts, column_counts, column_shifts, estimate_fidelity, histogram

N = 5000
DIMENSIONS = ("region", "priority_tier", "absent")


def rows(n: int, seed: int, *, moved: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    regions = rng.choice(["west", "east", "south"], n, p=[0.5, 0.3, 0.2])
    return pd.DataFrame(
        {"decile": rng.normal(moved, 1, n), "region": regions, "priority_tier": rng.integers(1, 6, n).astype(float)}
    )


def holdout(n: int = N, seed: int = 0) -> HoldoutRows:
    rng = np.random.default_rng(seed)
    predicted = rng.normal(size=n)
    return HoldoutRows(predicted + rng.normal(size=n), predicted, predicted - 1.96, predicted + 1.96)


BASELINE = compute_baseline(holdout(), rows(N, 1), DIMENSIONS)


def test_bins_hold_their_upper_edge_and_the_last_one_what_is_missing():
    bins = histogram(pd.Series([1.0, 2.0, 3.0, np.nan, 4.0]))
    assert sum(bins.counts) == 5
    assert bins.counts[-1] == 1
    inside = bin_counts(pd.Series([bins.edges[0], np.nextafter(bins.edges[0], 9), np.nan]), bins)
    assert (inside[0], inside[1], inside[-1]) == (1, 1, 1)


def test_deciles_of_many_different_numbers_hold_equal_counts():
    assert set(histogram(pd.Series(np.arange(1000.0))).counts) == {100, 0}


@pytest.mark.parametrize("values", [[3.0] * 9, [0.0, 1.0] * 5, [np.nan] * 4, [True, False, True]], ids=str)
def test_columns_of_few_values_have_a_bin_for_each_value(values):
    bins = histogram(pd.Series(values))
    assert sum(bins.counts) == len(values)
    assert len([count for count in bins.counts if count]) == len(set(map(str, values)))


def test_counts_of_parts_add_up_to_the_counts_of_all():
    frame, predicted = rows(900, 2), np.linspace(-2, 2, 900)
    whole = column_counts(frame, predicted, BASELINE)
    parts = [column_counts(frame.iloc[part], predicted[part], BASELINE) for part in (slice(0, 100), slice(100, 900))]
    assert all((sum(part[name] for part in parts) == whole[name]).all() for name in whole)


def test_an_unknown_level_and_a_missing_feature_count_in_the_last_bin():
    frame = rows(10, 3).assign(region="moon").drop(columns="decile")
    counts = column_counts(frame, np.zeros(10), BASELINE)
    assert counts["region"].tolist() == [0, 0, 0, 10]
    assert counts["decile"][-1] == 10


@pytest.mark.parametrize("n", [50, 500, 2000])
def test_without_a_shift_hardly_any_evaluation_reports_a_moved_column(n):
    n_false_alarms = 0
    for seed in range(200):
        rng = np.random.default_rng((seed, n))
        shifts = column_shifts(column_counts(rows(n, seed + 1000), rng.normal(size=n), BASELINE), BASELINE)
        n_false_alarms += any(shift.moved for shift in shifts)
    assert n_false_alarms <= 8  # 1 % of evaluations; 8 of 200 has probability 0.001


def test_a_shift_by_half_a_standard_deviation_is_reported_first():
    shifts = column_shifts(column_counts(rows(1000, 4, moved=0.5), holdout().predicted[:1000], BASELINE), BASELINE)
    assert [shift.name for shift in shifts if shift.moved] == ["decile"]
    assert shifts[0].name == "decile"
    assert shifts[0].ks_p < 1e-6


def test_the_stability_index_equals_its_definition_up_to_half_a_row():
    observed, trained = np.array([300, 500, 200]), np.array([4000, 4000, 2000])
    bins = histogram(pd.Series(["a"] * 4000 + ["b"] * 4000 + [None] * 2000))
    (shift,) = column_shifts({"x": observed}, BASELINE.model_copy(update={"inputs": {"x": bins}}))
    p, q = observed / 1000, trained / 10_000
    assert shift.psi == pytest.approx(((p - q) * np.log(p / q)).sum(), rel=0.01)
    assert shift.ks is None


def test_the_binned_distance_is_at_most_the_exact_kolmogorov_smirnov_distance():
    trained, observed = rows(N, 1)["decile"], rows(800, 5, moved=0.2)["decile"]
    (shift,) = column_shifts({"decile": bin_counts(observed, BASELINE.inputs["decile"])}, BASELINE)
    exact = stats.ks_2samp(observed, trained)
    assert exact.statistic * 0.8 <= shift.ks <= exact.statistic
    assert shift.ks_p >= exact.pvalue


def test_the_estimated_error_is_proportional_to_the_width_of_intervals():
    estimate = estimate_fidelity(rows(2, 6), [0.0, 0.1], [1.96 * 1.5, np.nan], BASELINE)
    assert estimate.mae == pytest.approx(1.5 * BASELINE.mae)
    assert estimate.baseline_mae == BASELINE.mae
    assert estimate_fidelity(rows(1, 6), [0.0], [np.nan], BASELINE).mae is None


def test_an_estimate_names_the_moved_columns():
    estimate = estimate_fidelity(rows(1000, 7, moved=0.5), holdout().predicted[:1000], np.full(1000, 1.96), BASELINE)
    assert estimate.moved == ("decile",)
    assert estimate.n == 1000


def test_a_segment_with_enough_rows_has_its_own_baseline():
    frame = rows(N, 1)
    frame.loc[frame.index[: FEWEST_ROWS - 1], "region"] = "island"
    baseline = compute_baseline(holdout(), frame, DIMENSIONS)
    assert set(baseline.segments) == {"region=east", "region=south", "region=west", *(f"priority_tier={k}" for k in range(1, 6))}
    east = frame["region"].to_numpy() == "east"
    loss = holdout().loss[east]
    assert baseline.segments["region=east"].n == east.sum()
    assert baseline.segments["region=east"].mae == pytest.approx(loss.mean())
    assert baseline.segments["region=east"].clipped_mean == pytest.approx(np.minimum(loss / baseline.clip, 1).mean())


def test_the_baseline_follows_its_definition():
    loss = holdout().loss
    assert BASELINE.mae == pytest.approx(loss.mean())
    assert BASELINE.rmse == pytest.approx(np.sqrt((loss**2).mean()))
    assert BASELINE.clip == pytest.approx(1.5 * np.quantile(loss, 0.99))
    assert BASELINE.coverage_95pct == pytest.approx((loss <= 1.96).mean())
    assert BASELINE.correlation == pytest.approx(stats.pearsonr(holdout().actual, holdout().predicted).statistic)

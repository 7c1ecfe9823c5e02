from __future__ import annotations

from uuid import UUID, uuid4

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from engine.fidelity_tracker import FidelityTracker
from schemas import DRIFT_RULES, Baseline, FidelityMetrics

POPULATION = uuid4()


def pairs(n: int, seed: int = 0, noise: float = 0.05, shift: float = 0.0):
    rng = np.random.default_rng(seed)
    predicted = rng.normal(0.1, 0.12, n)
    return [UUID(int=seed * 10**6 + i) for i in range(n)], predicted, predicted + shift + rng.normal(0, noise, n)


def tracked(n: int = 100, **kwargs):
    tracker = FidelityTracker()
    ids, predicted, actual = pairs(n, **kwargs)
    tracker.track_many(ids, predicted, actual)
    return tracker, ids, predicted, actual


def test_a_hundred_tracked_predictions_have_the_mean_absolute_error_of_numpy():
    tracker = FidelityTracker()
    ids, predicted, actual = pairs(100)
    for twin_id, p, a in zip(ids, predicted, actual, strict=True):
        metrics = tracker.track(twin_id, p, a)
    assert metrics.n == 100
    assert metrics.mae == pytest.approx(np.abs(predicted - actual).mean(), rel=1e-12)
    assert metrics.rmse == pytest.approx(np.sqrt(((predicted - actual) ** 2).mean()), rel=1e-12)
    assert metrics.bias == pytest.approx((predicted - actual).mean(), rel=1e-12)
    assert metrics.correlation == pytest.approx(stats.pearsonr(predicted, actual).statistic, rel=1e-12)
    assert metrics.standard_errors["mae"] == pytest.approx(stats.sem(np.abs(predicted - actual)), rel=1e-9)


def test_pairs_added_one_by_one_or_at_once_give_the_same_metrics_to_the_last_digit():
    ids, predicted, actual = pairs(50)
    one_by_one, at_once = FidelityTracker(), FidelityTracker()
    for i in np.random.default_rng(1).permutation(50):
        metrics = one_by_one.track(ids[i], predicted[i], actual[i], predicted[i] - 0.1, predicted[i] + 0.1)
    assert metrics == at_once.track_many(ids, predicted, actual, predicted - 0.1, predicted + 0.1)


def test_coverage_is_the_share_inside_the_intervals_and_null_without_them():
    tracker = FidelityTracker()
    without_interval = tracker.track(uuid4(), 0.1, 0.1)
    assert without_interval.coverage_95pct is None
    assert without_interval.missing["coverage_95pct"] == "no outcome came with an interval"
    tracker.track(uuid4(), 0.1, 0.2, 0.0, 0.2)
    last = tracker.track(uuid4(), 0.1, 0.21, 0.0, 0.2)
    assert (last.n, last.n_interval, last.coverage_95pct) == (3, 2, 0.5)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_actual_value_is_skipped_and_counted(missing):
    tracker = FidelityTracker()
    metrics = tracker.track(uuid4(), 0.1, missing)
    assert (metrics.n, metrics.n_skipped) == (0, 1)
    assert tracker.track(uuid4(), 0.1, 0.0).n_skipped == 1


@pytest.mark.parametrize(("predicted", "actual"), [(float("nan"), 0.1), (float("inf"), 0.1), (0.1, float("-inf")), (0.1, "much")])
def test_a_value_that_is_no_finite_number_is_refused_with_its_value(predicted, actual):
    with pytest.raises(ValueError, match=r"value '?(nan|inf|-inf|much)'?( at position 0)? is not a"):
        FidelityTracker().track(uuid4(), predicted, actual)


def test_errors_beyond_three_standard_deviations_are_counted():
    tracker, _, predicted, actual = tracked(500)
    error = predicted - actual
    flagged = int((np.abs(error - error.mean()) > 3 * error.std(ddof=1)).sum())
    with_outlier = tracker.track(uuid4(), 0.0, 5.0)
    assert with_outlier.n_outliers >= 1
    assert FidelityTracker().track_many(pairs(500)[0], predicted, actual).n_outliers == flagged


@pytest.mark.parametrize(
    "actuals_of",
    [
        lambda ids, actual: dict(zip(ids, actual, strict=True)),
        lambda ids, actual: {str(twin_id): value for twin_id, value in zip(ids, actual, strict=True)},
        lambda ids, actual: pd.Series(actual, index=ids),
        lambda ids, actual: pd.DataFrame({"twin_id": ids, "actual": actual, "other": 1}),
    ],
)
def test_a_population_is_joined_on_its_tracked_twins(actuals_of):
    tracker, ids, predicted, _ = tracked(100)
    later = predicted + 0.3
    fidelity = tracker.calculate_fidelity(POPULATION, actuals_of([*ids[:60], uuid4()], [*later[:60], 0.5]))
    assert fidelity.population_id == POPULATION
    assert (fidelity.n, fidelity.n_unmatched) == (60, 1)
    assert fidelity.mae == pytest.approx(0.3, rel=1e-12)


def test_a_population_without_a_tracked_twin_has_no_metrics_and_gives_the_reason():
    fidelity = FidelityTracker().calculate_fidelity(POPULATION, {uuid4(): 0.1})
    assert (fidelity.n, fidelity.n_unmatched, fidelity.mae) == (0, 1, None)
    assert fidelity.missing["mae"] == "no outcomes yet"


def test_missing_actual_values_of_a_population_are_counted():
    tracker, ids, *_ = tracked(3)
    frame = pd.DataFrame({"twin_id": ids, "actual": pd.array([0.1, None, 0.2], dtype="Float64")})
    fidelity = tracker.calculate_fidelity(POPULATION, frame)
    assert (fidelity.n, fidelity.n_skipped) == (2, 1)


def test_a_frame_without_the_two_columns_is_refused_with_the_columns_it_has():
    with pytest.raises(ValueError, match="lacks actual: it has twin_id, outcome"):
        FidelityTracker().calculate_fidelity(POPULATION, pd.DataFrame({"twin_id": [], "outcome": []}))


def test_the_history_has_the_metrics_of_every_population():
    tracker, ids, _, actual = tracked(10)
    first = tracker.calculate_fidelity(POPULATION, dict(zip(ids, actual, strict=True)))
    second = tracker.calculate_fidelity(POPULATION, {ids[0]: 0.0})
    assert tracker.history == (first, second)


def test_an_injected_shift_is_detected_and_none_is_not():
    tracker, ids, predicted, actual = tracked(1000)
    baseline = tracker.calculate_fidelity(POPULATION, dict(zip(ids, actual, strict=True)))
    again = predicted + np.random.default_rng(99).normal(0, 0.05, 1000)
    assert not tracker.check_drift(tracker.calculate_fidelity(POPULATION, dict(zip(ids, again, strict=True))), baseline)
    shifted = dict(zip(ids, actual + 0.08, strict=True))
    assert tracker.check_drift(tracker.calculate_fidelity(POPULATION, shifted), baseline)


def test_check_drift_considers_only_the_increase_of_the_mean_absolute_error():
    tracker, baseline = FidelityTracker(), FidelityMetrics(n=1000, mae=0.10, correlation=0.9, coverage_95pct=0.95)

    def drifts(**values):
        return tracker.check_drift(FidelityMetrics(n=1000, n_interval=1000, **values), baseline)

    assert not drifts(mae=0.12)
    assert drifts(mae=0.1201)
    assert not drifts(mae=0.10, correlation=0.5, coverage_95pct=0.5)
    assert not drifts()


def test_all_rules_are_evaluated_and_a_models_baseline_can_be_the_reference():
    baseline = Baseline(
        n=900, mae=0.1, rmse=0.1, correlation=0.8, coverage_95pct=0.95, center=0, scale=1, clip=1, clipped_mean=0.1, clipped_sd=0.1
    )
    current = FidelityMetrics(n=500, mae=0.2, correlation=0.6, coverage_95pct=0.8, n_interval=500)
    verdicts = FidelityTracker().verdicts(current, baseline)
    assert [(v.rule, v.action, v.fired) for v in verdicts] == [
        ("mae_increase", "retrain", True),
        ("correlation_drop", "warn", True),
        ("coverage_drop", "investigate", True),
    ]


def test_limits_can_be_set_by_name_and_unknown_ones_are_refused():
    current, baseline = FidelityMetrics(n=500, mae=0.13), FidelityMetrics(n=500, mae=0.10)
    assert FidelityTracker().check_drift(current, baseline)
    assert not FidelityTracker(mae_increase=0.5).check_drift(current, baseline)
    assert not FidelityTracker(n_min=501).check_drift(current, baseline)
    with pytest.raises(ValueError, match=f"unknown drift rule 'mae_rise': use one of {min(rule.name for rule in DRIFT_RULES)}"):
        FidelityTracker(mae_rise=0.5)


def test_the_monitoring_example_of_the_specification_runs():
    ids, predicted, actual = pairs(300)
    twins = dict(zip(ids, predicted, strict=True))
    experiment_results = dict(zip(ids, actual + 0.10 + 0.08, strict=True))
    intervention_effect = 0.10
    baseline_fidelity = FidelityMetrics(n=300, mae=0.05)
    retrained = []

    tracker = FidelityTracker()
    for twin_id, actual_outcome in experiment_results.items():
        tracker.track(twin_id, twins[twin_id] + intervention_effect, actual_outcome)
    fidelity = tracker.calculate_fidelity(POPULATION, experiment_results)
    if tracker.check_drift(fidelity, baseline_fidelity):
        retrained.append(POPULATION)

    assert fidelity.n == 300
    assert retrained == [POPULATION]

"""A single outlier does not fire the MAE rule, a shift of all errors does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.fidelity import add_sums, contributions, evaluate_rules, fidelity_metrics, negate, winsorised_mean
from engine.fidelity.drift_rules import Detection, comparison_text
from engine.fidelity_tracker import FidelityTracker
from schemas import FidelityMetrics, Verdict
from schemas.twin_models import Baseline
from tests.outcomes import make_card

NORMAL_MAE = math.sqrt(2 / math.pi)
BASELINE = make_card(mae=NORMAL_MAE).baseline  # of standard normal errors, clipped at 4


def errors(n: int, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(3).normal(0, spread, n)


def metrics(error: np.ndarray, baseline: Baseline = BASELINE) -> FidelityMetrics:
    nothing = np.full(len(error), np.nan)
    return fidelity_metrics(add_sums(contributions(np.zeros(len(error)), error, nothing, nothing, baseline).tolist()), baseline)


def mae_verdict(current: FidelityMetrics, reference: Baseline | FidelityMetrics = BASELINE) -> Verdict:
    return next(verdict for verdict in evaluate_rules(current, reference) if verdict.rule == "mae_increase")


@pytest.mark.parametrize("spread", [0.5, 1.0, 1.2, 1.5])
def test_without_outliers_the_robust_error_is_the_error(spread: float):
    error = errors(20_000, spread)
    current = metrics(error)
    assert current.mae == pytest.approx(np.abs(error).mean(), rel=1e-4)
    assert current.mae_robust == pytest.approx(current.mae, rel=0.01)


def test_one_outlier_raises_the_error_but_not_the_robust_one_and_the_rule_says_so():
    error = np.append(errors(399), 900.0)
    current = metrics(error)
    assert current.mae > 1.2 * NORMAL_MAE
    assert current.mae_robust == pytest.approx(np.minimum(np.abs(error), 4.0).mean(), rel=0.01)
    verdict = mae_verdict(current)
    assert not verdict.fired
    assert f"by outliers only ({current.n_outliers} beyond 3 standard deviations)" in verdict.reason
    assert verdict.value == current.mae
    assert comparison_text([verdict], Detection.NONE) == f"the rule does not fire: {verdict.reason}"


@pytest.mark.parametrize("current", [errors(400, 1.35), errors(400) + 1.0, np.append(errors(300), errors(100, 6.0))])
def test_a_shift_of_many_errors_fires_the_rule(current: np.ndarray):
    assert mae_verdict(metrics(current)).fired


def test_the_robust_error_is_taken_back_exactly():
    nothing = np.full(1, np.nan)
    rows = [contributions([0.0], [value], nothing, nothing, BASELINE)[0].tolist() for value in (0.5, -1.5, 900.0)]
    with_outlier = add_sums([*rows, negate(rows[2])])
    assert fidelity_metrics(with_outlier, BASELINE).mae_robust == fidelity_metrics(add_sums(rows[:2]), BASELINE).mae_robust


def test_no_outcome_or_a_baseline_without_errors_has_no_robust_error():
    assert metrics(np.zeros(0)).mae_robust is None
    assert metrics(errors(10), BASELINE.model_copy(update={"clipped_mean": 0.0})).mae_robust is None


def test_a_winsorised_mean_counts_errors_up_to_three_deviations():
    error = errors(10_000)
    assert winsorised_mean(error) == pytest.approx(np.minimum(np.abs(error), 3.0).mean(), rel=0.01)
    assert winsorised_mean(error * 7) == pytest.approx(7 * winsorised_mean(error))
    assert winsorised_mean(error[:9]) is None
    assert winsorised_mean(np.append(np.zeros(7), errors(6))) is None


def tracked(error: np.ndarray) -> tuple[FidelityTracker, FidelityMetrics]:
    tracker = FidelityTracker()
    ids = [make_card(str(number)).model_id for number in range(len(error))]
    return tracker, tracker.track_many(ids, np.zeros(len(error)), error)


def test_one_outlier_is_no_drift_for_the_tracker_and_is_listed_by_its_twin():
    _, baseline = tracked(errors(200))
    tracker, current = tracked(np.append(errors(199), 100.0))
    assert current.mae > 1.2 * baseline.mae
    assert not tracker.check_drift(current, baseline)
    assert tracker.outliers() == (make_card("199").model_id,)
    assert current.n_outliers == 1
    assert tracker.check_drift(tracked(errors(200, 1.5))[1], baseline)


def test_plain_figures_without_a_robust_one_are_compared_as_they_are():
    assert FidelityTracker().check_drift(FidelityMetrics(n=300, mae=0.13), FidelityMetrics(n=300, mae=0.10))


def test_a_pair_without_an_actual_value_is_no_outlier_and_shifts_no_twin():
    tracker = FidelityTracker()
    ids = [make_card(str(number)).model_id for number in range(22)]
    actual = [math.nan, *errors(20).tolist(), 100.0]
    assert tracker.track_many(ids, np.zeros(22), actual).n_skipped == 1
    assert tracker.outliers() == (ids[21],)

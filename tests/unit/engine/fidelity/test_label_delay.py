from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from engine.fidelity.error_sums import QUANTUM, add_sums, contributions
from engine.fidelity.label_delay import count_labels, survivorship_weights, weighted_mae
from tests.error_streams import known_baseline

BASELINE = known_baseline("normal")


def sums_of(errors: np.ndarray) -> tuple[int, ...]:
    no_interval = np.full(len(errors), np.nan)
    return add_sums(contributions(np.zeros(len(errors)), errors, no_interval, no_interval, BASELINE).tolist())


@pytest.mark.parametrize(("age_s", "pending", "expired"), [(59.9, 25, 0), (60.0, 0, 25)])
def test_predictions_without_an_outcome_are_pending_until_they_expire(age_s, pending, expired):
    labels = count_labels(age_s, 100, 70, 5, expire_s=60.0)
    assert (labels.matured, labels.missing, labels.pending, labels.expired) == (70, 5, pending, expired)
    assert labels.share == 0.7


def test_more_outcomes_than_predictions_leave_nothing_pending():
    assert count_labels(1.0, 10, 12, 0, expire_s=60.0).pending == 0


def test_weights_restore_the_shares_of_levels_and_average_one():
    predicted, arrived = {"a": 600, "b": 300, "lost": 100}, {"a": 100, "b": 200, "new": 9}
    weights = survivorship_weights(predicted, arrived)
    assert set(weights) == {"a", "b"}
    assert sum(weights[level] * arrived[level] for level in weights) == pytest.approx(300)
    assert weights["a"] * 100 / (weights["b"] * 200) == pytest.approx(2.0)


def test_a_weighted_error_corrects_for_easy_outcomes_that_arrive_first():
    rng = np.random.default_rng(0)
    easy, hard = rng.normal(size=4000) * 0.5, rng.normal(size=500) * 2
    weights = survivorship_weights({"easy": 5000, "hard": 5000}, {"easy": 4000, "hard": 500})
    mean, error = weighted_mae({"easy": sums_of(easy), "hard": sums_of(hard)}, weights, BASELINE)
    assert mean == pytest.approx((np.abs(easy).mean() + np.abs(hard).mean()) / 2, abs=QUANTUM)
    assert error == pytest.approx(np.hypot(stats.sem(np.abs(easy)), stats.sem(np.abs(hard))) / 2, rel=1e-3)


def test_the_weighted_error_is_undefined_without_outcomes():
    assert weighted_mae({}, {}, BASELINE) is None
    assert weighted_mae({"a": sums_of(np.zeros(1))}, {"a": 1.0}, BASELINE) is None

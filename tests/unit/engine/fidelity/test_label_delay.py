from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from engine.fidelity.error_sums import QUANTUM, add_sums, contributions
from engine.fidelity.label_delay import count_labels, survivorship_weights, weighted_mae
from tests.error_streams import known_baseline

BASELINE = known_baseline("normal")


def sums_of(errors: np.ndarray) -> tuple[int, ...]:
    nothing = np.full(len(errors), np.nan)
    return add_sums(contributions(np.zeros(len(errors)), errors, nothing, nothing, BASELINE).tolist())


@pytest.mark.parametrize(("age_s", "pending", "expired"), [(59.9, 25, 0), (60.0, 0, 25)])
def test_what_is_not_in_is_pending_until_it_expires(age_s, pending, expired):
    found = count_labels(age_s, 100, 70, 5, expire_s=60.0)
    assert (found.matured, found.missing, found.pending, found.expired) == (70, 5, pending, expired)
    assert found.share == 0.7


def test_more_outcomes_than_predictions_leave_nothing_to_wait_for():
    assert count_labels(1.0, 10, 12, 0, expire_s=60.0).pending == 0


def test_weights_give_levels_back_their_share_and_average_one():
    predicted, arrived = {"a": 600, "b": 300, "lost": 100}, {"a": 100, "b": 200, "new": 9}
    weights = survivorship_weights(predicted, arrived)
    assert set(weights) == {"a", "b"}
    assert sum(weights[level] * arrived[level] for level in weights) == pytest.approx(300)
    assert weights["a"] * 100 / (weights["b"] * 200) == pytest.approx(2.0)


def test_a_weighted_error_undoes_that_the_easy_outcomes_arrive_first():
    rng = np.random.default_rng(0)
    easy, hard = rng.normal(size=4000) * 0.5, rng.normal(size=500) * 2
    weights = survivorship_weights({"easy": 5000, "hard": 5000}, {"easy": 4000, "hard": 500})
    mean, error = weighted_mae({"easy": sums_of(easy), "hard": sums_of(hard)}, weights, BASELINE)
    assert mean == pytest.approx((np.abs(easy).mean() + np.abs(hard).mean()) / 2, abs=QUANTUM)
    assert error == pytest.approx(np.hypot(stats.sem(np.abs(easy)), stats.sem(np.abs(hard))) / 2, rel=1e-3)


def test_nothing_is_weighted_where_nothing_arrived():
    assert weighted_mae({}, {}, BASELINE) is None
    assert weighted_mae({"a": sums_of(np.zeros(1))}, {"a": 1.0}, BASELINE) is None

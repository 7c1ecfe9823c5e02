"""The gate between champion and challenger, against closed forms, scipy and simulated truth."""

import numpy as np
import pytest
from scipy import stats

from engine.gate import GATE_ROWS, Judged, compare

WIDE = 1.959964


def judged(predicted, half_width=WIDE):
    return Judged(predicted, predicted - half_width, predicted + half_width)


def noisy(truth, rng, noise):
    return judged(truth + noise * rng.normal(size=len(truth)))


def test_the_error_difference_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=800)
    champion, challenger = noisy(truth, rng, 1.0), noisy(truth, rng, 0.9)
    paired = stats.ttest_rel(np.abs(challenger.predicted - truth), np.abs(champion.predicted - truth))
    found = compare(truth, champion, challenger).mae
    assert found.difference / found.standard_error == pytest.approx(paired.statistic)
    assert found.champion == pytest.approx(np.abs(champion.predicted - truth).mean())


def test_the_correlation_of_each_side_is_pearsons():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=600)
    champion, challenger = noisy(truth, rng, 1.0), noisy(truth, rng, 2.0)
    found = compare(truth, champion, challenger).correlation
    assert found.champion == pytest.approx(stats.pearsonr(truth, champion.predicted).statistic)
    assert found.challenger == pytest.approx(stats.pearsonr(truth, challenger.predicted).statistic)


def test_the_standard_error_of_a_correlation_difference_is_the_spread_over_repetitions():
    rng = np.random.default_rng(3)
    differences, errors = [], []
    for _ in range(600):
        truth, shared = rng.normal(size=(2, 500))
        champion = judged(truth + shared + 0.5 * rng.normal(size=500))
        challenger = judged(truth + shared + 1.0 * rng.normal(size=500))
        found = compare(truth, champion, challenger).correlation
        differences.append(found.difference)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(differences, ddof=1), rel=0.1)


def test_a_challenger_that_is_no_better_passes_in_one_of_twenty_trials_at_the_most():
    rng = np.random.default_rng(4)
    trials = 1500
    promoted = 0
    for _ in range(trials):
        truth = rng.normal(size=GATE_ROWS)
        promoted += compare(truth, noisy(truth, rng, 1.0), noisy(truth, rng, 1.0)).promote
    assert promoted <= stats.binom.ppf(0.999, trials, 0.05)


def test_a_challenger_that_errs_a_fifth_less_passes_nearly_always():
    rng = np.random.default_rng(5)
    promoted = 0
    for _ in range(200):
        truth = rng.normal(size=GATE_ROWS)
        promoted += compare(truth, noisy(truth, rng, 1.0), noisy(truth, rng, 0.8)).promote
    assert promoted >= 190


def test_rows_that_both_find_hard_do_not_hide_an_improvement():
    rng = np.random.default_rng(6)
    truth = rng.normal(size=600)
    hard = rng.standard_t(df=2, size=600)
    champion, challenger = judged(truth + hard + 0.1 * np.sign(hard)), judged(truth + hard)
    verdict = compare(truth, champion, challenger)
    assert verdict.mae.difference == pytest.approx(-0.1)
    assert verdict.mae.standard_error == pytest.approx(0.0, abs=1e-12)
    assert verdict.promote


def test_fewer_than_five_hundred_rows_promote_nobody():
    rng = np.random.default_rng(7)
    truth = rng.normal(size=499)
    verdict = compare(truth, noisy(truth, rng, 5.0), noisy(truth, rng, 0.1))
    assert not verdict.promote
    assert "499 later rows are too few" in verdict.reason


def test_no_row_at_all_promotes_nobody():
    nothing = np.empty(0)
    assert not compare(nothing, judged(nothing), judged(nothing)).promote


def test_a_smaller_error_does_not_excuse_intervals_that_miss():
    rng = np.random.default_rng(8)
    truth = rng.normal(size=1000)
    challenger = truth + 0.5 * rng.normal(size=1000)
    verdict = compare(truth, noisy(truth, rng, 1.0), judged(challenger, half_width=0.5))
    assert verdict.mae.surely_lower
    assert not verdict.promote
    assert "coverage" in verdict.reason


def test_an_interval_that_was_too_wide_may_shrink_to_what_it_promises():
    rng = np.random.default_rng(9)
    truth = rng.normal(size=2000)
    champion = judged(truth + rng.normal(size=2000), half_width=20.0)
    challenger = judged(truth + 0.5 * rng.normal(size=2000), half_width=0.5 * WIDE)
    verdict = compare(truth, champion, challenger)
    assert verdict.coverage.champion == 1.0
    assert verdict.coverage.surely_lower
    assert verdict.promote


def test_a_smaller_error_does_not_excuse_an_order_that_is_lost():
    rng = np.random.default_rng(10)
    truth = rng.normal(size=1000)
    champion = judged(truth + 3.0)
    challenger = judged(rng.normal(scale=0.3, size=1000))
    verdict = compare(truth, champion, challenger)
    assert verdict.mae.surely_lower
    assert not verdict.promote
    assert "correlation" in verdict.reason


def test_a_challenger_that_says_the_same_of_everyone_is_refused():
    truth = np.random.default_rng(11).normal(size=600)
    verdict = compare(truth, judged(truth + 3.0), judged(np.zeros(600)))
    assert verdict.correlation.challenger is None
    assert "correlation not defined against 1" in verdict.reason


def test_a_missing_prediction_is_refused_with_its_side():
    truth = np.zeros(3)
    with pytest.raises(ValueError, match="1 of 3 rows have no actual value or no prediction of the challenger"):
        compare(truth, judged(np.zeros(3)), judged(np.array([0.0, np.nan, 0.0])))


def test_sides_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="3 actual values, but the champion tells 2"):
        compare(np.zeros(3), judged(np.zeros(2)), judged(np.zeros(3)))


def test_the_numbers_are_plain_values_for_the_ledger():
    rng = np.random.default_rng(12)
    truth = rng.normal(size=500)
    numbers = compare(truth, noisy(truth, rng, 1.0), noisy(truth, rng, 0.5)).numbers()
    assert numbers["n"] == 500
    assert numbers["promote"] is True
    assert set(numbers["mae"]) == {"champion", "challenger", "difference", "standard_error"}
    assert all(type(value) is float for value in numbers["mae"].values())

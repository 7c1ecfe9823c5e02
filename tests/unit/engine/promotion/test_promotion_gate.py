"""The gate between champion and challenger, against closed forms, scipy and simulated outcomes."""

import json
import re

import numpy as np
import pytest
from scipy import stats

from engine.promotion.promotion_gate import GATE_ENTITIES, GATE_ROWS, SEGMENT_MARGIN, SEGMENT_ROWS, Predictions, compare_models

WIDE = 1.959964


def predictions(predicted, half_width=WIDE):
    return Predictions(predicted, predicted - half_width, predicted + half_width)


def noisy(truth, rng, noise):
    return predictions(truth + noise * rng.normal(size=len(truth)))


def test_the_difference_in_error_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=800)
    champion, challenger = noisy(truth, rng, 1.0), noisy(truth, rng, 0.9)
    paired = stats.ttest_rel(np.abs(challenger.predicted - truth), np.abs(champion.predicted - truth))
    mae = compare_models(truth, champion, challenger).mae
    assert mae.difference / mae.standard_error == pytest.approx(paired.statistic)
    assert mae.champion == pytest.approx(np.abs(champion.predicted - truth).mean())


def test_the_correlation_of_each_model_is_pearsons():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=600)
    champion, challenger = noisy(truth, rng, 1.0), noisy(truth, rng, 2.0)
    correlation = compare_models(truth, champion, challenger).correlation
    assert correlation.champion == pytest.approx(stats.pearsonr(truth, champion.predicted).statistic)
    assert correlation.challenger == pytest.approx(stats.pearsonr(truth, challenger.predicted).statistic)


def test_the_standard_error_of_a_correlation_difference_is_the_spread_over_repetitions():
    rng = np.random.default_rng(3)
    differences, errors = [], []
    for _ in range(600):
        truth, shared = rng.normal(size=(2, 500))
        champion = predictions(truth + shared + 0.5 * rng.normal(size=500))
        challenger = predictions(truth + shared + 1.0 * rng.normal(size=500))
        correlation = compare_models(truth, champion, challenger).correlation
        differences.append(correlation.difference)
        errors.append(correlation.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(differences, ddof=1), rel=0.1)


def test_a_challenger_that_is_no_better_passes_in_one_of_twenty_trials_at_the_most():
    rng = np.random.default_rng(4)
    trials = 1500
    promoted = 0
    for _ in range(trials):
        truth = rng.normal(size=GATE_ROWS)
        promoted += compare_models(truth, noisy(truth, rng, 1.0), noisy(truth, rng, 1.0)).promote
    assert promoted <= stats.binom.ppf(0.999, trials, 0.05)


def test_a_challenger_with_a_fifth_less_error_passes_nearly_always():
    rng = np.random.default_rng(5)
    promoted = 0
    for _ in range(200):
        truth = rng.normal(size=GATE_ROWS)
        promoted += compare_models(truth, noisy(truth, rng, 1.0), noisy(truth, rng, 0.8)).promote
    assert promoted >= 190


def test_rows_that_are_hard_for_both_models_do_not_hide_an_improvement():
    rng = np.random.default_rng(6)
    truth = rng.normal(size=600)
    hard = rng.standard_t(df=2, size=600)
    champion, challenger = predictions(truth + hard + 0.1 * np.sign(hard)), predictions(truth + hard)
    verdict = compare_models(truth, champion, challenger)
    assert verdict.mae.difference == pytest.approx(-0.1)
    assert verdict.mae.standard_error == pytest.approx(0.0, abs=1e-12)
    assert verdict.promote


def test_fewer_than_five_hundred_rows_promote_no_challenger():
    rng = np.random.default_rng(7)
    truth = rng.normal(size=499)
    verdict = compare_models(truth, noisy(truth, rng, 5.0), noisy(truth, rng, 0.1))
    assert not verdict.promote
    assert "499 later rows are too few" in verdict.reason


def test_no_row_at_all_promotes_no_challenger():
    empty = np.empty(0)
    assert not compare_models(empty, predictions(empty), predictions(empty)).promote


def test_a_lower_error_does_not_excuse_low_coverage():
    rng = np.random.default_rng(8)
    truth = rng.normal(size=1000)
    challenger = truth + 0.5 * rng.normal(size=1000)
    verdict = compare_models(truth, noisy(truth, rng, 1.0), predictions(challenger, half_width=0.5))
    assert verdict.mae.is_lower()
    assert not verdict.promote
    assert re.search(r"coverage \d+\.\d% against \d+\.\d% \(standard error of the difference [\d.]+%\)", verdict.reason)


def test_intervals_that_were_too_wide_may_shrink_to_their_nominal_coverage():
    rng = np.random.default_rng(9)
    truth = rng.normal(size=2000)
    champion = predictions(truth + rng.normal(size=2000), half_width=20.0)
    challenger = predictions(truth + 0.5 * rng.normal(size=2000), half_width=0.5 * WIDE)
    verdict = compare_models(truth, champion, challenger)
    assert verdict.coverage.champion == 1.0
    assert verdict.coverage.is_lower()
    assert verdict.promote


def test_a_lower_error_does_not_excuse_a_lost_correlation():
    rng = np.random.default_rng(10)
    truth = rng.normal(size=1000)
    champion = predictions(truth + 3.0)
    challenger = predictions(rng.normal(scale=0.3, size=1000))
    verdict = compare_models(truth, champion, challenger)
    assert verdict.mae.is_lower()
    assert not verdict.promote
    assert "correlation" in verdict.reason


def test_a_challenger_with_constant_predictions_is_refused():
    truth = np.random.default_rng(11).normal(size=600)
    verdict = compare_models(truth, predictions(truth + 3.0), predictions(np.zeros(600)))
    assert verdict.correlation.challenger is None
    assert "correlation not defined against 1" in verdict.reason


def test_a_missing_prediction_is_refused_with_its_model():
    truth = np.zeros(3)
    with pytest.raises(ValueError, match="1 of 3 rows have no actual value or no prediction of the challenger"):
        compare_models(truth, predictions(np.zeros(3)), predictions(np.array([0.0, np.nan, 0.0])))


def test_predictions_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="3 actual values, but 2 predictions of the champion"):
        compare_models(np.zeros(3), predictions(np.zeros(2)), predictions(np.zeros(3)))


def test_the_numbers_are_plain_values_for_the_ledger():
    rng = np.random.default_rng(12)
    truth = rng.normal(size=500)
    summary = compare_models(truth, noisy(truth, rng, 1.0), noisy(truth, rng, 0.5)).to_dict()
    assert summary["n"] == 500
    assert summary["promote"] is True
    assert set(summary["mae"]) == {"champion", "challenger", "difference", "standard_error", "entities"}
    assert json.loads(json.dumps(summary)) == summary


def by_entity(rng, entities, rows_each, share):
    """Standard normal noise whose share of variance belongs to the entity."""
    own = np.repeat(rng.normal(size=entities), rows_each)
    return np.sqrt(share) * own + np.sqrt(1 - share) * rng.normal(size=entities * rows_each)


def test_equal_rows_of_one_entity_count_once():
    rng = np.random.default_rng(13)
    truth = np.zeros(1200)
    entities = np.repeat(np.arange(60), 20)
    apart = np.repeat(rng.normal(size=60), 20)
    verdict = compare_models(truth, predictions(np.full(1200, 5.0)), predictions(5.0 + apart), entities=entities)
    assert verdict.mae.standard_error == pytest.approx(apart[::20].std(ddof=1) / np.sqrt(60))
    assert verdict.entities == 60
    assert verdict.n_effective == pytest.approx(60, rel=0.05)


def test_a_challenger_that_is_no_better_on_clustered_rows_passes_in_one_of_twenty_trials_at_the_most():
    rng = np.random.default_rng(14)
    trials, entities = 600, np.repeat(np.arange(40), 25)
    promoted = {"clustered": 0, "as if independent": 0}
    for _ in range(trials):
        champion, challenger = (predictions(10.0 + by_entity(rng, 40, 25, 0.5)) for _ in range(2))
        promoted["clustered"] += compare_models(np.zeros(1000), champion, challenger, entities=entities).mae.is_lower()
        promoted["as if independent"] += compare_models(np.zeros(1000), champion, challenger).mae.is_lower()
    assert promoted["clustered"] <= stats.binom.ppf(0.999, trials, 0.05)
    assert promoted["as if independent"] > stats.binom.ppf(0.999, trials, 0.2)


def test_many_rows_of_few_entities_promote_no_challenger():
    truth, rng = np.zeros(900), np.random.default_rng(15)
    entities = np.arange(900) % (GATE_ENTITIES - 1)
    verdict = compare_models(truth, noisy(truth, rng, 2.0), noisy(truth, rng, 0.1), entities=entities)
    assert verdict.reason == "900 later rows are of 29 entities, for a decision 30 are needed"


def test_an_improvement_over_all_rows_does_not_excuse_a_segment_that_became_worse():
    rng = np.random.default_rng(16)
    truth = rng.normal(size=2000)
    south = np.arange(2000) % 5 == 0
    champion = noisy(truth, rng, 1.0)
    challenger = predictions(truth + np.where(south, 1.8, 0.5) * rng.normal(size=2000), half_width=3.0)
    assert compare_models(truth, champion, challenger).promote
    verdict = compare_models(truth, champion, challenger, segments={"region=south": south, "region=west": ~south})
    assert not verdict.promote
    assert verdict.reason.startswith("MAE of region=south ")


def test_the_error_of_a_segment_may_rise_by_the_margin_and_no_more():
    rng = np.random.default_rng(22)
    truth = rng.normal(size=40_000)
    south = np.arange(len(truth)) % 2 == 0
    noise = np.where(south, 1.0, 3.0) * rng.normal(size=len(truth))
    for factor, promoted in ((1 + 0.8 * SEGMENT_MARGIN, True), (1 + 1.2 * SEGMENT_MARGIN, False)):
        challenger = predictions(truth + np.where(south, factor, 0.3) * noise, half_width=9.0)
        verdict = compare_models(truth, predictions(truth + noise, half_width=9.0), challenger, segments={"region=south": south})
        assert verdict.segments["region=south"].is_higher(1e-6)
        assert verdict.promote is promoted


def test_a_segment_that_caused_the_retrain_has_to_become_better_itself():
    rng = np.random.default_rng(17)
    truth = rng.normal(size=2000)
    south = np.arange(2000) % 5 == 0
    champion = noisy(truth, rng, 1.0)
    better_elsewhere = predictions(truth + np.where(south, 1.0, 0.5) * rng.normal(size=2000))
    better_there = predictions(np.where(south, truth + 0.3 * rng.normal(size=2000), champion.predicted))
    segment = {"segments": {"region=south": south}, "trigger": "region=south"}
    assert not compare_models(truth, champion, better_elsewhere, **segment).promote
    verdict = compare_models(truth, champion, better_there, **segment)
    assert verdict.promote
    assert verdict.reason.startswith("MAE of region=south ")


def test_segments_with_few_rows_raise_no_objection_and_cannot_cause_a_promotion():
    rng = np.random.default_rng(18)
    truth = rng.normal(size=1000)
    few = np.arange(1000) < SEGMENT_ROWS - 1
    challenger = predictions(truth + np.where(few, 1.5, 0.5) * rng.normal(size=1000), half_width=3.0)
    champion = noisy(truth, rng, 1.0)
    assert compare_models(truth, champion, challenger, segments={"region=isle": few}).promote
    assert (
        "segment region=isle caused the retrain and has too few"
        in compare_models(truth, champion, challenger, trigger="region=isle").reason
    )


def test_many_equal_segments_refuse_a_good_challenger_in_one_of_twenty_trials_at_the_most():
    rng = np.random.default_rng(19)
    segments = {f"region={number}": np.arange(3000) % 10 == number for number in range(10)}
    refused, trials = 0, 400
    for _ in range(trials):
        truth = rng.normal(size=3000)
        verdict = compare_models(truth, noisy(truth, rng, 1.0), noisy(truth, rng, 1.0), segments=segments)
        refused += any(objection.startswith("MAE of region") for objection in verdict.objections)
    assert refused <= stats.binom.ppf(0.999, trials, 0.05)

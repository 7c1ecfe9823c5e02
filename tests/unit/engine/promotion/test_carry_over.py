"""The rows that a challenger is trained on, against data whose change is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import TwinGenerator
from engine.promotion.carry_over import (
    ENOUGH_NEW_ROWS,
    MAX_HISTORY_ROWS,
    MIN_NEW_ROWS,
    RowSplit,
    adjust_history,
    estimate_onset,
    estimate_onset_of_bias,
    estimate_onset_of_misses,
    split_rows,
)
from engine.promotion.promotion_gate import GATE_ROWS
from engine.sample_tables import sample_hcps
from schemas import Baseline


def baseline_of(absolute_errors):
    clip = 1.5 * float(np.quantile(absolute_errors, 0.99))
    losses = np.minimum(absolute_errors / clip, 1.0)
    return Baseline(
        n=len(losses),
        mae=float(absolute_errors.mean()),
        rmse=float(np.sqrt((absolute_errors**2).mean())),
        center=0.0,
        scale=1.0,
        clip=clip,
        clipped_mean=float(losses.mean()),
        clipped_sd=float(losses.std()),
    )


@pytest.mark.parametrize(("rise", "within"), [(1.2, 400), (1.5, 100), (2.0, 40)])
def test_the_estimated_onset_lies_near_the_true_one(rise, within):
    rng = np.random.default_rng(1)
    baseline = baseline_of(np.abs(rng.normal(size=10_000)))
    errors = [
        estimate_onset(np.abs(np.concatenate([rng.normal(size=3000), rise * rng.normal(size=1500)])), baseline) - 3000
        for _ in range(100)
    ]
    assert abs(np.median(errors)) <= within / 8
    assert np.quantile(np.abs(errors), 0.9) <= within


def test_one_extreme_error_moves_the_onset_no_further_than_clipping_allows():
    rng = np.random.default_rng(2)
    baseline = baseline_of(np.abs(rng.normal(size=10_000)))
    errors = np.abs(np.concatenate([rng.normal(size=2000), 2.0 * rng.normal(size=500)]))
    errors[100] = 1e12
    assert abs(estimate_onset(errors, baseline) - 2000) <= 40


def test_without_a_change_few_rows_count_as_new():
    rng = np.random.default_rng(3)
    baseline = baseline_of(np.abs(rng.normal(size=50_000)))
    n_new = [5000 - estimate_onset(np.abs(rng.normal(size=5000)), baseline) for _ in range(50)]
    assert np.median(n_new) < MIN_NEW_ROWS


def test_the_onset_of_no_rows_is_zero():
    assert estimate_onset([], baseline_of(np.array([1.0, 2.0]))) == 0


@given(n_since=st.integers(0, 100_000), n_before=st.integers(0, 100_000))
def test_every_split_has_enough_rows_for_training_and_gate(n_since, n_before):
    split = split_rows(n_since, n_before)
    if split is None:
        return
    assert split.n_training + split.n_gate == n_since
    assert split.n_gate >= GATE_ROWS
    assert split.n_training >= MIN_NEW_ROWS
    assert split.n_carried == min(n_before, MAX_HISTORY_ROWS)
    assert split.n_training + split.n_carried >= ENOUGH_NEW_ROWS


@given(n_since=st.integers(0, 10_000), n_before=st.integers(0, 10_000))
def test_more_new_rows_never_make_a_split_impossible(n_since, n_before):
    assert split_rows(n_since, n_before) is None or split_rows(n_since + 1, n_before) is not None


def test_a_line_without_history_waits_for_a_thousand_new_rows():
    assert split_rows(1499, 0) is None
    assert split_rows(1500, 0) == RowSplit(n_training=1000, n_gate=500, n_carried=0)


# Carrying history over


@pytest.fixture(scope="module")
def people():
    return sample_hcps(9000, np.random.default_rng(7))


@pytest.fixture(scope="module")
def incumbent(people):
    generator = TwinGenerator("hcp", "kisqali", model_type="RandomForest", n_jobs=1)
    generator.train(people.iloc[:3000])
    return generator.model


def southern(rows):
    return (rows["region"] == "south").to_numpy()


def changed(rows, by=-0.1):
    return rows.assign(prescribing_change=rows["prescribing_change"] + by * southern(rows))


def error_of(model, rows):
    return np.abs(model.predict(rows) - rows["prescribing_change"].to_numpy())


def test_old_outcomes_are_adjusted_where_something_has_changed_and_stay_elsewhere(people, incumbent):
    history, since = people.iloc[:4000], changed(people.iloc[4000:5000])
    shift = (adjust_history(history, since, incumbent)["prescribing_change"] - history["prescribing_change"]).to_numpy()
    assert shift[southern(history)].mean() == pytest.approx(-0.1, abs=0.015)
    assert shift[~southern(history)].mean() == pytest.approx(0.0, abs=0.01)


def test_a_challenger_trained_with_carried_rows_beats_one_of_new_rows_alone_and_is_no_worse_elsewhere(people, incumbent):
    history, since, later = people.iloc[:3000], changed(people.iloc[4000:5000]), changed(people.iloc[6000:])
    alone, both = (TwinGenerator("hcp", "kisqali", model_type="RandomForest", n_jobs=1) for _ in range(2))
    alone.train(since)
    both.train(pd.concat([adjust_history(history, since, incumbent), since]), n_carried_rows=3000)
    assert error_of(both, later).mean() < 0.92 * error_of(alone, later).mean()
    elsewhere = later[~southern(later)]
    assert error_of(both, elsewhere).mean() < 1.04 * error_of(incumbent, elsewhere).mean()
    baseline = both.model.card.baseline
    assert (baseline.n, both.model.card.training_samples) == (1000, 4000)
    assert baseline.mae == pytest.approx(error_of(both, later).mean(), rel=0.06)


def test_whole_outcomes_stay_whole_and_within_the_observed_range(people, incumbent):
    counts = people.assign(prescribing_change=np.rint(20 * people["prescribing_change"]))
    history, since = counts.iloc[:4000], counts.iloc[4000:5000]
    adjusted = adjust_history(history, since, incumbent)["prescribing_change"]
    assert (adjusted == np.rint(adjusted)).all()
    observed = counts.iloc[:5000]["prescribing_change"]
    assert observed.min() <= adjusted.min() <= adjusted.max() <= observed.max()


def test_carried_rows_alone_are_too_few_for_a_baseline(people):
    with pytest.raises(ValueError, match="50 rows beside the 1950 carried over have an outcome: 100 are needed"):
        TwinGenerator("hcp", "kisqali", n_jobs=1).train(people.iloc[:2000], n_carried_rows=1950)


def test_the_onset_of_a_bias_is_found_where_the_size_of_errors_hardly_changes():
    rng = np.random.default_rng(11)
    scaled = np.concatenate([rng.normal(size=3000) * 0.4, rng.normal(size=1500) * 0.4 + 0.17])
    assert abs(estimate_onset_of_bias(scaled) - 3000) <= 60


def test_the_onset_of_lost_coverage_is_found_from_the_misses():
    rng = np.random.default_rng(12)
    misses = np.concatenate([rng.random(3000) < 0.05, rng.random(1500) < 0.15])
    assert abs(estimate_onset_of_misses(misses, 0.95) - 3000) <= 150

"""Which rows a challenger learns from, against worlds whose change is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.gate import GATE_ROWS
from engine.retraining import ENOUGH_NEW, FEWEST_NEW, onset, portion
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
    found = [
        onset(np.abs(np.concatenate([rng.normal(size=3000), rise * rng.normal(size=1500)])), baseline) - 3000 for _ in range(100)
    ]
    assert abs(np.median(found)) <= within / 8
    assert np.quantile(np.abs(found), 0.9) <= within


def test_one_enormous_error_moves_the_onset_no_further_than_the_clip_lets_it():
    rng = np.random.default_rng(2)
    baseline = baseline_of(np.abs(rng.normal(size=10_000)))
    errors = np.abs(np.concatenate([rng.normal(size=2000), 2.0 * rng.normal(size=500)]))
    errors[100] = 1e12
    assert abs(onset(errors, baseline) - 2000) <= 40


def test_without_a_change_hardly_a_row_counts_as_new():
    rng = np.random.default_rng(3)
    baseline = baseline_of(np.abs(rng.normal(size=50_000)))
    new = [5000 - onset(np.abs(rng.normal(size=5000)), baseline) for _ in range(50)]
    assert np.median(new) < FEWEST_NEW


def test_no_row_has_no_onset_but_the_end():
    assert onset([], baseline_of(np.array([1.0, 2.0]))) == 0


@given(n_since=st.integers(0, 100_000), n_before=st.integers(0, 100_000))
def test_every_portion_can_be_trained_and_judged(n_since, n_before):
    found = portion(n_since, n_before)
    if found is None:
        return
    assert found.learned + found.judged == n_since
    assert found.judged >= GATE_ROWS
    assert found.learned >= FEWEST_NEW
    assert found.history <= n_before
    assert found.learned + found.history >= ENOUGH_NEW


@given(n_since=st.integers(0, 10_000), n_before=st.integers(0, 10_000))
def test_more_new_rows_never_turn_a_yes_into_a_no(n_since, n_before):
    assert portion(n_since, n_before) is None or portion(n_since + 1, n_before) is not None


def test_a_thousand_new_rows_are_learned_without_any_history():
    assert portion(1500, 9000).fresh
    assert not portion(1400, 9000).fresh


def test_a_line_without_history_waits_for_a_thousand_new_rows():
    assert portion(1499, 0) is None
    assert portion(1500, 0).fresh

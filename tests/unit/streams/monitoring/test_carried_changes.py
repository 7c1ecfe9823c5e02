"""Outcomes that are nearly all of one segment: their evidence is its own, and the other detectors begin anew behind them."""

from __future__ import annotations

import numpy as np

from engine.fidelity import Detection, add_sums
from engine.fidelity.error_sums import contributions
from schemas import DriftState, PaneRow
from streams.monitoring.drift_detection import DriftEvaluator, drift_event
from streams.monitoring.window_state import SeriesKey, WindowState
from tests.error_streams import sampled_baseline
from tests.outcomes import LINE, make_card

PANE_S, N = 60.0, 400
SIZES = np.array([0.5, 1.0, 2.0])
RNG = np.random.default_rng(5)
LEVELS = RNG.integers(0, 3, 9_000)
CARD = make_card().model_copy(update={"baseline": sampled_baseline(RNG.normal(size=9_000) * SIZES[LEVELS], LEVELS.astype(str))})
WHOLE, HARDEST = (SeriesKey(CARD.model_id, name) for name in ("all", "region=2"))


def apply(state: WindowState, pane: int, errors: np.ndarray, levels: np.ndarray) -> None:
    nothing = np.full(len(errors), np.nan)
    rows = contributions(np.zeros(len(errors)), errors, nothing, nothing, CARD.baseline)
    masks = {"all": np.ones(len(errors), dtype=bool), **{f"region={level}": levels == level for level in np.unique(levels)}}
    for segment, mask in masks.items():
        row = PaneRow(
            model_id=CARD.model_id,
            segment=segment,
            pane=pane * PANE_S,
            width_s=PANE_S,
            version=1,
            last_offset=pane,
            sums=add_sums(rows[mask].tolist()),
        )
        state.apply_row("outcome-events:0:0", row)


def test_a_block_of_hard_rows_is_carried_by_its_segment_and_the_detector_begins_anew_behind_it():
    rng, state = np.random.default_rng(6), WindowState(PANE_S, 5 * PANE_S)
    evaluator = DriftEvaluator(200, 1e6, {CARD.model_id: CARD})
    for pane in range(5):
        apply(state, pane, rng.normal(size=N) * SIZES[2], np.full(N, 2))
    assert WHOLE in evaluator.findings(state, CARD.model_id).changed
    mix = evaluator.mix(state, CARD.model_id)
    assert mix is not None
    assert mix.segment == "region=2"
    assert mix.carries(WHOLE)
    assert not mix.carries(HARDEST)
    assessment = evaluator.assess_series(state, WHOLE, mix, Detection.CHANGE)
    assert assessment.state is DriftState.WARNING
    assert not assessment.calls_for_retrain
    event = drift_event(LINE, WHOLE, DriftState.OK, assessment)
    assert event.carried_by == "region=2"
    assert event.evidence_by_loss["size"] >= 1.0
    assert "errors are larger than expected" in event.reason
    assert "region=2 carries it" in event.reason
    assert evaluator.evidence(state, HARDEST).ratio < 1.0

    state.restart_detector(WHOLE, state.newest_pane(WHOLE) + PANE_S, evaluator.initial_state(WHOLE))
    assert evaluator.evidence(state, WHOLE).ratio == 0.0
    for pane in range(5, 15):
        levels = rng.integers(0, 3, N)
        apply(state, pane, rng.normal(size=N) * SIZES[levels], levels)
    assert evaluator.mix(state, CARD.model_id) is None
    assert evaluator.findings(state, CARD.model_id).changed == frozenset()


def test_a_mix_like_that_of_the_training_rows_is_carried_by_nobody():
    rng, state = np.random.default_rng(7), WindowState(PANE_S, 5 * PANE_S)
    evaluator = DriftEvaluator(200, 1e6, {CARD.model_id: CARD})
    for pane in range(5):
        levels = rng.integers(0, 3, N)
        apply(state, pane, 2.0 * rng.normal(size=N) * SIZES[levels], levels)
    assert evaluator.mix(state, CARD.model_id) is None
    assessment = evaluator.assess_series(state, WHOLE, None, Detection.CHANGE)
    assert (assessment.state, assessment.carried_by) == (DriftState.ALARM, None)

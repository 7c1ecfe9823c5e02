"""Drift rules and limits of a brand of one's own: what they make of the outcomes of its lines, and of those of others."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import pytest

from engine.fidelity import Detection, add_sums
from engine.fidelity.error_sums import contributions
from schemas import BUILT_IN, DriftEvent, DriftState, ModelCard, PaneRow, catalogue_in_effect, install
from streams.monitoring.drift_detection import DriftAssessment, DriftEvaluator, drift_event, retrain_event
from streams.monitoring.window_state import SeriesKey, WindowState
from tests.error_streams import sampled_baseline
from tests.outcomes import make_card

PANE_S, N, N_PANES = 60.0, 1000, 30
N_MIN = 10_000
"""Outcomes whose error, 12 % larger, is many standard errors beyond a limit of 5 %, and within one of 20 %."""
ERRORS = np.random.default_rng(5).normal(size=9_000)
BASELINE = sampled_baseline(ERRORS, np.zeros(len(ERRORS), dtype=int).astype(str))
RULE = {"metric": "rmse", "limit": 0.05, "direction": "above", "relative": True, "action": "retrain"}


def card_of(brand: str) -> ModelCard:
    return ModelCard.model_validate(make_card().model_dump() | {"model_id": uuid4(), "brand": brand, "baseline": BASELINE})


def assessed(card: ModelCard, factor: float = 1.12) -> tuple[DriftAssessment, DriftEvent]:
    """Outcomes whose errors are larger by a factor, as the fidelity role assesses them under the catalogue in effect."""
    series, rng = SeriesKey(card.model_id, "all"), np.random.default_rng(6)
    state = WindowState(PANE_S, N_PANES * PANE_S)
    for pane in range(N_PANES):
        errors = factor * rng.normal(size=N)
        nothing = np.full(N, np.nan)
        sums = add_sums(contributions(np.zeros(N), errors, nothing, nothing, BASELINE).tolist())
        fields = {"model_id": card.model_id, "segment": "all", "pane": pane * PANE_S, "width_s": PANE_S, "version": 1}
        state.apply_row("outcome-events:0:0", PaneRow(**fields, last_offset=pane, sums=sums))
    rules = {card.line: catalogue_in_effect().thresholds_of(card.line).rules}
    evaluator = DriftEvaluator(N_MIN, 1e6, {card.model_id: card}, rules)
    assert series in evaluator.findings(state, card.model_id).changed
    assessment = evaluator.assess_series(state, series, None, Detection.CHANGE)
    return assessment, drift_event(card.line, series, DriftState.OK, assessment)


@pytest.mark.parametrize(
    ("rules", "state"),
    [
        ({"rmse_increase": RULE}, DriftState.ALARM),
        ({"rmse_increase": {**RULE, "action": "warn"}}, DriftState.WARNING),
        ({"rmse_increase": {**RULE, "limit": 0.5}}, DriftState.WARNING),  # by the detector alone
    ],
    ids=["retrain", "warn", "within its limit"],
)
def test_an_own_rule_of_an_own_brand_raises_its_alarm_and_requests_a_retrain(rules, state):
    install(BUILT_IN.with_entries({"brands": {"acmezumab": {}}, "drift_rules": rules}))
    card = card_of("acmezumab")
    assessment, event = assessed(card)
    assert (event.line, event.state) == ("hcp:acmezumab:prescribing_change", state)
    assert assessment.calls_for_retrain == (state is DriftState.ALARM)
    (own,) = [verdict for verdict in event.verdicts if verdict.rule == "rmse_increase"]
    assert own.fired == (rules["rmse_increase"]["limit"] < 0.12)
    assert (own.reason in event.reason) == own.fired
    request = retrain_event(card.line, SeriesKey(card.model_id, "all"), assessment, 0, datetime.now(UTC))
    assert (own.reason in request.reason) == own.fired


def test_a_limit_of_an_own_brand_holds_for_its_lines_and_for_no_others():
    limits = {"brands": {"acmezumab": {"drift_limits": {"mae_increase": 0.05}}}}
    install(BUILT_IN.with_entries({"brands": {"acmezumab": {}}, "thresholds": limits}))
    states = {brand: assessed(card_of(brand))[1].state for brand in ("acmezumab", "kisqali")}
    assert states == {"acmezumab": DriftState.ALARM, "kisqali": DriftState.WARNING}

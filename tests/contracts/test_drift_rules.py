"""Contract of every drift rule of the catalogue: a new rule is tested without further test code."""

from __future__ import annotations

import pytest

from engine.fidelity.drift_rules import Detection, comparison_text, evaluate_rules, next_state, standing_texts
from schemas import DRIFT_RULES, Baseline, DriftState, FidelityMetrics

METRICS = ("mae", "rmse", "correlation", "coverage_95pct")
NAMES = dict(zip(METRICS, ("MAE", "RMSE", "correlation", "coverage"), strict=True))
HEALTHY = Baseline(
    n=5000,
    mae=0.10,
    rmse=0.13,
    correlation=0.85,
    coverage_95pct=0.95,
    center=0.0,
    scale=0.2,
    clip=0.5,
    clipped_mean=0.2,
    clipped_sd=0.15,
)
each_rule = pytest.mark.parametrize("rule", DRIFT_RULES, ids=lambda rule: rule.name)


def limit_of(rule, baseline=HEALTHY) -> float:
    sign = 1 if rule.direction == "above" else -1
    return getattr(baseline, rule.metric) * (1 + sign * rule.limit) if rule.relative else rule.limit


def beyond(rule, amount: float, n: int = 1000) -> FidelityMetrics:
    """Metrics like the baseline's, but ``amount`` beyond the rule's limit (negative: on the good side of it)."""
    sign = 1 if rule.direction == "above" else -1
    values = {name: getattr(HEALTHY, name) for name in METRICS} | {rule.metric: limit_of(rule) + sign * amount}
    return FidelityMetrics(n=n, n_interval=n, **values)


def verdict_of(rule, metrics, baseline=HEALTHY, **kwargs):
    (verdict,) = evaluate_rules(metrics, baseline, [rule], **kwargs)
    return verdict


def test_rules_have_unique_names():
    assert len({rule.name for rule in DRIFT_RULES}) == len(DRIFT_RULES)


def test_the_limits_are_those_of_the_specification():
    rules = {rule.name: (rule.metric, rule.limit, rule.direction, rule.relative, rule.action) for rule in DRIFT_RULES}
    assert rules["mae_increase"] == ("mae", 0.20, "above", True, "retrain")
    assert rules["correlation_drop"] == ("correlation", 0.7, "below", False, "warn")
    assert rules["coverage_drop"] == ("coverage_95pct", 0.90, "below", False, "investigate")


@each_rule
def test_it_does_not_fire_at_the_baseline(rule):
    same = FidelityMetrics(n=1000, n_interval=1000, **{name: getattr(HEALTHY, name) for name in METRICS})
    assert not verdict_of(rule, same).fired


@each_rule
def test_it_fires_just_beyond_its_limit_and_not_just_within(rule):
    assert verdict_of(rule, beyond(rule, 1e-6)).fired
    assert not verdict_of(rule, beyond(rule, -1e-6)).fired


@each_rule
def test_it_does_not_fire_with_too_few_outcomes_and_gives_that_reason(rule):
    verdict = verdict_of(rule, beyond(rule, 0.01, n=199))
    assert not verdict.fired
    assert verdict.reason == "199 outcomes are too few to judge, 200 are needed"
    assert verdict_of(rule, beyond(rule, 0.01, n=200)).fired
    assert verdict_of(rule, beyond(rule, 0.01, n=50), n_min=50).fired


@each_rule
def test_it_does_not_fire_on_an_undefined_metric(rule):
    undefined = FidelityMetrics(n=1000, missing={rule.metric: "constant: actual"})
    verdict = verdict_of(rule, undefined)
    assert not verdict.fired
    assert verdict.value is None
    assert verdict.reason == f"{NAMES[rule.metric]} is not defined: constant: actual"


ABSOLUTE_RULES = [rule for rule in DRIFT_RULES if not rule.relative]


@pytest.mark.parametrize("rule", ABSOLUTE_RULES, ids=lambda rule: rule.name)
def test_a_limit_that_the_baseline_already_breaks_is_standing_and_a_deterioration_of_the_baseline_takes_its_place(rule):
    poor = HEALTHY.model_copy(update={rule.metric: rule.limit - 0.05})
    unchanged, worse, far_worse = (
        verdict_of(rule, FidelityMetrics(n=1000, n_interval=1000, **{rule.metric: value}), poor)
        for value in (rule.limit - 0.05, rule.limit - 0.08, 0.3)
    )
    assert [verdict.standing for verdict in (unchanged, worse, far_worse)] == [True] * 3
    assert [verdict.fired for verdict in (unchanged, worse, far_worse)] == [False, False, True]
    assert "the baseline's" in far_worse.reason
    assert len(standing_texts(poor)) == 1
    assert standing_texts(HEALTHY) == ()


@each_rule
def test_its_verdict_has_value_limit_baseline_and_n(rule):
    verdict = verdict_of(rule, beyond(rule, 0.01))
    assert (verdict.rule, verdict.action, verdict.n) == (rule.name, rule.action, 1000)
    assert verdict.limit == pytest.approx(limit_of(rule))
    assert verdict.baseline == getattr(HEALTHY, rule.metric)
    assert verdict.value == getattr(beyond(rule, 0.01), rule.metric)
    assert (f"{verdict.limit:.1%}" if rule.metric == "coverage_95pct" else f"{verdict.limit:.4g}") in verdict.reason


@each_rule
def test_an_alarm_needs_a_retrain_rule_and_the_detector(rule):
    metrics = beyond(rule, 0.01)
    verdicts = evaluate_rules(metrics, HEALTHY, [rule])
    calls_for_retrain = rule.action == "retrain"
    assert next_state(verdicts, Detection.CHANGE, metrics) is (DriftState.ALARM if calls_for_retrain else DriftState.WARNING)
    assert next_state(verdicts, Detection.NONE, metrics) is DriftState.WARNING
    assert next_state(verdicts, Detection.SUPPRESSED, metrics) is (
        DriftState.SUPPRESSED if calls_for_retrain else DriftState.WARNING
    )


@each_rule
def test_the_detector_alone_gives_a_warning_and_neither_gives_ok(rule):
    metrics = beyond(rule, -0.01)
    verdicts = evaluate_rules(metrics, HEALTHY, [rule])
    assert next_state(verdicts, Detection.CHANGE, metrics) is DriftState.WARNING
    assert next_state(verdicts, Detection.NONE, metrics) is DriftState.OK
    assert next_state(verdicts, Detection.SUPPRESSED, metrics) is DriftState.OK


@each_rule
def test_too_few_outcomes_give_the_state_insufficient_and_a_warning_where_their_evidence_suffices(rule):
    metrics = beyond(rule, 0.01, n=199)
    verdicts = evaluate_rules(metrics, HEALTHY, [rule])
    states = {detection: next_state(verdicts, detection, metrics) for detection in Detection}
    assert states.pop(Detection.CHANGE) is states.pop(Detection.CARRIED) is DriftState.WARNING
    assert set(states.values()) == {DriftState.INSUFFICIENT}


def test_the_rule_on_the_coverage_calls_for_a_retrain_when_misses_carry_the_evidence():
    rule = next(rule for rule in DRIFT_RULES if rule.metric == "coverage_95pct")
    metrics = beyond(rule, 0.01)
    verdicts = evaluate_rules(metrics, HEALTHY)
    assert next_state(verdicts, Detection.CHANGE, metrics, carriers=["size"]) is DriftState.WARNING
    assert next_state(verdicts, Detection.CHANGE, metrics, carriers=["misses"]) is DriftState.ALARM
    assert next_state(verdicts, Detection.NONE, metrics, carriers=["misses"]) is DriftState.WARNING
    assert comparison_text(verdicts, Detection.CHANGE, ["misses"]) == (
        "rule and detector agree: coverage_drop fires, and all outcomes together show that change"
    )


@each_rule
def test_a_change_that_one_segment_carries_is_a_warning_and_no_alarm(rule):
    metrics = beyond(rule, 0.01)
    state = next_state(evaluate_rules(metrics, HEALTHY, [rule]), Detection.CARRIED, metrics, carriers=["size", "misses"])
    assert state is DriftState.WARNING


@each_rule
def test_a_warning_begins_at_the_limit_and_ends_a_standard_error_within_it(rule):
    state, states = DriftState.OK, []
    for amount in (-0.005, 0.001, -0.005, 0.002, -0.009, -0.011, -0.005):
        metrics = beyond(rule, amount).model_copy(update={"standard_errors": {rule.metric: 0.01}})
        state = next_state(evaluate_rules(metrics, HEALTHY, [rule]), Detection.NONE, metrics, state)
        states.append(state.value)
    assert states == ["ok", "warning", "warning", "warning", "warning", "ok", "ok"]


@each_rule
def test_an_alarm_is_final(rule):
    metrics = beyond(rule, -0.01)
    verdicts = evaluate_rules(metrics, HEALTHY, [rule])
    assert next_state(verdicts, Detection.NONE, metrics, DriftState.ALARM) is DriftState.ALARM


@pytest.mark.parametrize("detection", [Detection.NONE, Detection.CHANGE, Detection.SUPPRESSED])
@pytest.mark.parametrize("amount", [-0.01, 0.01])
def test_a_sentence_states_whether_rule_and_detector_agree(amount, detection):
    rule = next(rule for rule in DRIFT_RULES if rule.action == "retrain")
    text = comparison_text(evaluate_rules(beyond(rule, amount), HEALTHY), detection)
    agree = (amount > 0) == (detection is Detection.CHANGE) and detection is not Detection.SUPPRESSED
    assert text.startswith("rule and detector agree" if agree else "rule and detector disagree")


def test_a_rule_that_cannot_be_evaluated_is_not_reported_as_agreeing():
    few = FidelityMetrics(n=20, mae=0.1)
    assert comparison_text(evaluate_rules(few, HEALTHY), Detection.NONE) == (
        "the rule cannot be evaluated yet: 20 outcomes are too few to judge, 200 are needed"
    )


def test_a_coverage_is_evaluated_on_the_outcomes_with_an_interval():
    metrics = FidelityMetrics(n=10_000, mae=0.1, coverage_95pct=0.5, n_interval=150)
    verdict = next(v for v in evaluate_rules(metrics, HEALTHY) if v.rule == "coverage_drop")
    assert not verdict.fired
    assert verdict.n == 150

"""Models that break a limit of the drift rules from the start: what their rules judge instead."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binom

from engine.fidelity.drift_rules import evaluate_rules, rule_limit, standing_texts
from schemas import DRIFT_RULES, DriftRule, FidelityMetrics

RULES = {rule.name: rule for rule in DRIFT_RULES}


def metrics(n: int = 1000, **values: float) -> FidelityMetrics:
    return FidelityMetrics(n=n, n_interval=n, mae=0.1, rmse=0.13, **{"correlation": 0.8, "coverage_95pct": 0.95} | values)


def fired(current: FidelityMetrics, baseline: FidelityMetrics) -> set[str]:
    return {verdict.rule for verdict in evaluate_rules(current, baseline) if verdict.fired}


def test_a_coverage_that_falls_from_89_to_40_percent_fires():
    baseline = metrics(5000, coverage_95pct=0.89)
    assert fired(metrics(coverage_95pct=0.40), baseline) == {"coverage_drop"}
    assert fired(metrics(coverage_95pct=0.88), baseline) == set()


def test_a_correlation_that_falls_from_a_half_to_a_quarter_fires():
    baseline = metrics(5000, correlation=0.5)
    assert fired(metrics(correlation=0.25), baseline) == {"correlation_drop"}
    assert fired(metrics(correlation=0.45), baseline) == set()


def test_the_limit_is_a_fifth_below_the_correlation_and_twice_the_misses_of_the_coverage_less_two_standard_errors():
    baseline = metrics(403, correlation=0.5, coverage_95pct=0.8)
    assert rule_limit(RULES["correlation_drop"], baseline) == pytest.approx(math.tanh(math.atanh(0.4) - 2 / 20))
    assert rule_limit(RULES["coverage_drop"], baseline) == pytest.approx(0.6 - 2 * math.sqrt(0.16 / 403))
    endless = metrics(10**12, correlation=0.5, coverage_95pct=0.8)
    assert rule_limit(RULES["correlation_drop"], endless) == pytest.approx(0.4, abs=1e-5)
    assert rule_limit(RULES["coverage_drop"], endless) == pytest.approx(0.6, abs=1e-5)


def test_a_model_that_stays_as_it_was_fires_in_fewer_than_one_in_a_thousand_windows_of_200_outcomes():
    limit = rule_limit(RULES["coverage_drop"], metrics(5000, coverage_95pct=0.89))
    assert binom.cdf(math.ceil(200 * limit) - 1, 200, 0.89) < 0.001


@pytest.mark.parametrize("correlation", [0.0, -0.3, -1.0])
def test_a_correlation_that_was_never_there_has_a_limit_below_itself(correlation):
    limit = rule_limit(RULES["correlation_drop"], metrics(400, correlation=correlation))
    assert -1.0 < limit < max(correlation, -0.99)


def test_a_limit_that_is_broken_from_the_start_is_told_with_the_one_in_its_place():
    assert standing_texts(metrics(10_000, coverage_95pct=0.89)) == (
        "coverage is 89.0% on unseen rows, already below 90.0%: a limitation of this model and no drift, which is told below 77.4%",
    )
    assert standing_texts(metrics(10_000)) == ()


def test_a_relative_limit_below_the_baseline_is_told_as_a_fall():
    rule = DriftRule(name="r", metric="correlation", limit=0.1, direction="below", relative=True, action="warn")
    (verdict,) = evaluate_rules(metrics(400, correlation=0.7), metrics(400, correlation=0.8), [rule])
    assert verdict.fired
    assert verdict.reason.endswith("(-10% on the baseline's 0.8)")

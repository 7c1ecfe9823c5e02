"""Counters exist before their first event, in the process of the role that counts."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from schemas import BUILT_IN, DRIFT_RULES, AnswerStatus, install
from streams.ingestion import REFUSAL_KINDS
from streams.metrics import MODEL_CACHE, REGISTRY, start_at_zero
from streams.monitoring.line_metrics import remove_line_metrics, restart_rule_metrics, set_baseline_metrics, start_line_counters
from streams.settings import EVENT_ROLES, Role, Settings
from streams.worker.bootstrap import build_app
from tests.outcomes import make_card

INGESTION = Path(__file__).resolve().parents[3] / "streams" / "ingestion"


def value_of(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_a_counter_starts_at_zero_for_every_combination_and_is_not_set_back():
    MODEL_CACHE.labels(result="hit").inc()
    before = value_of("twin_model_cache_requests_total", result="hit")

    start_at_zero(MODEL_CACHE, result=["hit", "miss"])

    assert value_of("twin_model_cache_requests_total", result="hit") == before
    assert value_of("twin_model_cache_requests_total", result="miss") is not None


@pytest.mark.parametrize("role", EVENT_ROLES)
def test_a_role_has_the_counters_of_what_it_may_refuse_before_it_reads(role: Role, tmp_path: Path):
    build_app(role, Settings(kafka_bootstrap="127.0.0.1:9", postgres_dsn="postgresql://127.0.0.1:9/none", home=tmp_path))

    topics = {
        "simulation": ("simulation-requests", ["unreadable", "invalid", "json", "parked"]),
        "outcomes": ("outcome-events", REFUSAL_KINDS),
        "fidelity": ("fidelity-errors", ["model", "forged", "invalid", "json", "parked"]),
        "experiments": ("experiment-results", ["conflict", "erased", "invalid", "json", "parked"]),
        "trainer": ("retrain-events", ["forged", "invalid", "json", "parked"]),
    }
    topic, reasons = topics[role]
    assert [reason for reason in reasons if value_of("twin_refused_total", topic=topic, reason=reason) is None] == []
    assert value_of("twin_task_failures_total", role=role, task="dead letters") is not None
    if role == "simulation":
        assert [status for status in AnswerStatus if value_of("twin_simulations_total", status=status.value) is None] == []


def test_a_line_has_a_counter_of_every_drift_rule():
    start_line_counters("a line of this test")

    values = [value_of("twin_drift_verdicts_total", line="a line of this test", rule=rule.name) for rule in DRIFT_RULES]
    assert values == [0.0] * len(DRIFT_RULES)


def test_limits_and_counters_of_a_line_follow_the_rules_of_the_catalogue():
    line, baseline = "another line of this test", make_card(mae=0.8).baseline
    rule = {"metric": "rmse", "limit": 0.5, "direction": "above", "relative": True, "action": "warn"}
    install(BUILT_IN.with_entries({"drift_rules": {"rmse_increase": rule, "mae_increase": {"limit": 0.1}}}))
    restart_rule_metrics(line)
    set_baseline_metrics(line, baseline)
    assert value_of("twin_drift_limit", line=line, rule="rmse_increase") == 1.5  # on the baseline's 1.0
    assert value_of("twin_drift_limit", line=line, rule="mae_increase") == pytest.approx(1.1 * 0.8)
    assert value_of("twin_drift_verdicts_total", line=line, rule="rmse_increase") == 0.0
    install(BUILT_IN)
    restart_rule_metrics(line)
    set_baseline_metrics(line, baseline)
    assert value_of("twin_drift_limit", line=line, rule="rmse_increase") is None
    assert value_of("twin_drift_limit", line=line, rule="mae_increase") == pytest.approx(1.2 * 0.8)
    remove_line_metrics(line)


def test_every_kind_of_refusal_in_ingestion_is_listed():
    kinds = {
        node.args[0].value
        for path in INGESTION.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ElementRefusal"
        if isinstance(node.args[0], ast.Constant)
    }
    assert {"champion", "empty", "range"} <= kinds <= set(REFUSAL_KINDS)

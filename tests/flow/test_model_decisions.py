"""People decide about models by commands: each decision is one event in the ledger, and is published."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from schemas import Brand, InterventionConfig, ModelEvent, SimulationRequest, TwinType
from sql.ledger import Ledger
from sql.pin_store import pin
from sql.promotion_effect_store import PromotionEffect, watched_promotions
from sql.retrain_store import enqueue, find_retrain, lease_training, record_training_rows
from sql.simulation_store import Recipe
from streams.cli import connection
from streams.cli.app import app
from streams.operations.operator import operator_name
from streams.registry import MlflowRegistry
from tests.outcomes import LINE, retrain_event

EVIDENCE = {
    "segment": "all",
    "window_start": "2026-03-01T00:00:00Z",
    "window_end": "2026-03-01T01:00:00Z",
    "metrics": {"n": 2400, "mae": 0.25, "standard_errors": {"mae": 0.004}},
    "verdicts": [{"rule": "mae_increase", "fired": True, "reason": "MAE 0.25 is above 0.14"}],
    "evidence_ratio": 1.07,
}
COMPARISON = {"champion": 0.25, "challenger": 0.12, "difference": -0.13, "standard_error": 0.01, "entities": 500}
GATE = {
    "n": 500,
    "entities": 500,
    "n_effective": 500.0,
    "mae": COMPARISON,
    "correlation": COMPARISON,
    "coverage": COMPARISON,
    "segments": {"region=south": COMPARISON},
    "reason": "MAE 0.12 where its predecessor had 0.25 on the same 2,000 outcomes after it",
}


@pytest.fixture
async def second(promoted, champion, saved, pool):
    """Another model of the line, which is not champion."""
    card = champion.card.model_copy(update={"model_id": uuid4(), "mlflow_run_id": saved.mlflow_run_id})
    await Ledger(pool).register_model(card, saved.sha256)
    return card.model_id


async def test_a_promotion_and_a_rollback_are_one_command_and_one_event_each(
    twinstream, promoted, second, pool, listener, settings
):
    event = await twinstream("models", "promote", LINE, str(second)[:8], "--reason", "smaller error", "--json")
    assert (event["happened"], event["champion"], event["reason"]) == ("promoted", str(second), "smaller error")
    assert event["decided_by"] == operator_name()
    assert await Ledger(pool).champion(LINE) == second
    assert "rolled_back" in await twinstream("models", "rollback", LINE)
    assert await Ledger(pool).champion(LINE) == promoted.champion
    run = (await Ledger(pool).artifact(promoted.champion)).mlflow_run_id
    assert await asyncio.to_thread(MlflowRegistry(settings.mlflow_uri).champion_run, LINE) == run
    history = await twinstream("models", "history", LINE)
    assert [line.split()[3] for line in history.splitlines()[1:]] == ["trained", "promoted", "trained", "promoted", "rolled_back"]
    assert await listener.events(ModelEvent, 5) == await Ledger(pool).history(LINE)
    assert await listener.count("model-events") == 5


async def test_a_decision_while_kafka_is_away_is_stored_and_published_by_the_trainer_later(
    promoted, second, pool, listener, settings, service, monkeypatch
):
    away = settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1", "kafka_connect_timeout_s": 1.0})
    monkeypatch.setattr(connection, "load_settings", lambda: away)
    decisions = {
        ("models", "promote", LINE, str(second)): "the topic model-events and shown by the alias champion in MLflow: a worker",
        ("models", "policy", LINE, "approve"): "the topic model-events: a worker",
        ("models", "rollback", LINE): "the topic model-events and shown by the alias champion in MLflow: a worker",
    }
    for arguments, rest in decisions.items():
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert result.exit_code == 0, result.output
        assert result.stdout.split()[0].isdecimal()
        assert result.stderr.startswith("twinstream: Kafka at 127.0.0.1:1 cannot be reached")
        assert f"the decision is stored and counts, but not yet published on {rest} with the role trainer" in result.stderr
        assert result.stderr.count("\n") == 1
    stored = await Ledger(pool).history(LINE)
    assert [event.happened for event in stored] == ["trained", "promoted", "trained", "promoted", "policy", "rolled_back"]
    assert await listener.count("model-events") == 0
    async with service(["trainer"]):
        assert await listener.events(ModelEvent, 6) == stored


async def test_a_decision_that_is_not_possible_is_refused_in_one_line(twinstream, promoted):
    for arguments, reason in {
        ("models", "promote", LINE, "ffffffff"): "no model of hcp:kisqali:prescribing_change begins with 'ffffffff'",
        ("models", "promote", "hcp:fabhalta:prescribing_change", "f"): "no model line 'hcp:fabhalta:prescribing_change' yet",
        ("models", "rollback", LINE): "has no champion before",
        ("why", "abc"): "no retrain begins with 'abc'",
        ("models", "history", "--simulation", str(uuid4())): "there is no simulation",
    }.items():
        error = await twinstream(*arguments, status=1)
        assert reason in error
        assert len(error.strip().splitlines()) == 1


async def test_a_line_that_waits_for_approval_is_approved_by_command(twinstream, promoted, pool, settings):
    await twinstream("models", "policy", LINE, "approve")
    await enqueue(pool, event := retrain_event(promoted.champion, evidence=EVIDENCE))
    assert "waits for approval: twinstream retrain approve" in await twinstream("why", str(event.retrain_id))
    assert await lease_training(pool, "w", settings.retrain_limits) is None
    assert "is refused" in await twinstream("retrain", "refuse", str(event.retrain_id)[:8], "--reason", "the quarter is odd")
    assert f"refused; by {operator_name()}; the quarter is odd" in await twinstream("why", str(event.retrain_id))
    await twinstream("retrain", "approve", str(event.retrain_id)[:8])
    decisions = [(item.happened, item.decided_by) for item in (await Ledger(pool).history(LINE))[-2:]]
    assert decisions == [("refused", operator_name()), ("approved", operator_name())]
    assert await lease_training(pool, "w", settings.retrain_limits) is not None
    assert str(event.retrain_id) in await twinstream("retrain", "list", LINE)


async def test_why_explains_a_retrain_on_one_screen(twinstream, promoted, second, pool, settings):
    await enqueue(pool, event := retrain_event(promoted.champion, evidence=EVIDENCE))
    job = await lease_training(pool, "w", settings.retrain_limits)
    training_rows = {"rows": 1200, "history_rows": 30, "since": "2026-03-01", "until": "2026-03-02", "as_of": "2026-03-02"}
    await record_training_rows(pool, job.retrain_id, training_rows)
    ledger = Ledger(pool)
    promotion_fields = {"retrain_id": job.retrain_id, "fence": job.fence, "reason": "MAE 0.12 instead of 0.25 on 500 later rows"}
    await ledger.promote(LINE, second, **promotion_fields, comparison=GATE)
    (promotion,) = await watched_promotions(pool)
    await ledger.record_effect(promotion, PromotionEffect(LINE, promotion.generation, 2000, "gain", True, GATE))
    report = await twinstream("why", str(event.retrain_id)[:8])
    assert len(report.splitlines()) <= 24
    for part in (
        f"retrain {event.retrain_id} of {LINE}: promoted",
        "MAE 0.25 ± 0.004 (baseline",
        "2,400 outcomes of segment all",
        "fired mae_increase: MAE 0.25 is above 0.14",
        "the evidence is 1.07 times its limit",
        "1,200 outcomes since the estimated change",
        "30 rows from before it",
        "on 500 later rows of 500 entities",
        "MAE of region=south 0.12 against 0.25, difference -0.13 ± 0.01",
        f"promoted: model {second}",
        "an improvement: MAE 0.12 where its predecessor had 0.25 on the same 2,000 outcomes after it",
        "policy auto",
    ):
        assert part in report
    assert (await twinstream("why", str(event.retrain_id), "--json"))["effect"]["verdict"] == "gain"


async def test_the_ledger_shows_which_model_answered_a_simulation(twinstream, promoted, second, pool):
    simulation = SimulationRequest(
        simulation_id=uuid4(),
        requested_at=datetime.now(UTC),
        twin_type=TwinType.HCP,
        brand=Brand.KISQALI,
        intervention=InterventionConfig(
            intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12
        ),
    )
    await pin(pool, simulation, b"hash", lambda _: Recipe(uuid4(), 1000, 1, {}))
    await Ledger(pool).promote(LINE, second)
    text = await twinstream("models", "history", "--simulation", str(simulation.simulation_id))
    assert f"model {promoted.champion} of {LINE}, effects version 0" in text
    assert "generation 2" in text
    assert "first model of the line" in text


async def test_the_choice_of_a_policy_is_in_the_ledger(twinstream, promoted, pool):
    await twinstream("models", "policy", LINE, "suggest", "--reason", "until the summer")
    state = await Ledger(pool).state(LINE)
    assert (state.happened, state.reason) == ("policy", "auto -> suggest; until the summer")
    assert "retraining policy: suggest" in await twinstream("models", "list")
    assert (await find_retrain(pool, await _suggested(pool, promoted))).status == "queued"


async def _suggested(pool, promoted):
    await enqueue(pool, event := retrain_event(promoted.champion, evidence=EVIDENCE))
    return event.retrain_id

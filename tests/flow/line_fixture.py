"""The history of a model line, written straight into the tables: test data of the dashboard."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid5

import numpy as np

from engine.fidelity.error_sums import contributions, sum_groups
from schemas import Baseline, Brand, ModelCard, RetrainEvent, SourceId, TwinModelMetrics, TwinType
from schemas.events import SUM_FIELDS
from sql.database import Pool
from sql.dead_letter_store import RefusedRecord, add_refused_once, refusal_id
from sql.ledger import Ledger
from sql.retrain_store import enqueue

LINE = "hcp:kisqali:prescribing_change"
SOURCE = "outcome-events:0:0"
PANE_S, WINDOW_S = 300.0, 3600.0
RUNS = UUID("00000000-0000-0000-0000-00000000abcd")


def make_card(number: int, trained_at: datetime) -> ModelCard:
    return ModelCard(
        model_id=uuid5(RUNS, f"model {number}"),
        twin_type=TwinType.HCP,
        brand=Brand.KISQALI,
        target="prescribing_change",
        model_type="RandomForest",
        features=("specialty", "decile"),
        hyperparameters={"n_estimators": 100},
        training_samples=10_000,
        metrics=TwinModelMetrics(
            train_r2=0.7, train_mae=0.05, train_rmse=0.06, cv_r2_mean=0.62, cv_r2_std=0.01, fidelity=0.79, training_samples=10_000
        ),
        baseline=Baseline(
            n=10_000,
            mae=0.0512,
            rmse=0.0641,
            correlation=0.79,
            coverage_95pct=0.951,
            center=0.05,
            scale=0.1,
            clip=0.25,
            clipped_mean=0.2,
            clipped_sd=0.15,
        ),
        trained_at=trained_at,
    )


async def add_outcomes(pool: Pool, card: ModelCard, start: datetime, panes: int, noise: float, rng: np.random.Generator) -> None:
    """Two hundred outcomes a pane, for all and for two regions."""
    await pool.execute(
        "INSERT INTO source_positions AS s (source, topic, partition, incarnation, elements)"
        " VALUES ($1, 'outcome-events', 0, 0, $2) ON CONFLICT (source) DO UPDATE SET elements = s.elements + $2",
        SOURCE,
        200 * panes,
    )
    for pane in range(panes):
        predicted = rng.normal(0.05, 0.1, 200)
        actual = predicted + rng.normal(0, noise, 200)
        rows = contributions(predicted, actual, predicted - 0.126, predicted + 0.126, card.baseline)
        region = rng.integers(0, 2, 200)
        sums = [*sum_groups(rows, np.zeros(200, dtype=int), 1), *sum_groups(rows, region, 2)]
        at = start.timestamp() // PANE_S * PANE_S + pane * PANE_S
        for segment, row in zip(("all", "region=south", "region=west"), sums, strict=True):
            await pool.execute(
                f"INSERT INTO fidelity_panes (model_id, segment, pane, width_s, source, line, last_offset, {', '.join(SUM_FIELDS)})"
                f" VALUES ($1, $2, $3, $4, $5, $6, 0, {', '.join(f'${7 + k}' for k in range(len(SUM_FIELDS)))})",
                card.model_id,
                segment,
                at,
                PANE_S,
                SOURCE,
                card.line,
                *row,
            )


@dataclass(frozen=True)
class SimulationSample:
    status: str
    intervention: str
    effect: tuple[float, float, float] | None
    recommendation: str | None
    reason: str


CONFIDENT, UNDECIDED = "90% are enough to deploy", "90% either way are needed for a decision without a test"
NO_MATCH = "none of 10000 twins matches specialty in [dermatology], priority_tier in [1]. specialty has oncology (31)"
SIMULATIONS = (
    SimulationSample(
        "completed", "speaker_program_invitation", (0.109, 0.061, 0.158), "deploy", f"5.0% with probability 99%; {CONFIDENT}"
    ),
    SimulationSample(
        "completed", "email_campaign", (0.046, 0.012, 0.083), "test_further", f"5.0% with probability 41%; {UNDECIDED}"
    ),
    SimulationSample("completed", "educational_content_share", (0.011, -0.012, 0.034), "do_not_deploy", "5.0% with probability 0%"),
    SimulationSample("rejected", "peer_to_peer_referral", None, None, NO_MATCH),
)


async def add_run(pool: Pool, number: int, run: SimulationSample, now: datetime) -> None:
    ate, low, high = run.effect or (None, None, None)
    results = {
        "ate": ate,
        "ate_ci_lower": low,
        "ate_ci_upper": high,
        "affected_twin_count": 9_000,
        "min_effect_threshold": 0.05,
        "rests_on_assumption": run.recommendation == "deploy",
    }
    requested_at = now - timedelta(minutes=7 * number)
    await pool.execute(
        "INSERT INTO simulation_runs (simulation_id, intervention_config, filters, status, results, recommendation,"
        " recommendation_reason, error_message, started_at, completed_at, line, body_hash)"
        " VALUES ($1, $2, $3, $4::text::simulation_status, $5, $6::text::simulation_recommendation, $7, $8, $9, $10, $11, $12)",
        uuid5(RUNS, str(number)),
        {"intervention_type": run.intervention, "channel": "email"},
        {"specialty": ["oncology"], "tier": [1, 2]} if number % 2 else {},
        run.status,
        results if run.effect else None,
        run.recommendation,
        run.reason if run.effect else None,
        None if run.effect else run.reason,
        requested_at,
        requested_at + timedelta(seconds=1),
        LINE,
        bytes(32),
    )


async def add_history(pool: Pool, *, now: datetime) -> None:
    """Six good hours, two bad ones, an alarm, a rejected challenger, a promotion, and an hour since."""
    rng = np.random.default_rng(7)
    first, second, third = (make_card(n, now - timedelta(hours=age)) for n, age in ((1, 30), (2, 2), (3, 1)))
    ledger = Ledger(pool)
    await ledger.register_model(first, "0" * 64, pane_s=PANE_S, window_s=WINDOW_S)
    await ledger.promote(LINE, first.model_id, reason="first model of the line")
    start = now - timedelta(hours=9)
    await add_outcomes(pool, first, start, 72, 0.064, rng)
    await add_outcomes(pool, first, start + timedelta(hours=6), 24, 0.095, rng)
    event = RetrainEvent(
        retrain_id=uuid5(first.model_id, "0"),
        line=LINE,
        model_id=first.model_id,
        attempt=0,
        requested_at=now - timedelta(hours=2),
        cause="drift",
        reason="MAE 0.0761 is above 0.06144 (+20% on the baseline's 0.0512), and the evidence of drift reached its limit",
        evidence={"mae": 0.0761, "limit": 0.06144, "n": 2400, "evidence_ratio": 1.07, "average_run_length": 1e6, "segment": "all"},
    )
    await enqueue(pool, event)
    for card in (second, third):
        await ledger.register_model(card, "0" * 64, retrain_id=event.retrain_id)
    rejection = "mean loss 0.0751 against the champion's 0.0761: no better at 95 %"
    await ledger.conclude("rejected", LINE, second.model_id, reason=rejection)
    comparison = {"champion_mae": 0.0761, "challenger_mae": 0.0519, "n": 4000}
    await ledger.promote(LINE, third.model_id, reason="mean loss 0.0519 against the champion's 0.0761", comparison=comparison)
    await pool.execute("ALTER TABLE model_ledger DISABLE TRIGGER model_ledger_append_only")  # the test writes a past
    for model, age in ((first, 30.0), (second, 1.6), (third, 1.0)):
        await pool.execute(
            "UPDATE model_ledger SET at = $2, effective_from = $2 WHERE model_id = $1", model.model_id, now - timedelta(hours=age)
        )
    set_retrain = "UPDATE model_ledger SET retrain_id = $2 WHERE model_id = $1 AND happened = 'promoted'"
    await pool.execute(set_retrain, third.model_id, event.retrain_id)
    await pool.execute(
        "UPDATE retrain_requests SET status = 'promoted', finished_at = now(), outcome = 'the second challenger was promoted'"
    )
    await add_outcomes(pool, third, now - timedelta(hours=1), 12, 0.063, rng)
    state = (
        "INSERT INTO drift_states (model_id, segment, line, state, evidence_ratio, event) VALUES ($1, 'all', $2, 'ok', 0.12, '{}')"
    )
    await pool.execute(state, third.model_id, LINE)
    for number, run in enumerate(SIMULATIONS, start=1):
        await add_run(pool, number, run, now)
    broken = b'{"event_id": "<script>alert(1)</script>"'
    source = SourceId(topic="outcome-events", partition=2)
    reason = ("json", "the record is no JSON: unexpected end of data", "ValidationError")
    await add_refused_once(pool, [RefusedRecord(refusal_id(source, 41, now), source, 41, 0, now, b"k", broken, [], *reason)])

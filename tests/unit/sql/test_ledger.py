"""The ledger on a real PostgreSQL: one champion and one list of events, also with concurrent transactions."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID, uuid4

import asyncpg
import pytest

from schemas import Baseline, Brand, ModelCard, ModelEvent, RetrainEvent, TwinModelMetrics, TwinType
from sql.database import Pool
from sql.ledger import ChampionChanged, JudgedAgainst, Ledger, NoPredecessor, StaleRetrain, UnknownLine
from sql.model_card_rows import UnknownModel
from sql.promotion_effect_store import Promotion, PromotionEffect, promotion_effect, watched_promotions
from sql.retrain_store import LostLease, RetrainLimits, TrainingJob, enqueue, find_retrain, lease_training

LINE = "hcp:kisqali:prescribing_change"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def ledger(pool: Pool) -> Ledger:
    return Ledger(pool)


def card(brand: Brand = Brand.KISQALI, run: str | None = "run-1") -> ModelCard:
    return ModelCard(
        model_id=uuid4(),
        twin_type=TwinType.HCP,
        brand=brand,
        target="prescribing_change",
        model_type="RandomForest",
        features=("specialty", "decile"),
        hyperparameters={"n_estimators": 100, "max_features": 1 / 3, "bootstrap": True, "max_samples": None},
        training_samples=2000,
        metrics=TwinModelMetrics(
            train_r2=0.7,
            train_mae=0.05,
            train_rmse=0.1,
            cv_r2_mean=0.6,
            cv_r2_std=0.02,
            fidelity=0.8,
            training_samples=2000,
            feature_importance={"specialty": 0.75, "decile": 0.25},
            warnings=("low R2",),
        ),
        baseline=Baseline(
            n=2000, mae=0.1, rmse=0.13, correlation=0.8, center=0.02, scale=0.2, clip=0.6, clipped_mean=0.15, clipped_sd=0.1
        ),
        trained_at=datetime(2026, 2, 1, 12, 30, tzinfo=UTC),
        mlflow_run_id=run,
    )


async def registered(ledger: Ledger) -> UUID:
    model = card()
    await ledger.register_model(model, "abc")
    return model.model_id


async def promoted(ledger: Ledger) -> UUID:
    model_id = await registered(ledger)
    await ledger.promote(LINE, model_id)
    return model_id


async def retraining(pool: Pool, incumbent: UUID) -> TrainingJob:
    event = RetrainEvent(
        retrain_id=uuid4(), line=LINE, model_id=incumbent, attempt=0, requested_at=LONG_AGO, cause="request", reason="of a test"
    )
    await enqueue(pool, event)
    job = await lease_training(pool, "w1", RetrainLimits(lease_s=60, cooldown_s=0, budget_a_day=9))
    assert job is not None
    return job


async def test_a_card_is_loaded_complete_with_its_artifact(ledger: Ledger) -> None:
    model = card()
    await ledger.register_model(model, "abc")
    assert await ledger.card(model.model_id) == model
    artifact = await ledger.artifact(model.model_id)
    assert (artifact.mlflow_run_id, artifact.sha256) == ("run-1", "abc")


async def test_a_model_without_files_has_no_artifact(ledger: Ledger) -> None:
    model = card(run=None)
    await ledger.register_model(model, "abc")
    with pytest.raises(UnknownModel, match=str(model.model_id)):
        await ledger.artifact(model.model_id)


async def test_the_history_has_every_event_in_order_with_the_state_after_it(ledger: Ledger) -> None:
    first, second, third = [await registered(ledger) for _ in range(3)]
    await ledger.promote(LINE, first, reason="the first")
    await ledger.promote(LINE, second, comparison={"n": 500})
    await ledger.conclude("rejected", LINE, third, reason="not better")
    await ledger.conclude("failed", LINE, second, reason="out of time")
    await ledger.roll_back(LINE, "a person decided so")
    events = await ledger.history(LINE)
    assert [event.generation for event in events] == list(range(1, 9))
    assert [(event.happened, event.model_id, event.champion) for event in events[3:]] == [
        ("promoted", first, first),
        ("promoted", second, second),
        ("rejected", third, second),
        ("failed", second, second),
        ("rolled_back", first, first),
    ]
    assert events[4].comparison == {"n": 500}
    assert events[6].effective_from == events[4].effective_from
    assert await ledger.state(LINE) == events[-1]
    assert await ledger.champion(LINE) == first


async def test_the_history_tells_who_has_decided(ledger: Ledger) -> None:
    first, second = [await registered(ledger) for _ in range(2)]
    await ledger.promote(LINE, first)
    await ledger.promote(LINE, second, decided_by="ann")
    with pytest.raises(ChampionChanged, match=f"{second} became champion"):
        await ledger.roll_back(LINE, "seen too late", judged=JudgedAgainst(first), decided_by="bob")
    await ledger.roll_back(LINE, "worse", judged=JudgedAgainst(second), decided_by="bob")
    await ledger.set_policy(LINE, "approve", decided_by="cid")
    decided = [(event.happened, event.decided_by) for event in (await ledger.history(LINE))[3:]]
    assert decided == [("promoted", "ann"), ("rolled_back", "bob"), ("policy", "cid")]


async def test_a_line_without_promotion_has_no_champion(ledger: Ledger) -> None:
    await registered(ledger)
    assert await ledger.champion(LINE) is None
    assert await ledger.champion("hcp:fabhalta:prescribing_change") is None


async def test_a_promotion_takes_effect_just_above_the_highest_watermark_of_any_source(pool: Pool, ledger: Ledger) -> None:
    ahead = datetime.now(UTC) + timedelta(minutes=4)
    for partition, watermark in enumerate((None, ahead, LONG_AGO)):
        await pool.execute(
            "INSERT INTO source_positions (source, topic, partition, incarnation, watermark) VALUES ($1, 't', $2, 0, $3)",
            f"t:{partition}:0",
            partition,
            watermark,
        )
    model_id = await registered(ledger)
    assert (await ledger.promote(LINE, model_id)).effective_from == ahead + timedelta(microseconds=1)


async def test_a_promotion_never_takes_effect_before_now_or_the_last_one_or_the_requested_time(ledger: Ledger) -> None:
    first, second, third = [await registered(ledger) for _ in range(3)]
    began = datetime.now(UTC) - timedelta(seconds=5)
    far = datetime.now(UTC) + timedelta(days=1)
    events = [
        await ledger.promote(LINE, first, not_before=LONG_AGO),
        await ledger.promote(LINE, second, not_before=far),
        await ledger.promote(LINE, third),
    ]
    effective = [event.effective_from for event in events]
    assert effective[0] is not None
    assert effective[0] > began
    assert effective[1:] == [far, far + timedelta(microseconds=1)]


async def test_a_successor_deprecates_its_predecessor_and_a_rollback_takes_that_back(pool: Pool, ledger: Ledger) -> None:
    first = await promoted(ledger)
    second = await promoted(ledger)
    deprecated = "SELECT model_id FROM digital_twin_models WHERE deprecated_at IS NOT NULL"
    assert await pool.fetchval(deprecated) == first
    await ledger.roll_back(LINE, "test")
    assert await pool.fetchval(deprecated) == second


async def test_repeating_a_change_after_a_lost_response_changes_nothing(pool: Pool, ledger: Ledger) -> None:
    incumbent = await promoted(ledger)
    job, challenger = await retraining(pool, incumbent), card()
    trained = [await ledger.register_model(challenger, "abc", retrain_id=job.retrain_id) for _ in range(2)]
    promotions = [
        await ledger.promote(LINE, challenger.model_id, retrain_id=job.retrain_id, fence=job.fence, reason="better")
        for _ in range(2)
    ]
    by_hand = await ledger.promote(LINE, challenger.model_id)
    assert trained[0] == trained[1]
    assert promotions[0] == promotions[1] == by_hand
    assert [event.happened for event in await ledger.history(LINE)] == ["trained", "promoted", "trained", "promoted"]


async def test_a_promotion_closes_its_retrain(pool: Pool, ledger: Ledger) -> None:
    job, challenger = await retraining(pool, await promoted(ledger)), await registered(ledger)
    await ledger.promote(LINE, challenger, retrain_id=job.retrain_id, fence=job.fence, reason="better")
    closed = await find_retrain(pool, job.retrain_id)
    assert (closed.status, closed.outcome) == ("promoted", "better")


async def test_a_rejection_can_be_repeated_too(pool: Pool, ledger: Ledger) -> None:
    job, challenger = await retraining(pool, await promoted(ledger)), await registered(ledger)
    events = [
        await ledger.conclude("rejected", LINE, challenger, retrain_id=job.retrain_id, fence=job.fence, reason="worse")
        for _ in range(2)
    ]
    assert events[0] == events[1]
    assert (await find_retrain(pool, job.retrain_id)).status == "rejected"


async def test_an_older_fence_promotes_nothing(pool: Pool, ledger: Ledger) -> None:
    incumbent = await promoted(ledger)
    job, challenger = await retraining(pool, incumbent), await registered(ledger)
    taken_over = await lease_training(pool, "w2", RetrainLimits(lease_s=0, cooldown_s=0, budget_a_day=9))
    assert taken_over is not None
    with pytest.raises(LostLease):
        await ledger.promote(LINE, challenger, retrain_id=job.retrain_id, fence=job.fence)
    assert await ledger.champion(LINE) == incumbent
    await ledger.promote(LINE, challenger, retrain_id=job.retrain_id, fence=taken_over.fence)
    assert await ledger.champion(LINE) == challenger


async def test_a_retrain_of_a_model_that_is_no_longer_champion_promotes_nothing(pool: Pool, ledger: Ledger) -> None:
    job, challenger = await retraining(pool, await promoted(ledger)), await registered(ledger)
    successor = await promoted(ledger)
    with pytest.raises(StaleRetrain, match=str(successor)):
        await ledger.promote(LINE, challenger, retrain_id=job.retrain_id, fence=job.fence)
    assert await ledger.champion(LINE) == successor
    assert (await find_retrain(pool, job.retrain_id)).status == "running"


async def test_concurrent_promotions_follow_one_another(pool: Pool, ledger: Ledger) -> None:
    models = [await registered(ledger) for _ in range(6)]
    events: list[ModelEvent] = await asyncio.gather(*(ledger.promote(LINE, model) for model in models))
    in_order = sorted(events, key=lambda event: event.generation)
    assert [event.generation for event in in_order] == list(range(7, 13))
    effective = [event.effective_from for event in in_order if event.effective_from is not None]
    assert effective == sorted(set(effective))
    assert await ledger.champion(LINE) == in_order[-1].model_id
    assert await pool.fetchval("SELECT count(*) FROM digital_twin_models WHERE deprecated_at IS NULL") == 1


async def test_a_promotion_waits_for_transactions_that_read_the_champion(pool: Pool, ledger: Ledger) -> None:
    challenger = await registered(ledger)
    async with pool.acquire() as reader:
        transaction = reader.transaction()
        await transaction.start()
        await reader.execute("SELECT champion FROM model_lines FOR SHARE")
        promotion = asyncio.create_task(ledger.promote(LINE, challenger))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        while await pool.fetchval(waiting) == 0:  # noqa: ASYNC110  # a lock in Postgres sets no event
            await asyncio.sleep(0.01)
        await reader.execute(
            "INSERT INTO source_positions (source, topic, partition, incarnation, watermark) VALUES ('t:0:0', 't', 0, 0, $1)",
            datetime(2100, 1, 1, tzinfo=UTC),
        )
        await transaction.commit()
    assert (await promotion).effective_from == datetime(2100, 1, 1, 0, 0, 0, 1, tzinfo=UTC)


async def test_rollbacks_go_further_back_each_time_until_there_is_no_earlier_champion(ledger: Ledger) -> None:
    first, second, _ = [await promoted(ledger) for _ in range(3)]
    assert (await ledger.roll_back(LINE, "worse")).champion == second
    assert (await ledger.roll_back(LINE, "worse too")).champion == first
    with pytest.raises(NoPredecessor, match=str(first)):
        await ledger.roll_back(LINE, "even so")


async def test_a_rollback_can_name_its_model_but_only_one_of_the_line(ledger: Ledger) -> None:
    first, _, _ = [await promoted(ledger) for _ in range(3)]
    assert (await ledger.roll_back(LINE, "test", to=first)).champion == first
    foreign = card(Brand.FABHALTA)
    await ledger.register_model(foreign, "abc")
    with pytest.raises(UnknownModel):
        await ledger.roll_back(LINE, "test", to=foreign.model_id)
    with pytest.raises(UnknownModel):
        await ledger.promote(LINE, foreign.model_id)


async def test_unknown_lines_and_models_are_refused_by_name(ledger: Ledger) -> None:
    with pytest.raises(UnknownLine, match="train a model of it first"):
        await ledger.state(LINE)
    await registered(ledger)
    with pytest.raises(UnknownLine, match=LINE):
        await ledger.promote("hcp:fabhalta:prescribing_change", uuid4())
    with pytest.raises(UnknownModel):
        await ledger.card(uuid4())
    with pytest.raises(UnknownModel):
        await ledger.conclude("rejected", LINE, uuid4())
    with pytest.raises(ValueError, match="belong together"):
        await ledger.conclude("rejected", LINE, uuid4(), retrain_id=uuid4())


async def test_a_policy_is_one_of_four_and_its_choice_is_an_event(ledger: Ledger) -> None:
    await registered(ledger)
    assert await ledger.policy(LINE) == "auto"
    event = await ledger.set_policy(LINE, "approve", "the year's end")
    assert await ledger.policy(LINE) == "approve"
    assert (event.happened, event.reason) == ("policy", "auto -> approve; the year's end")
    with pytest.raises(ValueError, match="approve, auto, off, suggest"):
        await ledger.set_policy(LINE, "maybe")
    with pytest.raises(UnknownLine):
        await ledger.set_policy("hcp:fabhalta:prescribing_change", "off")


async def test_the_ledger_is_append_only_for_its_owner_too(owner_pool: Pool, ledger: Ledger) -> None:
    await promoted(ledger)
    for statement in ("UPDATE model_ledger SET reason = 'better'", "DELETE FROM model_ledger", "TRUNCATE model_ledger CASCADE"):
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await owner_pool.execute(statement)


async def drift_retrain(pool: Pool, incumbent: UUID) -> TrainingJob:
    """A retrain caused by drift, leased to a worker."""
    event = RetrainEvent(
        retrain_id=uuid4(), line=LINE, model_id=incumbent, attempt=0, requested_at=LONG_AGO, cause="drift", reason="of a test"
    )
    await enqueue(pool, event)
    job = await lease_training(pool, "w1", RetrainLimits(cooldown_s=0, budget_a_day=9))
    assert job is not None
    return job


async def rejected(pool: Pool, ledger: Ledger, incumbent: UUID) -> None:
    job = await drift_retrain(pool, incumbent)
    lease = {"retrain_id": job.retrain_id, "fence": job.fence}
    await ledger.conclude("rejected", LINE, await registered(ledger), **lease, reason="no better")


async def succeeded(pool: Pool, ledger: Ledger) -> Promotion:
    """A promotion that the gate decided for a retrain."""
    champion = await ledger.champion(LINE)
    assert champion is not None
    job, challenger = await drift_retrain(pool, champion), await registered(ledger)
    await ledger.promote(LINE, challenger, retrain_id=job.retrain_id, fence=job.fence, reason="better", comparison={"n": 500})
    promotion = (await watched_promotions(pool))[-1]
    assert (promotion.model_id, promotion.predecessor, promotion.retrain_id) == (challenger, champion, job.retrain_id)
    return promotion


def measured(
    promotion: Promotion, verdict: Literal["gain", "nothing", "harm", "unknown"], *, final: bool = True
) -> PromotionEffect:
    return PromotionEffect(promotion.line, promotion.generation, 2000, verdict, final, {"reason": "of a test"})


async def test_two_retrains_in_a_row_without_a_gain_stop_the_line(pool: Pool, ledger: Ledger) -> None:
    incumbent = await promoted(ledger)
    await rejected(pool, ledger, incumbent)
    assert await ledger.policy(LINE) == "auto"
    await rejected(pool, ledger, incumbent)
    assert await ledger.policy(LINE) == "approve"
    stopped = await ledger.state(LINE)
    assert (stopped.happened, stopped.champion) == ("stopped", incumbent)
    assert "2 retrains in a row brought no gain" in stopped.reason


async def test_choosing_the_policy_again_allows_the_line_two_more_retrains(pool: Pool, ledger: Ledger) -> None:
    incumbent = await promoted(ledger)
    for _ in range(2):
        await rejected(pool, ledger, incumbent)
    await ledger.set_policy(LINE, "auto")
    await rejected(pool, ledger, incumbent)
    assert await ledger.policy(LINE) == "auto"
    await rejected(pool, ledger, incumbent)
    assert await ledger.policy(LINE) == "approve"


async def test_a_promotion_with_a_gain_ends_the_row(pool: Pool, ledger: Ledger) -> None:
    await rejected(pool, ledger, await promoted(ledger))
    await ledger.record_effect(promotion := await succeeded(pool, ledger), measured(promotion, "gain"))
    await rejected(pool, ledger, promotion.model_id)
    assert await ledger.policy(LINE) == "auto"


async def test_a_promotion_without_a_gain_counts_once_that_is_final(pool: Pool, ledger: Ledger) -> None:
    await rejected(pool, ledger, await promoted(ledger))
    promotion = await succeeded(pool, ledger)
    assert await ledger.record_effect(promotion, measured(promotion, "nothing", final=False)) is None
    assert await ledger.policy(LINE) == "auto"
    stopped = await ledger.record_effect(promotion, measured(promotion, "nothing"))
    assert stopped is not None
    assert stopped.happened == "stopped"
    assert await ledger.champion(LINE) == promotion.model_id
    assert await watched_promotions(pool) == []


async def test_a_champion_that_does_harm_is_rolled_back_once(pool: Pool, ledger: Ledger) -> None:
    first = await promoted(ledger)
    promotion = await succeeded(pool, ledger)
    rollback = await ledger.record_effect(promotion, measured(promotion, "harm"))
    assert rollback is not None
    assert (rollback.happened, rollback.champion, rollback.retrain_id) == ("rolled_back", first, promotion.retrain_id)
    assert await ledger.record_effect(promotion, measured(promotion, "harm")) is None
    assert promotion.retrain_id is not None
    effect = await promotion_effect(pool, promotion.retrain_id)
    assert effect is not None
    assert (effect.verdict, effect.n, effect.final) == ("harm", 2000, True)


async def test_a_promotion_by_a_person_is_measured_and_not_rolled_back(pool: Pool, ledger: Ledger) -> None:
    await promoted(ledger)
    second = await promoted(ledger)
    (promotion,) = await watched_promotions(pool)
    assert not promotion.by_gate
    assert await ledger.record_effect(promotion, measured(promotion, "harm")) is None
    assert await ledger.champion(LINE) == second


async def test_lines_keep_the_panes_they_were_added_with(pool: Pool, ledger: Ledger) -> None:
    await ledger.register_model(card(), "abc", pane_s=60, window_s=600)
    await ledger.register_model(card(), "abc", pane_s=1, window_s=10)
    assert [tuple(row) for row in await pool.fetch("SELECT line, pane_s, window_s FROM model_lines")] == [(LINE, 60, 600)]
    assert await ledger.lines() == [LINE]


@pytest.mark.parametrize("happened", ["promoted", "rejected"])
async def test_a_verdict_against_an_earlier_champion_decides_nothing(
    ledger: Ledger, happened: Literal["promoted", "rejected"]
) -> None:
    first, second = await registered(ledger), await registered(ledger)
    await ledger.conclude("promoted", LINE, first, judged=JudgedAgainst(None))
    with pytest.raises(ChampionChanged, match=f"{first} became champion of {LINE} in the meantime, after None"):
        await ledger.conclude(happened, LINE, second, judged=JudgedAgainst(None))
    assert await ledger.champion(LINE) == first
    event = await ledger.conclude(happened, LINE, second, judged=JudgedAgainst(first))
    assert event.happened == happened


async def test_of_two_first_champions_at_once_one_is_judged_again(ledger: Ledger) -> None:
    models = [await registered(ledger), await registered(ledger)]
    promotions = [ledger.conclude("promoted", LINE, model, judged=JudgedAgainst(None)) for model in models]
    results = await asyncio.gather(*promotions, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["ChampionChanged", "ModelEvent"]

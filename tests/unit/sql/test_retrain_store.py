"""Retrain requests on a real PostgreSQL: one training per cause, one running training per line, and no request that never ends."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID, uuid4, uuid5

import pytest

from schemas import RetrainEvent
from sql.database import Pool
from sql.ledger import Ledger
from sql.model_card_rows import UnknownModel
from sql.retrain_approval_store import NotWaiting, approve, refuse
from sql.retrain_store import (
    MAX_TRIES,
    LostLease,
    RetrainLimits,
    TrainingJob,
    TrainingOutcome,
    UnknownRequest,
    enqueue,
    find_retrain,
    finish,
    finished_trainings,
    heartbeat,
    lease_training,
    list_retrains,
    put_back,
    record_training_rows,
    waits_for,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LINE, OTHER = "hcp:kisqali:prescribing_change", "hcp:fabhalta:prescribing_change"


async def line_with_champion(pool: Pool, line: str = LINE, policy: str = "auto") -> UUID:
    """A line and its champion, without the ledger's ceremony."""
    model_id = uuid4()
    await pool.execute(
        """INSERT INTO digital_twin_models (model_id, twin_type, brand, model_type, training_samples, target_variable, features,
                                            hyperparameters, metrics, line, baseline)
           VALUES ($1, 'hcp', 'kisqali', 'RandomForest', 1000, 'prescribing_change', '{}', '{}', '{}', $2, '{}')""",
        model_id,
        line,
    )
    await pool.execute(
        """INSERT INTO model_lines (line, twin_type, brand, target, champion, policy)
           VALUES ($1, 'hcp', 'kisqali', 'prescribing_change', $2, $3)
           ON CONFLICT (line) DO UPDATE SET champion = EXCLUDED.champion""",
        line,
        model_id,
        policy,
    )
    return model_id


def retrain_event(model_id: UUID, attempt: int = 0, line: str = LINE, cause: Literal["drift", "request"] = "drift") -> RetrainEvent:
    return RetrainEvent(
        retrain_id=uuid5(model_id, str(attempt)),
        line=line,
        model_id=model_id,
        attempt=attempt,
        requested_at=NOW,
        cause=cause,
        reason="MAE rose",
        evidence={"mae": 0.31, "ratio": 1.5},
    )


async def leased(
    pool: Pool, worker: str = "w1", lease_s: float = 60.0, cooldown_s: float = 0.0, budget_a_day: int = 100
) -> TrainingJob | None:
    return await lease_training(pool, worker, RetrainLimits(lease_s=lease_s, cooldown_s=cooldown_s, budget_a_day=budget_a_day))


async def leased_by(pool: Pool, worker: str = "w1", lease_s: float = 60.0) -> TrainingJob:
    job = await leased(pool, worker, lease_s)
    assert job is not None
    return job


async def test_ten_thousand_events_of_one_cause_are_one_row(pool: Pool) -> None:
    event = retrain_event(await line_with_champion(pool))

    async def burst() -> None:
        for _ in range(2_500):
            assert await enqueue(pool, event) == "queued"

    await asyncio.gather(*(burst() for _ in range(4)))
    assert len(await list_retrains(pool, LINE)) == 1
    assert await leased(pool) is not None
    assert await leased(pool, "w2") is None


async def test_a_job_has_the_fields_of_its_event(pool: Pool) -> None:
    model_id = await line_with_champion(pool)
    await enqueue(pool, retrain_event(model_id))
    job = await leased_by(pool)
    assert (job.retrain_id, job.line, job.model_id, job.attempt) == (uuid5(model_id, "0"), LINE, model_id, 0)
    assert (job.cause, job.reason, job.evidence, job.requested_at) == ("drift", "MAE rose", {"mae": 0.31, "ratio": 1.5}, NOW)
    assert (job.tries, job.fence) == (1, 1)


async def test_of_concurrent_workers_one_gets_the_training(pool: Pool) -> None:
    await enqueue(pool, retrain_event(await line_with_champion(pool)))
    jobs = await asyncio.gather(*(leased(pool, f"w{worker}") for worker in range(8)))
    assert sum(job is not None for job in jobs) == 1


async def test_two_lines_are_trained_at_the_same_time_but_one_line_only_once(pool: Pool) -> None:
    for line in (LINE, OTHER):
        model_id = await line_with_champion(pool, line)
        for attempt in (0, 1):
            await enqueue(pool, retrain_event(model_id, attempt, line))
    lines = [job.line for job in [await leased(pool, f"w{worker}") for worker in range(4)] if job is not None]
    assert sorted(lines) == [OTHER, LINE]


async def test_a_lease_with_heartbeats_is_kept_and_one_without_is_taken_over_with_a_higher_fence(pool: Pool) -> None:
    await enqueue(pool, retrain_event(await line_with_champion(pool)))
    first = await leased_by(pool)
    await heartbeat(pool, first)
    assert await leased(pool, "w2") is None
    second = await leased_by(pool, "w2", lease_s=0.0)
    assert (second.retrain_id, second.fence, second.tries) == (first.retrain_id, first.fence + 1, 2)
    with pytest.raises(LostLease):
        await heartbeat(pool, first)
    with pytest.raises(LostLease):
        await finish(pool, first, "failed")
    await finish(pool, second, "failed", "out of memory")
    assert (await find_retrain(pool, second.retrain_id)).outcome == "out of memory"


async def test_of_two_workers_one_takes_over_an_expired_lease(pool: Pool) -> None:
    await enqueue(pool, retrain_event(await line_with_champion(pool)))
    await leased_by(pool)
    await pool.execute("UPDATE training_leases SET heartbeat_at = heartbeat_at - interval '1 hour'")
    jobs = await asyncio.gather(*(leased(pool, f"w{worker}") for worker in range(6)))
    assert [job.fence for job in jobs if job is not None] == [2]


async def test_a_training_that_ends_its_workers_counts_its_tries(pool: Pool) -> None:
    await enqueue(pool, retrain_event(await line_with_champion(pool)))
    tries = [(await leased_by(pool, f"w{worker}", lease_s=0.0)).tries for worker in range(MAX_TRIES + 1)]
    assert tries == [1, 2, 3, MAX_TRIES + 1]


async def test_a_worker_that_leases_a_training_again_counts_as_one_try(pool: Pool) -> None:
    model_id = await line_with_champion(pool)
    for attempt in range(2):
        await enqueue(pool, retrain_event(model_id, attempt))
    jobs = [await leased_by(pool, worker, lease_s=0.0) for worker in ("w1", "w1", "w2")]
    assert [(job.tries, job.fence) for job in jobs] == [(1, 1), (1, 2), (2, 3)]
    await finish(pool, jobs[-1], "failed")
    assert (await leased_by(pool, "w2")).tries == 1  # the next training of the line


async def test_a_training_that_is_put_back_can_be_leased_at_once_and_counts_as_not_started(pool: Pool) -> None:
    await enqueue(pool, retrain_event(await line_with_champion(pool)))
    first = await leased_by(pool)
    await put_back(pool, first)
    second = await leased_by(pool, "w2")
    assert (second.retrain_id, second.tries, second.fence) == (first.retrain_id, 1, 2)
    with pytest.raises(LostLease):
        await put_back(pool, first)


async def test_the_training_rows_of_a_challenger_are_stored_with_its_request(pool: Pool) -> None:
    await enqueue(pool, retrain_event(await line_with_champion(pool)))
    first = await leased_by(pool)
    await record_training_rows(pool, first.retrain_id, {"rows": 1200})
    assert (await leased_by(pool, "w2", lease_s=0.0)).learned == {"rows": 1200}


@pytest.mark.parametrize("status", ["rejected", "failed"])
async def test_after_a_finished_training_the_line_waits_for_the_cooldown(pool: Pool, status: TrainingOutcome) -> None:
    model_id = await line_with_champion(pool)
    await enqueue(pool, retrain_event(model_id))
    await finish(pool, await leased_by(pool), status)
    await enqueue(pool, retrain_event(model_id, 1))
    assert await leased(pool, cooldown_s=3600) is None
    await pool.execute("UPDATE retrain_requests SET finished_at = finished_at - interval '1 hour'")
    assert await leased(pool, cooldown_s=3600) is not None


async def test_a_stale_request_starts_no_cooldown(pool: Pool) -> None:
    model_id = await line_with_champion(pool)
    await enqueue(pool, retrain_event(model_id))
    await finish(pool, await leased_by(pool), "stale")
    await enqueue(pool, retrain_event(model_id, 1))
    assert await leased(pool, cooldown_s=3600) is not None


async def test_the_budget_of_trainings_is_per_day(pool: Pool) -> None:
    model_id = await line_with_champion(pool)
    for attempt in range(2):
        await enqueue(pool, retrain_event(model_id, attempt))
        job = await leased(pool, budget_a_day=2)
        assert job is not None
        await finish(pool, job, "rejected")
    await enqueue(pool, retrain_event(model_id, 2))
    assert await leased(pool, budget_a_day=2) is None
    await pool.execute("UPDATE retrain_requests SET started_at = started_at - interval '1 day'")
    assert await leased(pool, budget_a_day=2) is not None


async def test_a_request_of_a_person_waits_neither_for_cooldown_nor_budget(pool: Pool) -> None:
    model_id = await line_with_champion(pool)
    await enqueue(pool, retrain_event(model_id))
    await finish(pool, await leased_by(pool), "rejected")
    await enqueue(pool, retrain_event(model_id, 1, cause="request"))
    assert await leased(pool, cooldown_s=3600, budget_a_day=1) is not None


async def test_a_line_with_the_policy_approve_trains_only_after_approval(pool: Pool) -> None:
    event = retrain_event(await line_with_champion(pool, policy="approve"))
    await enqueue(pool, event)
    assert await leased(pool) is None
    assert await waits_for(pool, event.retrain_id, RetrainLimits()) == "approval: twinstream retrain approve"
    await approve(pool, event.retrain_id)
    assert await waits_for(pool, event.retrain_id, RetrainLimits()) == ""
    assert await leased(pool) is not None
    with pytest.raises(NotWaiting, match="is running"):
        await approve(pool, event.retrain_id)


async def test_a_refused_request_starts_no_training_until_a_person_approves_it_after_all(pool: Pool) -> None:
    event = retrain_event(await line_with_champion(pool))
    await enqueue(pool, event)
    refused = await refuse(pool, event.retrain_id, by="ann", reason="the quarter is odd")
    assert (refused.status, refused.outcome) == ("refused", "refused; by ann; the quarter is odd")
    assert await refuse(pool, event.retrain_id, by="bob") == refused
    assert await leased(pool) is None
    assert await enqueue(pool, event) == "refused"
    approved = await approve(pool, event.retrain_id, by="bob", reason="it is not")
    assert (approved.status, approved.finished_at, approved.outcome) == ("queued", None, "")
    assert await approve(pool, event.retrain_id, by="cid") == approved
    assert await leased(pool, cooldown_s=3600, budget_a_day=1) is not None
    with pytest.raises(NotWaiting, match="is running and does not wait for a refusal"):
        await refuse(pool, event.retrain_id)
    decisions = [(item.happened, item.decided_by, item.reason, item.retrain_id) for item in (await Ledger(pool).history(LINE))[-2:]]
    assert decisions == [
        ("refused", "ann", "the quarter is odd", event.retrain_id),
        ("approved", "bob", "it is not", event.retrain_id),
    ]


async def test_a_request_against_a_former_champion_waits_for_no_decision(pool: Pool) -> None:
    event = retrain_event(await line_with_champion(pool))
    await enqueue(pool, event)
    await line_with_champion(pool)
    for decide in (approve, refuse):
        with pytest.raises(NotWaiting, match="which is no longer champion"):
            await decide(pool, event.retrain_id)


async def test_a_line_with_the_policy_off_trains_only_on_request_of_a_person(pool: Pool) -> None:
    model_id = await line_with_champion(pool, policy="off")
    await enqueue(pool, retrain_event(model_id))
    with pytest.raises(NotWaiting, match="policy of hcp:kisqali:prescribing_change is off"):
        await approve(pool, uuid5(model_id, "0"))
    assert await leased(pool) is None
    await enqueue(pool, retrain_event(model_id, 1, cause="request"))
    assert (await leased_by(pool)).attempt == 1


async def test_a_line_with_the_policy_suggest_trains_one_challenger_and_waits_for_a_decision(pool: Pool) -> None:
    model_id = await line_with_champion(pool, policy="suggest")
    await enqueue(pool, retrain_event(model_id))
    await finish(pool, await leased_by(pool), "suggested", "better")
    await enqueue(pool, retrain_event(model_id, 1))
    assert await finished_trainings(pool, model_id) == 1
    assert await leased(pool) is None
    assert "suggested already" in await waits_for(pool, uuid5(model_id, "1"), RetrainLimits(cooldown_s=0))


async def test_consecutive_failures_open_a_circuit_breaker_for_a_time(pool: Pool) -> None:
    model_id = await line_with_champion(pool)
    for attempt, status in enumerate(("failed", "rejected", "failed", "failed")):
        await enqueue(pool, retrain_event(model_id, attempt))
        await finish(pool, await leased_by(pool), status)  # type: ignore[arg-type]  # the four are outcomes
    await enqueue(pool, retrain_event(model_id, 4))
    await finish(pool, await leased_by(pool), "failed")
    await enqueue(pool, retrain_event(model_id, 5))
    assert await leased(pool) is None
    assert "circuit breaker" in await waits_for(pool, uuid5(model_id, "5"), RetrainLimits(cooldown_s=0, budget_a_day=9))
    await pool.execute("UPDATE retrain_requests SET finished_at = finished_at - interval '1 day'")
    assert await leased(pool) is not None


async def test_an_event_about_a_model_that_is_not_champion_is_stale_at_once(pool: Pool) -> None:
    former = await line_with_champion(pool)
    await line_with_champion(pool)
    assert await enqueue(pool, retrain_event(former)) == "stale"
    assert await leased(pool) is None


async def test_a_promotion_makes_waiting_and_abandoned_trainings_stale(pool: Pool) -> None:
    former = await line_with_champion(pool)
    for attempt in (0, 1):
        await enqueue(pool, retrain_event(former, attempt))
    await leased_by(pool)
    await line_with_champion(pool)
    assert await leased(pool, lease_s=0.0) is None
    assert [row.status for row in await list_retrains(pool, LINE)] == ["stale", "stale"]
    assert await finished_trainings(pool, former) == 0


async def test_unknown_models_and_requests_are_refused(pool: Pool) -> None:
    stranger = uuid4()
    with pytest.raises(UnknownModel, match=str(stranger)):
        await enqueue(pool, retrain_event(stranger))
    await line_with_champion(pool)
    with pytest.raises(UnknownModel, match=str(stranger)):
        await enqueue(pool, retrain_event(stranger))
    for attempt in (find_retrain(pool, stranger), approve(pool, stranger)):
        with pytest.raises(UnknownRequest, match=str(stranger)):
            await attempt

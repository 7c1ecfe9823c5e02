"""From alarms to a new champion, on the real Kafka, Postgres and MLflow: one training per cause, also when processes are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from uuid import UUID, uuid4

import numpy as np
import pandas as pd
import pytest

from deploy.stack.part import free_port
from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from schemas import Brand, InterventionConfig, ModelEvent, RetrainEvent, SimulationRequest, TwinType
from sql.database import Pool
from sql.ledger import Ledger
from sql.retrain_decision_store import add_decision
from sql.retrain_store import enqueue, lease_training, list_retrains
from sql.training_data_store import add_history
from streams.client.twin_client import TwinClient
from streams.metrics import RETRAINS
from streams.registry import MlflowRegistry, ModelLoader
from streams.settings import PORTS, Settings
from streams.training.retraining import Retraining
from streams.worker.bootstrap import run_role
from streams.worker.supervisor import Workers
from tests import polling
from tests.outcomes import LINE, retrain_event

TARGET, TOPIC = "prescribing_change", "retrain-events"
TIMEOUT_S = 300.0  # a limit, not the expected time: a restarted trainer imports and trains again
until = partial(polling.until, within_s=TIMEOUT_S)
_ATTEMPTS = count(1)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """No pause between retrains, and a short lease."""
    return settings.model_copy(update={"cooldown_s": 0.0, "lease_s": 3.0})


@pytest.fixture
def registry(settings: Settings) -> MlflowRegistry:
    return MlflowRegistry(settings.mlflow_uri)


async def observe(pool, since: datetime, n: int = 1700, shift: float = 0.3) -> None:
    """Add outcomes of prescribers of which those in primary care prescribe less, 20 per second."""
    frame = sample_hcps(n, np.random.default_rng(9))
    frame[TARGET] -= shift * (frame["specialty"] == "primary_care")
    times = pd.to_datetime([since + timedelta(seconds=0.05 * (row + 1)) for row in range(n)], utc=True)
    await add_history(pool, LINE, frame.assign(entity_id=[f"observed-{row}" for row in range(n)], observed_at=times), "outcomes")


async def ended(pool, happened: str) -> ModelEvent:
    """The state of the line, as soon as a retrain has ended like this."""
    return await until(lambda: Ledger(pool).state(LINE), lambda state: state.happened == happened and state.retrain_id is not None)


def a_request() -> SimulationRequest:
    email = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)
    return SimulationRequest(
        simulation_id=uuid4(),
        requested_at=datetime.now(UTC),
        twin_type=TwinType.HCP,
        brand=Brand.KISQALI,
        intervention=email,
        twin_count=500,
    )


async def next_retrain(pool: Pool, model_id: UUID) -> RetrainEvent:
    """A decided retrain with an id of its own: these tests share a model store, in which a challenger is found by that id."""
    event = retrain_event(model_id, attempt=next(_ATTEMPTS))
    await add_decision(pool, event)
    return event


def retrains(outcome: str) -> float:
    return RETRAINS.labels(line=LINE, outcome=outcome)._value.get()


def trainings_for(registry: MlflowRegistry, retrain_id: UUID) -> int:
    """Number of finished MLflow runs of a retrain."""
    experiment = registry.client.get_experiment_by_name("digital_twin_hcp_kisqali")
    query = f"tags.`twin.retrain_id` = '{retrain_id}' and attributes.status = 'FINISHED'"
    return len(registry.client.search_runs([experiment.experiment_id], query))


async def test_ten_thousand_alarms_from_three_workers_give_three_trainers_one_training_and_one_promotion(
    service, promoted, pool, listener, registry, settings
):
    await observe(pool, promoted.effective_from)
    event, before = await next_retrain(pool, promoted.champion), retrains("promoted")
    await asyncio.gather(*(_publish_repeatedly(settings, event, 10_000 // 3 + (worker == 0)) for worker in range(3)))
    async with service(["trainer"]), _another_trainer(settings), _another_trainer(settings):
        state = await ended(pool, "promoted")
        read_offsets = partial(polling.committed_offsets, settings, TOPIC)
        await until(read_offsets, lambda offsets: sum(offsets.values()) == 10_000)
        events = await listener.events(ModelEvent, 4)
        run = (await Ledger(pool).artifact(state.champion)).mlflow_run_id
        await until(lambda: asyncio.to_thread(registry.champion_run, LINE), lambda champion_run: champion_run == run)
        await asyncio.sleep(2.0)
    assert [row.status for row in await list_retrains(pool, LINE)] == ["promoted"]
    assert [event.happened for event in events] == ["trained", "promoted", "trained", "promoted"]
    assert events == await Ledger(pool).history(LINE)
    assert await listener.count("model-events") == 4
    assert trainings_for(registry, event.retrain_id) == 1
    assert state.retrain_id == event.retrain_id
    assert state.comparison["mae"]["challenger"] < state.comparison["mae"]["champion"]
    assert retrains("promoted") == before + 1


async def _publish_repeatedly(settings: Settings, event: RetrainEvent, times: int) -> None:
    """Publish the same event again and again, as a worker does whose alarm is repeated."""
    value = event.model_dump_json().encode()
    async with TwinClient(settings, name="fidelity") as client:
        for first in range(0, times, 500):
            await asyncio.gather(*(client.publish_bytes(TOPIC, LINE.encode(), value) for _ in range(min(500, times - first))))


@asynccontextmanager
async def _another_trainer(settings: Settings) -> AsyncIterator[None]:
    stop = asyncio.Event()
    trainer = asyncio.create_task(run_role("trainer", settings.model_copy(update={"web_port": free_port(PORTS)}), stop))
    try:
        yield
    finally:
        stop.set()
        await trainer


async def test_a_trainer_that_is_stopped_puts_its_training_back_and_the_next_one_takes_it_at_once(
    service, client, promoted, pool, settings
):
    await observe(pool, promoted.effective_from)
    async with service(["trainer"]):
        await client.publish(await next_retrain(pool, promoted.champion))
        await until(lambda: asyncio.to_thread(_trainings_under, os.getpid()), bool)
    (row,) = await list_retrains(pool, LINE)
    assert (row.status, row.tries) == ("queued", 0)
    assert _trainings_under(os.getpid()) == []
    job = await lease_training(pool, "the next worker", settings.retrain_limits)
    assert job is not None
    assert job.tries == 1


async def test_a_training_that_no_worker_finishes_is_closed_as_failed_in_the_ledger(service, promoted, pool, settings):
    await enqueue(pool, event := await next_retrain(pool, promoted.champion))
    limits = settings.model_copy(update={"lease_s": 0.001}).retrain_limits
    for worker in range(3):
        assert await lease_training(pool, f"a dead worker, {worker}", limits) is not None
    async with service(["trainer"]):
        state = await ended(pool, "failed")
    assert (state.retrain_id, state.champion) == (event.retrain_id, promoted.champion)
    assert state.reason == "given up: 3 workers started this training and none finished it"
    (row,) = await list_retrains(pool, LINE)
    assert row.status == "failed"


async def test_a_line_with_the_policy_suggest_trains_and_leaves_the_promotion_to_a_person(service, client, promoted, pool):
    await observe(pool, promoted.effective_from)
    await Ledger(pool).set_policy(LINE, "suggest")
    async with service(["trainer"]):
        await client.publish(await next_retrain(pool, promoted.champion))
        state = await ended(pool, "suggested")
    assert state.champion == promoted.champion
    assert state.comparison["mae"]["challenger"] < state.comparison["mae"]["champion"]
    promotion = await Ledger(pool).promote(LINE, state.model_id, reason="a person decided so")
    assert promotion.champion == state.model_id


async def test_a_promotion_that_does_harm_is_rolled_back_and_every_worker_follows(
    service, client, champion, promoted, pool, registry, listener
):
    inverted = sample_hcps(1500, np.random.default_rng(3))
    inverted[TARGET] = -inverted[TARGET]
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, n_jobs=1, seed=1)
    generator.train(inverted)
    bad = generator.model.card
    artifact = await asyncio.to_thread(registry.save, generator.model)
    ledger = Ledger(pool)
    await ledger.register_model(bad.model_copy(update={"mlflow_run_id": artifact.mlflow_run_id}), artifact.sha256)
    async with service(["trainer", "simulation"]):
        event = await ledger.promote(LINE, bad.model_id, reason="a wrong decision of the gate", comparison={"n": 500})
        answer = await client.request(a_request(), timeout_s=TIMEOUT_S)
        assert answer.model_id == bad.model_id
        await observe(pool, event.effective_from, 600, shift=0.0)
        rollback = await until(lambda: ledger.state(LINE), lambda state: state.happened == "rolled_back")
        answer = await client.request(a_request(), timeout_s=TIMEOUT_S)
        events = await listener.events(ModelEvent, 5)
    assert rollback.champion == answer.model_id == promoted.champion
    assert "worse than its predecessor" in rollback.reason
    assert rollback.comparison["mae"]["difference"] > 0
    assert events[-1] == rollback


async def test_a_trainer_killed_in_the_middle_of_a_training_is_resumed_to_one_promotion(
    client, promoted, pool, registry, settings, tmp_path
):
    await observe(pool, promoted.effective_from)
    workers = await asyncio.to_thread(Workers(["trainer"], settings, log_folder=tmp_path / "logs").__enter__)
    try:
        event = await next_retrain(pool, promoted.champion)
        await client.publish(event)
        trainer = workers.pids["trainer"]
        (training,) = await until(lambda: asyncio.to_thread(_trainings_under, trainer), bool)
        os.kill(trainer, signal.SIGKILL)
        await until(lambda: asyncio.to_thread(_alive, training), lambda alive: not alive)
        await ended(pool, "promoted")
    finally:
        await asyncio.to_thread(workers.stop)
    (row,) = await list_retrains(pool, LINE)
    assert (row.status, row.tries) == ("promoted", 2)
    assert [event.happened for event in await Ledger(pool).history(LINE)] == ["trained", "promoted", "trained", "promoted"]
    assert trainings_for(registry, event.retrain_id) == 1


async def test_a_training_that_finished_before_the_trainer_died_is_compared_and_not_repeated(
    service, client, promoted, pool, registry, settings
):
    await observe(pool, promoted.effective_from)
    event = await next_retrain(pool, promoted.champion)
    await enqueue(pool, event)
    job = await lease_training(pool, "a dead worker", settings.retrain_limits)
    challenger = await Retraining(pool, registry, ModelLoader(pool, registry, 1).load, settings).train_challenger(job)
    async with service(["trainer"]):
        state = await ended(pool, "promoted")
    assert state.champion == challenger.model.card.model_id
    assert trainings_for(registry, event.retrain_id) == 1


async def test_a_retrain_that_cannot_be_done_fails_with_its_reason_and_the_champion_stays(
    service, client, promoted, pool, listener
):
    await observe(pool, promoted.effective_from, 300)
    async with service(["trainer"]):
        await client.publish(await next_retrain(pool, promoted.champion))
        state = await ended(pool, "failed")
        events = await listener.events(ModelEvent, 3)
    assert state.champion == promoted.champion
    assert "outcomes with features since the change are too few" in state.reason
    assert events[-1] == state


async def test_a_retrain_event_about_a_model_that_is_no_longer_champion_trains_nothing(service, client, promoted, pool, champion):
    successor = champion.card.model_copy(update={"model_id": uuid4()})
    await Ledger(pool).register_model(successor, "0" * 64)
    await Ledger(pool).promote(LINE, successor.model_id)
    async with service(["trainer"]):
        await client.publish(await next_retrain(pool, promoted.champion))
        (row,) = await until(lambda: list_retrains(pool, LINE), bool)
    assert row.status == "stale"
    assert [event.happened for event in await Ledger(pool).history(LINE)] == ["trained", "promoted"] * 2


async def test_invalid_and_forged_retrain_events_are_dead_letters_and_the_next_one_is_processed(
    service, client, promoted, pool, listener
):
    event = await next_retrain(pool, promoted.champion)
    async with service(["trainer"]):
        await client.publish_bytes(TOPIC, LINE.encode(), b'{"line": "hcp:kisqali:prescribing_change"}')
        await client.publish(retrain_event(uuid4()))
        for attempt in (0, event.attempt + 1, 2**31 - 1):
            await client.publish(retrain_event(promoted.champion, attempt=attempt))
        await client.publish(event.model_copy(update={"evidence": {"segment": "forged"}}))
        await client.publish(event)
        records = await listener.dead_letters(6)
        await ended(pool, "failed")
    assert Counter(headers["twin_kind"] for _, headers in records) == {"invalid": 1, "forged": 5}
    assert [row.retrain_id for row in await list_retrains(pool, LINE)] == [event.retrain_id]


async def test_the_trainer_publishes_promotions_of_others_and_sets_their_alias(
    service, promoted, champion, pool, listener, registry
):
    successor = champion.with_card(champion.card.model_copy(update={"model_id": uuid4()}))
    successor_run = (await asyncio.to_thread(registry.save, successor)).mlflow_run_id
    await asyncio.to_thread(registry.set_champion_alias, LINE, successor_run)
    async with service(["trainer"]):
        assert (await listener.events(ModelEvent, 2))[-1] == promoted
        run = (await Ledger(pool).artifact(promoted.champion)).mlflow_run_id
        await until(lambda: asyncio.to_thread(registry.champion_run, LINE), lambda champion_run: champion_run == run)


def _trainings_under(pid: int) -> list[int]:
    processes = subprocess.run(["ps", "-axww", "-o", "pid=,ppid=,command="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in processes.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == pid and "-m streams.training " in row[2]]


def _alive(pid: int) -> bool:
    status = subprocess.run(["ps", "-p", str(pid), "-o", "stat="], capture_output=True, text=True, check=False).stdout.strip()
    return bool(status) and not status.startswith("Z")

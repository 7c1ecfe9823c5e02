"""From alarms to a new champion, on the real Kafka, Postgres and MLflow: one training a cause, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
import pandas as pd
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from deploy.stack.part import free_port
from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from schemas import Brand, InterventionConfig, ModelEvent, RetrainEvent, SimulationRequest, TwinType
from sql.ledger import Ledger
from sql.retrain_store import enqueue, lease_training, requests
from sql.training_data_store import add_history
from streams.client.twin_client import TwinClient
from streams.metrics import RETRAINS
from streams.registry import MlflowRegistry, ModelLoader
from streams.settings import ROLES, Settings
from streams.training.retraining import Retraining
from streams.worker.bootstrap import run_role
from streams.worker.supervisor import Workers

LINE, TARGET = "hcp:kisqali:prescribing_change", "prescribing_change"
TOPIC = "retrain-events"
PATIENCE_S = 300.0  # a limit, not what it takes: a trainer that starts anew imports and trains again


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """No pause between retrains, and a lease that is over soon."""
    return settings.model_copy(update={"cooldown_s": 0.0, "lease_s": 3.0})


@pytest.fixture
def registry(settings: Settings) -> MlflowRegistry:
    return MlflowRegistry(settings.mlflow_uri)


def an_alarm(accused) -> RetrainEvent:
    return RetrainEvent(
        retrain_id=uuid4(),
        line=LINE,
        model_id=accused,
        attempt=0,
        requested_at=datetime.now(UTC),
        cause="drift",
        reason="MAE is 60 % above the baseline",
    )


async def observe(pool, since: datetime, n: int = 1700, shift: float = 0.3) -> None:
    """Outcomes of a world in which primary care prescribes less, 20 a second."""
    frame = sample_hcps(n, np.random.default_rng(9))
    frame[TARGET] -= shift * (frame["specialty"] == "primary_care")
    times = pd.to_datetime([since + timedelta(seconds=0.05 * (row + 1)) for row in range(n)], utc=True)
    await add_history(pool, LINE, frame.assign(entity_id=[f"seen-{row}" for row in range(n)], observed_at=times), "outcomes")


async def ended(pool, happened: str) -> ModelEvent:
    """The ledger's account, once it tells of this."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            state = await Ledger(pool).state(LINE)
            if state.happened == happened and state.retrain_id is not None:
                return state
            await asyncio.sleep(0.1)


async def until(found, wanted):
    """The first value that is wanted."""
    async with asyncio.timeout(PATIENCE_S):
        while not wanted(value := await found()):  # noqa: ASYNC110  # others do it, no event of ours tells
            await asyncio.sleep(0.1)
        return value


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


def retrains(outcome: str) -> float:
    return RETRAINS.labels(line=LINE, outcome=outcome)._value.get()


async def acknowledged(settings: Settings) -> int:
    """How many retrain events the trainers' group has done with."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets("twinstream-trainer")
        return sum(found.offset for place, found in offsets.items() if place.topic == TOPIC)
    finally:
        await admin.close()


def trainings_for(registry: MlflowRegistry, retrain_id: UUID) -> int:
    """Finished runs that a retrain led to."""
    experiment = registry.client.get_experiment_by_name("digital_twin_hcp_kisqali")
    wanted = f"tags.`twin.retrain_id` = '{retrain_id}' and attributes.status = 'FINISHED'"
    return len(registry.client.search_runs([experiment.experiment_id], wanted))


async def test_ten_thousand_alarms_from_three_workers_give_three_trainers_one_training_and_one_promotion(
    service, promoted, pool, listener, registry, settings
):
    await observe(pool, promoted.effective_from)
    alarm, before = an_alarm(promoted.champion), retrains("promoted")
    await asyncio.gather(*(_sound(settings, alarm, 10_000 // 3 + (worker == 0)) for worker in range(3)))
    async with service(["trainer"]), _another_trainer(settings), _another_trainer(settings):
        state = await ended(pool, "promoted")
        await until(lambda: acknowledged(settings), lambda done: done == 10_000)
        told = await listener.events(ModelEvent, 4)
        run = (await Ledger(pool).artifact(state.champion)).mlflow_run_id
        await until(lambda: asyncio.to_thread(registry.champion_run, LINE), lambda crowned: crowned == run)
        await asyncio.sleep(2.0)
    assert [found.status for found in await requests(pool, LINE)] == ["promoted"]
    assert [event.happened for event in told] == ["trained", "promoted", "trained", "promoted"]
    assert told == await Ledger(pool).history(LINE)
    assert await listener.count("model-events") == 4
    assert trainings_for(registry, alarm.retrain_id) == 1
    assert state.retrain_id == alarm.retrain_id
    assert state.comparison["mae"]["challenger"] < state.comparison["mae"]["champion"]
    assert retrains("promoted") == before + 1


async def _sound(settings: Settings, alarm: RetrainEvent, times: int) -> None:
    """What one worker does whose alarm goes on and on."""
    value = alarm.model_dump_json().encode()
    async with TwinClient(settings, name="fidelity") as client:
        for first in range(0, times, 500):
            await asyncio.gather(*(client.publish_bytes(TOPIC, LINE.encode(), value) for _ in range(min(500, times - first))))


@asynccontextmanager
async def _another_trainer(settings: Settings) -> AsyncIterator[None]:
    stop = asyncio.Event()
    playing = asyncio.create_task(run_role("trainer", settings.model_copy(update={"web_port": free_port(len(ROLES))}), stop))
    try:
        yield
    finally:
        stop.set()
        await playing


async def test_a_trainer_that_is_stopped_puts_its_training_back_and_the_next_one_takes_it_at_once(
    service, client, promoted, pool, settings
):
    await observe(pool, promoted.effective_from)
    async with service(["trainer"]):
        await client.publish(an_alarm(promoted.champion))
        await until(lambda: asyncio.to_thread(_trainings_under, os.getpid()), bool)
    (row,) = await requests(pool, LINE)
    assert (row.status, row.tries) == ("queued", 0)
    assert _trainings_under(os.getpid()) == []
    job = await lease_training(pool, "the next one", settings.retrain_limits)
    assert job is not None
    assert job.tries == 1


async def test_a_training_that_nobody_brings_to_an_end_is_closed_with_a_word_in_the_ledger(service, promoted, pool, settings):
    await enqueue(pool, alarm := an_alarm(promoted.champion))
    hasty = settings.model_copy(update={"lease_s": 0.001}).retrain_limits
    for worker in range(3):
        assert await lease_training(pool, f"one that died, {worker}", hasty) is not None
    async with service(["trainer"]):
        state = await ended(pool, "failed")
    assert (state.retrain_id, state.champion) == (alarm.retrain_id, promoted.champion)
    assert state.reason == "given up: 3 workers began this training and none came to an end"
    (row,) = await requests(pool, LINE)
    assert row.status == "failed"


async def test_a_line_that_suggests_trains_and_leaves_the_promotion_to_a_person(service, client, promoted, pool):
    await observe(pool, promoted.effective_from)
    await Ledger(pool).set_policy(LINE, "suggest")
    async with service(["trainer"]):
        await client.publish(an_alarm(promoted.champion))
        state = await ended(pool, "suggested")
    assert state.champion == promoted.champion
    assert state.comparison["mae"]["challenger"] < state.comparison["mae"]["champion"]
    crowned = await Ledger(pool).promote(LINE, state.model_id, reason="a person said so")
    assert crowned.champion == state.model_id


async def test_a_promotion_that_does_harm_is_taken_back_and_every_worker_follows(
    service, client, champion, promoted, pool, registry, listener
):
    upside_down = sample_hcps(1500, np.random.default_rng(3))
    upside_down[TARGET] = -upside_down[TARGET]
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, n_jobs=1, seed=1)
    generator.train(upside_down)
    bad = generator.model.card
    artifact = await asyncio.to_thread(registry.save, generator.model)
    ledger = Ledger(pool)
    await ledger.register_model(bad.model_copy(update={"mlflow_run_id": artifact.mlflow_run_id}), artifact.sha256)
    async with service(["trainer", "simulation"]):
        event = await ledger.promote(LINE, bad.model_id, reason="a gate that was fooled", comparison={"n": 500})
        answer = await client.request(a_request(), timeout_s=PATIENCE_S)
        assert answer.model_id == bad.model_id
        await observe(pool, event.effective_from, 600, shift=0.0)
        back = await until(lambda: ledger.state(LINE), lambda state: state.happened == "rolled_back")
        answer = await client.request(a_request(), timeout_s=PATIENCE_S)
        told = await listener.events(ModelEvent, 5)
    assert back.champion == answer.model_id == promoted.champion
    assert "worse than its predecessor" in back.reason
    assert back.comparison["mae"]["difference"] > 0
    assert told[-1] == back


async def test_a_trainer_killed_in_the_middle_of_a_training_is_resumed_to_one_promotion(
    client, promoted, pool, registry, settings, tmp_path
):
    await observe(pool, promoted.effective_from)
    workers = await asyncio.to_thread(Workers(["trainer"], settings, log_folder=tmp_path / "logs").__enter__)
    try:
        alarm = an_alarm(promoted.champion)
        await client.publish(alarm)
        trainer = workers.pids["trainer"]
        (training,) = await until(lambda: asyncio.to_thread(_trainings_under, trainer), bool)
        os.kill(trainer, signal.SIGKILL)
        await until(lambda: asyncio.to_thread(_alive, training), lambda there: not there)
        await ended(pool, "promoted")
    finally:
        await asyncio.to_thread(workers.stop)
    (row,) = await requests(pool, LINE)
    assert (row.status, row.tries) == ("promoted", 2)
    assert [event.happened for event in await Ledger(pool).history(LINE)] == ["trained", "promoted", "trained", "promoted"]
    assert trainings_for(registry, alarm.retrain_id) == 1


async def test_a_training_that_finished_before_the_trainer_died_is_judged_and_not_repeated(
    service, client, promoted, pool, registry, settings
):
    await observe(pool, promoted.effective_from)
    alarm = an_alarm(promoted.champion)
    await enqueue(pool, alarm)
    job = await lease_training(pool, "one that died", settings.retrain_limits)
    challenger = await Retraining(pool, registry, ModelLoader(pool, registry, 1).load, settings).train_challenger(job)
    async with service(["trainer"]):
        state = await ended(pool, "promoted")
    assert state.champion == challenger.model.card.model_id
    assert trainings_for(registry, alarm.retrain_id) == 1


async def test_a_retrain_that_cannot_be_done_fails_with_its_reason_and_the_champion_stays(
    service, client, promoted, pool, listener
):
    await observe(pool, promoted.effective_from, 300)
    async with service(["trainer"]):
        await client.publish(an_alarm(promoted.champion))
        state = await ended(pool, "failed")
        told = await listener.events(ModelEvent, 3)
    assert state.champion == promoted.champion
    assert "outcomes with features since the change are too few" in state.reason
    assert told[-1] == state


async def test_an_alarm_about_a_model_that_is_no_longer_champion_trains_nothing(service, client, promoted, pool, champion):
    successor = champion.card.model_copy(update={"model_id": uuid4()})
    await Ledger(pool).register_model(successor, "0" * 64)
    await Ledger(pool).promote(LINE, successor.model_id)
    async with service(["trainer"]):
        await client.publish(an_alarm(promoted.champion))
        (row,) = await until(lambda: requests(pool, LINE), bool)
    assert row.status == "stale"
    assert [event.happened for event in await Ledger(pool).history(LINE)] == ["trained", "promoted"] * 2


async def test_a_retrain_event_that_makes_no_sense_is_a_dead_letter_and_the_next_one_is_taken(
    service, client, promoted, pool, listener
):
    async with service(["trainer"]):
        await client.publish_bytes(TOPIC, LINE.encode(), b'{"line": "hcp:kisqali:prescribing_change"}')
        await client.publish(an_alarm(uuid4()))
        await client.publish(an_alarm(promoted.champion))
        letters = await listener.dead_letters(2)
        await ended(pool, "failed")
    assert {headers["twin_kind"] for _, headers in letters} == {"invalid", "model"}


async def test_what_others_promote_is_told_and_crowned_by_the_trainer(service, promoted, champion, pool, listener, registry):
    usurper = champion.with_card(champion.card.model_copy(update={"model_id": uuid4()}))
    wrong = (await asyncio.to_thread(registry.save, usurper)).mlflow_run_id
    await asyncio.to_thread(registry.set_champion_alias, LINE, wrong)
    async with service(["trainer"]):
        assert (await listener.events(ModelEvent, 2))[-1] == promoted
        run = (await Ledger(pool).artifact(promoted.champion)).mlflow_run_id
        await until(lambda: asyncio.to_thread(registry.champion_run, LINE), lambda crowned: crowned == run)


def _trainings_under(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-axww", "-o", "pid=,ppid=,command="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == pid and "-m streams.training " in row[2]]


def _alive(pid: int) -> bool:
    listed = subprocess.run(["ps", "-p", str(pid), "-o", "stat="], capture_output=True, text=True, check=False).stdout.strip()
    return bool(listed) and not listed.startswith("Z")

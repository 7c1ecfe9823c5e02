"""From alarms to a new champion, on the real Kafka, Postgres and MLflow: one training a cause, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
import pandas as pd
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from engine.sample_tables import sample_hcps
from schemas import ModelEvent, RetrainEvent
from sql.history_store import add_history
from sql.ledger import Ledger
from sql.retrain_store import enqueue, requests, take
from streams.metrics import RETRAINS
from streams.models import Models
from streams.registry import MlflowRegistry
from streams.retraining import Retraining
from streams.settings import Settings
from streams.worker import Workers

LINE, TARGET = "hcp:kisqali:prescribing_change", "prescribing_change"
TOPIC = "retrain-events"
PATIENCE_S = 120.0


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


async def observe(pool, since: datetime, n: int = 1700) -> None:
    """Outcomes of a world in which primary care prescribes less, 20 a second."""
    frame = sample_hcps(n, np.random.default_rng(9))
    frame[TARGET] -= 0.3 * (frame["specialty"] == "primary_care")
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


async def test_ten_thousand_alarms_of_one_cause_give_one_training_and_one_promotion(
    service, client, promoted, pool, listener, registry, settings
):
    await observe(pool, promoted.effective_from)
    alarm, before = an_alarm(promoted.champion), retrains("promoted")
    value = alarm.model_dump_json().encode()
    for _ in range(20):
        await asyncio.gather(*(client.publish_bytes(TOPIC, LINE.encode(), value) for _ in range(500)))
    async with service(["trainer"]):
        state = await ended(pool, "promoted")
        await until(lambda: acknowledged(settings), lambda done: done == 10_000)
        told = await listener.events(ModelEvent, 3)
        run = (await Ledger(pool).artifact(state.champion)).mlflow_run_id
        await until(lambda: asyncio.to_thread(registry.champion_run, LINE), lambda crowned: crowned == run)
    assert [found.status for found in await requests(pool, LINE)] == ["promoted"]
    assert [event.happened for event in await Ledger(pool).history(LINE)] == ["trained", "promoted", "trained", "promoted"]
    assert trainings_for(registry, alarm.retrain_id) == 1
    assert told == [promoted, *(await Ledger(pool).history(LINE))[2:]]
    assert state.retrain_id == alarm.retrain_id
    assert state.comparison["mae"]["challenger"] < state.comparison["mae"]["champion"]
    assert retrains("promoted") == before + 1


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
    job = await take(pool, "one that died", lease_s=settings.lease_s, cooldown_s=0.0, budget_a_day=4)
    challenger = await Retraining(pool, registry, Models(pool, registry, 1).get, settings).challenger(job)
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
        told = await listener.events(ModelEvent, 2)
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
    await asyncio.to_thread(registry.crown, LINE, wrong)
    async with service(["trainer"]):
        assert await listener.events(ModelEvent, 1) == [promoted]
        run = (await Ledger(pool).artifact(promoted.champion)).mlflow_run_id
        await until(lambda: asyncio.to_thread(registry.champion_run, LINE), lambda crowned: crowned == run)


def _trainings_under(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-axww", "-o", "pid=,ppid=,command="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == pid and "-m streams.learning" in row[2]]


def _alive(pid: int) -> bool:
    listed = subprocess.run(["ps", "-p", str(pid), "-o", "stat="], capture_output=True, text=True, check=False).stdout.strip()
    return bool(listed) and not listed.startswith("Z")

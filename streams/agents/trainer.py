"""Stores retrain events and requested trainings on uploaded tables, and runs both, one at a time.

Beside the agent seven tasks run for as long as the app: requests of trainings are read, retrains and trainings on tables are run,
the ledger is copied, promotions are evaluated, the realism of stored populations is measured, and once a day rows are swept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
from cachetools import LRUCache

from schemas import RetrainEvent, TrainingRequest
from sql.erasure_store import NamesErased
from sql.ledger import StaleRetrain
from sql.retrain_store import LostLease, TrainingJob, enqueue, finish, heartbeat, lease_training, put_back
from sql.training_store import LeasedTraining, beat_training, lease_table_training, put_back_training
from sql.upload_store import UnknownTable
from streams.errors import describe_error, require_clear
from streams.kafka import topic_of
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import KafkaRecord, start_refusal_counters
from streams.kafka.record_slices import RefusalSlice, process_slices
from streams.kafka.side_topic import SideTopic
from streams.operations.ageing import SweepInProgress, is_sweep_due, report_state, sweep
from streams.process_name import process_name
from streams.retries import any_error, process_event, retry_transient
from streams.services import Services
from streams.training.population_realism import RealismAssessor
from streams.training.promotion_effects import PromotionEvaluator
from streams.training.retrain_check import ForgedRetrain, check_retrain
from streams.training.retrain_job import RetrainRunner, count_retrain
from streams.training.table_training import TableTrainingRunner, UnfitTraining, store_request

__all__ = ["attach"]

LOG = logging.getLogger(__name__)

_KINDS: dict[type[Exception], str] = {ForgedRetrain: "forged"}
_REQUEST_KINDS: dict[type[Exception], str] = {UnknownTable: "table", UnfitTraining: "unfit", NamesErased: "erased"}
_POLL_S = 0.5
_POLLS_PER_FULL_SYNC = 60  # of the ledger, between two comparisons of the copies of every line
_EVALUATION_PERIOD_S = 2.0
_PAUSE_AFTER_ERROR_S = 10.0
_SWEEP_POLL_S = 60.0
_HEARTBEATS_PER_LEASE = 4
_REMEMBERED_EVENTS = 100


def attach(app: TwinApp, services: Services) -> None:
    """Add the agent that stores retrain events, and the seven tasks."""
    trainer = _Trainer(app, services)
    start_refusal_counters(topic_of(RetrainEvent), _KINDS.values())
    app.agent(app.batch_topic(topic_of(RetrainEvent)), name="trainer", concurrency=1)(trainer.run)
    start_refusal_counters(topic_of(TrainingRequest), _REQUEST_KINDS.values())
    for task in (trainer.read_requests, trainer.learn):
        app.task(task)
    for task in (trainer.train, trainer.sync_ledger, trainer.evaluate_promotions, trainer.assess_realism, trainer.sweep):
        app.task(task)


class _Trainer:
    def __init__(self, app: TwinApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._is_training = False
        self._turn = asyncio.Lock()  # of retrains and trainings on tables: one at a time has the memory of the machine
        self._stored_events: LRUCache[UUID, RetrainEvent] = LRUCache(_REMEMBERED_EVENTS)

    async def run(self, events: Any) -> None:
        """Store event after event of each partition as a row; ten thousand with one retrain id are one row."""
        await process_slices(self._app, events, partial(RefusalSlice, self._app, self._store, _KINDS), _KINDS)

    async def train(self) -> None:
        """Run the stored trainings, one at a time, for as long as the app runs."""
        runner = RetrainRunner(self._app.pool, self._services.registry, self._app.settings)
        while not self._app.should_stop:
            async with self._turn:
                job = await self._next_job()
                if job is not None:
                    await process_event(self._app, partial(self._run_job, runner, job), partial(runner.record_failure, job))
            if job is None:
                await asyncio.sleep(_POLL_S)

    async def read_requests(self) -> None:
        """Store requested trainings on uploaded tables, one after another, for as long as the app runs."""
        topic = SideTopic(self._app, self._store_request, _REQUEST_KINDS)
        await retry_transient(topic.read, part="kafka", waits_for=any_error)

    async def learn(self) -> None:
        """Run the stored trainings on uploaded tables, one at a time, for as long as the app runs."""
        runner = TableTrainingRunner(self._app.pool, self._services.registry, self._app.settings)
        while not self._app.should_stop:
            async with self._turn:
                job = await self._next_training()
                if job is not None:
                    await process_event(self._app, partial(self._run_training, runner, job), partial(runner.record_failure, job))
            if job is None:
                await asyncio.sleep(_POLL_S)

    async def _next_training(self) -> LeasedTraining | None:
        """The next training on a table, None when there is none, or when it cannot be leased for a reason that is no outage."""
        lease = partial(lease_table_training, self._app.pool, process_name(), self._app.settings.lease_s)
        try:
            return await retry_transient(lease, part="postgres")
        except Exception as error:  # noqa: BLE001  # an exception that left the task would end the app
            await _pause("leasing a training on a table", error)
            return None

    async def _next_job(self) -> TrainingJob | None:
        """The next training, None when there is none, or when it cannot be leased for a reason that is no outage."""
        try:
            return await retry_transient(self._lease_training, part="postgres")
        except Exception as error:  # noqa: BLE001  # an exception that left the task would end the app
            await _pause("leasing a training", error)
            return None

    async def sync_ledger(self) -> None:
        """Copy new events of every line within a second, and compare all copies with the ledger every half minute."""
        polls = 0
        while not self._app.should_stop:
            sync = partial(self._services.ledger_projection.sync, all_lines=polls % _POLLS_PER_FULL_SYNC == 0)
            await process_event(self._app, sync, partial(_pause, "copying the ledger"), part="mlflow")
            polls += 1
            await asyncio.sleep(_POLL_S)

    async def evaluate_promotions(self) -> None:
        """Measure the effects of promotions, and roll back those that do harm."""
        evaluator = PromotionEvaluator.create(self._app.pool, self._services.registry, self._app.settings)
        while not self._app.should_stop:
            await process_event(self._app, evaluator.evaluate_promotions, partial(_pause, "measuring the effects of promotions"))
            await asyncio.sleep(_EVALUATION_PERIOD_S)

    async def assess_realism(self) -> None:
        """Measure how realistic stored populations are, while no training runs here."""
        assessor = RealismAssessor.create(self._app.pool, self._services.registry)
        rest_s = 0.0

        async def assess_next() -> None:
            nonlocal rest_s
            rest_s = await assessor.assess_next()

        while not self._app.should_stop:
            rest_s = _POLL_S
            if not self._is_training:
                await process_event(self._app, assess_next, partial(_pause, "measuring the realism of a population"))
            await asyncio.sleep(rest_s)

    async def sweep(self) -> None:
        """Delete rows that have aged out once a day, in one of all trainers, and report the state of sweeps every minute."""
        while not self._app.should_stop:
            await process_event(self._app, self._sweep_when_due, partial(_pause, "the sweep"))
            await asyncio.sleep(_SWEEP_POLL_S)

    async def _sweep_when_due(self) -> None:
        await report_state(self._app.pool)
        if await is_sweep_due(self._app.pool):
            with suppress(SweepInProgress):
                await sweep(self._app.settings, process_name())

    async def _store(self, record: KafkaRecord) -> None:
        event = RetrainEvent.model_validate_json(require_clear(record.value))
        if event == self._stored_events.get(event.retrain_id):
            return
        await check_retrain(self._app.pool, event)
        status = await enqueue(self._app.pool, event)
        LOG.info("retrain %s of %s is %s: %s", event.retrain_id, event.line, status, event.reason)
        if status == "stale":
            count_retrain(event.line, "stale")
        self._stored_events[event.retrain_id] = event

    async def _store_request(self, record: KafkaRecord) -> None:
        await store_request(self._app.pool, TrainingRequest.model_validate_json(require_clear(record.value)))

    async def _run_training(self, runner: TableTrainingRunner, job: LeasedTraining) -> None:
        self._is_training = True
        try:
            await self._while_leased(partial(beat_training, self._app.heartbeat_pool, job), runner.run(job))
        except LostLease as lost:
            LOG.warning("%s", lost)
        except asyncio.CancelledError:
            await self._return(job.training_id, partial(put_back_training, self._app.pool, job))
            raise
        finally:
            self._is_training = False

    async def _lease_training(self) -> TrainingJob | None:
        return await lease_training(self._app.pool, process_name(), self._app.settings.retrain_limits)

    async def _run_job(self, runner: RetrainRunner, job: TrainingJob) -> None:
        self._is_training = True
        try:
            await self._while_leased(partial(heartbeat, self._app.heartbeat_pool, job), runner.run(job))
        except LostLease as lost:
            LOG.warning("%s", lost)
        except StaleRetrain as stale:
            await finish(self._app.pool, job, "stale", describe_error(stale))
            count_retrain(job.line, "stale")
        except asyncio.CancelledError:
            await self._return(job.retrain_id, partial(put_back, self._app.pool, job))
            raise
        finally:
            self._is_training = False

    async def _return(self, training_id: UUID, back: Callable[[], Awaitable[None]]) -> None:
        """Return a training to the queue when this worker stops, so that the next worker can lease it at once."""
        try:
            await back()
        except (LostLease, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:  # the lease ends by itself, only later
            LOG.warning("training %s could not be put back into the queue: %s", training_id, describe_error(error))

    async def _while_leased(self, beat: Callable[[], Awaitable[None]], work: Coroutine[Any, Any, None]) -> None:
        """Run the work as long as this worker holds the lease, and send heartbeats meanwhile."""
        working, beating = asyncio.create_task(work), asyncio.create_task(self._send_heartbeats(beat))
        try:
            await asyncio.wait({working, beating}, return_when=asyncio.FIRST_COMPLETED)
            await (working if working.done() else beating)
        finally:
            for task in (working, beating):
                task.cancel()
            await asyncio.gather(working, beating, return_exceptions=True)

    async def _send_heartbeats(self, beat: Callable[[], Awaitable[None]]) -> None:
        while True:
            await retry_transient(beat, part="postgres")
            await asyncio.sleep(self._app.settings.lease_s / _HEARTBEATS_PER_LEASE)


async def _pause(activity: str, error: Exception) -> None:
    LOG.error("%s failed, it is tried again in %.0f s", activity, _PAUSE_AFTER_ERROR_S, exc_info=error)
    await asyncio.sleep(_PAUSE_AFTER_ERROR_S)

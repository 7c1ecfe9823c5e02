"""Turns alarms into trainings, at most one a cause: a challenger learns, the gate judges it, the ledger says who is champion.

Three things go on side by side: trainings, one at a time; the copies of the ledger; and the watch over what promotions buy.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Coroutine
from functools import partial
from typing import Any, Literal
from uuid import UUID

import asyncpg
from pydantic import ValidationError

from schemas import RetrainEvent
from sql.ledger import Ledger, LostLease, StaleRetrain, UnknownModel
from sql.retrain_store import MAX_TRIES, Job, enqueue, finish, heartbeat, lease_training, put_back
from streams.errors import ContainsNul, describe_error, require_no_nul
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import KafkaRecord, send_to_dead_letters
from streams.kafka.topics import topic_of
from streams.metrics import RETRAINS
from streams.registry.ledger_projection import LedgerProjection
from streams.registry.mlflow_registry import MlflowRegistry
from streams.registry.model_loader import ModelLoader
from streams.retries import process_event, retry_transient
from streams.services import Services
from streams.training.promotion_effects import PromotionEvaluator
from streams.training.retraining import Retraining
from streams.training.training_process import TrainingFailed, TrainingRefused

__all__ = ["attach"]

LOG = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_REWRITE_EVERY = 60  # looks between two rewritings of every copy
_WATCH_EVERY_S = 2.0
_PAUSE_AFTER_ERROR_S = 10.0
_BEATS_A_LEASE = 4
_IDS_KEPT = 10_000


def attach(app: TwinApp, services: Services) -> None:  # noqa: ARG001  # one signature for every role
    """Let the app take retrain events, work them off, tell of it, and watch what comes of it."""
    trainer = _Trainer(app)
    app.agent(app.raw_topic(topic_of(RetrainEvent)), name="trainer", concurrency=1)(trainer.run)
    for task in (trainer.work, trainer.tell, trainer.watch):
        app.task(task)


class _Trainer:
    def __init__(self, app: TwinApp) -> None:
        self._app = app
        self._registry = MlflowRegistry(app.settings.mlflow_uri)
        self._stored: OrderedDict[UUID, None] = OrderedDict()

    async def run(self, events: Any) -> None:
        """Make event after event a row; ten thousand of one cause are one."""
        async for event in events.events():
            record = event.message
            await process_event(self._app, partial(self._store, record), partial(_refuse, self._app, record))

    async def work(self) -> None:
        """Work off the rows, one at a time, for as long as the app runs."""
        while not self._app.should_stop:
            job = await retry_transient(self._take, part="postgres")
            if job is None:
                await asyncio.sleep(_LOOK_EVERY_S)
            else:
                await process_event(self._app, partial(self._do, job), partial(self._fail, job))

    async def tell(self) -> None:
        """Say what happened to any line, within a second."""
        copies, look = LedgerProjection(self._app, self._registry), 0
        while not self._app.should_stop:
            rewrite = partial(copies.rewrite, all_of_them=look % _REWRITE_EVERY == 0)
            await process_event(self._app, rewrite, partial(_later, "the copies of the ledger"), part="mlflow")
            look += 1
            await asyncio.sleep(_LOOK_EVERY_S)

    async def watch(self) -> None:
        """Measure what promotions buy, and take back what does harm."""
        models = ModelLoader(self._app.pool, self._registry, size=2)
        aftermath = PromotionEvaluator(self._app.pool, models.load, self._app.settings)
        while not self._app.should_stop:
            await process_event(self._app, aftermath.look, partial(_later, "the effects of promotions"))
            await asyncio.sleep(_WATCH_EVERY_S)

    async def _store(self, record: KafkaRecord) -> None:
        event = RetrainEvent.model_validate_json(require_no_nul(record.value))
        if event.retrain_id in self._stored:
            return
        status = await enqueue(self._app.pool, event)
        LOG.info("retrain %s of %s is %s: %s", event.retrain_id, event.line, status, event.reason)
        if status == "stale":
            _count(event.line, "stale")
        self._stored[event.retrain_id] = None
        if len(self._stored) > _IDS_KEPT:
            self._stored.popitem(last=False)

    async def _take(self) -> Job | None:
        return await lease_training(self._app.pool, f"{socket.gethostname()}:{os.getpid()}", self._app.settings.retrain_limits)

    async def _do(self, job: Job) -> None:
        try:
            await self._while_held(job, self._retrain(job))
        except LostLease as lost:
            LOG.warning("%s", lost)
        except StaleRetrain as stale:
            await finish(self._app.pool, job, "stale", describe_error(stale))
            _count(job.line, "stale")
        except asyncio.CancelledError:
            await self._put_back(job)
            raise

    async def _retrain(self, job: Job) -> None:
        if job.tries > MAX_TRIES:
            raise TrainingFailed(f"given up: {MAX_TRIES} workers began this training and none came to an end")
        LOG.info("training a challenger for %s, retrain %s, try %d", job.line, job.retrain_id, job.tries)
        models = ModelLoader(self._app.pool, self._registry, size=1)
        steps = Retraining(self._app.pool, self._registry, models.load, self._app.settings)
        challenger = await steps.challenger(job)
        comparison = await steps.judged(job, challenger)
        event = await Ledger(self._app.pool).conclude(
            await self._end(job, promote=comparison.promote),
            job.line,
            challenger.model.card.model_id,
            retrain_id=job.retrain_id,
            fence=job.fence,
            reason=comparison.reason,
            comparison=comparison.numbers(),
        )
        LOG.info("%s: %s %s: %s", job.line, event.model_id, event.happened, event.reason)
        _count(job.line, event.happened)

    async def _end(self, job: Job, *, promote: bool) -> Literal["promoted", "suggested", "rejected"]:
        """What becomes of a challenger; a line that suggests leaves its promotion to a person."""
        if not promote:
            return "rejected"
        policy = await Ledger(self._app.pool).policy(job.line)
        return "suggested" if policy == "suggest" and job.cause == "drift" else "promoted"

    async def _fail(self, job: Job, error: Exception) -> None:
        if not isinstance(error, TrainingRefused | TrainingFailed):
            LOG.error("retrain %s of %s failed", job.retrain_id, job.line, exc_info=error)
        ledger, reason = Ledger(self._app.pool), describe_error(error)
        try:
            await ledger.conclude("failed", job.line, job.model_id, retrain_id=job.retrain_id, fence=job.fence, reason=reason)
        except LostLease as lost:
            LOG.warning("%s", lost)
            return
        LOG.warning("retrain %s of %s came to nothing: %s", job.retrain_id, job.line, reason)
        _count(job.line, "failed")

    async def _put_back(self, job: Job) -> None:
        """Leave a training in good order: the next worker takes it at once."""
        try:
            await put_back(self._app.pool, job)
        except (LostLease, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:  # the lease ends by itself, only later
            LOG.warning("training %s could not be put back: %s", job.retrain_id, describe_error(error))

    async def _while_held(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        """Do the work as long as the lease is ours, and show signs of life meanwhile."""
        doing, beating = asyncio.create_task(work), asyncio.create_task(self._beat(job))
        try:
            await asyncio.wait({doing, beating}, return_when=asyncio.FIRST_COMPLETED)
            await (doing if doing.done() else beating)
        finally:
            for task in (doing, beating):
                task.cancel()
            await asyncio.gather(doing, beating, return_exceptions=True)

    async def _beat(self, job: Job) -> None:
        while True:
            await retry_transient(partial(heartbeat, self._app.pool, job), part="postgres")
            await asyncio.sleep(self._app.settings.lease_s / _BEATS_A_LEASE)


def _count(line: str, outcome: str) -> None:
    RETRAINS.labels(line=line, outcome=outcome).inc()


async def _later(what: str, error: Exception) -> None:
    LOG.error("%s could not be looked after, they will be later", what, exc_info=error)
    await asyncio.sleep(_PAUSE_AFTER_ERROR_S)


async def _refuse(app: TwinApp, record: KafkaRecord, error: Exception) -> None:
    if isinstance(error, ValidationError):
        await send_to_dead_letters(app, record, "invalid", describe_error(error), error)
    elif isinstance(error, ContainsNul):
        await send_to_dead_letters(app, record, "json", describe_error(error), error)
    elif isinstance(error, UnknownModel):
        await send_to_dead_letters(app, record, "model", describe_error(error), error)
    else:
        LOG.error("a retrain event could not be stored", exc_info=error)
        await send_to_dead_letters(app, record, "failed", f"{type(error).__name__}: {describe_error(error)}", error)

"""Turns alarms into trainings, at most one a cause: a challenger learns, the gate judges it, the ledger says who is champion."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Coroutine
from functools import partial
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from schemas import ModelEvent, RetrainEvent
from sql.ledger import Ledger, LostLease, StaleRetrain, UnknownModel
from sql.retrain_store import Job, enqueue, finish, heartbeat, take
from streams.answering import in_words, persist, settle
from streams.app import TwinApp
from streams.dead_letters import ContainsNul, KafkaRecord, bury, without_nul
from streams.learning import TrainingFailed, TrainingRefused
from streams.metrics import CHAMPION, RETRAINS
from streams.models import Models
from streams.registry import MlflowRegistry
from streams.retraining import Retraining
from streams.topics import topic_of

__all__ = ["attach"]

LOG = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_TELL_EVERY_S = 30.0
_BEATS_A_LEASE = 4
_IDS_KEPT = 10_000


def attach(app: TwinApp) -> None:
    """Let the app take retrain events and work them off."""
    trainer = _Trainer(app)
    app.agent(app.raw_topic(topic_of(RetrainEvent)), name="trainer", concurrency=1)(trainer.run)
    app.task(trainer.work)


class _Trainer:
    def __init__(self, app: TwinApp) -> None:
        self._app = app
        self._registry = MlflowRegistry(app.settings.mlflow_uri)
        self._stored: OrderedDict[UUID, None] = OrderedDict()
        self._copies = _Copies(app, self._registry)

    async def run(self, events: Any) -> None:
        """Make event after event a row; ten thousand of one cause are one."""
        async for event in events.events():
            record = event.message
            await settle(self._app, partial(self._store, record), partial(_refuse, self._app, record))

    async def work(self) -> None:
        """Work off the rows, one at a time, for as long as the app runs."""
        told_at = float("-inf")
        while not self._app.should_stop:
            if _now() - told_at >= _TELL_EVERY_S:
                await settle(self._app, self._copies.rewrite, _say_later, part="mlflow")
                told_at = _now()
            job = await persist(self._take, part="postgres")
            if job is None:
                await asyncio.sleep(_LOOK_EVERY_S)
            else:
                await settle(self._app, partial(self._do, job), partial(self._fail, job))
                told_at = float("-inf")

    async def _store(self, record: KafkaRecord) -> None:
        event = RetrainEvent.model_validate_json(without_nul(record.value))
        if event.retrain_id in self._stored:
            return
        status = await enqueue(self._app.pool, event)
        LOG.info("retrain %s of %s is %s: %s", event.retrain_id, event.line, status, event.reason)
        self._stored[event.retrain_id] = None
        if len(self._stored) > _IDS_KEPT:
            self._stored.popitem(last=False)

    async def _take(self) -> Job | None:
        settings = self._app.settings
        return await take(
            self._app.pool,
            f"{socket.gethostname()}:{os.getpid()}",
            lease_s=settings.lease_s,
            cooldown_s=settings.cooldown_s,
            budget_a_day=settings.retrain_budget_a_day,
        )

    async def _do(self, job: Job) -> None:
        try:
            await self._while_held(job, self._retrain(job))
        except LostLease as lost:
            LOG.warning("%s", lost)
        except StaleRetrain as stale:
            await finish(self._app.pool, job, "stale", in_words(stale))
            _count(job, "stale")

    async def _retrain(self, job: Job) -> None:
        LOG.info("training a challenger for %s, retrain %s, try %d", job.line, job.retrain_id, job.tries)
        models = Models(self._app.pool, self._registry, size=1)
        steps = Retraining(self._app.pool, self._registry, models.get, self._app.settings)
        challenger = await steps.challenger(job)
        await self._copies.tell(job.line)
        comparison = await steps.judged(job, challenger)
        ledger = Ledger(self._app.pool)
        write = ledger.promote if comparison.promote else ledger.reject
        event = await write(
            job.line,
            challenger.model.card.model_id,
            retrain_id=job.retrain_id,
            fence=job.fence,
            reason=comparison.reason,
            comparison=comparison.numbers(),
        )
        LOG.info("%s: %s %s: %s", job.line, event.model_id, event.happened, event.reason)
        _count(job, event.happened)

    async def _fail(self, job: Job, error: Exception) -> None:
        if not isinstance(error, TrainingRefused | TrainingFailed):
            LOG.error("retrain %s of %s failed", job.retrain_id, job.line, exc_info=error)
        reason = in_words(error)
        try:
            await Ledger(self._app.pool).fail(job.line, job.model_id, retrain_id=job.retrain_id, fence=job.fence, reason=reason)
        except LostLease as lost:
            LOG.warning("%s", lost)
            return
        LOG.warning("retrain %s of %s came to nothing: %s", job.retrain_id, job.line, reason)
        _count(job, "failed")

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
            await persist(partial(heartbeat, self._app.pool, job), part="postgres")
            await asyncio.sleep(self._app.settings.lease_s / _BEATS_A_LEASE)


class _Copies:
    """What is written beside the ledger: ``model-events``, MLflow's alias, the metric. Rewritten until they agree with it."""

    def __init__(self, app: TwinApp, registry: MlflowRegistry) -> None:
        self._app = app
        self._registry = registry
        self._told: dict[str, int] = {}
        self._shown: dict[str, UUID] = {}

    async def rewrite(self) -> None:
        """Bring the copies of every line up to date."""
        for line in await Ledger(self._app.pool).lines():
            await self.tell(line)
            await self._crown(line)

    async def tell(self, line: str) -> None:
        """Say what happened to a line since it was last told; its state, when it was not told of yet."""
        ledger = Ledger(self._app.pool)
        state = await ledger.state(line)
        told = self._told.get(line)
        if told == state.generation:
            return
        events = [state] if told is None else [event for event in await ledger.history(line) if event.generation > told]
        for event in events:
            await self._app.say(event, key=line)
            self._told[line] = event.generation
        self._show(state)

    def _show(self, state: ModelEvent) -> None:
        before = self._shown.pop(state.line, None)
        if before is not None:
            CHAMPION.remove(state.line, str(before))
        if state.champion is not None:
            CHAMPION.labels(line=state.line, model_id=str(state.champion)).set(1)
            self._shown[state.line] = state.champion

    async def _crown(self, line: str) -> None:
        ledger = Ledger(self._app.pool)
        champion = await ledger.champion(line)
        if champion is None:
            return
        try:
            run = (await ledger.artifact(champion)).mlflow_run_id
        except UnknownModel:  # stored with a population, never registered
            return
        if await asyncio.to_thread(self._registry.champion_run, line) != run:
            await asyncio.to_thread(self._registry.crown, line, run)


def _count(job: Job, outcome: str) -> None:
    RETRAINS.labels(line=job.line, outcome=outcome).inc()


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _say_later(error: Exception) -> None:
    LOG.error("the copies of the ledger could not be rewritten, they will be later", exc_info=error)


async def _refuse(app: TwinApp, record: KafkaRecord, error: Exception) -> None:
    if isinstance(error, ValidationError):
        await bury(app, record, "invalid", in_words(error), error)
    elif isinstance(error, ContainsNul):
        await bury(app, record, "json", in_words(error), error)
    elif isinstance(error, UnknownModel):
        await bury(app, record, "model", in_words(error), error)
    else:
        LOG.error("a retrain event could not be stored", exc_info=error)
        await bury(app, record, "failed", f"{type(error).__name__}: {in_words(error)}", error)

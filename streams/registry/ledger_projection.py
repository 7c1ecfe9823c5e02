"""Copies the ledger to the topic ``model-events``, to MLflow's alias ``champion`` and to metrics, until they agree with it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from schemas import ModelEvent
from sql.ledger import Ledger
from sql.model_card_rows import UnknownModel
from streams.metrics import CHAMPION, RETRAINING_STOPPED, RETRAINS, start_at_zero
from streams.registry.mlflow_registry import MlflowRegistry

if TYPE_CHECKING:
    from streams.kafka.app import TwinApp

__all__ = ["LedgerProjection"]

_RETRAIN_OUTCOMES = ("promoted", "suggested", "rejected", "failed", "stale")


class LedgerProjection:
    """The copies that one trainer process keeps; each event is published by one of the processes."""

    def __init__(self, app: TwinApp, registry: MlflowRegistry) -> None:
        self._app = app
        self._registry = registry
        self._synced_generations: Counter[str] = Counter()

    async def sync(self, *, all_lines: bool) -> None:
        """Bring the copies up to date: those of lines with new events, or those of all lines."""
        ledger = Ledger(self._app.pool)
        for line, generation in (await ledger.generations()).items():
            if all_lines or generation > self._synced_generations[line]:
                await ledger.publish_events(line, self._publish)
                await self._sync_metrics(await ledger.state(line))
                await self._sync_alias(line)
                self._synced_generations[line] = generation

    async def _publish(self, event: ModelEvent) -> None:
        await self._app.publish(event, key=event.line)

    async def _sync_metrics(self, state: ModelEvent) -> None:
        CHAMPION.remove_by_labels({"line": state.line})
        if state.champion is not None:
            CHAMPION.labels(line=state.line, model_id=str(state.champion)).set(1)
        start_at_zero(RETRAINS, line=[state.line], outcome=_RETRAIN_OUTCOMES)
        RETRAINING_STOPPED.labels(line=state.line).set(await Ledger(self._app.pool).stopped(state.line) is not None)

    async def _sync_alias(self, line: str) -> None:
        ledger = Ledger(self._app.pool)
        champion = await ledger.champion(line)
        if champion is None:
            return
        try:
            run_id = (await ledger.artifact(champion)).mlflow_run_id
        except UnknownModel:  # stored with a population, never registered
            return
        if await asyncio.to_thread(self._registry.champion_run, line) != run_id:
            await asyncio.to_thread(self._registry.set_champion_alias, line, run_id)

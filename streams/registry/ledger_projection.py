"""What is written beside the ledger: ``model-events``, MLflow's alias, metrics. Rewritten until they agree with it."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID

from schemas import ModelEvent
from sql.ledger import Ledger, UnknownModel
from streams.kafka.app import TwinApp
from streams.metrics import CHAMPION, RETRAINING_STOPPED
from streams.registry.mlflow_registry import MlflowRegistry

__all__ = ["LedgerProjection"]


class LedgerProjection:
    """The copies that one process of a trainer keeps; each event is said by one of them."""

    def __init__(self, app: TwinApp, registry: MlflowRegistry) -> None:
        self._app = app
        self._registry = registry
        self._shown: dict[str, UUID] = {}
        self._seen: Counter[str] = Counter()

    async def rewrite(self, *, all_of_them: bool) -> None:
        """Bring the copies up to date: of lines where something happened, or of all of them."""
        ledger = Ledger(self._app.pool)
        for line, generation in (await ledger.generations()).items():
            if all_of_them or generation > self._seen[line]:
                await ledger.tell(line, self._say)
                await self._show(await ledger.state(line))
                await self._crown(line)
                self._seen[line] = generation

    async def _say(self, event: ModelEvent) -> None:
        await self._app.publish(event, key=event.line)

    async def _show(self, state: ModelEvent) -> None:
        before = self._shown.pop(state.line, None)
        if before is not None:
            CHAMPION.remove(state.line, str(before))
        if state.champion is not None:
            CHAMPION.labels(line=state.line, model_id=str(state.champion)).set(1)
            self._shown[state.line] = state.champion
        RETRAINING_STOPPED.labels(line=state.line).set(await Ledger(self._app.pool).stopped(state.line) is not None)

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
            await asyncio.to_thread(self._registry.set_champion_alias, line, run)

"""The models that answer: loaded from the registry when first asked for, and kept in memory while they are used."""

from __future__ import annotations

import asyncio
from functools import partial
from uuid import UUID

from engine.model_cache import ModelCache
from engine.twins.twin_model import TwinModel
from sql.database import Database
from sql.ledger import Ledger
from streams.metrics import MODEL_CACHE
from streams.registry.mlflow_registry import MlflowRegistry

__all__ = ["ModelLoader"]


class ModelLoader:
    """Registered models by their id, at most ``size`` of them in memory.

    A model is read on a thread of its own, once however many ask for it at the same time, and its files must have the SHA-256
    that Postgres has for it.
    """

    def __init__(self, database: Database, registry: MlflowRegistry, size: int) -> None:
        self._ledger = Ledger(database)
        self._registry = registry
        self._kept = ModelCache[TwinModel](size)
        self._loading: dict[UUID, asyncio.Task[TwinModel]] = {}

    def ready(self, model_id: UUID) -> TwinModel | None:
        """The model if it is in memory."""
        model = self._kept.get(model_id)
        MODEL_CACHE.labels(result="miss" if model is None else "hit").inc()
        return model

    async def get(self, model_id: UUID) -> TwinModel:
        """The model, loaded if it has to be.

        Raises:
            UnknownModel: when none was registered under this id.
            UntrustedModel: when its files are not those that were registered, or must not be read here.
        """
        model = self.ready(model_id)
        return model if model is not None else await asyncio.shield(self._load_once(model_id))

    def _load_once(self, model_id: UUID) -> asyncio.Task[TwinModel]:
        if model_id not in self._loading:
            self._loading[model_id] = task = asyncio.create_task(self._load(model_id))
            task.add_done_callback(partial(self._loaded, model_id))
        return self._loading[model_id]

    def _loaded(self, model_id: UUID, task: asyncio.Task[TwinModel]) -> None:
        del self._loading[model_id]
        if not task.cancelled() and task.exception() is None:
            self._kept.put(model_id, task.result())

    async def _load(self, model_id: UUID) -> TwinModel:
        artifact = await self._ledger.artifact(model_id)
        card = await self._ledger.card(model_id)
        model = await asyncio.to_thread(self._registry.load, artifact)
        return model.with_card(card)

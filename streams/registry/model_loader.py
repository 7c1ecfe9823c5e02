"""Loads registered models from MLflow and keeps the most recently used ones in memory."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Self
from uuid import UUID

from cachetools import LRUCache

from engine.twins import TwinModel
from sql.database import Database
from sql.ledger import Ledger
from sql.ledger_rows import lines_with_champion
from sql.pin_store import NoChampion
from streams.metrics import MODEL_CACHE
from streams.registry.mlflow_registry import MlflowRegistry
from streams.settings import Settings

__all__ = ["ModelLoader", "champion_of"]

_MAX_READS = 4


class ModelLoader:
    """Registered models by their id, at most ``size`` of them in memory; the least recently used one is evicted first.

    A model is read on a worker thread of the loader, so that a registry that does not answer blocks no other thread. Concurrent
    requests for the same model share one read. The files must have the SHA-256 that Postgres has recorded.
    """

    def __init__(self, database: Database, registry: MlflowRegistry, size: int) -> None:
        self._ledger = Ledger(database)
        self._registry = registry
        self._cache: LRUCache[UUID, TwinModel] = LRUCache(size)
        self._loading: dict[UUID, asyncio.Task[TwinModel]] = {}
        self._threads = ThreadPoolExecutor(_MAX_READS, thread_name_prefix="model-loader")

    @classmethod
    def from_settings(cls, database: Database, settings: Settings) -> Self:
        """A loader with the MLflow store and the number of models in memory of the settings."""
        return cls(database, MlflowRegistry(settings.mlflow_uri), settings.model_cache_size)

    def __contains__(self, model_id: UUID) -> bool:
        """Whether the model is in memory."""
        return model_id in self._cache

    def cached(self, model_id: UUID) -> TwinModel | None:
        """The model if it is in memory, else None."""
        model = self._cache.get(model_id)
        MODEL_CACHE.labels(result="miss" if model is None else "hit").inc()
        return model

    async def load(self, model_id: UUID) -> TwinModel:
        """The model, read from the registry unless it is in memory.

        Raises:
            UnknownModel: when no model was registered under this id.
            UntrustedModel: when its files are not those that were registered, or must not be read here.
        """
        model = self.cached(model_id)
        return model if model is not None else await asyncio.shield(self._shared_read(model_id))

    def _shared_read(self, model_id: UUID) -> asyncio.Task[TwinModel]:
        if model_id not in self._loading:
            self._loading[model_id] = task = asyncio.create_task(self._read(model_id))
            task.add_done_callback(partial(self._on_read, model_id))
        return self._loading[model_id]

    def _on_read(self, model_id: UUID, task: asyncio.Task[TwinModel]) -> None:
        del self._loading[model_id]
        if not task.cancelled() and task.exception() is None:
            self._cache[model_id] = task.result()

    async def _read(self, model_id: UUID) -> TwinModel:
        artifact = await self._ledger.artifact(model_id)
        card = await self._ledger.card(model_id)
        model = await asyncio.get_running_loop().run_in_executor(self._threads, self._registry.load, artifact)
        return model.with_card(card)


async def champion_of(database: Database, models: ModelLoader, line: str) -> TwinModel:
    """The champion of a line.

    Raises:
        NoChampion: when the line is unknown or has none.
    """
    champion = await Ledger(database).champion(line)
    if champion is None:
        raise NoChampion(line, await lines_with_champion(database))
    return await models.load(champion)

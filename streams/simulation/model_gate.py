"""Loads models beside the lanes, so that a model that cannot be loaded now delays no request of another model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from uuid import UUID

from engine.twins import TwinModel
from streams.registry import ModelLoader
from streams.retries import retry_transient

__all__ = ["ModelGate"]

_ATTEMPT_S = 10.0  # a load that takes longer is an outage; it goes on, and the next attempt waits for it


class ModelGate:
    """Admits requests whose model is in memory, and loads the models of the others.

    Args:
        models: loads a model by its id.
        on_loaded: called when a load has ended.
    """

    def __init__(self, models: ModelLoader, on_loaded: Callable[[], None]) -> None:
        self._models = models
        self._on_loaded = on_loaded
        self._loads: dict[UUID, asyncio.Task[TwinModel]] = {}

    @property
    def loading(self) -> list[UUID]:
        """Models whose load has not ended."""
        return [model_id for model_id, load in self._loads.items() if not load.done()]

    def admits(self, model_id: UUID | None) -> bool:
        """Whether a request can be computed now; False when its model is not in memory, and is loaded from now on.

        Raises:
            UnknownModel, UntrustedModel: when the load that was started before has failed.
        """
        if model_id is None:
            return True
        load = self._loads.get(model_id)
        if load is not None and load.done():
            del self._loads[model_id]
            load.result()
        elif load is None and model_id not in self._models:
            self._loads[model_id] = task = asyncio.create_task(self._load(model_id))
            task.add_done_callback(lambda _: self._on_loaded())
        return model_id not in self._loads

    def close(self) -> None:
        """Cancel all loads."""
        for load in self._loads.values():
            load.cancel()

    async def _load(self, model_id: UUID) -> TwinModel:
        return await retry_transient(partial(self._attempt, model_id), part="mlflow")

    async def _attempt(self, model_id: UUID) -> TwinModel:
        async with asyncio.timeout(_ATTEMPT_S):
            return await self._models.load(model_id)

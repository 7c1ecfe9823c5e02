"""Builds the objects that the agents of an app share: the model loader and the simulator."""

from __future__ import annotations

from functools import cached_property
from uuid import UUID

from engine.twins import TwinModel
from streams.ingestion import SimulatedTwins
from streams.kafka.app import TwinApp
from streams.registry import MlflowRegistry, ModelLoader
from streams.simulation import Simulator

__all__ = ["Services"]


class Services:
    """The model loader and the simulator of one app, created at their first use, which is after the pool is open."""

    def __init__(self, app: TwinApp) -> None:
        self._app = app

    @cached_property
    def models(self) -> ModelLoader:
        """Loads models by their id."""
        settings = self._app.settings
        return ModelLoader(self._app.pool, MlflowRegistry(settings.mlflow_uri), settings.model_cache_size)

    @cached_property
    def simulator(self) -> Simulator:
        """Runs simulations on these models."""
        return Simulator(self._app.pool, self.models)

    async def load_model(self, model_id: UUID) -> TwinModel:
        """Load a registered model."""
        return await self.models.load(model_id)

    async def find_twins(self, simulation_id: UUID) -> SimulatedTwins | None:
        """Load the twins of a simulation, None unless it is completed."""
        return await self.simulator.twins(simulation_id)

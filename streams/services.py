"""Builds the objects that the agents of an app share: registry, model loader, simulator and ledger projection."""

from __future__ import annotations

from functools import cached_property

from streams.kafka.app import TwinApp
from streams.registry import LedgerProjection, MlflowRegistry, ModelLoader
from streams.simulation import Simulator

__all__ = ["Services"]


class Services:
    """What the agents of one app share, each created at its first use, which is after the pool is open."""

    def __init__(self, app: TwinApp) -> None:
        self._app = app

    @cached_property
    def registry(self) -> MlflowRegistry:
        """The registry of trained models."""
        return MlflowRegistry(self._app.settings.mlflow_uri)

    @cached_property
    def models(self) -> ModelLoader:
        """Loads models by their id."""
        return ModelLoader(self._app.pool, self.registry, self._app.settings.model_cache_size)

    @cached_property
    def simulator(self) -> Simulator:
        """Runs simulations on these models."""
        settings = self._app.settings
        cache_bytes = settings.simulation_cache_mb * 2**20
        return Simulator(self._app.pool, self.models, deadline_s=settings.simulation_deadline_s, cache_bytes=cache_bytes)

    @cached_property
    def ledger_projection(self) -> LedgerProjection:
        """Copies the ledger to Kafka, MLflow and the metrics."""
        return LedgerProjection(self._app, self.registry)

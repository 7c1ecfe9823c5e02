"""The share of the base effect that experiments reached, on twins of the people in them.

Results that wait together are often of one campaign, in the same people: their twins are generated once.
"""

from __future__ import annotations

from threading import Lock
from uuid import UUID

from cachetools import LRUCache

from engine import SimulationEngine
from engine.twins import TwinModel
from schemas import ExperimentResult, Reach
from schemas.catalogue_in_effect import catalogue_in_effect

__all__ = ["REACH_TWINS", "ExperimentReach"]

REACH_TWINS = 10_000
_MAX_REACHES, _MAX_POPULATIONS = 1000, 4


class ExperimentReach:
    """Computes reaches, and keeps the last ones; it may be used by several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._reaches: LRUCache[tuple[UUID, str, str], Reach] = LRUCache(_MAX_REACHES)
        self._engines: LRUCache[tuple[UUID, str, str], SimulationEngine] = LRUCache(_MAX_POPULATIONS)

    def compute(self, model: TwinModel, experiment: ExperimentResult) -> Reach:
        """The reach of an experiment on the twins of a model that satisfy its filters.

        Raises:
            EmptyFilter: when no real row satisfies them.
        """
        version = model.card.model_id, catalogue_in_effect().sha256
        design = experiment.model_dump_json(include={"intervention", "filters", "subgroups"})
        with self._lock:
            if (reach := self._reaches.get((*version, design))) is not None:
                return reach
            filters = experiment.model_dump_json(include={"filters"})
            if (engine := self._engines.get((*version, filters))) is None:
                engine = self._engines[*version, filters] = SimulationEngine(model.generate(REACH_TWINS, experiment.filters))
            groups = [(group.dimension, group.level) for group in experiment.subgroups]
            reach = self._reaches[*version, design] = engine.reach(experiment.intervention, subgroups=groups)
        return reach

"""Computes a stored simulation again from its pins, and compares the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from schemas import SimulationAnswer, SimulationResult, in_effect
from sql.database import Pool
from sql.simulation_store import UnknownSimulation, find_runs
from streams.registry import ModelLoader
from streams.settings import Settings
from streams.simulation.simulator import Simulator

__all__ = ["Reproduction", "reproduce", "reproduce_with"]


@dataclass(frozen=True)
class Reproduction:
    """A stored answer, and every field of its result that has another value when computed again: (stored, computed)."""

    answer: SimulationAnswer
    differences: dict[str, tuple[Any, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The reproduction for programs."""
        return {"answer": self.answer.model_dump(mode="json"), "same": not self.differences, "differences": self.differences}


async def reproduce(settings: Settings, pool: Pool, simulation_id: UUID) -> Reproduction:
    """Compute a completed simulation again, see :func:`reproduce_with`, with models that are loaded for it."""
    return await reproduce_with(ModelLoader.from_settings(pool, settings), pool, simulation_id)


async def reproduce_with(models: ModelLoader, pool: Pool, simulation_id: UUID) -> Reproduction:
    """Compute a completed simulation again, from the model, effects version, population and seed that were pinned for it.

    Raises:
        UnknownSimulation: when there is no such simulation.
        ValueError: when it was not completed, so that there is no result to reproduce.
    """
    pins = (await find_runs(pool, [simulation_id])).get(simulation_id)
    if pins is None:
        raise UnknownSimulation(simulation_id)
    if pins.request is None or pins.answer is None or pins.answer.result is None:
        status = "has no answer yet" if pins.answer is None else f"was {pins.answer.status.value}: {pins.answer.reason}"
        raise ValueError(f"simulation {simulation_id} {status}; there is no result to reproduce")
    result = await Simulator(pool, models).compute(pins, pins.request)
    with in_effect(pins.catalogue):
        result = SimulationResult.model_validate(result.model_dump(mode="json"))  # as a stored result is read back
    return Reproduction(pins.answer, _differences(pins.answer.result, result))


def _differences(stored: SimulationResult, computed: SimulationResult) -> dict[str, tuple[Any, Any]]:
    """Fields with another value; a result that was stored before a field existed does not have it."""
    fields = [name for name in SimulationResult.model_fields if name != "simulated_at" and name in stored.model_fields_set]
    pairs = {name: (getattr(stored, name), getattr(computed, name)) for name in fields}
    return {name: (before, now) for name, (before, now) in pairs.items() if before != now}

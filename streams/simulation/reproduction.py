"""A simulation of the past, computed again from what was pinned for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from schemas import SimulationAnswer, SimulationResult
from sql.database import Pool
from sql.simulation_store import find_runs
from streams.registry.mlflow_registry import MlflowRegistry
from streams.registry.model_loader import ModelLoader
from streams.reporting.text import simulation_text
from streams.settings import Settings
from streams.simulation.simulator import Simulator

__all__ = ["Reproduction", "reproduce"]


@dataclass(frozen=True)
class Reproduction:
    """The answer that was given, and every field in which computing it again gave another value: (then, now)."""

    answer: SimulationAnswer
    differences: dict[str, tuple[Any, Any]]

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {"answer": self.answer.model_dump(mode="json"), "same": not self.differences, "differences": self.differences}

    def format_text(self) -> str:
        """For people."""
        told = [f"{name} was {then}, and is {now} now" for name, (then, now) in self.differences.items()]
        return "\n".join([simulation_text(self.answer), *(told or ["computed again from its pins: the same to the last bit"])])


async def reproduce(settings: Settings, pool: Pool, simulation_id: UUID) -> Reproduction:
    """Compute a completed simulation again, by the model, effects version, population and seed of its first time.

    Raises:
        LookupError: when it was never asked for.
        ValueError: when it was not completed, so that there is nothing to repeat.
    """
    pins = (await find_runs(pool, [simulation_id])).get(simulation_id)
    if pins is None:
        raise LookupError(f"simulation {simulation_id} was never asked for")
    if pins.request is None or pins.answer is None or pins.answer.result is None:
        said = "has no answer yet" if pins.answer is None else f"was {pins.answer.status.value}: {pins.answer.reason}"
        raise ValueError(f"simulation {simulation_id} {said}; there is nothing to repeat")
    models = ModelLoader(pool, MlflowRegistry(settings.mlflow_uri), settings.model_cache_size)
    now, then = await Simulator(pool, models).compute(pins, pins.request), pins.answer.result
    fields = [name for name in SimulationResult.model_fields if name != "simulated_at"]
    now = SimulationResult.model_validate(now.model_dump(mode="json"))  # as it would be read back
    return Reproduction(
        pins.answer,
        {name: (getattr(then, name), getattr(now, name)) for name in fields if getattr(then, name) != getattr(now, name)},
    )

"""How far a simulation is, and its cancellation."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sql.database import Pool
from sql.simulation_queue_store import QueuedSimulation, cancel_simulation
from sql.simulation_store import UnknownSimulation, find_runs

__all__ = ["NotQueued", "cancel_queued", "place_fields", "simulation_status"]


class NotQueued(ValueError):
    """A simulation is answered already; ``status`` is that of its answer."""

    def __init__(self, simulation_id: UUID, status: str) -> None:
        super().__init__(f"simulation {simulation_id} is {status} already: nothing to cancel")
        self.status = status


async def simulation_status(pool: Pool, simulation_id: UUID) -> str:
    """The status of the answer, ``running`` before there is one.

    Raises:
        UnknownSimulation: when there is no such simulation.
    """
    run = (await find_runs(pool, [simulation_id])).get(simulation_id)
    if run is None:
        raise UnknownSimulation(simulation_id)
    return run.answer.status.value if run.answer else "running"


async def cancel_queued(pool: Pool, simulation_id: UUID) -> None:
    """Have a simulation answered as cancelled.

    Raises:
        NotQueued: when it is answered already.
        UnknownSimulation: when there is no such simulation.
    """
    if not await cancel_simulation(pool, simulation_id):
        raise NotQueued(simulation_id, await simulation_status(pool, simulation_id))


def place_fields(place: QueuedSimulation | None) -> dict[str, Any]:
    """The place of a simulation in the queue as JSON; nothing for one that is not queued."""
    if place is None:
        return {}
    twins = place.progress._asdict() if place.progress else {}
    return {"lane": place.lane, "computing": place.computing, "ahead": place.ahead, **twins}

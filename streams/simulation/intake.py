"""Accepts simulation requests: pins them and puts them into the queue, or answers those that are answered or refused already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from schemas import SimulationAnswer, SimulationRequest
from sql.database import Pool
from sql.erasure_store import NamesErased
from sql.simulation_queue_store import Lane, enqueue_simulation
from sql.simulation_store import DifferentBody, NoChampion, Pins, WrongLine
from sql.twin_repository import UnknownPopulation
from streams.errors import describe_error
from streams.settings import Settings
from streams.simulation.request_budget import TooLarge, flow_of, lane_of, require_within_budget, work_of
from streams.simulation.simulator import DEFAULT_TWIN_COUNT, Simulator, rejected

__all__ = ["RequestIntake"]

_REFUSALS = (DifferentBody, NamesErased, NoChampion, TooLarge, UnknownPopulation, WrongLine)


@dataclass(frozen=True)
class RequestIntake:
    """Accepts requests.

    Attributes:
        pool: of the database.
        settings: the bounds of a request.
        simulator: pins requests.
        on_queued: called with the lane of every request that was queued.
    """

    pool: Pool
    settings: Settings
    simulator: Simulator
    on_queued: Callable[[Lane], None]

    async def accept(self, request: SimulationRequest) -> SimulationAnswer | None:
        """Queue a request and return None; or return its answer: the stored one, or a rejection with the reason.

        Accepting a request again queues it once.
        """
        try:
            pins = await self._pin(request)
        except _REFUSALS as error:
            return rejected(request.simulation_id, describe_error(error))
        if pins.answer is None:
            await self._queue(pins, pins.request or request)  # as it is stored: without what was erased since it came
        return pins.answer

    async def _pin(self, request: SimulationRequest) -> Pins:
        """Pin a request whose size is allowed; that of a stored population is only known from what is stored."""
        if request.population_id is None:
            require_within_budget(request, request.twin_count or DEFAULT_TWIN_COUNT, self.settings)
        pins = await self.simulator.pin(request)
        if pins.answer is None and pins.recipe is not None:
            require_within_budget(request, pins.recipe.twin_count, self.settings)
        return pins

    async def _queue(self, pins: Pins, request: SimulationRequest) -> None:
        assert pins.recipe is not None  # every pinned request has a population
        work = work_of(request, pins.recipe.twin_count)
        lane, model_id = lane_of(work, self.settings, stored=pins.stored), None if pins.stored else pins.model_id
        await enqueue_simulation(self.pool, pins.simulation_id, lane, flow=flow_of(request, work), work=work, model_id=model_id)
        self.on_queued(lane)

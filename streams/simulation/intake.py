"""Accepts simulation requests: pins them and puts them into the queue, or answers those that are answered or refused already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from schemas import SimulationAnswer, SimulationRequest
from sql.database import Pool, transaction
from sql.pin_store import NewRequest, PinRefusal, pin_all
from sql.shard_store import add_shards
from sql.simulation_queue_store import Lane, QueueEntry, SimulationLease, enqueue_simulations
from sql.simulation_store import Pins
from streams.errors import describe_error
from streams.settings import Settings
from streams.simulation.computation import is_sharded
from streams.simulation.request_budget import TooLarge, flow_of, lane_of, require_within_budget, work_of
from streams.simulation.shards import shards_of
from streams.simulation.simulator import DEFAULT_TWIN_COUNT, recipe_of, rejected

__all__ = ["OpenLane", "RequestIntake"]


class OpenLane(Protocol):
    """A lane of this process, which may lease what is queued for it at once."""

    @property
    def worker(self) -> str:
        """The holder of its leases."""

    def has_room(self, entries: Sequence[QueueEntry], /) -> bool:
        """Whether it would compute these requests next."""

    def take(self, leases: Sequence[SimulationLease], runs: Mapping[UUID, Pins], /) -> None:
        """Compute the requests of these leases, which are its own; ``runs`` are pinned for them, by id."""

    def wake(self) -> None:
        """Look into the queue now."""


@dataclass(frozen=True)
class RequestIntake:
    """Accepts requests.

    Attributes:
        pool: of the database.
        settings: the bounds of a request.
        lanes: of this process, none where it computes nothing.
    """

    pool: Pool
    settings: Settings
    lanes: Mapping[Lane, OpenLane]

    async def accept(self, requests: Sequence[NewRequest]) -> list[SimulationAnswer | None]:
        """Pin and queue requests with different ids, valid under the catalogue in effect, in one transaction.

        Accepting a request again queues it once.

        Returns:
            None for each that is queued; else its answer: the stored one, or a rejection with the reason.
        """
        answers = {item.request.simulation_id: self._rejection_before(item.request) for item in requests}
        allowed = [item for item in requests if answers[item.request.simulation_id] is None]
        if allowed:
            await self._accept(allowed, answers)
        return [answers[item.request.simulation_id] for item in requests]

    async def _accept(self, requests: Sequence[NewRequest], answers: dict[UUID, SimulationAnswer | None]) -> None:
        runs: dict[UUID, Pins] = {}
        entries: list[QueueEntry] = []
        async with transaction(self.pool) as connection:
            for item, pins in zip(requests, await pin_all(connection, requests, recipe_of), strict=True):
                answer = answers[item.request.simulation_id] = self._answer_to(item.request, pins)
                if answer is None and isinstance(pins, Pins):
                    runs[pins.simulation_id] = pins
                    entries.append(self._entry(pins, item.request))
            by_lane = {name: [entry for entry in entries if entry.lane == name] for name in {entry.lane for entry in entries}}
            open_lanes = {name: lane for name, lane in self.lanes.items() if name in by_lane}
            holders = {name: lane.worker for name, lane in open_lanes.items() if lane.has_room(by_lane[name])}
            leases = await enqueue_simulations(connection, entries, holders, lease_s=self.settings.simulation_lease_s)
            for pins in filter(is_sharded, runs.values()):
                await add_shards(connection, pins.simulation_id, shards_of(pins, self.settings.shard_twins))
        for name, lane in open_lanes.items():
            own = [lease for lease in leases if lease.lane == name]
            lane.take(own, runs)
            if len(own) < len(by_lane[name]):
                lane.wake()

    def _rejection_before(self, request: SimulationRequest) -> SimulationAnswer | None:
        """The rejection of a request that is too large; the size of a stored population is only known from what is stored."""
        return self._rejection(request, request.twin_count or DEFAULT_TWIN_COUNT) if request.population_id is None else None

    def _answer_to(self, request: SimulationRequest, pins: Pins | PinRefusal) -> SimulationAnswer | None:
        """The answer to a request, None when it is to be computed."""
        if not isinstance(pins, Pins):
            return rejected(request.simulation_id, describe_error(pins))
        assert pins.answer is not None or pins.recipe is not None  # every pinned request has a population
        return pins.answer or (self._rejection(request, pins.recipe.twin_count) if pins.recipe else None)

    def _rejection(self, request: SimulationRequest, twin_count: int) -> SimulationAnswer | None:
        try:
            require_within_budget(request, twin_count, self.settings)
        except TooLarge as error:
            return rejected(request.simulation_id, describe_error(error))
        return None

    def _entry(self, pins: Pins, request: SimulationRequest) -> QueueEntry:
        """The place of a pinned request in the queue."""
        request = pins.request or request  # as it is stored: without what was erased since it came
        work = work_of(request, pins.recipe.twin_count if pins.recipe else 0)
        lane: Lane = "sharded" if is_sharded(pins) else lane_of(work, self.settings, stored=pins.stored)
        model_id = None if pins.stored else pins.model_id
        return QueueEntry(pins.simulation_id, lane, flow_of(request, work), work, model_id)

"""Answers simulation requests: completed, rejected with a reason, or failed; a record without a simulation id is refused.

The agent stores every request as a row and acknowledges it at once. Beside it two tasks work off the rows for as long as the app
runs: the lane of small requests in this process, and the lane of large ones in a process for each.
"""

from __future__ import annotations

import asyncio
import logging
from functools import cached_property
from typing import Any
from uuid import UUID

from schemas import AnswerStatus, SimulationAnswer, SimulationRequest, SimulationResult
from sql.ledger import Ledger
from sql.model_card_rows import UnknownModel
from sql.simulation_queue_store import LANES, Lane, lane_backlogs
from sql.simulation_store import Pins
from streams.errors import describe_error
from streams.kafka import topic_of
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import start_refusal_counters
from streams.kafka.record_slices import process_slices
from streams.metrics import COMPUTED_SIMULATIONS, OLDEST_SIMULATION, SIMULATIONS, TASK_FAILURES, WAITING_SIMULATIONS, start_at_zero
from streams.registry import UntrustedModel
from streams.services import Services
from streams.simulation import (
    REQUEST_KINDS,
    OpenLane,
    RequestIntake,
    RequestSlice,
    ShardEntrance,
    ShardLane,
    SimulationLane,
    conclude_shards,
    simulate_in_subprocess,
)

__all__ = ["attach"]

LOG = logging.getLogger(__name__)

# A model that cannot be loaded fails its requests at once: more attempts would keep the requests about other lines waiting.
_REFUSED_AT_ONCE = (*REQUEST_KINDS, UntrustedModel, UnknownModel)

_BACKLOG_INTERVAL_S = 2.0
_WARM_UP_S = 10.0


def attach(app: TwinApp, services: Services) -> None:
    """Add the agent that accepts simulation requests, and the tasks that compute them."""
    simulation = _Simulation(app, services)
    start_refusal_counters(topic_of(SimulationRequest), REQUEST_KINDS.values())
    start_at_zero(SIMULATIONS, status=AnswerStatus)
    start_at_zero(TASK_FAILURES, role=[app.role], task=["publication of answers"])
    app.agent(app.batch_topic(topic_of(SimulationRequest)), name="simulation", concurrency=1)(simulation.run)
    app.restoring = "the champions"
    app.beside_start.append(simulation.warm_up)
    for task in (simulation.compute_small, simulation.compute_large, simulation.compute_shards, simulation.conclude_shards):
        app.task(task)
    app.run_every(_BACKLOG_INTERVAL_S, simulation.report_backlogs)
    for lane in LANES:
        COMPUTED_SIMULATIONS.labels(lane=lane)


class _Simulation:
    def __init__(self, app: TwinApp, services: Services) -> None:
        self._app = app
        self._services = services

    @cached_property
    def _intake(self) -> RequestIntake:
        lanes: dict[Lane, OpenLane] = {**self._lanes, "sharded": ShardEntrance(self._shard_lanes)}
        return RequestIntake(self._app.pool, self._app.settings, lanes)

    @cached_property
    def _lanes(self) -> dict[Lane, SimulationLane]:
        models = self._services.models
        return {
            "small": SimulationLane("small", self._app, models, self._services.simulator.compute),
            "large": SimulationLane("large", self._app, models, self._compute_large),
            "sharded": SimulationLane("sharded", self._app, models, self._conclude),
        }

    @cached_property
    def _shard_lanes(self) -> list[ShardLane]:
        services, on_due = self._services, self._lanes["sharded"].wake
        n = self._app.settings.shard_processes
        return [ShardLane(self._app, services.models, services.simulator, on_due) for _ in range(n)]

    async def run(self, requests: Any) -> None:
        """Accept request after request of each partition."""
        await process_slices(self._app, requests, lambda: RequestSlice(self._app, self._intake), _REFUSED_AT_ONCE)

    async def warm_up(self) -> None:
        """Load the champions and simulate on them, before the role counts as ready: the first requests find all in memory.

        What cannot be loaded now, or takes too long, is loaded with its first request.
        """
        try:
            async with asyncio.timeout(_WARM_UP_S):
                for champion in await Ledger(self._app.pool).champions(self._app.settings.model_cache_size):
                    await self._warm_up_on(champion)
                await self._app.count_partitions(topic_of(SimulationAnswer))  # the producer connects
        except Exception as error:  # noqa: BLE001  # the role serves requests all the same
            LOG.warning("not all champions are in memory: %s: %s", type(error).__name__, describe_error(error))
        finally:
            self._app.restoring = None

    async def _warm_up_on(self, champion: UUID) -> None:
        try:
            await self._services.simulator.warm_up(champion)
        except Exception as error:  # noqa: BLE001  # whatever it is, the other lines are served
            LOG.warning("champion %s is not loaded: %s", champion, describe_error(error))

    async def compute_small(self) -> None:
        """Compute the small requests, one at a time, for as long as the app runs."""
        await self._lanes["small"].run()

    async def compute_large(self) -> None:
        """Compute the large requests, one at a time, for as long as the app runs."""
        await self._lanes["large"].run()

    async def compute_shards(self) -> None:
        """Compute the shards of requests that are too large for one table, for as long as the app runs."""
        await asyncio.gather(*(shard_lane.run() for shard_lane in self._shard_lanes))

    async def conclude_shards(self) -> None:
        """Answer the requests whose shards are all computed, for as long as the app runs."""
        await self._lanes["sharded"].run()

    async def report_backlogs(self) -> None:
        """Set the metrics of the queue."""
        for lane, backlog in (await lane_backlogs(self._app.pool)).items():
            WAITING_SIMULATIONS.labels(lane=lane).set(backlog.waiting)
            OLDEST_SIMULATION.labels(lane=lane).set(backlog.oldest_s)

    async def _conclude(self, pins: Pins, request: SimulationRequest) -> SimulationResult:
        return await conclude_shards(self._app.pool, self._services.simulator, pins, request)

    async def _compute_large(self, pins: Pins, request: SimulationRequest) -> SimulationResult:
        simulator = self._services.simulator
        model = None if pins.stored or pins.model_id is None else await self._services.models.load(pins.model_id)
        result = await simulate_in_subprocess(self._app.settings, pins, request, await simulator.priors(pins, request), model)
        return await simulator.add_track_record(result, pins, request)

"""Answers simulation requests: completed, rejected with a reason, or failed; a record without a simulation id is refused.

The agent stores every request as a row and acknowledges it at once. Beside it two tasks work off the rows for as long as the app
runs: the lane of small requests in this process, and the lane of large ones in a process for each.
"""

from __future__ import annotations

import hashlib
import logging
from functools import cached_property, partial
from typing import Any

from schemas import AnswerStatus, SimulationAnswer, SimulationRequest, SimulationResult
from sql.model_card_rows import UnknownModel
from sql.simulation_queue_store import LANES, Lane, lane_backlogs
from sql.simulation_store import DifferentBody, Pins, finish
from streams.bounds import OutOfBounds
from streams.errors import describe_error, is_waited_for
from streams.kafka import topic_of
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import KafkaRecord, park, process_record, refuse, start_refusal_counters
from streams.kafka.partition_lanes import process_in_lanes
from streams.metrics import COMPUTED_SIMULATIONS, OLDEST_SIMULATION, SIMULATIONS, WAITING_SIMULATIONS, start_at_zero
from streams.registry import UntrustedModel
from streams.services import Services
from streams.simulation import (
    RequestIntake,
    SimulationLane,
    UnreadableRequest,
    decode_request,
    failed,
    find_simulation_id,
    publish_answer,
    rejected,
    simulate_in_subprocess,
)

__all__ = ["attach"]

LOG = logging.getLogger(__name__)
_KINDS: dict[type[Exception], str] = {UnreadableRequest: "unreadable"}
# A model that cannot be loaded fails its requests at once: more attempts would keep the requests about other lines waiting.
_REFUSED_AT_ONCE: dict[type[Exception], str] = _KINDS | {UntrustedModel: "model", UnknownModel: "model"}

_BACKLOG_INTERVAL_S = 2.0


def attach(app: TwinApp, services: Services) -> None:
    """Add the agent that accepts simulation requests, and the tasks that compute them."""
    simulation = _Simulation(app, services)
    start_refusal_counters(topic_of(SimulationRequest), _KINDS.values())
    start_at_zero(SIMULATIONS, status=AnswerStatus)
    app.agent(app.raw_topic(topic_of(SimulationRequest)), name="simulation", concurrency=1)(simulation.run)
    for task in (simulation.compute_small, simulation.compute_large):
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
        return RequestIntake(self._app.pool, self._app.settings, self._services.simulator, lambda lane: self._lanes[lane].wake())

    @cached_property
    def _lanes(self) -> dict[Lane, SimulationLane]:
        models = self._services.models
        return {
            "small": SimulationLane("small", self._app, models, self._services.simulator.compute),
            "large": SimulationLane("large", self._app, models, self._compute_large),
        }

    async def run(self, requests: Any) -> None:
        """Accept request after request of each partition."""
        await process_in_lanes(requests, lambda: self._app.consumer, self._process)

    async def _process(self, event: Any) -> None:
        record = event.message
        accept, refuse_record = partial(self._accept, record), partial(self._refuse, record)
        await process_record(self._app, record, accept, kinds=_REFUSED_AT_ONCE, refuse_with=refuse_record)

    async def compute_small(self) -> None:
        """Compute the small requests, one at a time, for as long as the app runs."""
        await self._lanes["small"].run()

    async def compute_large(self) -> None:
        """Compute the large requests, one at a time, for as long as the app runs."""
        await self._lanes["large"].run()

    async def report_backlogs(self) -> None:
        """Set the metrics of the queue."""
        for lane, backlog in (await lane_backlogs(self._app.pool)).items():
            WAITING_SIMULATIONS.labels(lane=lane).set(backlog.waiting)
            OLDEST_SIMULATION.labels(lane=lane).set(backlog.oldest_s)

    async def _compute_large(self, pins: Pins, request: SimulationRequest) -> SimulationResult:
        simulator = self._services.simulator
        model = None if pins.stored or pins.model_id is None else await self._services.models.load(pins.model_id)
        result = await simulate_in_subprocess(self._app.settings, pins, request, await simulator.priors(pins, request), model)
        return await simulator.add_track_record(result, pins, request)

    async def _accept(self, record: KafkaRecord) -> None:
        decoded = decode_request(record.value, max_filter_values=self._app.settings.max_filter_values)
        answer: SimulationAnswer | None = rejected(decoded.simulation_id, decoded.reason)
        if decoded.request is not None:
            answer = await self._intake.accept(decoded.request)
        if answer is not None:
            await self._publish(answer, decoded.digest, decoded.request)

    async def _publish(self, answer: SimulationAnswer, digest: bytes, request: SimulationRequest | None = None) -> None:
        """Store the answer unless there is one, and publish the stored one; an id with another body is rejected and not stored."""
        try:
            answer = await finish(self._app.pool, answer, digest, request)
        except DifferentBody as error:
            answer = rejected(answer.simulation_id, describe_error(error))
        await publish_answer(self._app, answer)

    async def _refuse(self, record: KafkaRecord, error: Exception) -> None:
        """Answer that the request failed, or is rejected as it exceeds a bound; one without a readable id is refused or parked."""
        is_large = len(record.value or b"") > self._app.settings.max_record_bytes
        simulation_id = None if is_large else find_simulation_id(record.value)
        if simulation_id is None:
            await refuse(self._app, record, error, kinds=_KINDS)
            return
        if isinstance(error, OutOfBounds):
            answer = rejected(simulation_id, describe_error(error))
        else:
            LOG.error("simulation %s failed", simulation_id, exc_info=error)
            self._app.parking.on_failed(error)
            answer = failed(simulation_id, f"{type(error).__name__}: {describe_error(error)}")
        try:
            await self._publish(answer, _digest_of(record.value))
        except Exception as failure:
            if is_waited_for(failure):
                raise
            await park(self._app, record, failure)
            await publish_answer(self._app, answer)


def _digest_of(value: bytes | None) -> bytes:
    """Digest of a request as it is pinned, or of its bytes when it cannot be decoded at all."""
    try:
        return decode_request(value).digest
    except Exception:  # noqa: BLE001  # the request fails for an unforeseen reason, and is answered all the same
        return hashlib.sha256(value or b"").digest()

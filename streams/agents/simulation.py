"""Answers simulation requests: completed, rejected with a reason, or failed; a record without a simulation id is refused."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from schemas import AnswerStatus, SimulationAnswer, SimulationRequest
from sql.simulation_store import DifferentBody, finish
from streams.errors import describe_error
from streams.kafka import topic_of
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import KafkaRecord, refuse
from streams.metrics import SIMULATION_SECONDS, SIMULATIONS
from streams.retries import process_event
from streams.services import Services
from streams.simulation import UnreadableRequest, decode_request, rejected

__all__ = ["attach"]

LOG = logging.getLogger(__name__)


def attach(app: TwinApp, services: Services) -> None:
    """Add the agent that answers simulation requests."""
    simulation = _Simulation(app, services)
    app.agent(app.raw_topic(topic_of(SimulationRequest)), name="simulation", concurrency=1)(simulation.run)


class _Simulation:
    def __init__(self, app: TwinApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def run(self, requests: Any) -> None:
        """Answer request after request."""
        async for event in requests.events():
            record = event.message
            with SIMULATION_SECONDS.time():
                await process_event(self._app, partial(self._answer, record), partial(self._refuse, record))

    async def _answer(self, record: KafkaRecord) -> None:
        decoded = decode_request(record.value)
        if decoded.request is None:
            answer = rejected(decoded.simulation_id, decoded.reason)
        else:
            answer = await self._services.simulator.answer(decoded.request)
        await self._publish(answer, decoded.digest, decoded.request)

    async def _publish(self, answer: SimulationAnswer, digest: bytes, request: SimulationRequest | None = None) -> None:
        """Store the answer unless there is one, and publish the stored one; an id with another body is rejected and not stored."""
        try:
            answer = await finish(self._app.pool, answer, digest, request)
        except DifferentBody as error:
            answer = rejected(answer.simulation_id, describe_error(error))
        await self._app.publish(answer, key=str(answer.simulation_id))
        SIMULATIONS.labels(status=answer.status.value).inc()
        LOG.info("simulation %s: %s%s", answer.simulation_id, answer.status, f", {answer.reason}" if answer.reason else "")

    async def _refuse(self, record: KafkaRecord, error: Exception) -> None:
        if isinstance(error, UnreadableRequest):
            await refuse(self._app, record, error, kinds={UnreadableRequest: "unreadable"})
            return
        decoded = decode_request(record.value)
        LOG.error("simulation %s failed", decoded.simulation_id, exc_info=error)
        reason = f"{type(error).__name__}: {describe_error(error)}"
        failed = SimulationAnswer(simulation_id=decoded.simulation_id, status=AnswerStatus.FAILED, reason=reason)
        await self._publish(failed, decoded.digest)

"""Answers simulation requests: completed, rejected with a reason, or failed; a record without a simulation id is refused."""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from typing import Any

from schemas import AnswerStatus, SimulationAnswer, SimulationRequest
from sql.model_card_rows import UnknownModel
from sql.simulation_store import DifferentBody, finish
from streams.errors import describe_error, is_waited_for
from streams.kafka import topic_of
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import KafkaRecord, park, process_record, refuse
from streams.metrics import SIMULATION_SECONDS, SIMULATIONS
from streams.registry import UntrustedModel
from streams.services import Services
from streams.simulation import UnreadableRequest, decode_request, find_simulation_id, rejected

__all__ = ["attach"]

LOG = logging.getLogger(__name__)
_KINDS: dict[type[Exception], str] = {UnreadableRequest: "unreadable"}
# An error of a line's model fails at once too: another attempt would keep the requests about other lines waiting.
_REFUSED_AT_ONCE: dict[type[Exception], str] = _KINDS | {UntrustedModel: "model", UnknownModel: "model"}


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
                answer, refuse_record = partial(self._answer, record), partial(self._refuse, record)
                await process_record(self._app, record, answer, kinds=_REFUSED_AT_ONCE, refuse_with=refuse_record)

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
        """Answer that the request failed; a record without a simulation id, or whose answer fails too, is refused or parked."""
        simulation_id = find_simulation_id(record.value)
        if simulation_id is None:
            await refuse(self._app, record, error, kinds=_KINDS)
            return
        LOG.error("simulation %s failed", simulation_id, exc_info=error)
        reason = f"{type(error).__name__}: {describe_error(error)}"
        failed = SimulationAnswer(simulation_id=simulation_id, status=AnswerStatus.FAILED, reason=reason)
        try:
            await self._publish(failed, _digest_of(record.value))
        except Exception as failure:
            if is_waited_for(failure):
                raise
            await park(self._app, record, failure)
            await self._app.publish(failed, key=str(simulation_id))


def _digest_of(value: bytes | None) -> bytes:
    """Digest of a request as it is pinned, or of its bytes when it cannot be decoded at all."""
    try:
        return decode_request(value).digest
    except Exception:  # noqa: BLE001  # the request fails for an unforeseen reason, and is answered all the same
        return hashlib.sha256(value or b"").digest()

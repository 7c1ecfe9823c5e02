"""Answers simulation requests: completed, rejected with a sentence, or failed; and only what names no simulation gets no answer."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from engine.effects.population_filter import EmptyPopulation
from engine.twins.empty_filter import EmptyFilter
from schemas import TWIN_TYPES, AnswerStatus, SimulationAnswer, SimulationRequest, TwinType
from schemas.clinical_terms import clinical_term
from schemas.events import canonical_digest
from sql.simulation_store import DifferentBody, NoChampion, UnknownPopulation, WrongLine, finish
from sql.twin_repository import UnknownPopulation as ExpiredPopulation
from streams.errors import describe_error, require_no_nul
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import KafkaRecord, send_to_dead_letters
from streams.kafka.topics import topic_of
from streams.metrics import SIMULATION_SECONDS, SIMULATIONS
from streams.retries import process_event
from streams.services import Services
from streams.simulation.simulator import MissingFeature

__all__ = ["attach"]

LOG = logging.getLogger(__name__)

_REFUSALS = (
    DifferentBody,
    EmptyFilter,
    EmptyPopulation,
    ExpiredPopulation,
    MissingFeature,
    NoChampion,
    UnknownPopulation,
    WrongLine,
)


class _Unreadable(ValueError):
    """No simulation can be named, so nobody can be answered."""


def attach(app: TwinApp, services: Services) -> None:
    """Let the app answer requests."""
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
        body = _body(record.value)
        simulation_id = _simulation_id(body)
        try:
            request = SimulationRequest.model_validate_json(require_no_nul(record.value))
        except ValueError as error:
            await self._give(_rejected(simulation_id, _clinical(body) or describe_error(error)), _digest(record.value))
            return
        await self._give(await self._computed(request), canonical_digest(request), request)

    async def _computed(self, request: SimulationRequest) -> SimulationAnswer:
        try:
            pins = await self._services.simulator.pin(request, canonical_digest(request))
            if pins.answer is not None:
                return pins.answer
            LOG.debug("simulation %s is pinned to model %s, effects %s", pins.simulation_id, pins.model_id, pins.effects_version)
            result = await self._services.simulator.compute(pins, request)
        except _REFUSALS as refusal:
            return _rejected(request.simulation_id, describe_error(refusal))
        for warning in result.warnings:
            LOG.warning("simulation %s: %s", request.simulation_id, warning)
        return SimulationAnswer(
            simulation_id=request.simulation_id,
            status=AnswerStatus.COMPLETED,
            result=result,
            model_id=pins.model_id,
            effects_version=pins.effects_version,
        )

    async def _give(self, answer: SimulationAnswer, body_hash: bytes, request: SimulationRequest | None = None) -> None:
        """Store the answer unless there is one, and say what is stored; of another body under a known id nothing is stored."""
        try:
            answer = await finish(self._app.pool, answer, body_hash, request)
        except DifferentBody as refusal:
            answer = _rejected(answer.simulation_id, describe_error(refusal))
        await self._app.publish(answer, key=str(answer.simulation_id))
        SIMULATIONS.labels(status=answer.status.value).inc()
        LOG.info("simulation %s: %s%s", answer.simulation_id, answer.status, f", {answer.reason}" if answer.reason else "")

    async def _refuse(self, record: KafkaRecord, error: Exception) -> None:
        if isinstance(error, _Unreadable):
            await send_to_dead_letters(self._app, record, "unreadable", describe_error(error), error)
            return
        LOG.error("a simulation failed", exc_info=error)
        await self._give(*_failure(record, error))


def _body(value: bytes | None) -> Mapping[str, Any]:
    try:
        body = json.loads(value or b"")
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"the request is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise _Unreadable(f"the request is no JSON object, but a {type(body).__name__}")
    return body


def _simulation_id(body: Mapping[str, Any]) -> UUID:
    given = body.get("simulation_id")
    try:
        return UUID(given)
    except (ValueError, TypeError, AttributeError) as error:
        said = "no simulation_id" if given is None else f"the simulation_id {given!r:.80}, which is no UUID"
        raise _Unreadable(f"the request has {said}: nobody can be answered") from error


def _rejected(simulation_id: UUID, reason: str) -> SimulationAnswer:
    return SimulationAnswer(simulation_id=simulation_id, status=AnswerStatus.REJECTED, reason=reason)


def _failure(record: KafkaRecord, error: Exception) -> tuple[SimulationAnswer, bytes]:
    answer = SimulationAnswer(
        simulation_id=_simulation_id(_body(record.value)),
        status=AnswerStatus.FAILED,
        reason=f"{type(error).__name__}: {describe_error(error)}",
    )
    try:
        return answer, canonical_digest(SimulationRequest.model_validate_json(record.value or b""))
    except ValidationError:
        return answer, _digest(record.value)


def _digest(value: bytes | None) -> bytes:
    return hashlib.sha256(value or b"").digest()


def _clinical(body: Mapping[str, Any]) -> str | None:
    """The refusal of a request that asks for something clinical, by its name; None when it does not."""
    kind = TwinType(body["twin_type"]) if body.get("twin_type") in set(TwinType) else TwinType.HCP
    for place, word in _words(body):
        term = clinical_term(kind, word)
        if term is not None:
            allowed = ", ".join(target.name for target in TWIN_TYPES[kind].targets)
            return f"{place} {word!r} is clinical ({term!r}): only commercial outcomes are simulated, such as {allowed}"
    return None


def _words(body: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    intervention, filters = body.get("intervention"), body.get("filters")
    if isinstance(body.get("target"), str):
        yield "target", body["target"]
    if isinstance(intervention, dict) and isinstance(intervention.get("intervention_type"), str):
        yield "intervention_type", intervention["intervention_type"]
    if isinstance(filters, dict):
        yield from (("filter", word) for word in filters)

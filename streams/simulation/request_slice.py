"""Answers the simulation requests of one slice that are rejected, fail or are answered already: together, at its end."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from schemas import SimulationAnswer
from sql.pin_store import NewRequest
from sql.simulation_store import DifferentBody, NewAnswer, finish_all
from streams.bounds import OutOfBounds
from streams.errors import describe_error, is_waited_for
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import KafkaRecord
from streams.kafka.record_slices import Refusals
from streams.retries import any_error, retry_transient
from streams.simulation.answer_publisher import publish_answers
from streams.simulation.intake import RequestIntake
from streams.simulation.request_decoding import DecodedRequest, UnreadableRequest, decode_request, find_simulation_id
from streams.simulation.simulator import failed, rejected

__all__ = ["REQUEST_KINDS", "RequestSlice"]

LOG = logging.getLogger(__name__)

REQUEST_KINDS: Mapping[type[Exception], str] = {UnreadableRequest: "unreadable"}
"""Errors of a record without a simulation id, which cannot be answered."""


class _Answered(NamedTuple):
    record: KafkaRecord
    new: NewAnswer


class RequestSlice:
    """The requests of one slice.

    Args:
        app: app of the role.
        intake: queues the requests that are to be computed.
    """

    def __init__(self, app: TwinApp, intake: RequestIntake) -> None:
        self._app = app
        self._intake = intake
        self._answers: list[_Answered] = []
        self._accepted: dict[int, tuple[DecodedRequest, SimulationAnswer | None]] = {}
        self._refusals = Refusals(app, REQUEST_KINDS)

    async def prepare(self, records: Sequence[KafkaRecord]) -> None:
        """Accept the valid requests together; two with one id are left to be accepted alone."""
        decoded = list(self._decodable(records))
        times = Counter(request.simulation_id for _, request in decoded)
        single = [(offset, item) for offset, item in decoded if item.request and times[item.simulation_id] == 1]
        answers = await self._intake.accept([NewRequest(item.request, item.digest) for _, item in single if item.request])
        self._accepted = {offset: (item, answer) for (offset, item), answer in zip(single, answers, strict=True)}

    def _decodable(self, records: Sequence[KafkaRecord]) -> Iterator[tuple[int, DecodedRequest]]:
        for record in records:
            with contextlib.suppress(Exception):  # it is decoded again alone, and its failure is handled there
                yield record.offset, self._decode(record)

    def _decode(self, record: KafkaRecord) -> DecodedRequest:
        return decode_request(record.value, max_filter_values=self._app.settings.max_filter_values)

    async def process(self, record: KafkaRecord) -> None:
        """Queue a request, or collect its answer.

        Raises:
            UnreadableRequest: when it has no simulation id.
        """
        if record.offset in self._accepted:
            decoded, answer = self._accepted[record.offset]
        else:
            decoded, answer = await self._accept_alone(record)
        if answer is not None:
            self._add(record, NewAnswer(answer, decoded.digest, decoded.request))

    async def _accept_alone(self, record: KafkaRecord) -> tuple[DecodedRequest, SimulationAnswer | None]:
        decoded = self._decode(record)
        if decoded.request is None:
            return decoded, rejected(decoded.simulation_id, decoded.reason)
        await self._store_answers_of(decoded.simulation_id)
        (answer,) = await self._intake.accept([NewRequest(decoded.request, decoded.digest)])
        return decoded, answer

    def refuse(self, record: KafkaRecord, error: Exception) -> None:
        """Collect the answer that a request failed, or is rejected as it exceeds a bound; without a readable id it has none."""
        is_large = len(record.value or b"") > self._app.settings.max_record_bytes
        simulation_id = None if is_large else find_simulation_id(record.value)
        if simulation_id is None:
            self._refusals.add(record, error)
        elif isinstance(error, OutOfBounds):
            self._add(record, NewAnswer(rejected(simulation_id, describe_error(error)), _digest_of(record.value)))
        else:
            LOG.error("simulation %s failed", simulation_id, exc_info=error)
            self._app.parking.on_failed(error)
            self._add(record, _failure(simulation_id, record, error))

    async def store(self) -> None:
        """Store the answers in one transaction and publish them, and the records without an id likewise."""
        await self._store_answers()
        await self._refusals.store()

    def _add(self, record: KafkaRecord, new: NewAnswer) -> None:
        self._answers.append(_Answered(record, new))

    async def _store_answers_of(self, simulation_id: UUID) -> None:
        """Store what is collected if it has an answer with this id: the first of two requests decides what its id stands for."""
        if any(answered.new.answer.simulation_id == simulation_id for answered in self._answers):
            await retry_transient(self._store_answers, part="postgres", waits_for=any_error)

    async def _store_answers(self) -> None:
        """Store the answers, each unless there is one, and publish the stored ones."""
        if not self._answers:
            return
        await publish_answers(self._app, await self._stored())
        self._answers = []

    async def _stored(self) -> list[SimulationAnswer]:
        try:
            return await self._finish([answered.new for answered in self._answers])
        except Exception as error:
            if is_waited_for(error):
                raise
        return [await self._store_alone(answered) for answered in self._answers]

    async def _store_alone(self, answered: _Answered) -> SimulationAnswer:
        """Store an answer, or one that its request failed; the record of a request for which neither can be stored is parked."""
        record, new = answered
        for _ in range(2):
            try:
                (answer,) = await self._finish([new])
            except Exception as failure:
                if is_waited_for(failure):
                    raise
                error, new = failure, _failure(new.answer.simulation_id, record, failure)
            else:
                return answer
        self._refusals.add(record, error)
        return new.answer

    async def _finish(self, new: Sequence[NewAnswer]) -> list[SimulationAnswer]:
        """Store answers; returns what to publish: an id that is stored with another body is rejected, and nothing is stored."""
        stored = await finish_all(self._app.pool, new)
        return [
            rejected(item.answer.simulation_id, describe_error(result)) if isinstance(result, DifferentBody) else result
            for item, result in zip(new, stored, strict=True)
        ]


def _failure(simulation_id: UUID, record: KafkaRecord, error: Exception) -> NewAnswer:
    return NewAnswer(failed(simulation_id, f"{type(error).__name__}: {describe_error(error)}"), _digest_of(record.value))


def _digest_of(value: bytes | None) -> bytes:
    """Digest of a request as it is pinned, or of its bytes when it cannot be decoded at all."""
    try:
        return decode_request(value).digest
    except Exception:  # noqa: BLE001  # the request fails for an unforeseen reason, and is answered all the same
        return hashlib.sha256(value or b"").digest()

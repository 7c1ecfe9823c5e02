"""The client for other programs: requests simulations, waits for the answers and publishes outcomes.

Example::

    async with TwinClient() as client:
        answer = await client.request(request)
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from schemas import EffectsEvent, Event, OutcomeEvent, SimulationAnswer, SimulationRequest, TrainingRequest
from schemas.base import shorten
from schemas.simulation_models import ANSWERED
from streams.client.discovery import settings_with_kafka
from streams.errors import describe_error, is_transient
from streams.kafka import Headers, event_headers, event_value, open_consumer, open_producer, topic_of
from streams.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    from aiokafka import ConsumerRecord

__all__ = ["KafkaUnavailable", "NoAnswer", "TwinClient"]

LOG = logging.getLogger(__name__)

ANSWERS = topic_of(SimulationAnswer)
BATCH = 1000


class NoAnswer(TimeoutError):
    """No answer arrived in time, or Kafka did not answer: every wait of a client ends with it."""


class KafkaUnavailable(NoAnswer):
    """Kafka cannot be reached, or does not acknowledge an event."""


class TwinClient:
    """Publishes events, each acknowledged by all replicas, and waits for the answers to requests.

    Args:
        settings: address and credentials of Kafka. By default the ``TWIN_*`` settings of the environment; without a Kafka in them,
            the running local stack.
        name: identifies the publisher in the header ``ce_source``.

    Raises:
        NoKafkaAddress: when the settings name no Kafka and no local stack is running.
        KafkaUnavailable: by ``async with`` when no broker answers within ``kafka_connect_timeout_s`` of the settings, and by each
            method that publishes when an event is not acknowledged.
    """

    def __init__(self, settings: Settings | None = None, *, name: str = "client") -> None:
        self._settings = settings_with_kafka(settings or Settings())
        self._name = name
        self._clients = AsyncExitStack()
        self._producer: AIOKafkaProducer | None = None
        self._dispatcher: asyncio.Task[None] | None = None
        self._dispatcher_lock = asyncio.Lock()
        self._pending: defaultdict[bytes, set[asyncio.Future[SimulationAnswer]]] = defaultdict(set)

    async def __aenter__(self) -> Self:
        with self._kafka_failures():
            self._producer = await self._clients.enter_async_context(open_producer(self._settings))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._dispatcher is not None:
            self._dispatcher.cancel()
        await self._clients.aclose()

    async def request(self, request: SimulationRequest, *, timeout_s: float = 60.0) -> SimulationAnswer:
        """Publish a request and wait for its answer; the same request published again gets the same answer.

        Raises:
            NoAnswer: after ``timeout_s``, whatever was waited for; a request that was published will be answered.
        """
        key = str(request.simulation_id).encode()
        answer: asyncio.Future[SimulationAnswer] = asyncio.get_running_loop().create_future()
        self._pending[key].add(answer)
        waits_for = f"Kafka at {self._settings.kafka_bootstrap} does not answer"
        try:
            async with asyncio.timeout(timeout_s):
                dispatcher = await self._start_dispatcher()
                await self.publish(request)
                waits_for = "is a worker with the role simulation running?"
                ends: set[asyncio.Future[Any]] = {answer, dispatcher}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except NoAnswer:
            raise
        except TimeoutError:
            raise NoAnswer(
                f"no answer to simulation {request.simulation_id} within {max(timeout_s, 0.0):.3g} s: {waits_for}"
            ) from None
        finally:
            self._discard(key, answer)
        if not answer.done():
            dispatcher.result()
        return await answer

    async def publish(self, event: Event) -> None:
        """Publish an event on the topic of its class and wait for the acknowledgement."""
        with self._kafka_failures():
            await (await self._send(event))

    async def publish_outcomes(
        self,
        outcomes: Iterable[OutcomeEvent] | pd.DataFrame,
        *,
        own_features: Collection[str] = (),
        partition: int | None = None,
        progress: Callable[[int], object] = lambda _count: None,
    ) -> int:
        """Publish outcomes, or a table with one outcome per row, and return their number once all are acknowledged.

        Args:
            outcomes: events, or a table as :func:`~streams.client.outcome_table.outcome_events` reads it.
            own_features: of a table, columns that are features of the line's models beyond those of the twin type.
            partition: sends all of them to this one, whatever their ids.
            progress: called with the number of acknowledged outcomes, about every thousand.

        Raises:
            ValueError: for a row of a table that is not an outcome; then nothing is published.
        """
        events = _events(outcomes, own_features)
        count = 0
        while batch := list(islice(events, BATCH)):
            with self._kafka_failures():
                await asyncio.gather(*[await self._send(event, partition) for event in batch])
            count += len(batch)
            progress(count)
        return count

    async def publish_bytes(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
        *,
        partition: int | None = None,
    ) -> tuple[int, int]:
        """Publish bytes as they are, and return partition and offset once they are acknowledged."""
        with self._kafka_failures():
            metadata = await self._open_producer().send_and_wait(
                topic, key=key, value=value, headers=headers or [], partition=partition
            )
        return metadata.partition, metadata.offset

    @contextmanager
    def _kafka_failures(self) -> Iterator[None]:
        """Replace the errors of an outage inside by :class:`KafkaUnavailable`."""
        try:
            yield
        except KafkaError as error:
            if not is_transient(error):
                raise
            address = self._settings.kafka_bootstrap
            raise KafkaUnavailable(f"Kafka at {address} cannot be reached or does not answer (TWIN_KAFKA_BOOTSTRAP)") from error

    async def _send(self, event: Event, partition: int | None = None) -> Awaitable[Any]:
        acknowledgement: Awaitable[Any] = await self._open_producer().send(
            topic_of(type(event)),
            key=_key(event).encode(),
            value=event_value(event),
            partition=partition,
            headers=event_headers(event, self._name),
        )
        return acknowledgement

    def _open_producer(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise RuntimeError("the client is not open: use it as `async with TwinClient(...) as client`")
        return self._producer

    async def _start_dispatcher(self) -> asyncio.Task[None]:
        """Start to read answers at the first request."""
        async with self._dispatcher_lock:
            if self._dispatcher is None:
                with self._kafka_failures():
                    consumer = await self._clients.enter_async_context(open_consumer(self._settings))
                    partitions = await self._open_producer().partitions_for(ANSWERS)
                    await _seek_to_end(consumer, [TopicPartition(ANSWERS, partition) for partition in partitions])
                self._dispatcher = asyncio.create_task(self._dispatch(consumer))
            return self._dispatcher

    async def _dispatch(self, consumer: AIOKafkaConsumer) -> None:
        """Hand every answer to the requests that wait for it; a record that is no answer to them does not end their wait."""
        async for record in consumer:
            waiting = [future for future in self._pending.get(record.key or b"", ()) if not future.done()]
            answer = _read_answer(record) if waiting else None
            if answer is not None:
                for future in waiting:
                    future.set_result(answer)

    def _discard(self, key: bytes, answer: asyncio.Future[SimulationAnswer]) -> None:
        self._pending[key].discard(answer)
        if not self._pending[key]:
            del self._pending[key]


def _events(outcomes: Iterable[OutcomeEvent] | pd.DataFrame, own_features: Collection[str]) -> Iterator[OutcomeEvent]:
    import pandas as pd  # noqa: PLC0415  # a program that publishes no outcomes does without it

    from streams.client.outcome_table import outcome_events  # noqa: PLC0415  # imports pandas

    if not isinstance(outcomes, pd.DataFrame):
        return iter(outcomes)
    for _ in outcome_events(outcomes, own_features=own_features):  # the whole table is checked before its first row is published
        pass
    return outcome_events(outcomes, own_features=own_features)


async def _seek_to_end(consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
    """Read records from now on, of all partitions: every client sees every answer."""
    consumer.assign(partitions)
    for partition, end in (await consumer.end_offsets(partitions)).items():
        consumer.seek(partition, end)


def _read_answer(record: ConsumerRecord[bytes | None, bytes | None]) -> SimulationAnswer | None:
    """The answer that a record carries; None for one that is none, or one to another request than its key names."""
    try:
        answer = SimulationAnswer.model_validate_json(record.value or b"", context={ANSWERED: True})
        problem = f"it answers simulation {answer.simulation_id}, and has the key {shorten(record.key)}"
    except ValueError as error:
        answer, problem = None, describe_error(error)
    if answer is not None and str(answer.simulation_id).encode() == record.key:
        return answer
    LOG.warning("%s:%d:%d is no answer of the service and is ignored: %s", record.topic, record.partition, record.offset, problem)
    return None


def _key(event: Event) -> str:
    match event:
        case SimulationRequest() | SimulationAnswer():
            return str(event.simulation_id)
        case TrainingRequest():
            return str(event.training_id)
        case OutcomeEvent():
            return str(event.event_id)
        case EffectsEvent():
            return event.key
    return str(getattr(event, "line", ""))

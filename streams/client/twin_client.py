"""The client for programs of others: ask for a simulation and wait for its answer; tell what really happened.

Example::

    async with TwinClient(Settings()) as client:
        answer = await client.request(request)
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from itertools import islice
from types import TracebackType
from typing import Any, Self

import pandas as pd
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas import Event, ExperimentResult, OutcomeEvent, SimulationAnswer, SimulationRequest
from streams.client.outcome_table import outcome_events
from streams.kafka.clients import open_consumer, open_producer
from streams.kafka.records import Headers, event_headers, event_value
from streams.kafka.topics import topic_of
from streams.settings import Settings

__all__ = ["NoAnswer", "TwinClient"]

ANSWERS = topic_of(SimulationAnswer)
BATCH = 1000


class NoAnswer(TimeoutError):
    """Nobody answered in time."""


class TwinClient:
    """Publishes events, every one acknowledged by all replicas, and waits for the answers to requests.

    Args:
        settings: where Kafka is and how to speak to it.
        name: who publishes, told in the header ``ce_source``.
    """

    def __init__(self, settings: Settings, *, name: str = "client") -> None:
        self._settings = settings
        self._name = name
        self._producer: AIOKafkaProducer | None = None
        self._clients = AsyncExitStack()
        self._listening: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._waiting: defaultdict[bytes, set[asyncio.Future[SimulationAnswer]]] = defaultdict(set)

    async def __aenter__(self) -> Self:
        self._producer = await self._clients.enter_async_context(open_producer(self._settings))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._listening is not None:
            self._listening.cancel()
        await self._clients.aclose()

    async def request(self, request: SimulationRequest, *, timeout_s: float = 60.0) -> SimulationAnswer:
        """Publish a request and wait for its answer; the same request again has the same answer.

        Raises:
            NoAnswer: after ``timeout_s``; the request stays published and will be answered.
        """
        listening = await self._listen()
        key = str(request.simulation_id).encode()
        answer: asyncio.Future[SimulationAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[key].add(answer)
        try:
            await self.publish(request)
            first: set[asyncio.Future[Any]] = {answer, listening}
            await asyncio.wait(first, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._forget(key, answer)
        if answer.done():
            return answer.result()
        if listening.done():
            listening.result()
        raise NoAnswer(
            f"no answer to simulation {request.simulation_id} within {timeout_s:g} s: does a worker with the role simulation run?"
        )

    async def publish(self, event: Event) -> None:
        """Publish an event on the topic of its class and wait for the acknowledgement."""
        await (await self._send(event))

    async def publish_outcomes(
        self,
        outcomes: Iterable[OutcomeEvent] | pd.DataFrame,
        *,
        progress: Callable[[int], object] = lambda _count: None,
    ) -> int:
        """Publish outcomes, or the rows of a table of them, and give their number once all are acknowledged.

        ``progress`` is told how many are acknowledged so far, about every thousand.

        Raises:
            ValueError: for a row that is no outcome; the rows before it are published.
        """
        rest = iter(outcome_events(outcomes) if isinstance(outcomes, pd.DataFrame) else outcomes)
        count = 0
        while batch := list(islice(rest, BATCH)):
            await asyncio.gather(*[await self._send(event) for event in batch])
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
        """Publish bytes as they are, and give partition and offset once they are acknowledged."""
        done = await self._started().send_and_wait(topic, key=key, value=value, headers=headers or [], partition=partition)
        return done.partition, done.offset

    async def _send(self, event: Event) -> Awaitable[Any]:
        sent: Awaitable[Any] = await self._started().send(
            topic_of(type(event)), key=_key(event).encode(), value=event_value(event), headers=event_headers(event, self._name)
        )
        return sent

    def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise RuntimeError("the client is not open: use it as `async with TwinClient(...) as client`")
        return self._producer

    async def _listen(self) -> asyncio.Task[None]:
        async with self._opening:
            if self._listening is None:
                consumer = await self._clients.enter_async_context(open_consumer(self._settings))
                partitions = await self._started().partitions_for(ANSWERS)
                await _stand_at_end(consumer, [TopicPartition(ANSWERS, partition) for partition in partitions])
                self._listening = asyncio.create_task(self._hand_out(consumer))
            return self._listening

    async def _hand_out(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            for future in self._waiting.get(record.key or b"", ()):
                _resolve(future, record.value or b"")

    def _forget(self, key: bytes, answer: asyncio.Future[SimulationAnswer]) -> None:
        self._waiting[key].discard(answer)
        if not self._waiting[key]:
            del self._waiting[key]


async def _stand_at_end(consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
    """Read what is written from now on; without a group, so that every client hears every answer."""
    consumer.assign(partitions)
    for partition, end in (await consumer.end_offsets(partitions)).items():
        consumer.seek(partition, end)


def _resolve(future: asyncio.Future[SimulationAnswer], value: bytes) -> None:
    if future.done():
        return
    try:
        future.set_result(SimulationAnswer.model_validate_json(value))
    except ValueError as error:
        future.set_exception(error)


def _key(event: Event) -> str:
    match event:
        case SimulationRequest() | SimulationAnswer():
            return str(event.simulation_id)
        case OutcomeEvent():
            return str(event.event_id)
        case ExperimentResult():
            return event.line
    return str(getattr(event, "line", ""))

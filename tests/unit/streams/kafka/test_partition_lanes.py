"""Partitions side by side: one that waits holds up no other, and is not polled while many of its batches wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from faust.transport import consumer as faust_consumer
from faust.types import TP

from streams.kafka import batch_consumer
from streams.kafka.batch_consumer import BatchConsumer, PollBatch
from streams.kafka.partition_lanes import PartitionLanes, process_in_lanes
from streams.outages import OUTAGES
from tests.polling import until

TOPIC = "outcome-events"


class Stream:
    """Yields events that a test adds."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    def add(self, partition: int, number: int, n_bytes: int = 100) -> None:
        batch: Any = PollBatch(TOPIC, partition, 0, [Polled(number, b"x" * n_bytes)])  # type: ignore[list-item]  # what lanes read
        self.queue.put_nowait(SimpleNamespace(value=batch, message=Message(TP(TOPIC, partition), batch)))

    async def events(self) -> AsyncIterator[Any]:
        while True:
            yield await self.queue.get()


class Polled(NamedTuple):
    offset: int
    value: bytes
    key: bytes = b""


class Message(NamedTuple):
    tp: TP
    value: Any


class Service:
    """Lanes whose batches are stored when their partition is open."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.consumer = SimpleNamespace(held=set())
        self.open = {partition: asyncio.Event() for partition in range(2)}
        self.stored: list[tuple[int, int]] = []
        self.in_progress = {0: 0, 1: 0}
        self.most_in_progress = {0: 0, 1: 0}
        self.lanes = PartitionLanes(self.process)
        self.task = asyncio.create_task(self.lanes.run(self.stream, lambda: self.consumer))  # type: ignore[arg-type, return-value]

    async def process(self, event: Any, previous: asyncio.Event | None, stored: asyncio.Event) -> None:
        batch = event.value
        self.in_progress[batch.partition] += 1
        self.most_in_progress[batch.partition] = max(self.most_in_progress.values())
        try:
            if previous is not None:
                await previous.wait()
            await self.open[batch.partition].wait()
            self.stored.append((batch.partition, batch.first_offset))
            stored.set()
        finally:
            self.in_progress[batch.partition] -= 1

    async def settle(self) -> None:
        for _ in range(200):
            await asyncio.sleep(0)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    yield service
    service.task.cancel()
    await asyncio.wait([service.task])


async def test_batches_of_a_partition_are_stored_in_order_and_few_at_a_time(service: Service):
    service.open[0].set()
    for number in range(50):
        service.stream.add(0, number)
    await service.settle()
    assert service.stored == [(0, number) for number in range(50)]
    assert service.most_in_progress[0] <= 3


async def test_a_partition_that_waits_is_held_and_the_others_go_on(service: Service):
    service.open[1].set()
    for number in range(30):
        service.stream.add(0, number)
    for number in range(30):
        service.stream.add(1, number)
    await service.settle()
    assert service.stored == [(1, number) for number in range(30)]
    assert service.consumer.held == {TP(TOPIC, 0)}

    service.open[0].set()
    await service.settle()
    assert service.stored[30:] == [(0, number) for number in range(30)]
    assert service.consumer.held == set()


async def test_a_partition_is_held_while_a_large_batch_of_it_is_not_processed(service: Service):
    service.open[1].set()
    service.stream.add(0, 0, n_bytes=60_000_000)
    service.stream.add(1, 0, n_bytes=1_000_000)
    await service.settle()
    assert service.consumer.held == {TP(TOPIC, 0)}
    assert service.stored == [(1, 0)]

    service.open[0].set()
    await service.settle()
    assert service.consumer.held == set()


async def test_lanes_that_are_cancelled_finish_nothing_and_take_new_batches(service: Service):
    for number in range(30):
        service.stream.add(0, number)
    await service.settle()
    service.lanes.cancel()
    assert service.consumer.held == set()
    service.open[0].set()
    service.stream.add(0, 100)
    await service.settle()
    assert service.stored == [(0, 100)]
    assert service.in_progress[0] == 0


async def test_batches_that_are_not_in_work_are_dropped_before_a_rebalance_and_those_in_work_finish(service: Service):
    for number in range(30):
        service.stream.add(0, number)
    await service.settle()
    assert [event.value.first_offset for event in service.lanes.drop_waiting()] == list(range(3, 30))
    assert service.consumer.held == set()
    service.open[0].set()
    await service.settle()
    assert service.stored == [(0, 0), (0, 1), (0, 2)]
    assert service.consumer.lanes is service.lanes


async def test_a_batch_that_waits_keeps_no_rebalance_from_ending(
    service: Service, consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch
):
    async def never(_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(batch_consumer, "_FINISH_S", 0.01)
    monkeypatch.setattr(faust_consumer.Consumer, "wait_empty", never)
    monkeypatch.setattr(consumer, "log", SimpleNamespace(warning=lambda *_: None), raising=False)
    consumer.lanes = service.lanes
    monkeypatch.setattr(consumer, "_unacked_messages", set(), raising=False)
    service.stream.add(0, 0)
    await service.settle()
    await consumer.wait_empty()
    await service.settle()
    assert service.in_progress[0] == 0


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> BatchConsumer:
    consumer = object.__new__(BatchConsumer)
    consumer.held, consumer.lanes = set(), None
    consumer._unacked_messages, consumer.app = set(), SimpleNamespace(batch_topics={TOPIC})

    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(consumer, "sleep", sleep, raising=False)
    return consumer


async def test_held_partitions_are_not_polled(consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch):
    polled: list[Any] = []

    async def getmany(_: Any, partitions: Any, timeout: float) -> dict[TP, Any]:  # noqa: ASYNC109  # Faust's signature
        polled.append(partitions)
        return {}

    monkeypatch.setattr(faust_consumer.ThreadDelegateConsumer, "_getmany", getmany)
    active = {TP(TOPIC, 0), TP(TOPIC, 1)}
    await consumer._getmany(active, 1.0)
    consumer.held = {TP(TOPIC, 0)}
    await consumer._getmany(active, 1.0)
    consumer.held = set(active)
    assert await consumer._getmany(active, 1.0) == {}
    assert polled == [active, {TP(TOPIC, 1)}]
    assert active == {TP(TOPIC, 0), TP(TOPIC, 1)}


async def test_nothing_is_polled_while_large_records_are_not_processed(consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch):
    polled: list[Any] = []

    async def getmany(_: Any, partitions: Any, timeout: float) -> dict[TP, Any]:  # noqa: ASYNC109  # Faust's signature
        polled.append(partitions)
        return {}

    monkeypatch.setattr(faust_consumer.ThreadDelegateConsumer, "_getmany", getmany)
    messages = [
        Message(TP(topic, 0), value) for topic, value in (("other", b" " * 20_000_000), ("other", None), (TOPIC, "a batch"))
    ]
    consumer._unacked_messages = {*messages}
    await consumer._getmany({TP("other", 0)}, 1.0)
    consumer._unacked_messages.add(Message(TP("other", 1), b" " * 20_000_000))
    assert await consumer._getmany({TP("other", 0)}, 1.0) == {}
    assert polled == [{TP("other", 0)}]
    consumer._unacked_messages.discard(messages[0])
    await consumer._getmany({TP("other", 0)}, 1.0)
    assert len(polled) == 2


async def test_a_missing_permission_to_read_is_an_outage_and_ends_nothing(consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch):
    errors: list[Exception] = [TopicAuthorizationFailedError(TOPIC), TopicAuthorizationFailedError(TOPIC)]

    async def getmany(*_: Any) -> dict[TP, Any]:
        if errors:
            raise errors.pop()
        return {TP(TOPIC, 0): []}

    monkeypatch.setattr(faust_consumer.ThreadDelegateConsumer, "_getmany", getmany)
    monkeypatch.setattr(batch_consumer, "_REFUSED_S", 0.0)
    assert await consumer._getmany(None, 1.0) == {}
    assert OUTAGES.is_out("kafka")
    assert await consumer._getmany(None, 1.0) == {}
    assert await consumer._getmany(None, 1.0) == {TP(TOPIC, 0): []}
    assert not OUTAGES.is_out("kafka")

    errors.append(ValueError("unforeseen"))
    with pytest.raises(ValueError, match="unforeseen"):
        await consumer._getmany(None, 1.0)


class RecordStream(Stream):
    """A stream of single records, whose acknowledgements a test reads."""

    def __init__(self) -> None:
        super().__init__()
        self.acknowledged: list[Any] = []

    def add(self, partition: int, number: int, n_bytes: int = 1) -> None:
        self.queue.put_nowait(SimpleNamespace(value=b"", number=number, message=Message(TP(TOPIC, partition), b"x" * n_bytes)))

    def noack(self) -> RecordStream:
        return self

    async def ack(self, event: Any) -> None:
        self.acknowledged.append(event)

    async def has_acknowledged(self, count: int) -> bool:
        return len(self.acknowledged) >= count


async def test_a_flood_of_records_on_one_partition_holds_up_no_other_and_is_not_polled_further():
    stream, consumer, slow = RecordStream(), SimpleNamespace(held=set()), asyncio.Event()

    async def process(event: Any) -> None:
        if event.message.tp.partition == 0:
            await slow.wait()

    task = asyncio.create_task(process_in_lanes(stream, lambda: consumer, process))  # type: ignore[arg-type, return-value]
    for number in range(1000):
        stream.add(0, number)
    stream.add(1, 7)
    stream.add(2, 8, n_bytes=5_000_000)
    await until(lambda: stream.has_acknowledged(2), within_s=10)
    assert {event.number for event in stream.acknowledged} == {7, 8}
    assert consumer.held == {TP(TOPIC, 0)}
    slow.set()
    await until(lambda: stream.has_acknowledged(1002), within_s=10)
    assert [event.number for event in stream.acknowledged if event.message.tp.partition == 0] == list(range(1000))
    assert consumer.held == set()
    task.cancel()

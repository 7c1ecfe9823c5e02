"""Partitions side by side: one that waits holds up no other, and is not polled while many of its batches wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from faust.transport import consumer as faust_consumer
from faust.types import TP

from streams.kafka import batch_consumer
from streams.kafka.batch_consumer import BatchConsumer
from streams.kafka.partition_lanes import PartitionLanes
from streams.outages import OUTAGES

TOPIC = "outcome-events"


class Stream:
    """Yields events that a test adds."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    def add(self, partition: int, number: int, n_bytes: int = 100) -> None:
        batch = SimpleNamespace(topic=TOPIC, partition=partition, number=number, n_bytes=n_bytes)
        self.queue.put_nowait(SimpleNamespace(value=batch))

    async def events(self) -> AsyncIterator[Any]:
        while True:
            yield await self.queue.get()


class Service:
    """Lanes whose batches are stored when their partition is open."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.consumer = SimpleNamespace(held=set())
        self.open = {partition: asyncio.Event() for partition in range(2)}
        self.stored: list[tuple[int, int]] = []
        self.in_progress = {0: 0, 1: 0}
        self.most_in_progress = {0: 0, 1: 0}
        self.lanes = PartitionLanes(self.process, 100_000_000)
        self.task = asyncio.create_task(self.lanes.run(self.stream, lambda: self.consumer))  # type: ignore[arg-type, return-value]

    async def process(self, event: Any, previous: asyncio.Event | None, stored: asyncio.Event) -> None:
        batch = event.value
        self.in_progress[batch.partition] += 1
        self.most_in_progress[batch.partition] = max(self.most_in_progress.values())
        try:
            if previous is not None:
                await previous.wait()
            await self.open[batch.partition].wait()
            self.stored.append((batch.partition, batch.number))
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


async def test_many_partitions_with_large_records_are_bounded_together_and_none_starves():
    """48 partitions with an endless backlog of records of 8 MiB, of which two never finish any."""
    mebibyte = 1024 * 1024
    record_bytes = 8 * mebibyte - 1  # memory is not returned after each of them, which would take the most time here
    every = {TP(TOPIC, number) for number in range(48)}
    stuck, stream, done = asyncio.Event(), Stream(), dict.fromkeys(range(48), 0)

    async def process(event: Any, previous: asyncio.Event | None, stored: asyncio.Event) -> None:
        if event.value.partition < 2:
            await stuck.wait()
        await asyncio.sleep(0)
        done[event.value.partition] += 1
        stored.set()

    consumer: Any = SimpleNamespace(held=set())
    lanes = PartitionLanes(process, 64 * mebibyte)
    task = asyncio.create_task(lanes.run(stream, lambda: consumer))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    largest = 0
    for _ in range(600):
        for tp in sorted(lanes.choose_polled(every - consumer.held))[:2]:  # a poll ends with the second of them
            stream.add(tp.partition, 0, n_bytes=record_bytes)
        await asyncio.sleep(0)
        largest = max(largest, sum(lane.n_bytes for lane in lanes._lanes.values()))
    task.cancel()
    await asyncio.wait([task])
    assert largest <= (64 + 2 * 16) * mebibyte  # a poll that was begun before the one before it was counted
    assert [partition for partition, n in done.items() if not n] == [0, 1]


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
    assert [event.value.number for event in service.lanes.drop_waiting()] == list(range(3, 30))
    assert service.consumer.held == set()
    service.open[0].set()
    await service.settle()
    assert service.stored == [(0, 0), (0, 1), (0, 2)]
    assert service.consumer.lanes is service.lanes


async def test_a_batch_that_waits_keeps_no_rebalance_from_ending(
    service: Service, consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch
):
    warnings = before_a_rebalance(consumer, service, monkeypatch, messages=[Message(acked=False)])
    service.stream.add(0, 0)
    await service.settle()
    await consumer.wait_empty()
    await service.settle()
    assert service.in_progress[0] == 0
    assert warnings == ["what is in work takes longer than %s s: it is delivered again", "committed"]


async def test_a_batch_that_finishes_in_time_is_committed_before_the_rebalance(
    service: Service, consumer: BatchConsumer, monkeypatch: pytest.MonkeyPatch
):
    message = Message(acked=False)
    steps = before_a_rebalance(consumer, service, monkeypatch, messages=[message])
    asyncio.get_running_loop().call_later(0.01, setattr, message, "acked", True)
    await consumer.wait_empty()
    assert steps == ["committed"]


class Message:
    """A batch as Faust counts it."""

    def __init__(self, *, acked: bool) -> None:
        self.acked = acked


def before_a_rebalance(
    consumer: BatchConsumer, service: Service, monkeypatch: pytest.MonkeyPatch, messages: list[Message]
) -> list[str]:
    """Prepare a consumer that has messages in work; returns the list of its warnings and commits."""
    steps: list[str] = []

    async def commit() -> None:
        steps.append("committed")

    monkeypatch.setattr(batch_consumer, "_FINISH_S", 0.05)
    monkeypatch.setattr(consumer, "commit_and_end_transactions", commit, raising=False)
    monkeypatch.setattr(consumer, "log", SimpleNamespace(warning=lambda text, *_: steps.append(text)), raising=False)
    monkeypatch.setattr(consumer, "_unacked_messages", set(messages), raising=False)
    consumer.lanes = service.lanes
    return steps


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> BatchConsumer:
    consumer = object.__new__(BatchConsumer)
    consumer.held, consumer.lanes = set(), None

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

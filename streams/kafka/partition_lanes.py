"""Processes the events of each partition in their order, and the partitions side by side: one that waits holds up no other.

An event is a batch of records, or a single record. Without lanes, thousands of refused records on one partition would be processed
before the next record of any other one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from faust.types import TP

from streams.kafka.batch_consumer import BatchConsumer, PollBatch
from streams.kafka.memory import release_after

__all__ = ["PartitionLanes", "ProcessEvent", "process_in_lanes"]

ProcessEvent: TypeAlias = Callable[[Any, asyncio.Event | None, asyncio.Event], Coroutine[Any, Any, None]]
"""Processes an event. It stores it after the second argument is set, sets the third, and raises nothing."""


@dataclass(frozen=True)
class LaneLimits:
    """Limits of a lane.

    Attributes:
        in_progress: most events that are processed at a time.
        waiting: a partition with so many events that wait is not polled, until it has ``few`` of them.
        max_bytes: nor is one whose events that are not processed yet have so many bytes.
    """

    in_progress: int
    waiting: int
    few: int
    max_bytes: int


_BATCHES = LaneLimits(in_progress=3, waiting=12, few=6, max_bytes=16 * 1024 * 1024)
_RECORDS = LaneLimits(in_progress=1, waiting=200, few=100, max_bytes=4 * 1024 * 1024)


async def process_in_lanes(stream: Any, consumer: Callable[[], BatchConsumer], process: Callable[[Any], Awaitable[None]]) -> None:
    """Process each event of a stream with ``process``, which raises nothing, one after another of each partition."""
    unacknowledged = stream.noack()

    async def process_and_acknowledge(event: Any, _: asyncio.Event | None, stored: asyncio.Event) -> None:
        await process(event)
        stored.set()
        await unacknowledged.ack(event)

    await PartitionLanes(process_and_acknowledge, _RECORDS).run(unacknowledged, consumer)


class PartitionLanes:
    """The events that were delivered and are not processed yet, by partition.

    A few batches of a partition are in progress at a time, so that the next ones are decoded and scored while Postgres works on the
    one before them. A partition with many waiting events, or large ones, is not polled until it has few. After a large event its
    memory is returned to the system.

    Args:
        process: processes one event.
        limits: of each lane, by default those for batches.
    """

    def __init__(self, process: ProcessEvent, limits: LaneLimits = _BATCHES) -> None:
        self._process, self._limits = process, limits
        self._lanes: dict[TP, _Lane] = {}

    async def run(self, stream: Any, consumer: Callable[[], BatchConsumer]) -> None:
        """Pass the events of a stream to the lanes of their partitions."""
        consumer().lanes = self
        try:
            async for event in stream.events():
                tp = event.message.tp
                if tp not in self._lanes:
                    self._lanes[tp] = _Lane(tp, self._process, self._limits, consumer().held)
                self._lanes[tp].add(event)
        finally:
            self.cancel()

    def drop_waiting(self) -> list[Any]:
        """Drop the events that are not in work, and return them: after an assignment they are delivered again."""
        return [event for lane in self._lanes.values() for event in lane.drop_waiting()]

    def cancel(self) -> None:
        """End the work on all events, as a kill would: after an assignment they are delivered again."""
        for lane in self._lanes.values():
            lane.cancel()
        self._lanes.clear()


class _Lane:
    """The events of one partition."""

    def __init__(self, tp: TP, process: ProcessEvent, limits: LaneLimits, held: set[TP]) -> None:
        self._tp = tp
        self._process, self._limits = process, limits
        self._held = held
        self._waiting: asyncio.Queue[Any] = asyncio.Queue()
        self._in_progress = asyncio.Semaphore(limits.in_progress)
        self._n_bytes = 0
        self._tasks = {asyncio.create_task(self._run())}

    def add(self, event: Any) -> None:
        self._n_bytes += _size_of(event)
        self._waiting.put_nowait(event)
        if self._waiting.qsize() >= self._limits.waiting or self._n_bytes >= self._limits.max_bytes:
            self._held.add(self._tp)

    def drop_waiting(self) -> list[Any]:
        self._held.discard(self._tp)
        events = [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]
        self._n_bytes -= sum(map(_size_of, events))
        return events

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._held.discard(self._tp)

    def _release(self) -> None:
        """Let the partition be polled again when few events wait, and no large ones."""
        if self._waiting.qsize() <= self._limits.few and self._n_bytes < self._limits.max_bytes:
            self._held.discard(self._tp)

    async def _run(self) -> None:
        previous: asyncio.Event | None = None
        while True:
            await self._in_progress.acquire()
            event, stored = await self._waiting.get(), asyncio.Event()
            self._release()
            task = asyncio.create_task(self._process(event, previous, stored))
            self._tasks.add(task)
            task.add_done_callback(partial(self._on_done, _size_of(event)))
            previous = stored

    def _on_done(self, n_bytes: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._in_progress.release()
        self._n_bytes -= n_bytes
        self._release()
        asyncio.get_running_loop().call_soon(release_after, n_bytes)  # after this task has let go of its batch


def _size_of(event: Any) -> int:
    """Bytes of a batch, or of the value of a record."""
    return event.value.n_bytes if isinstance(event.value, PollBatch) else len(event.message.value or b"")

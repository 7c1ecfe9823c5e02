"""Processes the batches of each partition in their order, and the partitions side by side: one that waits holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import count
from typing import Any, TypeAlias

from faust.types import TP

from streams.kafka.batch_consumer import BatchConsumer
from streams.kafka.memory import release_after

__all__ = ["PartitionLanes", "ProcessBatch"]

ProcessBatch: TypeAlias = Callable[[Any, asyncio.Event | None, asyncio.Event], Coroutine[Any, Any, None]]
"""Processes an event with a batch. It stores the batch after the second argument is set, sets the third, and raises nothing."""

_MAX_IN_PROGRESS = 3
_MAX_WAITING, _FEW_WAITING = 12, 6
_MAX_BYTES = 16 * 1024 * 1024  # of the batches of a partition that are not processed yet


class PartitionLanes:
    """The batches that were delivered and are not processed yet, by partition.

    A few batches of a partition are in progress at a time, so that the next ones are decoded and scored while Postgres works on the
    one before them. A partition with many waiting batches, or large ones, is not polled until it has few. While the batches of all
    partitions are large together, only partitions without any are polled, one at a time in turn: one that waits starves no other.
    After a large batch its memory is returned to the system.

    Args:
        process: processes one batch.
        max_bytes: of the batches of all partitions, above which few are polled.
    """

    def __init__(self, process: ProcessBatch, max_bytes: int) -> None:
        self._process = process
        self._max_bytes = max_bytes
        self._lanes: dict[TP, _Lane] = {}
        self._last_turn: dict[TP, int] = {}  # of the partitions that were polled alone
        self._turns = count(1)

    async def run(self, stream: Any, consumer: Callable[[], BatchConsumer]) -> None:
        """Pass the events of a stream to the lanes of their partitions."""
        consumer().lanes = self
        try:
            async for event in stream.events():
                tp = TP(event.value.topic, event.value.partition)
                if tp not in self._lanes:
                    self._lanes[tp] = _Lane(tp, self._process, consumer().held)
                self._lanes[tp].add(event)
        finally:
            self.cancel()

    def choose_polled(self, tps: set[TP]) -> set[TP]:
        """Those of the partitions that are to be polled now."""
        if sum(lane.n_bytes for lane in self._lanes.values()) < self._max_bytes:
            return tps
        idle = [tp for tp in tps if tp not in self._lanes or not self._lanes[tp].n_bytes]
        if not idle:
            return set()
        next_polled = min(idle, key=lambda tp: (self._last_turn.get(tp, 0), tp))
        self._last_turn[next_polled] = next(self._turns)
        return {next_polled}

    def drop_waiting(self) -> list[Any]:
        """Drop the batches that are not in work, and return their events: after an assignment they are delivered again."""
        return [event for lane in self._lanes.values() for event in lane.drop_waiting()]

    def cancel(self) -> None:
        """End the work on all batches, as a kill would: after an assignment they are delivered again."""
        for lane in self._lanes.values():
            lane.cancel()
        self._lanes.clear()


class _Lane:
    """The batches of one partition."""

    def __init__(self, tp: TP, process: ProcessBatch, held: set[TP]) -> None:
        self._tp = tp
        self._process = process
        self._held = held
        self._waiting: asyncio.Queue[Any] = asyncio.Queue()
        self._in_progress = asyncio.Semaphore(_MAX_IN_PROGRESS)
        self.n_bytes = 0
        self._tasks = {asyncio.create_task(self._run())}

    def add(self, event: Any) -> None:
        self.n_bytes += event.value.n_bytes
        self._waiting.put_nowait(event)
        if self._waiting.qsize() >= _MAX_WAITING or self.n_bytes >= _MAX_BYTES:
            self._held.add(self._tp)

    def drop_waiting(self) -> list[Any]:
        self._held.discard(self._tp)
        events = [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]
        self.n_bytes -= sum(event.value.n_bytes for event in events)
        return events

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._held.discard(self._tp)

    def _release(self) -> None:
        """Let the partition be polled again when few batches wait, and no large ones."""
        if self._waiting.qsize() <= _FEW_WAITING and self.n_bytes < _MAX_BYTES:
            self._held.discard(self._tp)

    async def _run(self) -> None:
        previous: asyncio.Event | None = None
        while True:
            await self._in_progress.acquire()
            event, stored = await self._waiting.get(), asyncio.Event()
            self._release()
            task = asyncio.create_task(self._process(event, previous, stored))
            self._tasks.add(task)
            task.add_done_callback(partial(self._on_done, event.value.n_bytes))
            previous = stored

    def _on_done(self, n_bytes: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._in_progress.release()
        self.n_bytes -= n_bytes
        self._release()
        asyncio.get_running_loop().call_soon(release_after, n_bytes)  # after this task has let go of its batch

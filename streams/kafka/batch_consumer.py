"""A Kafka consumer that hands an agent one poll slice of a partition as one event.

Stock Faust makes several asyncio tasks a record, more than half of its cost. Topics in ``app.slices`` are handed over in slices
instead: order within the partition, at-least-once (acknowledging the event acknowledges the whole slice) and the checks of flow
and generation at a rebalance stay as they are. Offsets are committed up to the end of the longest run of acknowledged slices.

Everything here leans on private methods of one version of Faust: ``tests/contracts/test_faust_internals.py`` watches them.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

__all__ = [
    "MAX_BATCH_BYTES",
    "BatchConsumer",
    "BatchSchema",
    "BatchTransport",
    "PollBatch",
    "StartOffset",
    "StartOffsetFinder",
    "split_records",
]


MAX_BATCH_BYTES = 2 * 1024 * 1024
"""Values of a slice: a record may carry an array of outcomes, and a slice is one transaction."""


@dataclass(frozen=True)
class StartOffset:
    """Where reading a partition begins, and which incarnation of its topic that is."""

    offset: int
    incarnation: int = 0


@dataclass(frozen=True)
class PollBatch:
    """Records of one partition in the order of their offsets, never empty."""

    topic: str
    partition: int
    incarnation: int
    records: Sequence[ConsumerRecord[bytes | None, bytes | None]]

    @property
    def first_offset(self) -> int:
        """Offset of the first record."""
        return int(self.records[0].offset)

    @property
    def last_offset(self) -> int:
        """Offset of the last record."""
        return int(self.records[-1].offset)


class StartOffsetFinder(Protocol):
    """Tells where to begin, given the group's committed offsets (null where there is none)."""

    async def __call__(self, committed: Mapping[TP, int | None]) -> Mapping[TP, StartOffset]: ...  # noqa: D102


class BatchSchema(faust.Schema):  # type: ignore[misc]  # untyped
    """Hands a slice to the agent as it is."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> None:
        """Slices have no key."""

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:  # noqa: ARG002  # Faust's signature
        """The slice."""
        return message.value


class BatchConsumer(driver.Consumer):  # type: ignore[misc]  # untyped
    """Faust's aiokafka consumer, with slices for the topics in ``app.slices``.

    Attributes:
        polled_at: monotonic time of the last poll, null before the first: a stuck consumer shows.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._delivered: defaultdict[TP, deque[int]] = defaultdict(deque)
        self._starts: dict[TP, StartOffset] = {}
        self._group_offsets: Mapping[TP, int | None] = {}
        self.polled_at: float | None = None
        super().__init__(*args, **kwargs)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109  # Faust's signature
        """Fetch once, and yield messages as long as flow and generation stay what they were."""
        self.polled_at = time.monotonic()
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        if not self.flow_active or self._unplaced(records):
            await self._seek_again()
            return
        for tp, message in self._messages(records):
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if active is None or tp in active or tp in self._buffered_partitions:
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                if self._sliced(tp):
                    self._delivered[tp].append(message.offset)
                yield tp, message

    async def perform_seek(self) -> None:
        """Go back to where each partition has to be read from."""
        await super().perform_seek()
        sliced = {tp for tp in self.assignment() if self._sliced(tp)}
        for tp in sliced:
            self._forget(tp)
        if sliced:
            await self._place(sliced)

    def lag(self) -> dict[TP, int]:
        """Records of each partition that were not acknowledged yet, as far as the broker has told."""
        committed = {tp: self._committed_offset.get(tp) or 0 for tp in self.assignment()}
        return {tp: max((self.highwater(tp) or 0) - offset, 0) for tp, offset in committed.items()}

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        """Seek to the group's offsets, and remember them: Faust takes an offset of 0 for none."""
        self._group_offsets = await super().seek_to_committed()
        return self._group_offsets

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget what was delivered: another worker reads it again."""
        for tp in revoked:
            self._forget(tp)
        await super().on_partitions_revoked(revoked)

    async def _place(self, tps: set[TP]) -> None:
        committed = {tp: self._group_offsets.get(tp) for tp in tps}
        starts = await self.app.find_starts(committed)
        await self.seek_wait({tp: start.offset for tp, start in starts.items()})
        for tp, start in starts.items():
            # an acknowledgement below what counts as committed would be ignored, and hold up every later one
            self._committed_offset[tp] = start.offset or None
        self._starts.update(starts)

    async def _seek_again(self) -> None:
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001  # as in Faust: the next poll tries again
            self.log.warning("cannot go back to where reading begins: %r", error)
            await self.sleep(1.0)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if not self._sliced(tp):
            await super()._add_gap(tp, offset_from, offset_to)

    def _new_offset(self, tp: TP) -> int | None:
        if not self._sliced(tp):
            offset: int | None = super()._new_offset(tp)
            return offset
        delivered, acknowledged = self._delivered[tp], self._acked_index[tp]
        last = None
        while delivered and delivered[0] in acknowledged:
            last = delivered.popleft()
            acknowledged.discard(last)
        if last is None:
            return None
        self._acked[tp][:] = [offset for offset in self._acked[tp] if offset > last]
        return last + 1

    def _sliced(self, tp: TP) -> bool:
        return tp.topic in self.app.slices

    def _unplaced(self, records: Mapping[TP, Any]) -> bool:
        return any(self._sliced(tp) and tp not in self._starts for tp in records)

    def _forget(self, tp: TP) -> None:
        self._delivered.pop(tp, None)
        self._starts.pop(tp, None)
        self._acked.pop(tp, None)
        self._acked_index.pop(tp, None)

    def _messages(self, records: Mapping[TP, Sequence[Any]]) -> Iterator[tuple[TP, Any]]:
        single = {tp: found for tp, found in records.items() if not self._sliced(tp)}
        for tp, record in self.scheduler.iterate(single) if single else ():
            yield tp, self._to_message(tp, record)
        for tp, found in records.items():
            if self._sliced(tp):
                for part in split_records(found, self.app.slice_records, MAX_BATCH_BYTES):
                    yield from self._slice(tp, part)

    def _slice(self, tp: TP, found: Sequence[Any]) -> Iterator[tuple[TP, Any]]:
        read, start = self._read_offset[tp], self._starts.get(tp)
        fresh = [record for record in found if read is None or record.offset >= read]
        if fresh and start is not None:  # the partition may be revoked while slices of it are handed over
            message = self._to_message(tp, fresh[-1])
            message.key, message.value = None, PollBatch(tp.topic, tp.partition, start.incarnation, fresh)
            yield tp, message


def split_records(records: Sequence[Any], most: int, most_bytes: int) -> Iterator[Sequence[Any]]:
    """Parts of at most so many records and, but for a single record, so many bytes of their values.

    Example:
        >>> from types import SimpleNamespace as record
        >>> told = [record(value=b"x" * size) for size in (3, 3, 9, 1, 1, 1)]
        >>> [len(part) for part in cuts(told, 2, 6)]
        [2, 1, 2, 1]
    """
    first, size = 0, 0
    for place, record in enumerate(records):
        length = len(record.value or b"")
        if place > first and (place - first == most or size + length > most_bytes):
            yield records[first:place]
            first, size = place, 0
        size += length
    if len(records):
        yield records[first:]


class BatchTransport(driver.Transport):  # type: ignore[misc]  # untyped
    """Faust's aiokafka transport with this consumer."""

    Consumer = BatchConsumer

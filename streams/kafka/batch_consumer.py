"""A Kafka consumer that delivers the polled records of a partition as one event.

Stock Faust makes several asyncio tasks per record, which is more than half of its cost. Topics in ``app.batch_topics`` are
delivered in poll batches instead. The order within a partition, at-least-once delivery (to acknowledge an event is to acknowledge
its whole batch) and the checks of flow control and generation at a rebalance stay the same. Offsets are committed up to the end of
the longest run of acknowledged batches.

The module depends on private methods of one version of Faust, which ``tests/contracts/test_faust_internals.py`` checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import faust
from aiokafka.errors import ConsumerStoppedError, KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.errors import Subject, subject_of
from streams.kafka.broker_probe import watch_now
from streams.kafka.expired_records import ExpiredRecords, report_expired
from streams.kafka.topic_watch import WATCHED_TOPICS
from streams.outages import OUTAGES

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

__all__ = [
    "BatchConsumer",
    "BatchSchema",
    "BatchTransport",
    "PollBatch",
    "StartOffset",
    "StartOffsetFinder",
]

T = TypeVar("T")

_FINISH_S = 5.0  # for what is in work before a rebalance
_LOOK_S = 0.02  # between two looks whether it is finished
_HELD_S = 0.1  # between two looks whether a partition may be polled again
_REFUSED_S = 1.0  # until a poll for which a permission is missing is tried again
_END_OFFSETS_S = 2.0  # for the broker to state where partitions end
# Most bytes of the values of a batch: a record may carry an array of outcomes, and a batch is one transaction.
_MAX_BATCH_BYTES = 2 * 1024 * 1024
_BYTES_PER_OBJECT, _BYTES_PER_COMMA = 128, 30  # an outcome of 300 to 400 bytes has up to three objects and ten commas


@dataclass(frozen=True)
class StartOffset:
    """The offset where reading a partition starts, and the incarnation of its topic: how often it was created again."""

    offset: int
    incarnation: int = 0


@dataclass(frozen=True)
class PollBatch:
    """Records of one partition in the order of their offsets, at least one."""

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

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(len(record.key or b"") + len(record.value or b"") for record in self.records)


class StartOffsetFinder(Protocol):
    """Finds where to start, given the group's committed offsets (None for a partition without one)."""

    async def __call__(self, committed: Mapping[TP, int | None]) -> Mapping[TP, StartOffset]: ...  # noqa: D102


class Lanes(Protocol):
    """Batches that were delivered and are not processed yet."""

    def choose_polled(self, tps: set[TP]) -> set[TP]:
        """Those of the partitions that are to be polled now."""

    def drop_waiting(self) -> list[Any]:
        """Drop the batches that are not in work, and return their events."""

    def cancel(self) -> None:
        """End the work on all batches."""


class BatchSchema(faust.Schema):  # type: ignore[misc]  # untyped
    """Passes a batch to the agent without decoding."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> None:
        """Batches have no key."""

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:  # noqa: ARG002  # Faust's signature
        """Return the batch."""
        return message.value


class BatchConsumer(driver.Consumer):  # type: ignore[misc]  # untyped
    """Faust's aiokafka consumer, which delivers the topics in ``app.batch_topics`` in batches.

    Attributes:
        lanes: what processes the batches, where a role has lanes for them.
        held: partitions that are not polled for now, because what was read of them is not processed yet.
        polled_at: monotonic time of the last poll, None before the first; the health probe detects a stuck consumer by it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._delivered: defaultdict[TP, deque[int]] = defaultdict(deque)
        self._starts: dict[TP, StartOffset] = {}
        self._group_offsets: Mapping[TP, int | None] = {}
        self._ends: Mapping[Any, int] = {}
        self._expired = ExpiredRecords()
        self._restarts = WATCHED_TOPICS.all_restarts()
        self.held: set[TP] = set()
        self.lanes: Lanes | None = None
        self.polled_at: float | None = None
        super().__init__(*args, **kwargs)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109  # Faust's signature
        """Poll once, and yield messages as long as flow control and the group's generation do not change."""
        self.polled_at = time.monotonic()
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        if not self.flow_active or self._lacks_start(records):
            await self._seek_again()
            return
        for tp, message in self._messages(records):
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if active is None or tp in active or tp in self._buffered_partitions:
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                if self._in_batches(tp):
                    self._delivered[tp].append(message.offset)
                yield tp, message

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109  # Faust's signature
        """Poll the partitions that are not held: Faust would drop what it has polled of a partition that is paused meanwhile.

        A missing permission is waited for: an exception would end the role.
        """
        polled = active_partitions
        if polled is not None:
            polled = polled - self.held if self.held else polled
            polled = polled if self.lanes is None else self.lanes.choose_polled(polled)
        if active_partitions and not polled:
            await self.sleep(_HELD_S)
            return {}
        try:
            records = await super()._getmany(polled, timeout)
        except Exception as error:
            if subject_of(error) is not Subject.CONFIGURATION:
                raise
            OUTAGES.record_failure("kafka", self, error, threshold=1)
            await self.sleep(_REFUSED_S)
            return {}
        OUTAGES.recover(self)
        return records

    async def wait_empty(self) -> None:
        """Wait for what is in work before a rebalance or a stop, but not for what waits itself: it is delivered again.

        A partition that waits, for an outage or because its records fail, must not keep the group from rebalancing; neither must
        one with much work in hand. Faust's own wait has no limit, and a cancellation does not end it.
        """
        if self.lanes is not None:
            self._unacked_messages.difference_update([event.message for event in self.lanes.drop_waiting()])
        if not await self._finishes_within(_FINISH_S):
            self.log.warning("what is in work takes longer than %s s: it is delivered again", _FINISH_S)
            if self.lanes is not None:
                self.lanes.cancel()
        await self.commit_and_end_transactions()
        self._unacked_messages.clear()

    async def _finishes_within(self, seconds: float) -> bool:
        """Whether all that is in work is acknowledged in time."""
        end = time.monotonic() + seconds
        while any(not message.acked for message in self._unacked_messages):
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    async def perform_seek(self) -> None:
        """Seek to the offset where reading each partition starts, and read what is not to be processed from there on."""
        await self.app.before_reading()
        await super().perform_seek()
        tps = {tp for tp in self.assignment() if self._in_batches(tp)}
        for tp in tps:
            self._discard_state(tp)
        if tps:
            await self._seek_to_starts(tps)

    async def read_ends(self) -> None:
        """Ask the broker where the assigned partitions end, for :meth:`lag`; while it does not answer, what it stated last holds.

        What the last fetches stated ages: a partition that is not fetched seems to be read to its end.
        """
        client, loop = self._thread._consumer, self._thread.thread_loop  # noqa: SLF001  # Faust's own way queues behind a poll
        tps = [tp for tp in self.assignment() if self._in_batches(tp)] if client is not None and loop.is_running() else []
        if not tps:
            return
        with contextlib.suppress(TimeoutError, KafkaError, ConsumerStoppedError):
            async with asyncio.timeout(_END_OFFSETS_S):
                self._ends = await self._in_thread(client.end_offsets(tps))
                if self._expired.has_jumps:
                    self._expired.report(await self._in_thread(client.beginning_offsets(tps)))

    async def read_anew(self) -> None:
        """Learn at once which partitions the topics have now, and begin to read them as after any assignment.

        The client learns by itself once in half a minute that a topic was created anew.
        """
        client, coordinator = self._thread._consumer, self._coordinator()  # noqa: SLF001  # it has no public way
        if client is None or coordinator is None:
            return
        await self._in_thread(client._client.force_metadata_update())  # noqa: SLF001
        self._thread.thread_loop.call_soon_threadsafe(coordinator.request_rejoin)

    async def _in_thread(self, answer: Awaitable[T]) -> T:
        """Await something of the Kafka client in its thread; Faust's own way queues behind a poll."""

        async def await_answer() -> T:
            return await answer

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(await_answer(), self._thread.thread_loop))

    def lag(self) -> dict[TP, int]:
        """Number of unacknowledged records of each partition, by the later of the ends that its last fetch and the broker stated.

        It is 0 for a partition that is read to its end with nothing in work: the markers of a producer's transactions, behind the
        last record, are never acknowledged.
        """
        in_work = {message.tp for message in self._unacked_messages}
        return {tp: self._lag_of(tp, offset, in_work) for tp, offset in self.positions().items()}

    def _lag_of(self, tp: TP, offset: int, in_work: set[TP]) -> int:
        stated_end = self._ends.get(tp, 0) if tp in self._starts else 0  # before that nothing is known of what was read
        end = max(self.highwater(tp) or 0, stated_end)
        return 0 if tp not in in_work and self._fetch_position(tp) >= end else max(end - offset, 0)

    def positions(self) -> dict[TP, int]:
        """The offset up to which each partition is acknowledged; where reading started, for one without acknowledgement.

        Empty before the client is started, and after it is stopped.
        """
        if self._thread._consumer is None:  # noqa: SLF001  # else `assignment` raises
            return {}
        return {tp: self._committed_offset.get(tp) or self._start_position(tp) for tp in self.assignment()}

    def ping(self, answer: Callable[[], None]) -> bool:
        """Let the thread of the Kafka client, which has an event loop of its own, call ``answer``; False when it does not run."""
        if not self._thread.thread_loop.is_running():
            return False
        self._thread.thread_loop.call_soon_threadsafe(answer)
        return True

    def _start_position(self, tp: TP) -> int:
        """Where reading starts in a partition of which nothing was read, which may begin after expired records."""
        return self._fetch_position(tp) if self._read_offset.get(tp) is None else 0

    def _fetch_position(self, tp: TP) -> int:
        """The next offset that the client fetches, 0 before it has one."""
        state = self._thread._consumer._subscription.subscription.assignment.state_value(tp)  # noqa: SLF001  # its `position` awaits
        return int(state.position) if state is not None and state.has_valid_position else 0

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        """Seek to the group's offsets, and remember them: Faust treats an offset of 0 as missing."""
        self._group_offsets = await super().seek_to_committed()
        return self._group_offsets

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Discard the state of partitions that another worker reads from now on."""
        for tp in revoked:
            self._discard_state(tp)
        await super().on_partitions_revoked(revoked)

    def leave_when_stopped(self) -> None:
        """Leave the group at the stop: aiokafka lets a static member keep its place, for a process that replaces it."""
        if (coordinator := self._coordinator()) is not None:
            coordinator._group_instance_id = None  # noqa: SLF001  # it has no other switch

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Watch from now on whether partitions are added.

        aiokafka does so where it has assigned the partitions. A process that takes the place of that member assigns nothing, and
        has to ask for new partitions all the same: the group asks no other member.
        """
        coordinator = self._coordinator()
        if coordinator is not None and coordinator._group_subscription is None:  # noqa: SLF001  # as its own leader sets them
            coordinator._group_subscription = set(coordinator._subscription.topics)  # noqa: SLF001
            coordinator._metadata_snapshot = coordinator._get_metadata_snapshot()  # noqa: SLF001
        await super().on_partitions_assigned(assigned, generation_id)

    def _coordinator(self) -> Any:
        """What keeps the place of this process in the group, None before the client is started and after it is stopped."""
        client = self._thread._consumer  # noqa: SLF001
        return None if client is None else client._coordinator  # noqa: SLF001

    async def _seek_to_starts(self, tps: set[TP]) -> None:
        # the group may notice before the probes that a topic was created anew: it would count as another one once they do
        await watch_now(self.app.settings, {tp.topic for tp in tps})
        restarts = {tp.topic: WATCHED_TOPICS.restarts(tp.topic) for tp in tps}
        committed = {
            # a batch that was in work when the topic was deleted may have been committed after that
            tp: self._group_offsets.get(tp) if restarts[tp.topic] == self._restarts.get(tp.topic, 0) else None
            for tp in tps
        }
        starts = await self._within_logs(await self.app.find_start_offsets(committed))
        await self.seek_wait({tp: start.offset for tp, start in starts.items()})
        for tp, start in starts.items():
            # an acknowledgement below the committed offset would be ignored, and would hold up every later one
            self._committed_offset[tp] = start.offset or None
            self._expired.start(tp, start.offset)
        self._starts.update(starts)
        self._restarts |= restarts

    async def _within_logs(self, starts: Mapping[TP, StartOffset]) -> Mapping[TP, StartOffset]:
        """Starts that exist: behind records that have expired, and at the begin of a log that ends before its start."""
        firsts, ends = await self.earliest_offsets(*starts), await self.highwaters(*starts)
        inside = {}
        for tp, start in starts.items():
            offset = start.offset if start.offset <= ends[tp] else firsts[tp]
            if 0 < offset < firsts[tp]:
                report_expired(tp, offset, firsts[tp])
            inside[tp] = replace(start, offset=max(offset, firsts[tp]))
        return inside

    async def _seek_again(self) -> None:
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001  # as in Faust: the next poll tries again
            self.log.warning("cannot seek to the start offsets: %r", error)
            await self.sleep(1.0)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if not self._in_batches(tp):
            await super()._add_gap(tp, offset_from, offset_to)

    def _new_offset(self, tp: TP) -> int | None:
        """The offset to commit: after the longest run of acknowledged batches, None when there is none."""
        if not self._in_batches(tp):
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

    def _in_batches(self, tp: TP) -> bool:
        return tp.topic in self.app.batch_topics

    def _lacks_start(self, records: Mapping[TP, Any]) -> bool:
        """Whether a partition was polled before its start offset was found."""
        return any(self._in_batches(tp) and tp not in self._starts for tp in records)

    def _discard_state(self, tp: TP) -> None:
        self._delivered.pop(tp, None)
        self._starts.pop(tp, None)
        self._acked.pop(tp, None)
        self._acked_index.pop(tp, None)

    def _messages(self, records: Mapping[TP, Sequence[Any]]) -> Iterator[tuple[TP, Any]]:
        single = {tp: polled for tp, polled in records.items() if not self._in_batches(tp)}
        for tp, record in self.scheduler.iterate(single) if single else ():
            yield tp, self._to_message(tp, record)
        for tp, polled in records.items():
            if self._in_batches(tp):
                for part in _split_records(polled, self.app.batch_records, _MAX_BATCH_BYTES):
                    yield from self._batch_message(tp, part)

    def _batch_message(self, tp: TP, polled: Sequence[Any]) -> Iterator[tuple[TP, Any]]:
        """Yield one message with the records that were not read before, none when there are none."""
        read_offset, start = self._read_offset[tp], self._starts.get(tp)
        unread = [record for record in polled if read_offset is None or record.offset >= read_offset]
        if unread and start is not None:  # the partition may be revoked between two of its batches
            self._expired.deliver(tp, unread[0].offset, unread[-1].offset)
            message = self._to_message(tp, unread[-1])
            message.key, message.value = None, PollBatch(tp.topic, tp.partition, start.incarnation, unread)
            yield tp, message


def _split_records(records: Sequence[Any], max_records: int, max_bytes: int) -> Iterator[Sequence[Any]]:
    """Split records into parts that exceed neither limit; a record whose value alone exceeds ``max_bytes`` is a part of its own.

    Values count as the bytes that ordinary ones with as many elements have: a small array of many tiny elements is much work too.
    Together they are counted in no time, so that they are counted one by one only where they have to be parted.

    Example:
        >>> from types import SimpleNamespace as Record
        >>> records = [Record(value=b"x" * size) for size in (3, 3, 9, 1, 1, 1)]
        >>> [len(part) for part in _split_records(records, 2, 6)]
        [2, 1, 1, 2]
    """
    for start in range(0, len(records), max_records):
        part = records[start : start + max_records]
        if _ordinary_length(b"".join([record.value or b"" for record in part])) <= max_bytes:
            yield part
        else:
            yield from _split_bytes(part, max_bytes)


def _split_bytes(records: Sequence[Any], max_bytes: int) -> Iterator[Sequence[Any]]:
    first, size = 0, 0
    for index, record in enumerate(records):
        length = _ordinary_length(record.value or b"")
        if index > first and size + length > max_bytes:
            yield records[first:index]
            first, size = index, 0
        size += length
    yield records[first:]


def _ordinary_length(value: bytes) -> int:
    """Bytes of a value, or those of an ordinary one with as many objects or commas where that is more.

    Example:
        >>> _ordinary_length(b'{"actual_value": 0.25, "event_id": "0b7e6d1c-9d0f-4b60-8f39-cc2b1df7e2a4"}')
        128
        >>> _ordinary_length(b"[1,1,1]"), _ordinary_length(b"[{},{}]"), _ordinary_length(b"")
        (60, 256, 0)
    """
    return max(len(value), _BYTES_PER_OBJECT * value.count(b"{"), _BYTES_PER_COMMA * value.count(b","))


class BatchTransport(driver.Transport):  # type: ignore[misc]  # untyped
    """Faust's aiokafka transport with :class:`BatchConsumer`."""

    Consumer = BatchConsumer

"""Which records are parked instead of processed: those an operator chose, and those that cannot be read at all.

A parked record is a refused one of the kind ``parked``: stored with its bytes and, where an exception parked it, the traceback.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import traceback
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import MappingProxyType
from typing import NamedTuple

from aiokafka import ConsumerRecord
from cachetools import TTLCache

from sql.database import Pool
from sql.interrupted_work_store import InterruptedWork, add_interrupted_work, interrupted_work
from sql.park_store import ParkRequest, complete_park_requests, pending_park_requests, withdraw_park_request
from streams.errors import describe_error
from streams.kafka.work_marks import MARKS
from streams.metrics import PARKED, PARTITION_BLOCKED

__all__ = [
    "FIRST_OFFSET_HEADER",
    "EndedRole",
    "ParkRequested",
    "Parking",
    "UnreadableBatch",
    "UnreadableBytes",
    "first_offset_of",
    "unreadable_record",
]


LOG = logging.getLogger(__name__)

FIRST_OFFSET_HEADER = "twin_first_offset"
"""Header of a record that stands for a batch that cannot be read: the first of its offsets that were not read."""

_MAX_FAILURES, _KNOWN_FAILURE_S = 1000, 60.0
_SUSPECTED_ENDS = 2  # of the role, after which what was in work each time is processed apart from the rest
_SUSPECTS_TOGETHER = {1: 1, 2: 25}  # how many are processed at once, by the number of ends after which they would be parked
_MOST_SUSPECTS_TOGETHER = 500


class ParkRequested(Exception):
    """An operator wants the record to be parked."""

    def __init__(self, request: ParkRequest) -> None:
        super().__init__(f"parked by {request.requested_by}{f': {request.why}' if request.why else ''}")
        self.request = request


class EndedRole(Exception):
    """The role ended again and again while the record was in work."""

    def __init__(self, ends: int, attempts: int) -> None:
        super().__init__(
            f"its role was killed or ended {ends} times while this record was in work, and TWIN_PARK_ATTEMPTS is {attempts}:"
            " the log of the worker has why"
        )


class UnreadableBatch(Exception):
    """A batch of records, as it is on the topic, cannot be read."""


class UnreadableBytes(bytes):
    """The value of a record that stands for a batch, or a record of it, that cannot be read: the bytes of it.

    Attributes:
        error: why it cannot be read.
        first_offset: the first of its offsets that were not read; the last is that of the record.
    """

    error: UnreadableBatch
    first_offset: int


def first_offset_of(value: bytes | None) -> int | None:
    """The first offset that a record with this value stands for, None for a record that was read."""
    return value.first_offset if isinstance(value, UnreadableBytes) else None


def unreadable_record(
    topic: str, partition: int, first_offset: int, last_offset: int, timestamp_ms: int, raw: bytes, error: Exception
) -> ConsumerRecord[bytes | None, bytes | None]:
    """Build the record that stands for a batch that cannot be read, with its bytes and its last offset.

    A consumer delivers it in place of the batch. The role of the topic then parks it in its turn, in the transaction that moves the
    position; the offsets before the last one are a gap.
    """
    value = UnreadableBytes(raw)
    value.first_offset = first_offset
    reason = f"{type(error).__name__}: {describe_error(error)}"
    # Without the error as its cause: its traceback would hold what was decompressed for as long as the record is held.
    value.error = UnreadableBatch(f"the batch of offsets {first_offset} to {last_offset} cannot be read: {reason}")
    headers = ((FIRST_OFFSET_HEADER, str(first_offset).encode()),)
    return ConsumerRecord(topic, partition, last_offset, timestamp_ms, 1, None, value, None, 0, len(raw), headers)


class _Failure(NamedTuple):
    """Class of an exception, and the line of code that raised it."""

    exception: type[BaseException]
    file: str
    line: int


def _failure(error: BaseException) -> _Failure:
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    return _Failure(type(error), last.filename if last else "", (last.lineno or 0) if last else 0)


class Parking:
    """Decides for an app which records are parked: by attempts, by requests of operators, and which partitions wait.

    Args:
        attempts: how often a record is tried before it is parked.
        topic: the topic that the role of the app reads.

    Attributes:
        blocked: why a partition of the topic waits, by its number.
    """

    def __init__(self, attempts: int, topic: str) -> None:
        self._attempts = attempts
        self._topic = topic
        self._parked_by: TTLCache[_Failure, None] = TTLCache(_MAX_FAILURES, _KNOWN_FAILURE_S)
        self._forgot_s = -math.inf
        self._requests: Mapping[tuple[int, int], ParkRequest] = MappingProxyType({})
        self._interrupted: Sequence[InterruptedWork] = ()
        self._alone = asyncio.Lock()
        self._parked_unopened: set[tuple[int, int]] = set()
        self.blocked: dict[int, str] = {}
        PARKED.labels(topic=topic)  # a counter exists before its first event, so that the first one is an increase

    def attempts_for(self, error: Exception) -> int:
        """How often a record that raises this error is tried; once when the same failure parked another one within a minute.

        A single record is worth some pauses; a flood of records that all fail alike must not keep the others waiting for each.
        """
        return 1 if _failure(error) in self._parked_by else self._attempts

    def on_failed(self, error: Exception) -> None:
        """Remember the failure that has parked a record, or failed a request."""
        self._parked_by[_failure(error)] = None

    def on_replay(self) -> None:
        """Try failures as often as unknown ones again, as an operator replays what should pass by now.

        At most once a minute: of many records that fail again, each would be tried as often.
        """
        if time.monotonic() - self._forgot_s >= _KNOWN_FAILURE_S:
            self._forgot_s = time.monotonic()
            self._parked_by.clear()

    async def read_requests(self, pool: Pool) -> None:
        """Read the requests that are pending; a timer does it every other second."""
        requests = await pending_park_requests(pool, [self._topic])
        self._requests = {(request.partition, request.offset): request for request in requests}

    async def clear_passed_requests(self, pool: Pool, positions: Mapping[int, int]) -> None:
        """Clear the requests for records before the position of their partition: parked unopened, processed before, or deleted.

        Args:
            pool: connections to Postgres.
            positions: the next offset of each partition that is assigned, by its number.
        """
        for partition, offset in self._requests:
            if offset >= positions.get(partition, 0):
                continue
            if (partition, offset) in self._parked_unopened:
                await complete_park_requests(pool, self._topic, partition, [offset])
                self._parked_unopened.discard((partition, offset))
            else:
                await withdraw_park_request(pool, self._topic, partition, offset)
                position = f"{self._topic}:{partition}:{offset}"
                LOG.warning("the request to park %s is cleared: the record was processed before, or is not on its topic", position)

    async def read_interrupted(self, pool: Pool) -> None:
        """Store what was in work when earlier processes of the role ended, and read that of the last day."""
        if MARKS.interrupted:
            await add_interrupted_work(pool, self._topic, MARKS.interrupted)
            MARKS.interrupted = ()
        self._interrupted = await interrupted_work(pool, self._topic)

    def ends_with(self, partition: int, offset: int) -> int:
        """How often the role ended while this record was in work."""
        return sum(work.partition == partition and work.first_offset <= offset <= work.last_offset for work in self._interrupted)

    def suspected(self, partition: int, offsets: Sequence[int]) -> list[int]:
        """Those of the ascending offsets whose records may be why the role ends, so that they are processed apart from the rest."""
        near = [
            work
            for work in self._interrupted
            if work.partition == partition and work.first_offset <= offsets[-1] and work.last_offset >= offsets[0]
        ]
        if len(near) < _SUSPECTED_ENDS:
            return []
        return [offset for offset in offsets if self.ends_with(partition, offset) >= _SUSPECTED_ENDS]

    def suspects_together(self, partition: int, offset: int) -> int:
        """How many suspected records are processed at once where this is the first of them.

        A role that was killed from outside while much was in work leaves thousands, and each alone would take long. With each end
        fewer are left, as only those in work are suspected more; at the last one before a record is parked it was in work alone.
        """
        return _SUSPECTS_TOGETHER.get(self._attempts - self.ends_with(partition, offset), _MOST_SUSPECTS_TOGETHER)

    @asynccontextmanager
    async def in_work(self, partition: int, offsets: Sequence[int]) -> AsyncIterator[None]:
        """Mark consecutive offsets as being in work while the block runs; suspected ones wait for one another.

        So the marks of a role that ends name the record that ended it, and no other suspected one.
        """
        if self.suspected(partition, offsets):
            async with self._alone:
                with MARKS.mark(partition, offsets[0], offsets[-1]):
                    yield
        else:
            with MARKS.mark(partition, offsets[0], offsets[-1]):
                yield

    def ends_at_opening(self, partition: int, first_offset: int, last_offset: int) -> int:
        """How often the role ended while a batch with any of these offsets was opened."""
        return sum(
            work.partition == ~partition and work.first_offset <= last_offset and work.last_offset >= first_offset
            for work in self._interrupted
        )

    @contextmanager
    def opening(self, partition: int, first_offset: int, last_offset: int) -> Iterator[None]:
        """Mark a batch while the block opens it; runs in the thread of the Kafka client.

        Raises:
            EndedRole: when the role ended too often while the batch was opened.
            ParkRequested: when it ended once, and an operator wants a record of the batch to be parked.
        """
        ends = self.ends_at_opening(partition, first_offset, last_offset)
        if ends >= self._attempts:
            raise EndedRole(ends, self._attempts)
        requested = [place for place in self._requests if place[0] == partition and first_offset <= place[1] <= last_offset]
        if ends and requested:
            self._parked_unopened.update(requested)
            raise ParkRequested(self._requests[requested[0]])
        with MARKS.mark_opening(partition, first_offset, last_offset):
            yield

    def requested_offsets(self, partition: int, offsets: Iterable[int]) -> list[int]:
        """Those of the offsets whose records an operator wants to be parked, or that end their role again and again."""
        if not self._requests and not self._interrupted:
            return []
        return [
            offset
            for offset in offsets
            if (partition, offset) in self._requests or self.ends_with(partition, offset) >= self._attempts
        ]

    def check(self, partition: int, offset: int, value: bytes | None = None) -> None:
        """Check that a record may be processed.

        Raises:
            ParkRequested: when an operator wants it to be parked.
            EndedRole: when its role ended too often while it was in work.
            UnreadableBatch: when it stands for a batch that cannot be read.
        """
        if isinstance(value, UnreadableBytes):
            raise value.error
        if (partition, offset) in self._requests:
            raise ParkRequested(self._requests[partition, offset])
        if self._interrupted and (ends := self.ends_with(partition, offset)) >= self._attempts:
            raise EndedRole(ends, self._attempts)

    def block(self, partition: int, reason: str) -> None:
        """Record that a partition waits, for the probe and the metric."""
        self.blocked[partition] = reason
        PARTITION_BLOCKED.labels(topic=self._topic, partition=partition).set(1)

    def unblock_all(self) -> None:
        """Record that no partition waits, because they are assigned anew."""
        for partition in list(self.blocked):
            self.unblock(partition)

    def unblock(self, partition: int) -> None:
        """Record that a partition goes on."""
        if self.blocked.pop(partition, None) is not None:
            PARTITION_BLOCKED.remove(self._topic, str(partition))

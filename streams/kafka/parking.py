"""Which records are parked instead of processed: those an operator chose, and those that cannot be read at all.

A parked record is a refused one of the kind ``parked``: stored with its bytes and, where an exception parked it, the traceback.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from aiokafka import ConsumerRecord
from cachetools import TTLCache

from sql.database import Pool
from sql.park_store import ParkRequest, pending_park_requests
from streams.errors import describe_error
from streams.metrics import PARKED, PARTITION_BLOCKED

__all__ = ["ParkRequested", "Parking", "UnreadableBatch", "UnreadableBytes", "unreadable_record"]


_MAX_FAILURES, _KNOWN_FAILURE_S = 1000, 60.0


class ParkRequested(Exception):
    """An operator wants the record to be parked."""

    def __init__(self, request: ParkRequest) -> None:
        super().__init__(f"parked by {request.requested_by}{f': {request.why}' if request.why else ''}")
        self.request = request


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
    return ConsumerRecord(topic, partition, last_offset, timestamp_ms, 1, None, value, None, 0, len(raw), ())


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

    def requested_offsets(self, partition: int, offsets: Iterable[int]) -> list[int]:
        """Those of the offsets whose records an operator wants to be parked."""
        return [offset for offset in offsets if (partition, offset) in self._requests] if self._requests else []

    def check(self, partition: int, offset: int, value: bytes | None = None) -> None:
        """Check that a record may be processed.

        Raises:
            ParkRequested: when an operator wants it to be parked.
            UnreadableBatch: when it stands for a batch that cannot be read.
        """
        if isinstance(value, UnreadableBytes):
            raise value.error
        if (partition, offset) in self._requests:
            raise ParkRequested(self._requests[partition, offset])

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

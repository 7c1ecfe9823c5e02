"""Reads fetched batches of records so that none can stop a consumer: what cannot be decoded is delivered as bytes.

aiokafka raises in the middle of a poll when a batch is damaged, and then reads it again for ever; and it decompresses without a
bound. :func:`bound_fetches` puts the reader of this module in the place of aiokafka's, for every consumer of the process. A batch
or record that cannot be decoded becomes a record with :class:`~streams.kafka.parking.UnreadableBytes` as its value, at the last of
the offsets that it stands for. Reading goes on after it, and the order and the position of a partition stay as they are.

The module depends on private names of aiokafka, which ``tests/contracts/test_aiokafka_internals.py`` checks.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

from streams.bounds import BoundSettings, ExcessHeaders, OutOfBounds, check_headers
from streams.kafka.decompression import Damaged, TooLarge, decompress
from streams.kafka.memory import trim
from streams.kafka.parking import UnreadableBytes, unreadable_record
from streams.kafka.record_parsing import BATCH_HEADER, CODEC_MASK, BatchHeader, parse_records, require_small_headers

__all__ = ["BatchReader", "FetchedBatches", "bound_fetches", "guard_openings", "read_parked_batch"]

_MAX_POLLED_BYTES = 16 * 1024 * 1024  # of all partitions in one poll: what follows is fetched again
_LARGE_BATCH_BYTES = 32 * 1024 * 1024  # after which the memory for its decompression is returned to the system
_MAX_UNREADABLE_BYTES = 8 * 1024 * 1024  # of a damaged batch are delivered; a broker takes no larger one by default
_EARLIEST_MS, _LATEST_MS = -62_135_596_800_000, 253_402_300_799_999  # the years 1 to 9999

Guard = Callable[[int, int, int], AbstractContextManager[None]]
_GUARDS: dict[str, Guard] = {}

_LENGTH_OFFSET, _LENGTH_END = 8, 12
_ATTRIBUTES_OFFSET = 21
_LEGACY_KEY_OFFSETS = (18, 26)  # without and with a timestamp
_SHORTEST_BATCH = 26


class FetchedBatches:
    """Splits a fetched response into batches, in place of aiokafka's ``MemoryRecords``.

    A batch that is not complete ends the response, as a broker cuts it at its size. The first one is complete unless its length is
    damaged: then all bytes count as one batch.
    """

    def __init__(self, data: bytes | None) -> None:
        self._data = data or b""
        self._position = 0

    def size_in_bytes(self) -> int:
        """Number of fetched bytes."""
        return len(self._data)

    def has_next(self) -> bool:
        """Whether there is a further batch."""
        return self._end() is not None

    def next_batch(self) -> bytes:
        """The bytes of the next batch."""
        first, end = self._position, self._end()
        self._position = len(self._data) if end is None else end
        return self._data[first : self._position]

    def following_offset(self) -> int | None:
        """Offset of the batch after the last one that was returned, None when its beginning was not fetched."""
        if len(self._data) - self._position < _LENGTH_OFFSET:
            return None
        return int.from_bytes(self._data[self._position : self._position + _LENGTH_OFFSET], signed=True)

    def _end(self) -> int | None:
        rest = len(self._data) - self._position
        if rest >= _LENGTH_END:
            stated = self._data[self._position + _LENGTH_OFFSET : self._position + _LENGTH_END]
            size = _LENGTH_END + int.from_bytes(stated, signed=True)
            if _SHORTEST_BATCH <= size <= rest:
                return self._position + size
        is_damaged = self._position == 0 and rest > 0
        return len(self._data) if is_damaged else None


class _Poll(threading.local):
    """Bytes that the present poll of a consumer on this thread has read, of all of its partitions.

    A poll reads them without a pause, so it ends when the event loop goes on. Without an event loop nothing is counted.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._n_bytes = 0  # of the poll
        self._largest = 0  # batch of the poll

    def add(self, n_bytes: int) -> None:
        """Count bytes that were read."""
        loop = _running_loop()
        if loop is not self._loop:
            self._loop, self._n_bytes, self._largest = loop, 0, 0
            if loop is not None:
                loop.call_soon(self._end)
        if loop is not None:
            self._n_bytes += n_bytes
            self._largest = max(self._largest, n_bytes)

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be read in this poll."""
        return self._n_bytes >= _MAX_POLLED_BYTES and self._loop is _running_loop()

    def _end(self) -> None:
        if self._largest >= _LARGE_BATCH_BYTES:
            trim()
        self._loop, self._n_bytes, self._largest = None, 0, 0


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


_POLL = _Poll()


class BatchReader(fetcher.PartitionRecords):  # type: ignore[misc]  # untyped
    """Iterates over the records of a fetched partition, in place of aiokafka's ``PartitionRecords``.

    Records of open and aborted transactions are delivered like all others: a transaction that is never ended must not hold up its
    partition.
    """

    next_fetch_offset: int

    def __init__(self, bounds: BoundSettings, *args: Any) -> None:
        self._bounds = bounds
        super().__init__(*args)

    def _unpack_records(self) -> Iterator[ConsumerRecord[Any, Any]]:
        start, data = self.next_fetch_offset, b""
        while self._records.has_next():
            if _POLL.is_full:  # the position stays where it is, and what follows is fetched again
                return
            data = self._records.next_batch()
            try:
                header = BatchHeader.read(data)
            except (struct.error, IndexError):
                break
            following = self._records.following_offset()
            last = header.last_offset if following is None else min(header.last_offset, following - 1)
            if last >= self.next_fetch_offset:
                yield from self._read_batch(data, header._replace(last_offset=last))
                self.next_fetch_offset = last + 1
        if self.next_fetch_offset == start:  # the broker sends the batch of the position first: its header is damaged
            yield self._unreadable(data, start, -1, ValueError("the header of the batch is damaged"))

    def _read_batch(self, data: bytes, header: BatchHeader) -> Iterator[ConsumerRecord[Any, Any]]:
        try:
            with self._guard(header):
                opened, damage = self._open_batch(data, header)
            batch = LegacyRecordBatch(opened, header.magic) if header.magic < 2 else DefaultRecordBatch(opened)
        except Exception as error:  # noqa: BLE001  # whatever a decoder raises concerns this batch only
            yield self._unreadable(data, header.last_offset, header.timestamp, error)
            return
        if batch.is_control_batch:
            return
        failure = damage if damage is not None else (yield from self._read_whole(batch, opened, header))
        if failure is None:
            return
        if header.magic >= 2:
            yield from self._read_singly(opened, header)
        if self.next_fetch_offset <= header.last_offset:
            yield self._unreadable(data, header.last_offset, header.timestamp, failure)

    def _read_whole(
        self, batch: Any, opened: bytes, header: BatchHeader
    ) -> Generator[ConsumerRecord[Any, Any], None, Exception | None]:
        """Read the records of a batch by aiokafka's decoder, until one raises; returns what it raised."""
        try:
            require_small_headers(opened, header, self._bounds)
            for record in _in_order(batch, header):
                if record.offset >= self.next_fetch_offset:
                    if record.headers:
                        check_headers(record.headers, self._bounds)
                    self.next_fetch_offset = record.offset + 1
                    yield self._consumer_record(self._tp, record)
        except Exception as error:  # noqa: BLE001  # as above
            return error
        return None

    def _guard(self, header: BatchHeader) -> AbstractContextManager[None]:
        guard = _GUARDS.get(self._tp.topic) if header.codec else None
        return nullcontext() if guard is None else guard(self._tp.partition, header.base_offset, header.last_offset)

    def _open_batch(self, data: bytes, header: BatchHeader) -> tuple[bytes, Damaged | None]:
        """Check a batch, and return it without compression where aiokafka would decompress it, as far as it is not damaged."""
        if header.magic < 2:
            return self._check_legacy(data, header), None
        if header.magic > 2:
            raise ValueError(f"the batch has format {header.magic}, which does not exist")
        if not DefaultRecordBatch(data).validate_crc():
            raise ValueError("the checksum of the batch is wrong")
        if header.n_records > (bound := self._bounds.max_batch_records):
            raise OutOfBounds(f"a batch of {header.n_records} records", bound, "max_batch_records")
        if not header.codec:
            _POLL.add(len(data))
            return data, None
        opened = bytearray(data[: BATCH_HEADER.size])
        struct.pack_into(">h", opened, _ATTRIBUTES_OFFSET, header.attributes & ~CODEC_MASK)
        try:
            records = self._decompress(header.codec, data[BATCH_HEADER.size :])
        except Damaged as damage:
            return b"".join([opened, damage.content]), damage
        return b"".join([opened, records]), None

    def _check_legacy(self, data: bytes, header: BatchHeader) -> bytes:
        """Check a batch of an old format; aiokafka decompresses it after its size was checked."""
        if not LegacyRecordBatch(data, header.magic).validate_crc():
            raise ValueError("the checksum of the batch is wrong")
        _POLL.add(len(data))
        if header.codec:
            position = _LEGACY_KEY_OFFSETS[header.magic]
            (key_length,) = struct.unpack_from(">i", data, position)
            value = data[position + 8 + max(key_length, 0) :]
            self._decompress(header.codec, value)
        return data

    def _decompress(self, codec: int, data: bytes) -> bytes | memoryview:
        """Decompress records, and count them, or the bound when they exceed it."""
        bound = self._bounds.max_decompressed_bytes
        try:
            records = decompress(codec, data, bound)
        except TooLarge:
            _POLL.add(bound)
            raise
        except Damaged as damage:
            _POLL.add(len(damage.content))
            raise
        _POLL.add(len(records))
        return records

    def _read_singly(self, data: bytes, header: BatchHeader) -> Iterator[ConsumerRecord[Any, Any]]:
        """Read the records from the present position on again, and deliver those that cannot be decoded as bytes, each alone."""
        for record, raw in parse_records(data, header, self._bounds):
            if record.offset < self.next_fetch_offset:
                continue
            if record.error is None:
                self.next_fetch_offset = record.offset + 1
                yield self._consumer_record(self._tp, record)
            else:
                yield self._unreadable(raw, record.offset, record.timestamp, record.error, first=record.offset)

    def _unreadable(
        self, data: bytes, last: int, timestamp: int, error: Exception, first: int | None = None
    ) -> ConsumerRecord[bytes | None, bytes | None]:
        """The record that stands for all offsets from ``first``, or from the present position, to ``last``."""
        first = self.next_fetch_offset if first is None else first
        self.next_fetch_offset = last + 1
        _POLL.add(len(data))
        raw = data[:_MAX_UNREADABLE_BYTES]
        return _limit_timestamp(unreadable_record(self._tp.topic, self._tp.partition, first, last, timestamp, raw, error))

    def _consumer_record(self, tp: TopicPartition, record: Any) -> ConsumerRecord[Any, Any]:
        """The record as consumers have it: as aiokafka's own method, in half of its time, and without deserializers."""
        key, value, headers = record.key, record.value, record.headers
        return _limit_timestamp(
            ConsumerRecord(
                tp.topic,
                tp.partition,
                record.offset,
                record.timestamp,
                record.timestamp_type,
                key,
                value,
                record.checksum,
                -1 if key is None else len(key),
                -1 if value is None else len(value),
                headers if isinstance(headers, ExcessHeaders) else tuple(headers),
            )
        )


def _limit_timestamp(record: ConsumerRecord[Any, Any]) -> ConsumerRecord[Any, Any]:
    """A producer may state any time: one outside of the years 1 to 9999 becomes the nearest that can be written."""
    stated = record.timestamp
    if stated is not None and _EARLIEST_MS <= stated <= _LATEST_MS:
        return record
    return replace(record, timestamp=-1 if stated is None else min(max(stated, _EARLIEST_MS), _LATEST_MS))


def _in_order(batch: Any, header: BatchHeader) -> Iterator[Any]:
    """The records of a batch, whose offsets must rise and lie within the batch: a producer states them, the position follows them.

    Raises:
        ValueError: at the first record whose offset does not.
    """
    previous = header.base_offset - 1 if header.magic >= 2 else -1
    for record in batch:
        if not previous < record.offset <= header.last_offset:
            raise ValueError(f"a record states offset {record.offset} after {previous} in a batch up to {header.last_offset}")
        previous = record.offset
        yield record


def bound_fetches(bounds: BoundSettings) -> None:
    """Let the Kafka consumers that this process opens from now on read within these bounds."""
    fetcher.MemoryRecords = FetchedBatches
    fetcher.PartitionRecords = partial(BatchReader, bounds)


def guard_openings(topic: str, guard: Guard) -> None:
    """Open each compressed batch of a topic from now on within ``guard``, given its partition and its first and last offset.

    When the guard raises, the batch is delivered as one that cannot be read.
    """
    _GUARDS[topic] = guard


def read_parked_batch(
    source: TopicPartition, raw: bytes, first_offset: int, bounds: BoundSettings
) -> list[ConsumerRecord[bytes | None, bytes | None]]:
    """The records from this offset on that can be read, within these bounds, of the bytes of a batch that could not be read."""
    reader = BatchReader(bounds, source, FetchedBatches(raw), None, first_offset, None, None, True, 0)
    return [record for record in reader if not isinstance(record.value, UnreadableBytes)]

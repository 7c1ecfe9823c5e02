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
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import decode_varint

from streams.bounds import BoundSettings, OutOfBounds, check_header_count, check_headers
from streams.kafka.decompression import TooLarge, decompress
from streams.kafka.memory import trim
from streams.kafka.parking import unreadable_record

__all__ = ["BatchReader", "FetchedBatches", "bound_fetches"]

_MAX_POLLED_BYTES = 16 * 1024 * 1024  # of all partitions in one poll: what follows is fetched again
_LARGE_BATCH_BYTES = 32 * 1024 * 1024  # after which the memory for its decompression is returned to the system
_MAX_UNREADABLE_BYTES = 8 * 1024 * 1024  # of a damaged batch are delivered; a broker takes no larger one by default
_EARLIEST_MS, _LATEST_MS = -62_135_596_800_000, 253_402_300_799_999  # the years 1 to 9999

_OVERHEAD = struct.Struct(">qiiB")  # offset, length, epoch or checksum, magic: the same in all formats
_LENGTH_OFFSET, _LENGTH_END = 8, 12
_HEADER = struct.Struct(">qiibIhiqqqhii")
_ATTRIBUTES_OFFSET = 21
_LEGACY_ATTRIBUTES_OFFSET = 17
_LEGACY_KEY_OFFSETS = (18, 26)  # without and with a timestamp
_SHORTEST_BATCH = 26
_CODEC_MASK = 0x07
_BY_BROKER_TIME = 0x08


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


class _BatchHeader(NamedTuple):
    """What the reader needs of a batch before its records; ``timestamp`` is the latest of its records."""

    magic: int
    base_offset: int
    last_offset: int
    attributes: int
    first_timestamp: int
    timestamp: int
    n_records: int

    @classmethod
    def read(cls, data: bytes) -> _BatchHeader:
        """Read the header of a batch of any format.

        Raises:
            struct.error: when the batch is shorter than its header.
        """
        offset, _, _, magic = _OVERHEAD.unpack_from(data)
        if magic < 2:  # of an old batch only the last offset is stated
            return cls(magic, offset, offset, data[_LEGACY_ATTRIBUTES_OFFSET], -1, -1, 1)
        fields = _HEADER.unpack_from(data)
        return cls(magic, offset, offset + fields[6], fields[5], fields[7], fields[8], fields[12])

    @property
    def codec(self) -> int:
        """Number of the codec, 0 for none."""
        return self.attributes & _CODEC_MASK


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
                header = _BatchHeader.read(data)
            except (struct.error, IndexError):
                break
            following = self._records.following_offset()
            last = header.last_offset if following is None else min(header.last_offset, following - 1)
            if last >= self.next_fetch_offset:
                yield from self._read_batch(data, header._replace(last_offset=last))
                self.next_fetch_offset = last + 1
        if self.next_fetch_offset == start:  # the broker sends the batch of the position first: its header is damaged
            yield self._unreadable(data, start, -1, ValueError("the header of the batch is damaged"))

    def _read_batch(self, data: bytes, header: _BatchHeader) -> Iterator[ConsumerRecord[Any, Any]]:
        try:
            opened = self._open_batch(data, header)
            batch = LegacyRecordBatch(opened, header.magic) if header.magic < 2 else DefaultRecordBatch(opened)
        except Exception as error:  # noqa: BLE001  # whatever a decoder raises concerns this batch only
            yield self._unreadable(data, header.last_offset, header.timestamp, error)
            return
        if batch.is_control_batch:
            return
        try:
            for record in _in_order(batch, header):
                if record.offset >= self.next_fetch_offset:
                    check_headers(record.headers, self._bounds)
                    self.next_fetch_offset = record.offset + 1
                    yield self._consumer_record(self._tp, record)
        except Exception as error:  # noqa: BLE001  # as above
            if header.magic >= 2:
                yield from self._read_singly(opened, header)
            if self.next_fetch_offset <= header.last_offset:
                yield self._unreadable(data, header.last_offset, header.timestamp, error)

    def _open_batch(self, data: bytes, header: _BatchHeader) -> bytes:
        """Check a batch, and return it without compression where aiokafka would decompress it."""
        if header.magic < 2:
            return self._check_legacy(data, header)
        if header.magic > 2:
            raise ValueError(f"the batch has format {header.magic}, which does not exist")
        if not DefaultRecordBatch(data).validate_crc():
            raise ValueError("the checksum of the batch is wrong")
        if header.n_records > (bound := self._bounds.max_batch_records):
            raise OutOfBounds(f"a batch of {header.n_records} records", bound, "max_batch_records")
        if not header.codec:
            _POLL.add(len(data))
            return data
        records = self._decompress(header.codec, data[_HEADER.size :])
        opened = bytearray(data[: _HEADER.size])
        struct.pack_into(">h", opened, _ATTRIBUTES_OFFSET, header.attributes & ~_CODEC_MASK)
        return b"".join([opened, records])

    def _check_legacy(self, data: bytes, header: _BatchHeader) -> bytes:
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
        _POLL.add(len(records))
        return records

    def _read_singly(self, data: bytes, header: _BatchHeader) -> Iterator[ConsumerRecord[Any, Any]]:
        """Read the records from the present position on again, and deliver those that cannot be decoded as bytes, each alone."""
        for record, raw in _parse_records(data, header, self._bounds):
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
        return _limit_timestamp(super()._consumer_record(tp, record))


def _limit_timestamp(record: ConsumerRecord[Any, Any]) -> ConsumerRecord[Any, Any]:
    """A producer may state any time: one outside of the years 1 to 9999 becomes the nearest that can be written."""
    stated = record.timestamp
    if stated is not None and _EARLIEST_MS <= stated <= _LATEST_MS:
        return record
    return replace(record, timestamp=-1 if stated is None else min(max(stated, _EARLIEST_MS), _LATEST_MS))


def _in_order(batch: Any, header: _BatchHeader) -> Iterator[Any]:
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


class _ParsedRecord(NamedTuple):
    """A record of a batch, or its offset and time and why the rest of it cannot be decoded."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    error: Exception | None = None
    checksum: None = None


def _parse_records(data: bytes, header: _BatchHeader, bounds: BoundSettings) -> Iterator[tuple[_ParsedRecord, bytes]]:
    """Parse record after record, each with its bytes, as far as their lengths and offsets can be decoded."""
    body, position, previous = bytearray(data[_HEADER.size :]), 0, header.base_offset - 1
    for _ in range(header.n_records):
        try:
            length, first = decode_varint(body, position)
            position = first + length
            record = _parse_record(body, first, position, header, bounds)
        except Exception:  # noqa: BLE001  # whatever the decoder raises: where the next record begins is not known
            return
        if not (0 < length <= len(body) - first and previous < record.offset <= header.last_offset):
            return
        previous = record.offset
        yield record, bytes(body[first:position])


def _parse_record(body: bytearray, first: int, end: int, header: _BatchHeader, bounds: BoundSettings) -> _ParsedRecord:
    """Parse one record; names of headers that are no UTF-8 are accepted with their bytes escaped.

    Raises:
        Exception: when not even its offset can be decoded.
    """
    timestamp_delta, position = decode_varint(body, first + 1)
    offset_delta, position = decode_varint(body, position)
    by_broker = bool(header.attributes & _BY_BROKER_TIME)
    timestamp = header.timestamp if by_broker else header.first_timestamp + timestamp_delta
    record = _ParsedRecord(header.base_offset + offset_delta, timestamp, int(by_broker))
    try:
        key, position = _parse_bytes(body, position, end)
        value, position = _parse_bytes(body, position, end)
        return record._replace(key=key, value=value, headers=_parse_headers(body, position, end, bounds))
    except (ValueError, IndexError, CorruptRecordException) as error:
        return record._replace(error=error)


def _parse_headers(body: bytearray, position: int, end: int, bounds: BoundSettings) -> tuple[tuple[str, bytes | None], ...]:
    n_headers, position = decode_varint(body, position)
    check_header_count(n_headers, bounds)
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(n_headers):
        name, position = _parse_bytes(body, position, end)
        if name is None:
            raise ValueError("the name of a header is null")
        value, position = _parse_bytes(body, position, end)
        headers.append((name.decode(errors="backslashreplace"), value))
    if n_headers < 0 or position != end:
        raise ValueError(f"the record states {n_headers} headers, and {end - position} bytes follow them")
    check_headers(headers, bounds)
    return tuple(headers)


def _parse_bytes(body: bytearray, position: int, end: int) -> tuple[bytes | None, int]:
    """Bytes after their length, None for a negative one, and the position after them."""
    length, first = decode_varint(body, position)
    if length < 0:
        return None, first
    if first + length > end:
        raise ValueError(f"{length} bytes are stated, but {end - first} follow")
    return bytes(body[first : first + length]), first + length


def bound_fetches(bounds: BoundSettings) -> None:
    """Let the Kafka consumers that this process opens from now on read within these bounds."""
    fetcher.MemoryRecords = FetchedBatches
    fetcher.PartitionRecords = partial(BatchReader, bounds)

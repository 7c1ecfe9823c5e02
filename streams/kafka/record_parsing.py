"""Parses the records of a batch one by one, where aiokafka's decoder must not or cannot read the whole batch.

The module depends on private names of aiokafka, which ``tests/contracts/test_aiokafka_internals.py`` checks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from aiokafka.errors import CorruptRecordException
from aiokafka.record.util import decode_varint

from streams.bounds import BoundSettings, ExcessHeaders, OutOfBounds, check_header_count, check_headers

__all__ = ["BATCH_HEADER", "CODEC_MASK", "BatchHeader", "ParsedRecord", "parse_records", "require_small_headers"]

_OVERHEAD = struct.Struct(">qiiB")  # offset, length, epoch or checksum, magic: the same in all formats
BATCH_HEADER = struct.Struct(">qiibIhiqqqhii")
_LEGACY_ATTRIBUTES_OFFSET = 17
CODEC_MASK = 0x07
_BY_BROKER_TIME = 0x08
_LARGE_RECORDS_BYTES = 4 * 1024 * 1024  # of a batch, below which no number of headers fills the memory
_SHORTEST_HEADER = 2  # bytes of a header without a name and a value


class BatchHeader(NamedTuple):
    """What the reader needs of a batch before its records; ``timestamp`` is the latest of its records."""

    magic: int
    base_offset: int
    last_offset: int
    attributes: int
    first_timestamp: int
    timestamp: int
    n_records: int

    @classmethod
    def read(cls, data: bytes) -> BatchHeader:
        """Read the header of a batch of any format.

        Raises:
            struct.error: when the batch is shorter than its header.
        """
        offset, _, _, magic = _OVERHEAD.unpack_from(data)
        if magic < 2:  # of an old batch only the last offset is stated
            return cls(magic, offset, offset, data[_LEGACY_ATTRIBUTES_OFFSET], -1, -1, 1)
        fields = BATCH_HEADER.unpack_from(data)
        return cls(magic, offset, offset + fields[6], fields[5], fields[7], fields[8], fields[12])

    @property
    def codec(self) -> int:
        """Number of the codec, 0 for none."""
        return self.attributes & CODEC_MASK


def require_small_headers(data: bytes, header: BatchHeader, bounds: BoundSettings) -> None:
    """Check that no record of a large batch has room for more headers than allowed: aiokafka makes objects of all of them.

    Raises:
        OutOfBounds: when one has; its headers are counted when it is read singly.
    """
    if header.magic < 2 or len(data) < _LARGE_RECORDS_BYTES:
        return
    body, position, most = bytearray(data), BATCH_HEADER.size, bounds.max_headers * _SHORTEST_HEADER
    for _ in range(header.n_records):
        length, first = decode_varint(body, position)
        position = first + length
        if length > most:
            raise OutOfBounds(f"a record of {length} bytes has room for more headers, and", bounds.max_headers, "max_headers")
        if length <= 0:
            return


class ParsedRecord(NamedTuple):
    """A record of a batch, or its offset and time and why the rest of it cannot be decoded."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    error: Exception | None = None
    checksum: None = None


def parse_records(data: bytes, header: BatchHeader, bounds: BoundSettings) -> Iterator[tuple[ParsedRecord, bytes]]:
    """Parse record after record, each with its bytes, as far as their lengths and offsets can be decoded."""
    body, position, previous = bytearray(data[BATCH_HEADER.size :]), 0, header.base_offset - 1
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


def _parse_record(body: bytearray, first: int, end: int, header: BatchHeader, bounds: BoundSettings) -> ParsedRecord:
    """Parse one record; names of headers that are no UTF-8 are accepted with their bytes escaped, excessive headers are not parsed.

    Raises:
        Exception: when not even its offset can be decoded.
    """
    timestamp_delta, position = decode_varint(body, first + 1)
    offset_delta, position = decode_varint(body, position)
    by_broker = bool(header.attributes & _BY_BROKER_TIME)
    timestamp = header.timestamp if by_broker else header.first_timestamp + timestamp_delta
    record = ParsedRecord(header.base_offset + offset_delta, timestamp, int(by_broker))
    try:
        key, position = _parse_bytes(body, position, end)
        value, position = _parse_bytes(body, position, end)
        return record._replace(key=key, value=value, headers=_bounded_headers(body, position, end, bounds))
    except (ValueError, IndexError, CorruptRecordException) as error:
        return record._replace(error=error)


def _bounded_headers(body: bytearray, position: int, end: int, bounds: BoundSettings) -> tuple[tuple[str, bytes | None], ...]:
    try:
        return _parse_headers(body, position, end, bounds)
    except OutOfBounds as error:
        return ExcessHeaders.of(bytes(body[position:end]), error)


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

"""Decompresses the records of a Kafka batch within a bound: a batch of a few kilobytes can expand to gigabytes.

No codec writes beyond the bound. Where a format states the size of its content, that size is checked before anything is allocated.
Of data that are damaged somewhere, or that other bytes follow, what comes before is returned with the error: some clients and the
broker read that far too.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import cramjam
import numpy as np

__all__ = ["CODECS", "Damaged", "TooLarge", "decompress"]

_FIRST_BUFFER_BYTES = 64 * 1024
_FIRST_BUFFER_RATIO = 16
_OVERFLOW = "failed to write whole buffer"  # how cramjam reports that the content does not fit

_GZIP_WINDOW = 31  # a header and a trailer of gzip around the stream
_INPUT_BYTES = 1024
_WRONG_CHECKSUM = "incorrect"  # as zlib words it

_XERIAL_HEADER = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES = 16
_BLOCK_LENGTH = struct.Struct(">i")


class TooLarge(ValueError):
    """The content is larger than the bound."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the records are larger than {max_bytes} bytes when they are decompressed: TWIN_MAX_DECOMPRESSED_BYTES")


class Damaged(ValueError):
    """The data are damaged, or other bytes follow them.

    Attributes:
        content: what could be decompressed before that, at least one byte.
    """

    def __init__(self, content: bytes, cause: Exception) -> None:
        super().__init__(f"after {len(content)} bytes the compressed records are damaged: {type(cause).__name__}: {cause}")
        self.content = content


def decompress(codec: int, data: bytes, max_bytes: int) -> bytes | memoryview:
    """Decompress the records of a batch, without a copy of them.

    Args:
        codec: number of the codec in the attributes of a batch, a key of ``CODECS``.
        data: the compressed records.
        max_bytes: most bytes that they may have.

    Raises:
        TooLarge: when they have more.
        Damaged: when a part of it can be decompressed.
        ValueError: when the codec does not exist.
        Exception: whatever the decompressor raises for data that are not valid.
    """
    if codec not in CODECS:
        raise ValueError(f"the batch is compressed with codec {codec}, which does not exist: use {', '.join(map(str, CODECS))}")
    return CODECS[codec](data, max_bytes)


def _gzip(data: bytes, max_bytes: int) -> bytes:
    try:
        content = gzip.GzipFile(fileobj=io.BytesIO(data)).read(max_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(_gzip_prefix(data, max_bytes), error) from None
    if len(content) > max_bytes:
        raise TooLarge(max_bytes)
    return content


def _gzip_prefix(data: bytes, max_bytes: int) -> bytes:
    """The content before the first damage; a member whose checksum is wrong has none.

    Raises:
        TooLarge: when it has more than ``max_bytes``.
    """
    content, rest = b"", data
    while rest:
        member = zlib.decompressobj(_GZIP_WINDOW)
        try:
            part, rest = _inflate(member, rest, max_bytes + 1 - len(content))
        except zlib.error:
            break
        content += part
        if len(content) > max_bytes:
            raise TooLarge(max_bytes)
        if not member.eof:
            break
    return content


def _inflate(member: Any, data: bytes, room: int) -> tuple[bytes, bytes]:
    """Up to ``room`` bytes of a member before its end or its damage, and the data behind it.

    Raises:
        zlib.error: when its checksum is wrong.
    """
    content = bytearray()
    for first in range(0, len(data), _INPUT_BYTES):
        piece, before = data[first : first + _INPUT_BYTES], member.copy()
        try:
            content += member.decompress(piece, room - len(content))
        except zlib.error as error:
            if _WRONG_CHECKSUM in str(error):
                raise
            return bytes(content) + _inflate_bytewise(before, piece, room - len(content)), b""
        if member.eof or len(content) == room:
            return bytes(content), member.unused_data + data[first + _INPUT_BYTES :]
    return bytes(content), b""


def _inflate_bytewise(member: Any, data: bytes, room: int) -> bytes:
    """Up to ``room`` bytes before the damage of these data."""
    content = bytearray()
    with suppress(zlib.error):
        for position in range(len(data)):
            content += member.decompress(data[position : position + 1], room - len(content))
            if len(content) == room:
                break
    return bytes(content)


def _snappy(data: bytes, max_bytes: int) -> bytes:
    """Snappy as Kafka's clients write it: one raw block, or blocks in the framing of xerial-snappy."""
    if not data.startswith(_XERIAL_HEADER):
        return _snappy_block(data, max_bytes, max_bytes)
    parts: list[bytes] = []
    try:
        for block in _xerial_blocks(memoryview(data)):
            parts.append(_snappy_block(block, max_bytes - sum(map(len, parts)), max_bytes))
    except TooLarge:
        raise
    except Exception as error:  # noqa: BLE001  # whatever the decoder raises for data that are not valid
        raise _damaged(b"".join(parts), error) from None
    return b"".join(parts)


def _xerial_blocks(data: memoryview) -> Iterator[bytes]:
    position = _XERIAL_HEADER_BYTES
    while position < len(data):
        (length,) = _BLOCK_LENGTH.unpack_from(data, position)
        position += _BLOCK_LENGTH.size
        if not 0 < length <= len(data) - position:
            raise ValueError(f"a snappy block states {length} bytes, but {len(data) - position} follow")
        yield bytes(data[position : position + length])
        position += length


def _damaged(content: bytes, cause: Exception) -> Exception:
    return Damaged(content, cause) if content else cause


def _snappy_block(data: bytes, room: int, max_bytes: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(data) > room:
        raise TooLarge(max_bytes)
    return bytes(cramjam.snappy.decompress_raw(data))


def _lz4(data: bytes, max_bytes: int) -> memoryview:
    return _into_buffer(cramjam.lz4.decompress_into, data, max_bytes)


def _zstd(data: bytes, max_bytes: int) -> memoryview:
    return _into_buffer(cramjam.zstd.decompress_into, data, max_bytes)


def _into_buffer(decompress_into: Callable[[Any, Any], int], data: bytes, max_bytes: int) -> memoryview:
    """Decompress into a buffer that suits most batches, else into one of the largest size allowed."""
    first = min(max(_FIRST_BUFFER_BYTES, _FIRST_BUFFER_RATIO * len(data)), max_bytes)
    for size in (first, max_bytes):
        buffer = np.empty(size, dtype=np.uint8)  # of which memory is used as far as it is written
        try:
            n_bytes = decompress_into(data, buffer)
        except cramjam.DecompressionError as error:
            if _OVERFLOW not in str(error):  # it is known to fail before the bound
                raise _damaged(_prefix(decompress_into, data), error) from None
        else:
            return buffer[:n_bytes].data
    raise TooLarge(max_bytes)


def _prefix(decompress_into: Callable[[Any, Any], int], data: bytes) -> bytes:
    """What can be decompressed of damaged data."""
    buffer = cramjam.Buffer()
    with suppress(cramjam.DecompressionError):
        decompress_into(data, buffer)
    buffer.seek(0)
    return bytes(buffer.read())


CODECS: dict[int, Callable[[bytes, int], bytes | memoryview]] = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}
"""Codecs by their number in the attributes of a batch; 0 is no compression."""

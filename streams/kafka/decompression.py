"""Decompresses the records of a Kafka batch within a bound: a batch of a few kilobytes can expand to gigabytes.

No codec writes beyond the bound. Where a format states the size of its content, that size is checked before anything is allocated.
Of data that are damaged somewhere, or that other bytes follow, what comes before is returned with the error: some clients and the
broker read that far too.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import cramjam
import numpy as np

__all__ = ["CODECS", "MAX_BLOCKS", "Damaged", "TooLarge", "TooManyBlocks", "decompress"]

_FIRST_BUFFER_BYTES = 64 * 1024
_FIRST_BUFFER_RATIO = 16
_OVERFLOW = "failed to write whole buffer"  # how cramjam reports that the content does not fit

MAX_BLOCKS = 10_000
"""Most blocks of snappy, members of gzip or frames of the other formats of one batch: each costs some time, however small it is.

Blocks of snappy have 32 KiB where clients make them, and the other formats are written as one member or frame.
"""

_GZIP_MEMBER, _LZ4_FRAME, _ZSTD_FRAME = b"\x1f\x8b\x08", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd"  # how each begins

_GZIP_WINDOW = 31  # a header and a trailer of gzip around the stream
_MEMBER_BYTES = 16 * 1024
_INPUT_BYTES = 1024
_PADDING = re.compile(rb"\0*")
_WRONG_CHECKSUM = "incorrect"  # as zlib words it

_XERIAL_HEADER = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES = 16
_BLOCK_LENGTH = struct.Struct(">i")


class TooLarge(ValueError):
    """The content is larger than the bound."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the records are larger than {max_bytes} bytes when they are decompressed: TWIN_MAX_DECOMPRESSED_BYTES")


class TooManyBlocks(ValueError):
    """The content is compressed in more parts than are opened."""

    def __init__(self) -> None:
        super().__init__(f"the records are compressed in more than {MAX_BLOCKS} blocks, members or frames: write larger ones")


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
        TooManyBlocks: when they are compressed in more than ``MAX_BLOCKS`` parts.
        Damaged: when a part of it can be decompressed.
        ValueError: when the codec does not exist.
        Exception: whatever the decompressor raises for data that are not valid.
    """
    if codec not in CODECS:
        raise ValueError(f"the batch is compressed with codec {codec}, which does not exist: use {', '.join(map(str, CODECS))}")
    return CODECS[codec](data, max_bytes)


def _require_few_blocks(n_blocks: int) -> None:
    if n_blocks > MAX_BLOCKS:
        raise TooManyBlocks


def _gzip(data: bytes, max_bytes: int) -> memoryview:
    _require_few_blocks(data.count(_GZIP_MEMBER))
    content, first = bytearray(), 0
    while first < len(data):
        size = len(content)
        try:
            end = _inflate(data, first, content, max_bytes)
        except (EOFError, zlib.error) as error:
            del content[size:]
            content += _inflate_damaged(data, first, max_bytes + 1 - size)
            if len(content) > max_bytes:
                raise TooLarge(max_bytes) from None
            raise _damaged(bytes(content), error) from None
        padding = _PADDING.match(data, end)
        first = padding.end() if padding else end
    return memoryview(content)


def _inflate(data: bytes, first: int, content: bytearray, max_bytes: int) -> int:
    """Append the content of the member that begins at ``first``, and return where it ends.

    Raises:
        TooLarge: when there is more than ``max_bytes`` with it.
        EOFError: when its end is missing.
        zlib.error: when it is damaged.
    """
    member = zlib.decompressobj(_GZIP_WINDOW)
    for position in range(first, len(data), _MEMBER_BYTES):  # in pieces: what follows a member is copied
        piece = data[position : position + _MEMBER_BYTES]
        content += member.decompress(piece, max_bytes + 1 - len(content))
        if len(content) > max_bytes:
            raise TooLarge(max_bytes)
        if member.eof:
            return position + len(piece) - len(member.unused_data)
    raise EOFError("the end of the compressed records is missing")


def _inflate_damaged(data: bytes, first: int, room: int) -> bytes:
    """Up to ``room`` bytes before the damage of a member, or its end; one whose checksum is wrong has none."""
    member, content = zlib.decompressobj(_GZIP_WINDOW), bytearray()
    for position in range(first, len(data), _INPUT_BYTES):
        piece, before = data[position : position + _INPUT_BYTES], member.copy()
        try:
            content += member.decompress(piece, room - len(content))
        except zlib.error as error:
            if _WRONG_CHECKSUM in str(error):
                return b""
            return bytes(content) + _inflate_bytewise(before, piece, room - len(content))
        if len(content) == room:
            break
    return bytes(content)


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
    room = max_bytes
    try:
        for n_before, block in enumerate(_xerial_blocks(memoryview(data))):
            _require_few_blocks(n_before + 1)
            parts.append(_snappy_block(block, room, max_bytes))
            room -= len(parts[-1])
    except (TooLarge, TooManyBlocks):
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
    _require_few_blocks(data.count(_LZ4_FRAME))
    return _into_buffer(cramjam.lz4.decompress_into, data, max_bytes)


def _zstd(data: bytes, max_bytes: int) -> memoryview:
    _require_few_blocks(data.count(_ZSTD_FRAME))
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

"""Decompresses the records of a Kafka batch within a bound: a batch of a few kilobytes can expand to gigabytes.

No codec writes beyond the bound. Where a format states the size of its content, that size is checked before anything is allocated.
"""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from typing import Any

import cramjam
import numpy as np

__all__ = ["CODECS", "TooLarge", "decompress"]

_FIRST_BUFFER_BYTES = 64 * 1024
_FIRST_BUFFER_RATIO = 16
_OVERFLOW = "failed to write whole buffer"  # how cramjam reports that the content does not fit

_XERIAL_HEADER = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES = 16
_BLOCK_LENGTH = struct.Struct(">i")


class TooLarge(ValueError):
    """The content is larger than the bound."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the records are larger than {max_bytes} bytes when they are decompressed: TWIN_MAX_DECOMPRESSED_BYTES")


def decompress(codec: int, data: bytes, max_bytes: int) -> bytes | memoryview:
    """Decompress the records of a batch, without a copy of them.

    Args:
        codec: number of the codec in the attributes of a batch, a key of ``CODECS``.
        data: the compressed records.
        max_bytes: most bytes that they may have.

    Raises:
        TooLarge: when they have more.
        ValueError: when the codec does not exist.
        Exception: whatever the decompressor raises for data that are not valid.
    """
    if codec not in CODECS:
        raise ValueError(f"the batch is compressed with codec {codec}, which does not exist: use {', '.join(map(str, CODECS))}")
    return CODECS[codec](data, max_bytes)


def _gzip(data: bytes, max_bytes: int) -> bytes:
    content = gzip.GzipFile(fileobj=io.BytesIO(data)).read(max_bytes + 1)
    if len(content) > max_bytes:
        raise TooLarge(max_bytes)
    return content


def _snappy(data: bytes, max_bytes: int) -> bytes:
    """Snappy as Kafka's clients write it: one raw block, or blocks in the framing of xerial-snappy."""
    if not data.startswith(_XERIAL_HEADER):
        return _snappy_block(data, max_bytes, max_bytes)
    view, position, parts, room = memoryview(data), _XERIAL_HEADER_BYTES, [], max_bytes
    while position < len(view):
        (length,) = _BLOCK_LENGTH.unpack_from(view, position)
        position += _BLOCK_LENGTH.size
        if not 0 < length <= len(view) - position:
            raise ValueError(f"a snappy block states {length} bytes, but {len(view) - position} follow")
        parts.append(_snappy_block(bytes(view[position : position + length]), room, max_bytes))
        room -= len(parts[-1])
        position += length
    return b"".join(parts)


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
            if _OVERFLOW not in str(error):
                raise
        else:
            return buffer[:n_bytes].data
    raise TooLarge(max_bytes)


CODECS: dict[int, Callable[[bytes, int], bytes | memoryview]] = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}
"""Codecs by their number in the attributes of a batch; 0 is no compression."""

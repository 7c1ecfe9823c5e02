"""Decompression within a bound: every codec, every way to exceed it, and data that are not valid."""

from __future__ import annotations

import gzip
import resource
import struct
from contextlib import suppress

import aiokafka.codec as codecs
import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.decompression import MAX_BLOCKS, Damaged, TooLarge, TooManyBlocks, decompress
from tests.kafka_batches import CODECS, GZIP, LZ4, SNAPPY, ZSTD, compress

MEBIBYTE = 1024 * 1024
BOUND = 2 * MEBIBYTE


def pack_gzip(data: bytes) -> bytes:
    """A member without the time of day, which would be part of the names of tests."""
    return gzip.compress(data, mtime=0)


def java_zstd(data: bytes) -> bytes:
    """A frame that does not state the size of its content, as streaming writers make it."""
    compressor = cramjam.zstd.Compressor()
    for first in range(0, len(data), 100_000):
        compressor.compress(data[first : first + 100_000])
    return bytes(compressor.finish())


WRITERS = {
    "gzip": (GZIP, pack_gzip),
    "gzip in members": (GZIP, lambda data: b"".join(pack_gzip(data[i : i + 50_000]) for i in range(0, len(data), 50_000))),
    "snappy in blocks": (SNAPPY, codecs.snappy_encode),
    "snappy in one block": (SNAPPY, lambda data: bytes(cramjam.snappy.compress_raw(data))),
    "lz4": (LZ4, codecs.lz4_encode),
    "lz4 in frames": (LZ4, lambda data: codecs.lz4_encode(data[: len(data) // 2]) + codecs.lz4_encode(data[len(data) // 2 :])),
    "zstd": (ZSTD, codecs.zstd_encode),
    "zstd without its size": (ZSTD, java_zstd),
    "zstd in frames": (ZSTD, lambda data: codecs.zstd_encode(data[: len(data) // 2]) + codecs.zstd_encode(data[len(data) // 2 :])),
}


SIZES = (0, 1, 70_000, BOUND - 1, BOUND)
CONTENTS = [(writer, size) for writer in WRITERS for size in SIZES if size or " in " not in writer]  # nothing has no parts


@pytest.mark.parametrize(("writer", "size"), CONTENTS)
def test_content_up_to_the_bound_is_decompressed(writer: str, size: int):
    codec, write = WRITERS[writer]
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]

    assert decompress(codec, write(content), BOUND) == content


@pytest.mark.parametrize("writer", WRITERS)
def test_one_byte_above_the_bound_is_refused_with_the_setting(writer: str):
    codec, write = WRITERS[writer]

    with pytest.raises(TooLarge, match=r"2097152 bytes.*TWIN_MAX_DECOMPRESSED_BYTES"):
        decompress(codec, write(b" " * (BOUND + 1)), BOUND)


@pytest.mark.parametrize("codec", CODECS.values())
def test_a_bomb_takes_no_more_memory_than_the_bound(codec: int):
    bomb = compress(codec, b" " * (300 * MEBIBYTE))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for _ in range(3):
        with pytest.raises(TooLarge):
            decompress(codec, bomb, 16 * MEBIBYTE)

    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert used < 64 * MEBIBYTE


def test_a_stated_size_is_refused_before_anything_is_allocated():
    claims_4_gib = b"\xff\xff\xff\xff\x0f" + b"abc"

    with pytest.raises(TooLarge):
        decompress(SNAPPY, claims_4_gib, BOUND)
    with pytest.raises(TooLarge):
        decompress(SNAPPY, b"\x82SNAPPY\0" + struct.pack(">iii", 1, 1, len(claims_4_gib)) + claims_4_gib, BOUND)


@pytest.mark.parametrize("length", [0, -1, 5, 2**31 - 1])
def test_a_block_of_snappy_with_a_wrong_length_is_refused(length: int):
    with pytest.raises(ValueError, match="a snappy block states"):
        decompress(SNAPPY, b"\x82SNAPPY\0" + struct.pack(">iii", 1, 1, length) + b"abc", BOUND)


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_a_codec_that_does_not_exist_is_named(codec: int):
    with pytest.raises(ValueError, match=f"codec {codec}, which does not exist"):
        decompress(codec, b"abc", BOUND)


@given(st.sampled_from(sorted(CODECS.values())), st.binary(max_size=300), st.integers(0, 2**32), st.binary(max_size=8))
def test_damaged_data_raise_an_exception_or_stay_within_the_bound(codec: int, content: bytes, position: int, wrong: bytes):
    data = bytearray(compress(codec, content))
    first = position % (len(data) + 1)
    data[first : first + len(wrong)] = wrong
    with suppress(Exception):  # whatever the decompressor raises
        content = decompress(codec, bytes(data), 10_000)
    assert len(content) <= 10_000


def blocks_of_snappy(n: int, end: bytes) -> bytes:
    block = bytes(cramjam.snappy.compress_raw(b"a"))
    return b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1) + n * (struct.pack(">i", len(block)) + block) + end


def in_parts(n: int) -> dict[str, tuple[int, bytes]]:
    """Content of ``n`` bytes of each codec, each byte in a part of its own."""
    return {
        "gzip": (GZIP, n * pack_gzip(b"a")),
        "padded gzip": (GZIP, n * (pack_gzip(b"a") + b"\0" * 200)),
        "snappy": (SNAPPY, blocks_of_snappy(n, b"")),
        "lz4": (LZ4, n * codecs.lz4_encode(b"a")),
        "zstd": (ZSTD, n * codecs.zstd_encode(b"a")),
    }


@pytest.mark.parametrize("writer", in_parts(0))
def test_as_many_parts_as_allowed_are_opened_and_one_more_is_refused(writer: str):
    codec, data = in_parts(MAX_BLOCKS)[writer]
    _, excessive = in_parts(MAX_BLOCKS + 1)[writer]

    assert decompress(codec, data, BOUND) == b"a" * MAX_BLOCKS
    with pytest.raises(TooManyBlocks, match="more than 10000 blocks, members or frames"):
        decompress(codec, excessive, BOUND)


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (GZIP, 3 * pack_gzip(b"a") + b"no member"),
        (GZIP, 3 * pack_gzip(b"a") + pack_gzip(b"b")[:-1] + b"\1"),
        (SNAPPY, blocks_of_snappy(3, b"\0\0\0\x09")),
    ],
)
def test_the_parts_before_a_damaged_one_are_kept(codec: int, data: bytes):
    with pytest.raises(Damaged) as raised:
        decompress(codec, data, BOUND)
    assert raised.value.content == b"aaa"

"""The reader of fetched batches: what is readable is delivered once and in order, everything else as bytes at its offsets."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from streams.bounds import DEFAULT_BOUNDS, UNPARSED_HEADERS, BoundSettings, ExcessHeaders, OutOfBounds, require_bounded
from streams.kafka import record_batches
from streams.kafka.parking import UnreadableBytes
from streams.kafka.record_batches import BatchReader, FetchedBatches
from tests.kafka_batches import BY_BROKER, CODECS, CONTROL, GZIP, NOW_MS, TRANSACTIONAL, ZSTD, Rec, batch, compress, encode_record

BOUNDS = BoundSettings(max_decompressed_bytes=1024 * 1024, max_batch_records=1000)
GOOD = [Rec(b"0"), Rec(b"1"), Rec(b"2")]


def read(data: bytes, fetch_offset: int = 0, bounds: BoundSettings = BOUNDS) -> list[Any]:
    """All records of a response."""
    return list(reader(data, fetch_offset, bounds))


def reader(data: bytes, fetch_offset: int = 0, bounds: BoundSettings = BOUNDS) -> BatchReader:
    return BatchReader(bounds, TopicPartition("topic", 0), FetchedBatches(data), None, fetch_offset, None, None, True, 0)


def summary(records: Iterable[Any]) -> list[Any]:
    """Offset and value of readable records, first and last offset of unreadable ones."""
    return [
        (record.value.first_offset, record.offset) if isinstance(record.value, UnreadableBytes) else (record.offset, record.value)
        for record in records
    ]


def good(base_offset: int, codec: int = 0) -> bytes:
    return batch(GOOD, base_offset=base_offset, codec=codec)


@pytest.mark.parametrize("codec", [0, *CODECS.values()])
def test_records_of_every_codec_are_delivered_as_they_were_sent(codec: int):
    headers = ((b"trace", b"x"), (b"trace", None), (b"", b""))
    first, second = read(batch([Rec(b"1", None, headers), Rec(None, b"k" * 1_000, (), None, 5)], codec=codec, base_offset=7), 7)

    assert (first.offset, first.key, first.value) == (7, None, b"1")
    assert first.headers == (("trace", b"x"), ("trace", None), ("", b""))
    assert (second.offset, second.key, second.value, second.timestamp) == (8, b"k" * 1_000, None, NOW_MS + 5)


@pytest.mark.parametrize("codec", CODECS.values())
def test_a_bomb_is_one_unreadable_record_between_its_neighbours(codec: int):
    bomb = batch([Rec(b" " * 2_000_000), *GOOD], codec=codec, base_offset=3)

    records = read(good(0) + bomb + good(7))

    assert summary(records) == [(0, b"0"), (1, b"1"), (2, b"2"), (3, 6), (7, b"0"), (8, b"1"), (9, b"2")]
    assert bytes(records[3].value) == bomb
    assert "TWIN_MAX_DECOMPRESSED_BYTES" in str(records[3].value.error)


DAMAGED = {
    "checksum": batch(GOOD, base_offset=3, crc=1),
    "unknown codec": batch(b"payload", base_offset=3, codec=5, n_records=3, is_compressed=True),
    "no compressed data": batch(b"no zstd", base_offset=3, codec=ZSTD, n_records=3, is_compressed=True),
    "truncated compressed data": batch(
        compress(ZSTD, b"x" * 1_000)[:-3], base_offset=3, codec=ZSTD, n_records=3, is_compressed=True
    ),
    "no records": batch(b"", base_offset=3, n_records=3),
    "more records than stated bytes": batch(encode_record(Rec(), 0)[:-2], base_offset=3, n_records=3),
    "too many records": batch(b"", base_offset=3, n_records=1001, last_delta=2),
    "negative number of records": batch(b"x", base_offset=3, n_records=-1, last_delta=2),
    "a format of the future": b"".join([good(3)[:16], b"\x03", good(3)[17:]]),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_batch_is_unreadable_as_a_whole_and_reading_goes_on(name: str):
    damaged = DAMAGED[name]
    records = read(good(0) + damaged + good(6))

    assert summary(records) == [(0, b"0"), (1, b"1"), (2, b"2"), (3, 5), (6, b"0"), (7, b"1"), (8, b"2")]
    assert bytes(records[3].value) == damaged


def test_a_damaged_batch_is_unreadable_from_the_position_on():
    assert summary(read(DAMAGED["checksum"] + good(6), 4)) == [(4, 5), (6, b"0"), (7, b"1"), (8, b"2")]


def test_a_header_whose_name_is_no_utf_8_leaves_its_record_readable():
    records = read(batch([Rec(b"0"), Rec(b"1", headers=[(b"caf\xe9", b"x"), (b"", None)]), Rec(b"2")]))

    assert summary(records) == [(0, b"0"), (1, b"1"), (2, b"2")]
    assert records[1].headers == (("caf\\xe9", b"x"), ("", None))


@pytest.mark.parametrize(
    "bad",
    [
        Rec(b"1", headers=[(None, b"x")]),
        Rec(b"1", n_headers=3),
        Rec(b"1", n_headers=-1),
        Rec(b"1", headers=[(b"x", b"y")], n_headers=0),
    ],
)
def test_a_record_with_impossible_headers_is_unreadable_alone(bad: Rec):
    records = read(batch([Rec(b"0"), bad, Rec(b"2")], base_offset=10) + good(13), 10)

    assert summary(records) == [(10, b"0"), (11, 11), (12, b"2"), (13, b"0"), (14, b"1"), (15, b"2")]


@pytest.mark.parametrize(
    ("headers", "bound"),
    [
        ([(b"x", b"y")] * 10_001, "a record with 10001 headers exceeds 10000, TWIN_MAX_HEADERS"),
        ([(b"x", b"y" * 1_100_000)], "headers of 1100001 bytes exceeds 1048576, TWIN_MAX_HEADER_BYTES"),
        ([(b"x" * 1_100_000, None)], "headers of 1100000 bytes exceeds 1048576, TWIN_MAX_HEADER_BYTES"),
    ],
)
def test_a_record_with_headers_over_a_bound_keeps_key_and_value_and_the_bytes_of_its_headers(headers: Any, bound: str):
    bad = Rec(b"1", b"key", headers=headers)
    records = read(batch([Rec(b"0"), bad, Rec(b"2")], base_offset=10, codec=GZIP) + good(13), 10, DEFAULT_BOUNDS)

    assert summary(records) == [(10, b"0"), (11, b"1"), (12, b"2"), (13, b"0"), (14, b"1"), (15, b"2")]
    assert records[1].key == b"key"
    assert records[1].headers == ((UNPARSED_HEADERS, encode_record(bad, 1)[-len(records[1].headers[0][1]) :]),)
    with pytest.raises(OutOfBounds, match=bound):
        require_bounded(records[1].headers)
    require_bounded(records[0].headers)


def test_millions_of_headers_fill_no_memory():
    flood = batch([Rec(b"0"), Rec(b"1", headers=[(b"", None)] * 3_000_000)], codec=GZIP)
    tracemalloc.start()
    try:
        records = read(flood, bounds=DEFAULT_BOUNDS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert summary(records) == [(0, b"0"), (1, b"1")]
    assert isinstance(records[1].headers, ExcessHeaders)
    assert peak < 120 * 1024 * 1024


DAMAGES = {
    "followed by other bytes": lambda data: data + b"trailing bytes",
    "followed by zeros": lambda data: data + bytes(100),
    "cut": lambda data: data[: len(data) * 2 // 3],
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_batch_whose_compressed_data_are_damaged_every_readable_record_is_delivered_and_the_rest_as_bytes(
    codec: str, damage: str
):
    rng = random.Random(3)
    values = [rng.randbytes(500) for _ in range(600)]  # more than any codec has in one block
    payload = b"".join(encode_record(Rec(value), index) for index, value in enumerate(values))
    damaged = batch(DAMAGES[damage](compress(CODECS[codec], payload)), codec=CODECS[codec], n_records=600, is_compressed=True)

    *records, last = read(damaged + good(600), bounds=DEFAULT_BOUNDS)[:-2]

    assert (last.offset, last.value) == (600, b"0")
    is_complete = not isinstance(records[-1].value, UnreadableBytes)
    readable = records if is_complete else records[:-1]
    assert summary(readable) == list(enumerate(values[: len(readable)]))
    assert is_complete == damage.startswith("followed")
    assert len(readable) == 600 if is_complete else 100 <= len(readable) < 600
    if not is_complete:
        rest = records[-1]
        assert (rest.value.first_offset, rest.offset, bytes(rest.value)) == (len(readable), 599, damaged)
        assert rest.headers == (("twin_first_offset", str(len(readable)).encode()),)


def test_a_gzip_member_with_a_wrong_checksum_is_not_trusted():
    data = bytearray(compress(GZIP, encode_record(Rec(b"1"), 0)))
    data[-8] ^= 0xFF

    assert summary(read(batch(bytes(data), codec=GZIP, is_compressed=True))) == [(0, 0)]


@pytest.mark.parametrize("deltas", [(0, 0, 2), (0, 2**31 - 1, 2), (0, -1, 2), (0, 5, 2)])
def test_offsets_that_do_not_rise_within_their_batch_move_no_position(deltas: tuple[int, ...]):
    records = [Rec(str(index).encode(), offset_delta=delta) for index, delta in enumerate(deltas)]

    assert summary(read(batch(records, base_offset=10) + good(13), 10)) == [
        (10, b"0"),
        (11, 12),
        (13, b"0"),
        (14, b"1"),
        (15, b"2"),
    ]


def test_a_compacted_batch_leaves_the_offsets_of_its_removed_records_out():
    compacted = batch([Rec(b"1", offset_delta=1), Rec(b"4", offset_delta=4)], last_delta=6)
    iterator = reader(compacted + batch(b"", base_offset=7, n_records=0, last_delta=3))

    assert summary(iterator) == [(1, b"1"), (4, b"4")]
    assert iterator.next_fetch_offset == 11


def test_control_batches_are_left_out_and_transactional_records_delivered():
    marker = batch([Rec(b"\0\0\0\0\0\0", b"\0\0\0\1")], base_offset=3, attributes=TRANSACTIONAL | CONTROL)
    iterator = reader(batch(GOOD, attributes=TRANSACTIONAL) + marker)

    assert summary(iterator) == [(0, b"0"), (1, b"1"), (2, b"2")]
    assert iterator.next_fetch_offset == 4


@pytest.mark.parametrize(
    ("stated_ms", "read_ms"),
    [(-1, -1), (2**62, 253_402_300_799_999), (-(2**62), -62_135_596_800_000), (0, 0), (253_402_300_799_999, 253_402_300_799_999)],
)
def test_a_time_that_no_calendar_has_becomes_the_nearest_one(stated_ms: int, read_ms: int):
    (record,) = read(batch([Rec()], first_timestamp=stated_ms, max_timestamp=stated_ms))

    assert record.timestamp == read_ms


def test_the_time_of_the_broker_is_that_of_the_batch():
    (record,) = read(batch([Rec(timestamp_delta=-5)], attributes=BY_BROKER, max_timestamp=NOW_MS + 1))

    assert record.timestamp == NOW_MS + 1


@pytest.mark.parametrize("length", [-1, 0, 5, 2**31 - 1])
def test_a_damaged_length_makes_all_bytes_one_batch(length: int):
    data = good(5)
    damaged = data[:8] + length.to_bytes(4, signed=True) + data[12:]
    iterator = reader(damaged, 5)

    assert summary(iterator) in ([(5, 7)], [(5, b"0"), (6, b"1"), (7, b"2")])
    assert iterator.next_fetch_offset == 8


@pytest.mark.parametrize("data", [b"x", b"\xff" * 30, b"\0" * 100])
def test_bytes_without_any_header_advance_by_one_offset(data: bytes):
    iterator = reader(data, 5)

    assert summary(iterator) == [(5, 5)]
    assert iterator.next_fetch_offset == 6


def test_a_batch_cut_at_the_end_of_a_response_is_fetched_again():
    iterator = reader(good(0) + good(3)[:-1])

    assert summary(iterator) == [(0, b"0"), (1, b"1"), (2, b"2")]
    assert iterator.next_fetch_offset == 3


async def test_a_poll_reads_all_partitions_only_up_to_a_size_and_what_follows_is_fetched_again():
    bounds = BoundSettings(max_decompressed_bytes=32 * 1024 * 1024)
    batches = b"".join(batch([Rec(b" " * 10_000_000)], codec=ZSTD, base_offset=offset) for offset in range(5))
    first, second = reader(batches, 0, bounds), reader(batches, 0, bounds)

    assert len(list(first)) == 2
    assert list(second) == []
    assert (first.next_fetch_offset, second.next_fetch_offset) == (2, 0)

    await asyncio.sleep(0)  # the next poll
    again = reader(batches, 0, bounds)
    assert len(list(again)) == 2


async def test_a_poll_reads_one_bomb_and_returns_its_memory(monkeypatch: pytest.MonkeyPatch):
    trims = []
    monkeypatch.setattr(record_batches, "trim", lambda: trims.append(1))
    bounds = BoundSettings(max_decompressed_bytes=40 * 1024 * 1024)
    bomb = batch([Rec(b" " * 50_000_000)], codec=ZSTD)

    assert summary(read(bomb, bounds=bounds)) == [(0, 0)]
    assert read(bomb, bounds=bounds) == []
    await asyncio.sleep(0)
    assert trims == [1]
    assert len(read(good(0), bounds=bounds)) == 3
    await asyncio.sleep(0)
    assert trims == [1]


def test_an_unreadable_batch_holds_nothing_of_what_was_decompressed():
    tracemalloc.start()
    try:
        (record,) = read(batch([Rec(b" " * 2_000_000)], codec=ZSTD))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert record.value.first_offset == 0
    assert held < 100_000


@pytest.mark.parametrize(("magic", "codec"), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)])
def test_batches_of_old_formats_are_read_within_the_bound(magic: int, codec: int):
    builder = LegacyRecordBatchBuilder(magic=magic, compression_type=codec, batch_size=10_000_000)
    for offset in range(3):
        builder.append(offset, NOW_MS, b"k", b"v" * (10 if offset else 2_000_000))
    data = bytes(builder.build())
    if codec:  # the broker gives a compressed batch the offset of its last record
        data = (2).to_bytes(8) + data[8:]

    records = read(data)

    if codec:
        assert summary(records) == [(0, 2)]
    else:
        assert [record.offset for record in records] == [0, 1, 2]
        assert all(isinstance(record.timestamp, int) for record in records)


@given(st.binary(max_size=200), st.integers(0, 400), st.sampled_from([0, *CODECS.values()]))
def test_damage_anywhere_moves_the_position_and_raises_nothing(wrong: bytes, first: int, codec: int):
    data = bytearray(good(5, codec) + good(8, codec))
    data[first : first + len(wrong)] = wrong
    iterator = reader(bytes(data), 5)

    offsets = [record.offset for record in iterator]

    assert iterator.next_fetch_offset > 5
    assert offsets == sorted(set(offsets))


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5), st.integers(0, 150), st.binary(min_size=1, max_size=10))
def test_no_offset_is_read_twice_and_the_records_after_damaged_ones_are_read(values: list[bytes], position: int, wrong: bytes):
    payload = bytearray(b"".join(encode_record(Rec(value), index) for index, value in enumerate(values)))
    first = position % len(payload)
    payload[first : first + len(wrong)] = wrong
    data = batch(bytes(payload), n_records=len(values))

    records = read(data + good(len(values)))

    covered = [offset for first, offset in map(_span, records) for offset in range(first, offset + 1)]
    assert covered == sorted(set(covered))
    assert [record.value for record in records[-3:]] == [b"0", b"1", b"2"]


def _span(record: Any) -> tuple[int, int]:
    return (record.value.first_offset if isinstance(record.value, UnreadableBytes) else record.offset), record.offset

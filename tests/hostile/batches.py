"""Draws hostile batches of records from a seed: what a broken or malicious producer sends below the level of records."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder

from streams.kafka import PARTITIONS
from tests.hostile.traces import Position
from tests.kafka_batches import (
    CODECS,
    CONTROL,
    GZIP,
    NOW_MS,
    TRANSACTIONAL,
    Rec,
    batch,
    compress,
    encode_record,
    last_offset_delta,
    send_raw,
)

__all__ = ["BATCH_DAMAGES", "HostileBatch", "hostile_batches", "send_batches"]

_LONGEST_SEND_S = 10.0
_BOMB_BYTES = 300_000_000
"""More than the service decompresses; compressed it is far below the limit of the broker."""


@dataclass(frozen=True)
class HostileBatch:
    """A batch to send as it is; ``kind`` is the name of the damage."""

    kind: str
    data: bytes


def _random_payload(rng: random.Random) -> bytes:
    return batch(rng.randbytes(rng.randrange(1, 2000)), codec=_codec(rng), is_compressed=True)


def _random_content(rng: random.Random) -> bytes:
    return batch(rng.randbytes(rng.randrange(1, 2000)), codec=_codec(rng))


def _bomb(rng: random.Random) -> bytes:
    """One record of blanks."""
    return batch([Rec(value=b" " * _BOMB_BYTES)], codec=_codec(rng))


def _truncated_frame(rng: random.Random) -> bytes:
    codec = _codec(rng)
    frame = compress(codec, encode_record(Rec(value=rng.randbytes(5000)), 0))
    return batch(frame[: rng.randrange(1, len(frame))], codec=codec, is_compressed=True)


def _flipped_frame(rng: random.Random) -> bytes:
    codec = _codec(rng)
    frame = bytearray(compress(codec, encode_record(Rec(value=rng.randbytes(5000)), 0)))
    frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
    return batch(bytes(frame), codec=codec, is_compressed=True)


def _unknown_codec(rng: random.Random) -> bytes:
    return batch([Rec(value=b"{}")], codec=rng.choice([5, 6, 7]))


def _wrong_count(rng: random.Random) -> bytes:
    return batch([Rec(value=b"{}")] * 3, codec=rng.choice([0, _codec(rng)]), n_records=rng.choice([0, 1, 4, 2**31 - 1]))


def _wrong_checksum(rng: random.Random) -> bytes:
    return batch([Rec(value=b"{}")] * 3, codec=rng.choice([0, _codec(rng)]), crc=rng.randrange(2**32))


def _old_format(rng: random.Random) -> bytes:
    """Messages of the formats before batches, as they are, compressed or cut short."""
    builder = LegacyRecordBatchBuilder(magic=rng.choice([0, 1]), compression_type=rng.choice([0, 1, 2]), batch_size=100_000)
    for offset in range(3):
        builder.append(offset, NOW_MS, rng.choice([None, b"k"]), rng.choice([None, b"{}", rng.randbytes(50)]))
    data = bytes(builder.build())
    return data[: rng.choice([len(data), len(data), len(data) - 5])]


def _gzip_members(rng: random.Random) -> bytes:
    """Records in several members of gzip, with garbage behind them, or cut short."""
    records = [encode_record(Rec(value=b"{}"), index) for index in range(2)]
    members = b"".join(gzip.compress(record, mtime=0) for record in records)
    payload = rng.choice(
        [members, members + rng.randbytes(30), members + b"\0" * 30, members[: len(members) - rng.randrange(1, 12)]]
    )
    return batch(payload, codec=GZIP, is_compressed=True, n_records=2)


def _transactional_flags(rng: random.Random) -> bytes:
    """A batch that claims to belong to a transaction, or to end one."""
    return batch(
        [Rec(value=b"\0\0\0\1" + rng.randbytes(4), key=b"\0\0\0\1")],
        attributes=rng.choice([TRANSACTIONAL, CONTROL, TRANSACTIONAL | CONTROL]),
    )


def _odd_headers(rng: random.Random) -> bytes:
    headers = [(rng.choice([None, b"", b"\xff", b"h" * 5000]), rng.choice([None, b"", rng.randbytes(20)])) for _ in range(500)]
    return batch([Rec(value=b"{}", headers=headers)], codec=rng.choice([0, _codec(rng)]))


def _odd_times(rng: random.Random) -> bytes:
    return batch([Rec(value=b"{}", timestamp_delta=rng.choice([-(2**62), 2**62, -1]))], first_timestamp=rng.choice([-1, 0, 2**62]))


BATCH_DAMAGES: Mapping[str, Callable[[random.Random], bytes]] = {
    damage.__name__.strip("_").replace("_", " "): damage
    for damage in (
        _random_payload,
        _random_content,
        _bomb,
        _truncated_frame,
        _flipped_frame,
        _unknown_codec,
        _wrong_count,
        _wrong_checksum,
        _old_format,
        _gzip_members,
        _transactional_flags,
        _odd_headers,
        _odd_times,
    )
}
"""Ways to damage a batch, by their names."""


def hostile_batches(seed: int, count: int) -> Iterator[HostileBatch]:
    """Draw ``count`` batches, of every damage in turn; the broker refuses some of them."""
    rng = random.Random(seed)
    names = list(BATCH_DAMAGES)
    for number in range(count):
        kind = names[number % len(names)]
        yield HostileBatch(kind, BATCH_DAMAGES[kind](rng))


async def send_batches(
    bootstrap: str, batches: Iterator[HostileBatch], topics: Sequence[str], interval_s: float, accepted: dict[Position, str]
) -> None:
    """Send the batches to the topics in turn, and add the last record of each that the broker accepts, with the kind of the batch.

    A batch that cannot be read is parked under the offset of its last record.
    """
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        number = 0
        while (hostile := await asyncio.to_thread(next, batches, None)) is not None:
            topic = topics[number % len(topics)]
            partition = number % PARTITIONS[topic]
            number += 1
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(_LONGEST_SEND_S):
                    first = await send_raw(producer, topic, partition, hostile.data)
                accepted[topic, partition, first + last_offset_delta(hostile.data)] = hostile.kind
            await asyncio.sleep(interval_s)


def _codec(rng: random.Random) -> int:
    return rng.choice(list(CODECS.values()))

"""Batches of records in Kafka's format 2 as a producer can send them: well formed, unusual or damaged."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import aiokafka.codec as codecs
import cramjam
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c, encode_varint

HEADER = struct.Struct(">qiibIhiqqqhii")
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CODECS = {"gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
BY_BROKER, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20
NOW_MS = 1_700_000_000_000


class Rec(NamedTuple):
    """A record of a batch; ``offset_delta`` defaults to its index, and names of headers are bytes, None for a null."""

    value: bytes | None = b"v"
    key: bytes | None = b"k"
    headers: Sequence[tuple[bytes | None, bytes | None]] = ()
    offset_delta: int | None = None
    timestamp_delta: int = 0
    n_headers: int | None = None


def varint(value: int) -> bytes:
    buffer = bytearray()
    encode_varint(value, buffer.append)
    return bytes(buffer)


def nullable(content: bytes | None) -> bytes:
    return varint(-1) if content is None else varint(len(content)) + content


def encode_record(record: Rec, index: int) -> bytes:
    delta = index if record.offset_delta is None else record.offset_delta
    body = b"\0" + varint(record.timestamp_delta) + varint(delta) + nullable(record.key) + nullable(record.value)
    body += varint(len(record.headers) if record.n_headers is None else record.n_headers)
    body += b"".join(nullable(name) + nullable(value) for name, value in record.headers)
    return varint(len(body)) + body


def compress(codec: int, data: bytes) -> bytes:
    match codec:
        case 1:
            return gzip.compress(data, mtime=0)
        case 2:
            return codecs.snappy_encode(data)
        case 3:
            return codecs.lz4_encode(data)
        case 4:
            return bytes(cramjam.zstd.compress(data))
    return data


def batch(
    records: Sequence[Rec] | bytes,
    *,
    codec: int = 0,
    base_offset: int = 0,
    n_records: int | None = None,
    last_delta: int | None = None,
    attributes: int = 0,
    first_timestamp: int = NOW_MS,
    max_timestamp: int = NOW_MS,
    crc: int | None = None,
    is_compressed: bool = False,
) -> bytes:
    """Encode a batch; ``records`` as bytes is the payload before, or with ``is_compressed`` after, compression."""
    payload = records if isinstance(records, bytes) else b"".join(map(encode_record, records, range(len(records))))
    count = (1 if isinstance(records, bytes) else len(records)) if n_records is None else n_records
    payload = payload if is_compressed else compress(codec, payload)
    last = count - 1 if last_delta is None else last_delta
    rest = struct.pack(">hiqqqhii", attributes | codec, last, first_timestamp, max_timestamp, -1, -1, -1, count) + payload
    checksum = calc_crc32c(rest) if crc is None else crc
    return struct.pack(">qiibI", base_offset, len(rest) + 9, -1, 2, checksum) + rest


def last_offset_delta(data: bytes) -> int:
    """Offset of the last record of a batch behind its first; formats before the second have it in no header."""
    return int.from_bytes(data[23:27]) if data[16] == 2 else 0


async def send_raw(producer: AIOKafkaProducer, topic: str, partition: int, data: bytes) -> int:
    """Send a batch as it is, and return the offset of its first record.

    Raises:
        aiokafka.errors.KafkaError: when the broker refuses the batch.
    """
    await producer.partitions_for(topic)
    node = producer.client.cluster.leader_for_partition(TopicPartition(topic, partition))
    response: Any = await producer.client.send(node, ProduceRequest(None, -1, 30_000, [(topic, [(partition, data)])]))
    ((_, ((_, code, offset, *_),)),) = response.topics
    if code:
        raise for_code(code)(f"{topic}:{partition} refused the batch")
    return int(offset)

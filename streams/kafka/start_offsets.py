"""Finds where reading the outcome topic starts, from the position in Postgres, the group's offset and the topic itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.types import TP

from schemas import SourceId
from schemas.base import utc_time
from sql.database import Pool
from sql.source_position_store import UNREADABLE_DIGEST, SourceStart, begin_source, newest_position, record_digest
from streams.kafka.batch_consumer import StartOffset
from streams.kafka.clients import open_consumer
from streams.kafka.parking import UnreadableBytes
from streams.settings import Settings

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

__all__ = ["find_start_offsets"]

_FETCH_S = 10.0


async def find_start_offsets(
    settings: Settings, pool: Pool, committed: Mapping[TP, int | None], ended: Mapping[TP, int] = MappingProxyType({})
) -> dict[TP, StartOffset]:
    """Find the start of each partition, and store new sources and new incarnations in Postgres.

    Reading starts at the lower one of the position in Postgres and the group's committed offset. A topic counts as created again, a
    new incarnation, when the last record that was read is missing at its offset or is another one; a record that was deleted by
    retention does not count.

    Args:
        settings: address of Kafka.
        pool: connections to Postgres.
        committed: the group's offset of each partition, None where there is none.
        ended: incarnations whose topic was deleted while it was read. The record at the position may be one of the new topic
            already, so that it proves nothing; what it brought is recognised by its event when it is read again.
    """
    async with open_consumer(settings) as consumer:
        return {tp: await _find_start(consumer, pool, tp, offset, ended.get(tp)) for tp, offset in committed.items()}


async def _find_start(consumer: AIOKafkaConsumer, pool: Pool, tp: TP, committed: int | None, ended: int | None) -> StartOffset:
    newest = await newest_position(pool, tp.topic, tp.partition)
    partition = TopicPartition(tp.topic, tp.partition)
    earliest = int((await consumer.beginning_offsets([partition]))[partition])
    if newest is None or newest.last_offset < 0:
        start = StartOffset(earliest if committed is None else committed, newest.incarnation if newest else 0)
    elif newest.incarnation == ended or await _is_created_again(consumer, partition, newest, earliest):
        start = StartOffset(earliest, newest.incarnation + 1)
    else:
        following = newest.last_offset + 1
        start = StartOffset(following if committed is None else min(committed, following), newest.incarnation)
    await begin_source(pool, SourceId(topic=tp.topic, partition=tp.partition, incarnation=start.incarnation))
    return start


async def _is_created_again(consumer: AIOKafkaConsumer, partition: TopicPartition, newest: SourceStart, earliest: int) -> bool:
    end = int((await consumer.end_offsets([partition]))[partition])
    if end <= newest.last_offset:
        return True
    if earliest > newest.last_offset:
        return False  # retention has deleted the record
    consumer.assign([partition])
    consumer.seek(partition, newest.last_offset)
    return not _is_same(await asyncio.wait_for(consumer.getone(partition), _FETCH_S), newest)


def _is_same(record: ConsumerRecord[bytes | None, bytes | None], newest: SourceStart) -> bool:
    if isinstance(record.value, UnreadableBytes) or newest.last_digest == UNREADABLE_DIGEST:
        return bool(record.offset >= newest.last_offset)  # whether it can be decoded depends on the bounds, and its content on that
    timestamp = utc_time(record.timestamp / 1000)
    digest = record_digest(record.key, record.value)
    return (record.offset, timestamp, digest) == (newest.last_offset, newest.last_time, newest.last_digest)

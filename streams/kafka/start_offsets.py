"""Where a source is read from: what Postgres holds of it, what the group has committed, and whether the topic is still the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.types import TP

from schemas import SourceId
from sql.database import Pool
from sql.source_position_store import SourceStart, begin_source, newest_position, record_digest
from streams.kafka.batch_consumer import StartOffset
from streams.kafka.clients import open_consumer
from streams.settings import Settings

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

__all__ = ["find_start_offsets"]

_FETCH_S = 10.0


async def find_start_offsets(settings: Settings, pool: Pool, committed: Mapping[TP, int | None]) -> dict[TP, StartOffset]:
    """Start of each partition; sources that were never begun, and new incarnations of topics made anew, are begun here.

    The position in Postgres wins over the group's offset where it is lower. A topic was made anew when the record up to which it
    was read is no longer there as it was; a record that fell to retention proves nothing.
    """
    async with open_consumer(settings) as consumer:
        return {tp: await _start(consumer, pool, tp, offset) for tp, offset in committed.items()}


async def _start(consumer: AIOKafkaConsumer, pool: Pool, tp: TP, committed: int | None) -> StartOffset:
    newest = await newest_position(pool, tp.topic, tp.partition)
    where = TopicPartition(tp.topic, tp.partition)
    earliest = int((await consumer.beginning_offsets([where]))[where])
    if newest is None or newest.last_offset < 0:
        start = StartOffset(earliest if committed is None else committed, newest.incarnation if newest else 0)
    elif await _is_new(consumer, where, newest, earliest):
        start = StartOffset(earliest, newest.incarnation + 1)
    else:
        following = newest.last_offset + 1
        start = StartOffset(following if committed is None else min(committed, following), newest.incarnation)
    await begin_source(pool, SourceId(topic=tp.topic, partition=tp.partition, incarnation=start.incarnation))
    return start


async def _is_new(consumer: AIOKafkaConsumer, where: TopicPartition, newest: SourceStart, earliest: int) -> bool:
    latest = int((await consumer.end_offsets([where]))[where])
    if latest <= newest.last_offset:
        return True
    if earliest > newest.last_offset:
        return False
    consumer.assign([where])
    consumer.seek(where, newest.last_offset)
    return not _is_same(await asyncio.wait_for(consumer.getone(where), _FETCH_S), newest)


def _is_same(record: ConsumerRecord[bytes | None, bytes | None], newest: SourceStart) -> bool:
    at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
    found = record.offset, at, record_digest(record.key, record.value)
    return found == (newest.last_offset, newest.last_time, newest.last_digest)

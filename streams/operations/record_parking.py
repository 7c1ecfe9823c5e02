"""Parks a record at the request of an operator: before its role has read it, or while the role tries it again and again."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from schemas import OutcomeEvent, SourceId
from sql.database import Pool
from sql.park_store import PARKED, add_park_request, find_park_request, record_state, withdraw_park_request
from sql.source_position_store import newest_position
from streams.kafka import count_partitions, open_admin, open_consumer, reader_group, topic_of
from streams.settings import Settings

__all__ = ["AlreadyProcessed", "ParkedRecord", "park_record"]

_OUTCOMES = topic_of(OutcomeEvent)
_PICKED_UP_S, _POLL_S = 20.0, 0.2  # a record that is tried again waits up to 10 s, and requests are read every 2 s


class AlreadyProcessed(ValueError):
    """The role of a topic has processed the record already."""


class ParkedRecord(NamedTuple):
    """A record that is parked, or that its role parks when it reads it."""

    topic: str
    partition: int
    offset: int
    is_parked: bool
    why: str

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        state = PARKED if self.is_parked else "requested"
        return {"topic": self.topic, "partition": self.partition, "offset": self.offset, "state": state, "why": self.why}

    def format_text(self) -> str:
        """The result as a sentence."""
        position = f"{self.topic}:{self.partition}:{self.offset}"
        if self.is_parked:
            return f"{position} is parked: twinstream dlq list --kind parked"
        return f"{position} will be parked when its role reads it; twinstream verify counts the requests that are pending"


async def park_record(
    settings: Settings, pool: Pool, topic: str, partition: int, offset: int, why: str, *, by: str
) -> ParkedRecord:
    """Ask the role of a topic to park a record, and wait a few seconds until it did; ``by`` is who asks.

    Raises:
        AlreadyProcessed: when the record was processed before.
        ValueError: when no role reads the topic, or there is no such partition or record.
    """
    await _check_position(settings, topic, partition, offset)
    await _check_unprocessed(settings, pool, topic, partition, offset)
    await add_park_request(pool, topic, partition, offset, why=why, by=by)
    deadline = time.monotonic() + _PICKED_UP_S
    while time.monotonic() < deadline:
        request = await find_park_request(pool, topic, partition, offset)
        if request is not None and request.parked_at is not None:
            return ParkedRecord(topic, partition, offset, is_parked=True, why=why)
        await asyncio.sleep(_POLL_S)
    try:
        await _check_unprocessed(settings, pool, topic, partition, offset)
    except AlreadyProcessed:  # its role had it in work when the request was stored
        await withdraw_park_request(pool, topic, partition, offset)
        raise
    return ParkedRecord(topic, partition, offset, is_parked=False, why=why)


async def _check_position(settings: Settings, topic: str, partition: int, offset: int) -> None:
    reader_group(topic)
    n_partitions = await count_partitions(settings, topic)
    if not 0 <= partition < n_partitions:
        raise ValueError(f"{topic} has no partition {partition}: choose one from 0 to {n_partitions - 1}")
    tp = TopicPartition(topic, partition)
    async with open_consumer(settings) as consumer:
        first, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
    if not first <= offset < end:
        stored = f"its records have the offsets {first} to {end - 1}" if first < end else "it has no records"
        raise ValueError(f"{topic}:{partition} has no record at offset {offset}: {stored}")


async def _check_unprocessed(settings: Settings, pool: Pool, topic: str, partition: int, offset: int) -> None:
    incarnation, next_offset = await _progress(settings, pool, topic, partition)
    stored = await record_state(pool, SourceId(topic=topic, partition=partition, incarnation=incarnation), offset)
    kinds = [f"refused ({kind})" if kind != PARKED else "parked" for kind in stored.refused]
    results = [*stored.fates, *kinds]
    if offset < next_offset or results:
        result = " and ".join(results) or ("a gap: it was never delivered" if topic == _OUTCOMES else "done, it was not refused")
        raise AlreadyProcessed(f"the record at {topic}:{partition}:{offset} was processed already: {result}")


async def _progress(settings: Settings, pool: Pool, topic: str, partition: int) -> tuple[int, int]:
    """The incarnation of a partition, and the next offset that its role reads: stored for outcomes, else committed by the group."""
    if topic == _OUTCOMES:
        newest = await newest_position(pool, topic, partition)
        return (0, 0) if newest is None else (newest.incarnation, newest.last_offset + 1)
    async with open_admin(settings) as admin:
        committed = await admin.list_consumer_group_offsets(reader_group(topic))
    offsets = [item.offset for tp, item in committed.items() if (tp.topic, tp.partition) == (topic, partition)]
    return 0, max([0, *offsets])

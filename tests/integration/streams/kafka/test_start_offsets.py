"""Start offsets on a real Kafka and PostgreSQL: the stored position, the group's offset, or the beginning of the topic."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from faust.types import TP

from schemas import OutcomeEvent, SourceId
from sql import source_position_store as store
from sql.database import Pool, transaction
from sql.source_position_store import PositionUpdate, record_digest
from streams.kafka import open_admin, open_consumer, open_producer
from streams.kafka.batch_consumer import StartOffset
from streams.kafka.start_offsets import find_start_offsets
from streams.kafka.topics import TOPICS, topic_of
from streams.settings import Settings

RECORDS = 10


@pytest.fixture
async def admin(kafka_bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    async with open_admin(Settings(kafka_bootstrap=kafka_bootstrap)) as client:
        yield client


@pytest.fixture
async def tp(admin: AIOKafkaAdminClient, kafka_bootstrap: str) -> TP:
    """A partition with records 0 to 9, whose timestamps are those of the broker."""
    tp = TP(f"starts-{uuid4().hex}", 0)
    await create_topic(admin, tp)
    await publish(kafka_bootstrap, tp, "first")
    return tp


async def create_topic(admin: AIOKafkaAdminClient, tp: TP) -> None:
    outcome_topic = next(topic for topic in TOPICS if topic.name == topic_of(OutcomeEvent))
    await admin.create_topics([NewTopic(tp.topic, 1, 1, topic_configs=outcome_topic.configuration())])


async def publish(bootstrap: str, tp: TP, text: str, *, count: int = RECORDS, **options: Any) -> None:
    async with open_producer(Settings(kafka_bootstrap=bootstrap)) as producer:
        for number in range(count):
            await producer.send_and_wait(tp.topic, f"{text} {number}".encode(), partition=tp.partition, **options)


async def record_at(bootstrap: str, tp: TP, offset: int) -> Any:
    async with open_consumer(Settings(kafka_bootstrap=bootstrap)) as consumer:
        partition = TopicPartition(*tp)
        consumer.assign([partition])
        consumer.seek(partition, offset)
        return await consumer.getone(partition)


async def store_position(pool: Pool, bootstrap: str, tp: TP, offset: int) -> None:
    """Store in Postgres that the source is read up to this record."""
    source = SourceId(topic=tp.topic, partition=tp.partition)
    record = await record_at(bootstrap, tp, offset)
    await store.begin_source(pool, source)
    timestamp = datetime.fromtimestamp(record.timestamp / 1000, UTC)
    async with transaction(pool) as connection:
        await store.advance_position(
            connection, source, PositionUpdate(offset, offset + 1, None, timestamp, record_digest(record.key, record.value))
        )


async def find_start(pool: Pool, bootstrap: str, tp: TP, committed: int | None) -> StartOffset:
    return (await find_start_offsets(Settings(kafka_bootstrap=bootstrap), pool, {tp: committed}))[tp]


@pytest.mark.parametrize(("committed", "expected"), [(None, 0), (0, 0), (4, 4)])
async def test_a_source_without_a_position_starts_at_the_groups_offset_or_the_beginning(
    pool: Pool, kafka_bootstrap: str, tp: TP, committed: int | None, expected: int
):
    assert await find_start(pool, kafka_bootstrap, tp, committed) == StartOffset(expected, 0)


@pytest.mark.parametrize(("committed", "expected"), [(None, 6), (9, 6), (6, 6), (2, 2), (0, 0)])
async def test_a_source_starts_at_the_lower_one_of_position_and_offset(
    pool: Pool, kafka_bootstrap: str, tp: TP, committed: int | None, expected: int
):
    await store_position(pool, kafka_bootstrap, tp, 5)

    assert await find_start(pool, kafka_bootstrap, tp, committed) == StartOffset(expected, 0)


@pytest.mark.parametrize(
    ("text", "count"),
    [("second", 0), ("second", 5), ("second", RECORDS), ("first", RECORDS)],
    ids=["empty", "ends at the position", "other records", "the same records later"],
)
async def test_a_topic_that_was_created_again_is_a_new_incarnation_read_from_its_beginning(
    pool: Pool, kafka_bootstrap: str, admin: AIOKafkaAdminClient, tp: TP, text: str, count: int
):
    await store_position(pool, kafka_bootstrap, tp, 5)
    await admin.delete_topics([tp.topic])
    await create_topic(admin, tp)
    await publish(kafka_bootstrap, tp, text, count=count)

    assert await find_start(pool, kafka_bootstrap, tp, 6) == StartOffset(0, 1)
    assert await pool.fetchval("SELECT max(incarnation) FROM source_positions") == 1


async def test_a_record_of_the_same_time_with_other_content_makes_a_new_incarnation(pool: Pool, kafka_bootstrap: str, tp: TP):
    await store_position(pool, kafka_bootstrap, tp, 5)
    await pool.execute("UPDATE source_positions SET last_digest = $1", record_digest(b"another", None))

    assert await find_start(pool, kafka_bootstrap, tp, 6) == StartOffset(0, 1)


async def test_a_record_that_retention_deleted_makes_no_new_incarnation(
    pool: Pool, kafka_bootstrap: str, admin: AIOKafkaAdminClient, tp: TP
):
    await store_position(pool, kafka_bootstrap, tp, 5)
    await admin.delete_records({TopicPartition(*tp): RecordsToDelete(before_offset=8)})

    assert await find_start(pool, kafka_bootstrap, tp, 6) == StartOffset(6, 0)


async def test_a_record_has_the_time_of_the_broker_and_not_of_its_producer(kafka_bootstrap: str, tp: TP):
    await publish(kafka_bootstrap, tp, "long ago", timestamp_ms=1)

    record = await record_at(kafka_bootstrap, tp, RECORDS)

    assert abs(record.timestamp / 1000 - time.time()) < 86_400

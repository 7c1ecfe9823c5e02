"""Where a source is read from, on a real Kafka and a real PostgreSQL: Postgres's position, the group's offset, or the beginning."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from faust.types import TP

from schemas import OutcomeEvent, SourceId
from sql import source_position_store as store
from sql.database import Pool, open_pool, transaction
from sql.source_position_store import PositionUpdate, record_digest
from streams.kafka.batch_consumer import StartOffset
from streams.kafka.start_offsets import find_start_offsets
from streams.kafka.topics import TOPICS, topic_of
from streams.settings import Settings

RECORDS = 10


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    async with await open_pool(dsn=fresh_database) as opened:
        yield opened


@pytest.fixture
async def admin(kafka_bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await client.start()
    yield client
    await client.close()


@pytest.fixture
async def tp(admin: AIOKafkaAdminClient, kafka_bootstrap: str) -> TP:
    """A partition with records 0 to 9, stamped by the broker as ours are."""
    tp = TP(f"starts-{uuid4().hex}", 0)
    await make(admin, tp)
    await publish(kafka_bootstrap, tp, "first")
    return tp


async def make(admin: AIOKafkaAdminClient, tp: TP) -> None:
    declared = next(topic for topic in TOPICS if topic.name == topic_of(OutcomeEvent))
    await admin.create_topics([NewTopic(tp.topic, 1, 1, topic_configs=declared.configuration())])


async def publish(bootstrap: str, tp: TP, words: str, *, count: int = RECORDS, **how: Any) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number in range(count):
            await producer.send_and_wait(tp.topic, f"{words} {number}".encode(), partition=tp.partition, **how)


async def record_at(bootstrap: str, tp: TP, offset: int) -> Any:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        where = TopicPartition(*tp)
        consumer.assign([where])
        consumer.seek(where, offset)
        return await consumer.getone(where)


async def read_up_to(pool: Pool, bootstrap: str, tp: TP, offset: int) -> None:
    """Postgres holds everything up to this record."""
    source = SourceId(topic=tp.topic, partition=tp.partition)
    record = await record_at(bootstrap, tp, offset)
    await store.begin_source(pool, source)
    at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
    async with transaction(pool) as connection:
        await store.advance_position(
            connection, source, PositionUpdate(offset, offset + 1, None, at, record_digest(record.key, record.value))
        )


async def start_of(pool: Pool, bootstrap: str, tp: TP, committed: int | None) -> StartOffset:
    return (await find_start_offsets(Settings(kafka_bootstrap=bootstrap), pool, {tp: committed}))[tp]


@pytest.mark.parametrize(("committed", "begins"), [(None, 0), (0, 0), (4, 4)])
async def test_what_postgres_never_heard_of_is_read_from_the_groups_offset_or_the_beginning(
    pool: Pool, kafka_bootstrap: str, tp: TP, committed: int | None, begins: int
):
    assert await start_of(pool, kafka_bootstrap, tp, committed) == StartOffset(begins, 0)


@pytest.mark.parametrize(("committed", "begins"), [(None, 6), (9, 6), (6, 6), (2, 2), (0, 0)])
async def test_the_lower_one_of_position_and_offset_wins(
    pool: Pool, kafka_bootstrap: str, tp: TP, committed: int | None, begins: int
):
    await read_up_to(pool, kafka_bootstrap, tp, 5)

    assert await start_of(pool, kafka_bootstrap, tp, committed) == StartOffset(begins, 0)


@pytest.mark.parametrize(
    ("words", "count"),
    [("second", 0), ("second", 5), ("second", RECORDS), ("first", RECORDS)],
    ids=["empty", "ends at the position", "other records", "the same records later"],
)
async def test_a_topic_that_was_made_anew_is_another_incarnation_read_from_its_beginning(
    pool: Pool, kafka_bootstrap: str, admin: AIOKafkaAdminClient, tp: TP, words: str, count: int
):
    await read_up_to(pool, kafka_bootstrap, tp, 5)
    await admin.delete_topics([tp.topic])
    await make(admin, tp)
    await publish(kafka_bootstrap, tp, words, count=count)

    assert await start_of(pool, kafka_bootstrap, tp, 6) == StartOffset(0, 1)
    assert await pool.fetchval("SELECT max(incarnation) FROM source_positions") == 1


async def test_a_record_of_the_same_time_with_other_content_is_another_incarnations(pool: Pool, kafka_bootstrap: str, tp: TP):
    await read_up_to(pool, kafka_bootstrap, tp, 5)
    await pool.execute("UPDATE source_positions SET last_digest = $1", record_digest(b"another", None))

    assert await start_of(pool, kafka_bootstrap, tp, 6) == StartOffset(0, 1)


async def test_a_record_that_fell_to_retention_makes_no_new_incarnation(
    pool: Pool, kafka_bootstrap: str, admin: AIOKafkaAdminClient, tp: TP
):
    await read_up_to(pool, kafka_bootstrap, tp, 5)
    await admin.delete_records({TopicPartition(*tp): RecordsToDelete(before_offset=8)})

    assert await start_of(pool, kafka_bootstrap, tp, 6) == StartOffset(6, 0)


async def test_a_record_has_the_brokers_time_whatever_its_producer_says(kafka_bootstrap: str, tp: TP):
    await publish(kafka_bootstrap, tp, "long ago", timestamp_ms=1)

    record = await record_at(kafka_bootstrap, tp, RECORDS)

    assert abs(record.timestamp / 1000 - time.time()) < 86_400

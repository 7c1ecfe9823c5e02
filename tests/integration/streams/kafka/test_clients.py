"""Clients on a real Kafka: the largest record arrives, a consumer starts at the beginning, and topics are created once."""

from __future__ import annotations

from schemas import OutcomeEvent
from streams.kafka import MAX_RECORD_BYTES, PARTITIONS, create_topics, open_admin, open_consumer, open_producer, topic_of
from streams.settings import Settings

TOPIC = topic_of(OutcomeEvent)


async def test_a_record_of_almost_the_largest_size_is_stored_and_read(kafka_bootstrap: str) -> None:
    settings = Settings(kafka_bootstrap=kafka_bootstrap)
    await create_topics(settings)
    value = b"x" * (MAX_RECORD_BYTES - 1024)
    async with open_producer(settings) as producer:
        metadata = await producer.send_and_wait(TOPIC, value, partition=0)
    async with open_consumer(settings, TOPIC) as consumer:
        values = [(await consumer.getone()).value]
        while values[-1] != value:
            values.append((await consumer.getone()).value)
    assert metadata.partition == 0


async def test_existing_topics_are_left_alone(kafka_bootstrap: str) -> None:
    settings = Settings(kafka_bootstrap=kafka_bootstrap)
    await create_topics(settings)
    assert await create_topics(settings) == []
    async with open_admin(settings) as admin:
        assert PARTITIONS.keys() <= set(await admin.list_topics())

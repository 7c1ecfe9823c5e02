"""Opens the aiokafka clients of the service, each with the address, the credentials and the limits of the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from streams.kafka.records import MAX_RECORD_BYTES
from streams.kafka.security import kafka_security
from streams.settings import Settings

__all__ = ["open_admin", "open_consumer", "open_producer"]

_LINGER_MS = 5  # records that are sent together travel together


@asynccontextmanager
async def open_producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """Open a producer whose records are stored by all replicas, once each and in order.

    Raises:
        aiokafka.errors.KafkaConnectionError: when no broker answers.
        ValueError: when the settings lack a user name.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=_LINGER_MS,
        max_request_size=MAX_RECORD_BYTES,
        **kafka_security(settings),
    )
    try:
        await producer.start()
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def open_consumer(settings: Settings, *topics: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Open a consumer that belongs to no group, commits nothing and reads ``topics`` from their beginning.

    Without topics it reads the partitions that the caller assigns.

    Raises:
        aiokafka.errors.KafkaConnectionError: when no broker answers.
        ValueError: when the settings lack a user name.
    """
    consumer = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=settings.kafka_bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        **kafka_security(settings),
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


@asynccontextmanager
async def open_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Open a client that manages topics and consumer groups.

    Raises:
        aiokafka.errors.KafkaConnectionError: when no broker answers.
        ValueError: when the settings lack a user name.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap, **kafka_security(settings))
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()

"""Opens the aiokafka clients of the service, each with the address, the credentials and the limits of the settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError

from streams.kafka.record_batches import bound_fetches
from streams.kafka.records import MAX_RECORD_BYTES
from streams.kafka.security import kafka_security
from streams.settings import Settings

__all__ = ["MAX_PARTITION_FETCH_BYTES", "open_admin", "open_consumer", "open_producer"]

LOG = logging.getLogger(__name__)
CLOSE_S = 2.0
"""The longest wait for a client to close; where its broker does not answer, it closes in the background."""
_METADATA_AGE_MS = 30_000  # after this, a consumer knows of topics and partitions that were added
_LINGER_MS = 5  # records that are sent together travel together
MAX_PARTITION_FETCH_BYTES = 1024 * 1024  # a batch that is larger is fetched alone


@asynccontextmanager
async def open_producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """Open a producer whose records are stored by all replicas, once each and in order.

    Raises:
        aiokafka.errors.KafkaConnectionError: when no broker answers within ``kafka_connect_timeout_s``.
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
    async with _running(settings, producer.start, producer.stop):
        yield producer


@asynccontextmanager
async def open_consumer(settings: Settings, *topics: str, group: str | None = None) -> AsyncIterator[AIOKafkaConsumer]:
    """Open a consumer that commits nothing by itself and reads ``topics`` from their beginning, or from where its group goes on.

    Without a group it belongs to none, and without topics it reads the partitions that the caller assigns. A record that cannot be
    decoded has a value of the class :class:`~streams.kafka.parking.UnreadableBytes`.

    Raises:
        aiokafka.errors.KafkaConnectionError: when no broker answers within ``kafka_connect_timeout_s``.
        ValueError: when the settings lack a user name.
    """
    bound_fetches(settings)
    consumer = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=settings.kafka_bootstrap,
        group_id=group,
        enable_auto_commit=False,
        metadata_max_age_ms=_METADATA_AGE_MS,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=MAX_PARTITION_FETCH_BYTES,
        fetch_max_bytes=2 * MAX_RECORD_BYTES,
        **kafka_security(settings),
    )
    async with _running(settings, consumer.start, consumer.stop):
        yield consumer


@asynccontextmanager
async def open_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Open a client that manages topics and consumer groups.

    Raises:
        aiokafka.errors.KafkaConnectionError: when no broker answers within ``kafka_connect_timeout_s``.
        ValueError: when the settings lack a user name.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap, **kafka_security(settings))
    async with _running(settings, admin.start, admin.close):
        yield admin


@asynccontextmanager
async def _running(
    settings: Settings, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Start a client and stop it at the end of the block; neither takes longer than its limit when no broker answers."""
    seconds = settings.kafka_connect_timeout_s
    try:
        try:
            async with asyncio.timeout(seconds):
                await start()
        except TimeoutError as error:
            raise KafkaConnectionError(f"no answer within {seconds:g} s") from error
        yield
    finally:
        await _stop(stop)


_stopping: set[asyncio.Future[None]] = set()  # the event loop itself has weak references only


async def _stop(stop: Callable[[], Awaitable[None]]) -> None:
    stopped = asyncio.ensure_future(stop())
    _stopping.add(stopped)
    stopped.add_done_callback(_log_failure)
    await asyncio.wait({stopped}, timeout=CLOSE_S)


def _log_failure(stopped: asyncio.Future[None]) -> None:
    _stopping.discard(stopped)
    if not stopped.cancelled() and (error := stopped.exception()) is not None:
        LOG.warning("a client of Kafka could not be closed: %r", error)

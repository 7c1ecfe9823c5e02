"""Ten thousand hostile messages on every topic of a service: each is stored, answered or refused, and nothing else stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aiohttp
from aiokafka import AIOKafkaProducer, TopicPartition

from schemas import ModelEvent
from sql.database import Pool
from streams.kafka import MAX_RECORD_BYTES, PARTITIONS, open_consumer
from streams.settings import ROLES, Settings
from streams.web.dashboard import serve_dashboard
from tests.chaos.role_watch import RoleWatch
from tests.flow.conftest import Service, Twinstream
from tests.hostile.batches import hostile_batches, send_batches
from tests.hostile.line_watch import OTHER_LINE, LineWatch, add_other_line
from tests.hostile.messages import HostileRecord, hostile_records
from tests.hostile.traces import READERS, Position, refused_positions, topic_records, without_trace
from tests.polling import committed_offsets, until

MESSAGES, BATCHES, SEED = 10_000, 90, 1
RATE = 150.0
"""Messages a second: the service must be able to store them, or every record waits for those before it."""
LONGEST_S = 30.0
"""How long a role may be down, and no outcome of another line may be stored."""


async def test_hostile_messages_are_found_again_and_stop_nothing(
    settings: Settings, pool: Pool, promoted: ModelEvent, service_apart: Service, twinstream: Twinstream
):
    await add_other_line(pool, promoted.model_id)
    async with service_apart(ROLES):
        roles, line = RoleWatch(), LineWatch(settings)
        async with running(roles.watch([(settings, role) for role in ROLES]), line.run()):
            accepted: dict[Position, str] = {}
            await asyncio.gather(
                send_batches(settings.kafka_bootstrap, hostile_batches(SEED, BATCHES), list(READERS), 0.2, accepted),
                publish(settings, hostile_records(SEED, MESSAGES)),
            )
            ends = await end_offsets(settings)
            await until(lambda: is_read(settings, ends), within_s=400.0, every_s=1.0)  # each look connects to Kafka anew
        await until(line.unstored, lambda missing: not missing)
        assert await page_status(settings) == 200
        report = await twinstream("verify", "--json")

    assert accepted
    refused = await refused_positions(pool)
    assert {position: kind for position, kind in accepted.items() if position not in refused} == {}
    assert max(roles.longest_down_s.values()) < LONGEST_S
    assert line.longest_standstill_s < LONGEST_S
    assert report["mismatches"] == []
    records = [record for topic in READERS for record in await topic_records(settings, topic)]
    assert await without_trace(settings, pool, records) == []
    assert (await twinstream("dlq", "list", "--json"))["counts"]
    for command in (["fidelity"], ["retrain", "list", OTHER_LINE], ["models", "list"], ["dlq", "list"]):
        await twinstream(*command)


async def publish(settings: Settings, records: Iterable[HostileRecord]) -> None:
    """Publish the records at ``RATE`` a second to all partitions in turn, each in a batch of its codec."""
    async with AsyncExitStack() as stack:
        producers = {
            codec: await stack.enter_async_context(
                AIOKafkaProducer(
                    bootstrap_servers=settings.kafka_bootstrap,
                    compression_type=codec,
                    max_request_size=MAX_RECORD_BYTES,
                    linger_ms=20,
                )
            )
            for codec in (None, "gzip", "snappy", "lz4", "zstd")
        }
        pending, began = [], time.monotonic()
        for number, record in enumerate(records):
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
            partition = number % PARTITIONS[record.topic]
            send = producers[record.compression].send
            pending.append(await send(record.topic, record.value, record.key, partition, headers=list(record.headers)))
        await asyncio.gather(*pending)


@asynccontextmanager
async def running(*work: Any) -> AsyncIterator[None]:
    """Run tasks beside the block, and cancel them at its end; an exception of one of them is raised."""
    tasks = [asyncio.create_task(task) for task in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


Ends = Mapping[str, Mapping[int, int]]


async def end_offsets(settings: Settings) -> Ends:
    """The end of every partition that a role reads, by topic."""
    async with open_consumer(settings) as consumer:
        partitions = [TopicPartition(topic, number) for topic in READERS for number in range(PARTITIONS[topic])]
        ends = await consumer.end_offsets(partitions)
    return {topic: {tp.partition: end for tp, end in ends.items() if tp.topic == topic} for topic in READERS}


async def is_read(settings: Settings, ends: Ends) -> bool:
    """Whether every role has committed these offsets or later ones."""
    for topic in READERS:
        committed = await committed_offsets(settings, topic)
        if any(committed.get(partition, 0) < end for partition, end in ends[topic].items()):
            return False
    return True


async def page_status(settings: Settings) -> int:
    async with serve_dashboard(settings) as address, aiohttp.ClientSession() as session, session.get(address) as reply:
        await reply.text()
        return reply.status

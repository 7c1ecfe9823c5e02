"""Ten thousand hostile messages on every topic of a service: each is stored, answered or refused, and nothing else stops."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid5

import aiohttp
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from schemas import Brand, FidelityErrors, ModelEvent
from sql.database import Pool
from sql.ledger import Ledger
from streams.kafka import MAX_RECORD_BYTES, PARTITIONS, open_consumer
from streams.settings import ROLES, Role, Settings
from streams.simulation import UnreadableRequest, decode_request
from streams.web.dashboard import serve_dashboard
from tests.chaos.role_watch import RoleWatch
from tests.flow.conftest import Service, Twinstream
from tests.hostile.batches import HostileBatch, hostile_batches
from tests.hostile.messages import TEMPLATES, HostileRecord, hostile_records
from tests.kafka_batches import last_offset_delta, send_raw
from tests.outcomes import SPACE, TOPIC, outcome
from tests.polling import committed_offsets, until

MESSAGES, BATCHES, SEED = 10_000, 90, 1
RATE = 150.0
"""Messages a second: the service must be able to store them, or every record waits for those before it."""
LONGEST_S = 30.0
"""How long a role may be down, and no outcome of another line may be stored."""
OTHER_LINE = "hcp:remibrutinib:prescribing_change"
READERS: Mapping[str, Role] = {
    "outcome-events": "outcomes",
    "simulation-requests": "simulation",
    "experiment-results": "experiments",
    "fidelity-errors": "fidelity",
    "retrain-events": "trainer",
}
"""The role that reads each topic."""
Position = tuple[str, int, int]


async def test_hostile_messages_are_found_again_and_stop_nothing(
    settings: Settings, pool: Pool, promoted: ModelEvent, service_apart: Service, twinstream: Twinstream
):
    await add_second_line(pool, promoted)
    async with service_apart(ROLES):
        roles, line = RoleWatch(), LineWatch(settings, pool)
        async with running(roles.watch([(settings, role) for role in ROLES]), line.publish()):
            accepted, _ = await asyncio.gather(
                send_batches(settings, hostile_batches(SEED, BATCHES)), publish(settings, hostile_records(SEED, MESSAGES))
            )
            ends = await end_offsets(settings)
            await until(lambda: is_read(settings, ends), within_s=400.0)
        await until(line.is_stored)
        assert await page_status(settings) == 200
        report = await twinstream("verify", "--json")

    assert accepted
    refused = await refused_positions(pool)
    assert {position: kind for position, kind in accepted.items() if position not in refused} == {}
    assert max(roles.longest_down_s.values()) < LONGEST_S
    assert line.longest_standstill_s < LONGEST_S
    assert report["mismatches"] == []
    assert await records_without_trace(settings, pool) == []
    assert (await twinstream("dlq", "list", "--json"))["counts"]
    for command in (["fidelity"], ["retrain", "list", OTHER_LINE], ["models", "list"], ["dlq", "list"]):
        await twinstream(*command)


async def add_second_line(pool: Pool, first: ModelEvent) -> None:
    """Another line with a champion: its outcomes must not wait."""
    ledger = Ledger(pool)
    card = await ledger.card(first.model_id)
    other = card.model_copy(update={"model_id": uuid5(SPACE, "second"), "brand": Brand.REMIBRUTINIB})
    await ledger.register_model(other, "0" * 64, pane_s=300.0, window_s=3600.0)
    await ledger.promote(other.line, other.model_id, reason="first model of the line")


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


async def send_batches(settings: Settings, batches: Iterable[HostileBatch]) -> Mapping[Position, str]:
    """Send the batches to the topics that a role reads; returns the last record of each that the broker accepts, with its kind.

    A batch that cannot be read is parked under the offset of its last record.
    """
    topics, accepted = list(READERS), {}
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        for number, hostile in enumerate(batches):
            topic = topics[number % len(topics)]
            partition = number % PARTITIONS[topic]
            with suppress(KafkaError):
                first = await send_raw(producer, topic, partition, hostile.data)
                accepted[topic, partition, first + last_offset_delta(hostile.data)] = hostile.kind
            await asyncio.sleep(0.2)
    return accepted


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


@dataclass
class LineWatch:
    """Publishes an outcome of the other line every fifth of a second, and measures how long none of a partition is stored.

    A busy machine stores them late; it does not stop storing them.
    """

    settings: Settings
    pool: Pool
    published: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    stored: dict[int, int] = field(default_factory=dict)
    moved_s: dict[int, float] = field(default_factory=dict)
    longest_standstill_s: float = 0.0

    async def publish(self) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.settings.kafka_bootstrap) as producer:
            for number in range(10_000):
                body, partition = outcome(number, brand=Brand.REMIBRUTINIB.value), number % PARTITIONS[TOPIC]
                await producer.send_and_wait(TOPIC, json.dumps(body).encode(), partition=partition)
                self.published[partition].add(body["event_id"])
                await self.is_stored()
                await asyncio.sleep(0.2)

    async def is_stored(self) -> bool:
        """Whether all are stored."""
        rows = await self.pool.fetch("SELECT event_id::text FROM fidelity_tracking WHERE line = $1", OTHER_LINE)
        events, now = {row["event_id"] for row in rows}, time.monotonic()
        for partition, published in self.published.items():
            count = len(published & events)
            if count == len(published) or count > self.stored.get(partition, 0):
                self.moved_s[partition] = now
            self.stored[partition] = count
            self.longest_standstill_s = max(self.longest_standstill_s, now - self.moved_s.setdefault(partition, now))
        return all(published <= events for published in self.published.values())


Ends = Mapping[str, Mapping[int, int]]


async def end_offsets(settings: Settings) -> Ends:
    """The end of every partition that a role reads, by topic."""
    async with open_consumer(settings) as consumer:
        partitions = [TopicPartition(topic, number) for topic in READERS for number in range(PARTITIONS[topic])]
        ends = await consumer.end_offsets(partitions)
    return {topic: {tp.partition: end for tp, end in ends.items() if tp.topic == topic} for topic in READERS}


async def is_read(settings: Settings, ends: Ends) -> bool:
    """Whether every role has committed these offsets or later ones."""
    for topic, role in READERS.items():
        committed = await committed_offsets(settings, role, topic)
        if any(committed.get(partition, 0) < end for partition, end in ends[topic].items()):
            return False
    return True


async def page_status(settings: Settings) -> int:
    async with serve_dashboard(settings) as address, aiohttp.ClientSession() as session, session.get(address) as reply:
        await reply.text()
        return reply.status


async def refused_positions(pool: Pool) -> set[Position]:
    """Topic, partition and offset of every refused record."""
    return {tuple(row) for row in await pool.fetch("SELECT topic, partition, source_offset FROM refused_records")}


async def records_without_trace(settings: Settings, pool: Pool) -> Sequence[str]:
    """Records that are neither stored, answered nor refused under their offset."""
    refused = await refused_positions(pool)
    has_trace = {
        "outcome-events": await _stored_outcomes(pool),
        "simulation-requests": await _answered(settings),
        "experiment-results": await _stored_ids(pool, "experiment_id", "experiments"),
        "fidelity-errors": _is_valid_sum,
        "retrain-events": await _stored_ids(pool, "retrain_id", "retrain_requests"),
    }
    return [
        f"{topic}:{record.partition}:{record.offset}: {record.value!r:.200}"
        for topic in TEMPLATES
        for record in await _records(settings, topic)
        if (topic, record.partition, record.offset) not in refused and not has_trace[topic](record)
    ]


async def _stored_outcomes(pool: Pool) -> Any:
    rows = await pool.fetch("SELECT source, source_offset FROM fidelity_tracking")
    stored = {(int(row["source"].split(":")[1]), row["source_offset"]) for row in rows}
    return lambda record: (record.partition, record.offset) in stored


async def _answered(settings: Settings) -> Any:
    answered = {record.key for record in await _records(settings, "simulation-results")}

    def is_answered(record: Any) -> bool:
        try:
            return str(decode_request(record.value).simulation_id).encode() in answered
        except UnreadableRequest:
            return False

    return is_answered


async def _stored_ids(pool: Pool, column: str, table: str) -> Any:
    """A predicate: whether a row of the table has the id that a record names."""
    stored = {str(row[column]) for row in await pool.fetch(f"SELECT {column} FROM {table}")}

    def is_stored(record: Any) -> bool:
        with suppress(ValueError):
            body = json.loads(record.value or b"")
            return isinstance(body, dict) and body.get(column) in stored
        return False

    return is_stored


def _is_valid_sum(record: Any) -> bool:
    try:
        FidelityErrors.model_validate_json(record.value or b"")
    except ValidationError:
        return False
    return True


async def _records(settings: Settings, topic: str) -> Sequence[Any]:
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS[topic])]
    records: list[Any] = []
    async with open_consumer(settings) as consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                records += batch
    return records

"""Batches that no consumer can read, or that are legal and unusual, on a real broker: each is parked alone, and all others count.

Every batch is sent as raw bytes of a produce request, so that it is exactly what a broken or hostile producer may send.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from sql.database import Pool
from sql.dead_letter_store import RefusalQuery, list_refused
from streams.kafka import open_consumer, open_producer
from streams.operations.verify import verify
from streams.settings import Settings
from tests.kafka_batches import CODECS, GZIP, ZSTD, Rec, batch, send_raw
from tests.outcomes import TOPIC, make_card, make_line, outcome
from tests.polling import until

MEBIBYTE = 1024 * 1024
PARTITIONS = 4


@pytest.fixture
async def line(settings: Settings) -> None:
    await make_line(settings.postgres_dsn.get_secret_value(), make_card())


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    async with open_producer(settings) as opened:
        yield opened


def good(first: int, count: int = 10) -> bytes:
    """A batch of outcomes, one for each number."""
    return batch([Rec(json.dumps(outcome(number)).encode()) for number in range(first, first + count)])


MOST_MEMORY_MB = 700.0  # of the role: 200 for its libraries, and a few times TWIN_MAX_DECOMPRESSED_BYTES


BOMBS = {name: batch([Rec(b" " * (200 * MEBIBYTE))], codec=codec) for name, codec in CODECS.items() if name != "snappy"} | {
    "snappy": batch([Rec(b" " * (100 * MEBIBYTE))], codec=CODECS["snappy"])
}


def encoded(number: int, **fields: Any) -> Rec:
    """A record with one outcome."""
    return Rec(json.dumps(outcome(number)).encode(), **fields)


UNREADABLE = {
    "header without a name": batch([Rec(b"{}", headers=[(None, b"x")])]),
    "offsets that do not rise": batch([encoded(900 + index, offset_delta=0) for index in range(3)]),
    "offsets far ahead": batch([encoded(910 + index, offset_delta=delta) for index, delta in enumerate((0, 2**30, 1))]),
}
UNUSUAL = {
    "header names that are no UTF-8": [encoded(800, headers=[(b"caf\xe9\0", b"\0"), (b"", None), (b"", None)])],
    "ten thousand headers": [encoded(801, headers=[(b"h" * 50, b"v")] * 10_000)],
    "no key, and a time that no calendar has": [encoded(802, key=None, timestamp_delta=-(2**61))],
}


async def n_counted(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE fate = 'counted'"))


def peak_memory_mb(pid: int) -> float:
    match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert match is not None
    return int(match[1]) / 1024


async def test_unreadable_batches_are_parked_alone_and_every_good_record_counts_once(
    service_apart: Any, settings: Settings, pool: Pool, line: None, producer: AIOKafkaProducer, listener: Any
):
    sent: dict[str, tuple[int, int]] = {}
    async with service_apart(["outcomes", "fidelity"]) as pids:
        await send_raw(producer, TOPIC, 0, good(0))
        for index, (name, data) in enumerate((BOMBS | UNREADABLE).items()):
            partition = index % 3
            try:
                sent[name] = partition, await send_raw(producer, TOPIC, partition, data)
            except KafkaError as error:  # a broker that refuses the batch protects its readers
                print(f"the broker refuses {name}: {error!r}")  # shown when the test fails
            await send_raw(producer, TOPIC, partition, good(100 + 10 * index))
        await send_raw(producer, TOPIC, 3, good(700))
        n_good = 20 + 10 * len(BOMBS | UNREADABLE)
        await until(lambda: n_counted(pool), lambda n: n >= n_good, within_s=120)
        parked = await list_refused(pool, RefusalQuery(topic=TOPIC, kind="parked"), 100)
        report = await verify(settings)
        assert peak_memory_mb(pids["outcomes"]) < MOST_MEMORY_MB

    assert set(BOMBS) <= set(sent)
    for name, (partition, offset) in sent.items():
        rows = [row for row in parked if row.source.partition == partition and row.offset >= offset]
        assert rows, f"{name} at {partition}:{offset} is not parked"
    assert report.mismatches == ()
    extra = await n_counted(pool) - n_good  # records of unreadable batches up to the first unreadable one
    assert extra in (0, 1, 2)


async def test_unusual_batches_count_and_move_on(
    service: Any, settings: Settings, pool: Pool, line: None, producer: AIOKafkaProducer
):
    async with service(["outcomes"]):
        for records in UNUSUAL.values():
            await send_raw(producer, TOPIC, 1, batch(records))
        await send_raw(producer, TOPIC, 1, batch([Rec(None, None), Rec(b"", b""), Rec(b"{}", b"k" * MEBIBYTE)]))
        await send_raw(producer, TOPIC, 1, good(0))
        await until(lambda: n_counted(pool), lambda n: n >= 10 + len(UNUSUAL), within_s=60)
        kinds = [row.kind for row in await list_refused(pool, RefusalQuery(topic=TOPIC), 100)]

    assert sorted(kinds) == ["bound", "empty", "json"]


async def test_records_count_whether_their_transaction_is_committed_aborted_or_never_ended(
    service: Any, settings: Settings, pool: Pool, line: None, producer: AIOKafkaProducer
):
    async with service(["outcomes", "fidelity"]), AsyncExitStack() as stack:
        for number, end in enumerate(("commit_transaction", "abort_transaction", "none")):
            sender = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, transactional_id=f"sender {number}")
            await stack.enter_async_context(sender)
            await sender.begin_transaction()
            await sender.send_and_wait(TOPIC, json.dumps(outcome(number)).encode(), partition=number)
            if end != "none":
                await getattr(sender, end)()
        for partition in range(3):
            await send_raw(producer, TOPIC, partition, good(100 + 10 * partition))
        await until(lambda: n_counted(pool), lambda n: n == 33, within_s=60)
        report = await verify(settings)

    assert report.mismatches == ()
    assert await list_refused(pool, RefusalQuery(topic=TOPIC), 100) == []


async def test_readers_without_a_group_pass_an_unreadable_batch(settings: Settings, producer: AIOKafkaProducer):
    topic = "simulation-results"
    await send_raw(producer, topic, 0, batch([Rec(b" " * (100 * MEBIBYTE))], codec=ZSTD))
    await send_raw(producer, topic, 0, batch([Rec(b"answer")]))
    async with open_consumer(settings, topic) as consumer:
        first, second = await consumer.getone(), await consumer.getone()

    assert "TWIN_MAX_DECOMPRESSED_BYTES" in str(first.value.error)
    assert second.value == b"answer"


@pytest.mark.parametrize("topic", ["simulation-requests", "experiment-results", "retrain-events"])
async def test_every_role_parks_an_unreadable_batch_of_its_topic(
    service: Any, settings: Settings, pool: Pool, producer: AIOKafkaProducer, topic: str
):
    role = {"simulation-requests": "simulation", "experiment-results": "experiments", "retrain-events": "trainer"}[topic]
    async with service([role]):
        offset = await send_raw(producer, topic, 2, batch([Rec(b" " * (100 * MEBIBYTE))], codec=GZIP))
        await send_raw(producer, topic, 2, batch([Rec(b"no JSON")]))
        refused = await until(lambda: list_refused(pool, RefusalQuery(topic=topic), 10), lambda rows: len(rows) == 2, within_s=60)

    assert {(row.offset, row.kind) for row in refused if row.kind == "parked"} == {(offset, "parked")}

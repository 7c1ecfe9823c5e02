"""The changelog of the held panes, which external readers follow, on a real Kafka and a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from sql.database import Pool
from streams.agents import fidelity as fidelity_agent
from streams.kafka import PARTITIONS, open_consumer
from streams.kafka.topics import CHANGELOGS
from streams.monitoring.pane_table import PaneKey, partition_of
from streams.monitoring.window_state import SeriesKey
from streams.settings import Settings
from tests.outcomes import LINE, TOPIC, make_card, make_line, outcome
from tests.polling import until

CHANGELOG = CHANGELOGS[0].name
PANE_S = 60.0
BEGAN = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=1)


@pytest.fixture
async def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A line with a champion, and a sweep each second."""
    monkeypatch.setattr(fidelity_agent, "_SWEEP_S", 1.0)
    await make_line(settings.postgres_dsn.get_secret_value(), make_card(), pane_s=PANE_S, window_s=300.0)
    return settings.model_copy(
        update={"pane_s": PANE_S, "window_s": 300.0, "grace_s": 2.0, "idle_s": 2.0, "session_timeout_s": 13.0}
    )


async def test_a_restarted_worker_makes_the_changelog_equal_to_the_held_panes(settings: Settings, pool: Pool, service: Any):
    async with service(["fidelity", "outcomes"]):
        await publish_outcomes(settings, 900)
        await until(lambda: is_up_to_date(settings, pool))
    newest, *_, oldest = sorted(await live_panes(settings), key=start_of, reverse=True)
    evicted = PaneKey(LINE, SeriesKey(UUID(int=5), "region=gone"), 60.0).table_key()
    unknown_line = PaneKey("hcp:fabhalta:prescribing_change", SeriesKey(UUID(int=5), "all"), 60.0).table_key()

    # What a crash can leave: a lost record, a lost tombstone, and an older value after a newer one.
    async with changelog_writer(settings) as write:
        await write(newest, None)
        await write(evicted, {"version": 7, "sums": []})
        await write(unknown_line, {"version": 7, "sums": []}, partition=partition_of("hcp:fabhalta:prescribing_change"))
        await write(oldest, {"version": 0, "sums": []})
    assert not await is_up_to_date(settings, pool)
    async with service(["fidelity"]):
        await until(lambda: is_up_to_date(settings, pool))
        live = await live_panes(settings)

    assert newest in live
    assert evicted not in live
    assert unknown_line not in live


async def test_tombstones_are_on_the_partition_of_the_panes(settings: Settings, pool: Pool, service: Any):
    async with service(["fidelity", "outcomes"]):
        await publish_outcomes(settings, 3600)
        await until(lambda: has_tombstones(settings))

    records = await changelog_records(settings)
    assert {record.partition for record in records} == {partition_of(LINE)}


async def publish_outcomes(settings: Settings, seconds: int) -> None:
    """One outcome every 5 s of event time."""
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        for number in range(0, seconds, 5):
            at = (BEGAN + timedelta(seconds=number)).isoformat()
            await producer.send(TOPIC, json.dumps(outcome(number, observed_at=at)).encode(), key=str(number).encode())


@asynccontextmanager
async def changelog_writer(settings: Settings) -> AsyncIterator[Any]:
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:

        async def write(key: str, value: Any, partition: int = partition_of(LINE)) -> None:
            body = None if value is None else json.dumps(value).encode()
            await producer.send_and_wait(CHANGELOG, body, key=json.dumps(key).encode(), partition=partition)

        yield write


async def changelog_records(settings: Settings) -> list[Any]:
    partitions = [TopicPartition(CHANGELOG, partition) for partition in range(PARTITIONS["fidelity-errors"])]
    records: list[Any] = []
    async with open_consumer(settings) as consumer:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            records += [record for batch in (await consumer.getmany(timeout_ms=200)).values() for record in batch]
    return records


async def live_panes(settings: Settings) -> dict[str, int]:
    """Version of each pane in the changelog that has no tombstone."""
    values = {json.loads(record.key): record.value for record in await changelog_records(settings)}
    return {key: json.loads(value)["version"] for key, value in values.items() if value is not None}


async def has_tombstones(settings: Settings) -> bool:
    return any(record.value is None for record in await changelog_records(settings))


async def is_up_to_date(settings: Settings, pool: Pool) -> bool:
    """Whether the changelog has the stored version of each of its panes, and the panes of the latest window."""
    rows = await pool.fetch(
        "SELECT model_id, segment, floor(pane / $1) * $1 AS start, sum(version)::int FROM fidelity_panes GROUP BY 1, 2, 3",
        PANE_S,
    )
    stored = {PaneKey(LINE, SeriesKey(row[0], row[1]), row[2]).table_key(): row[3] for row in rows}
    newest = max((row[2] for row in rows), default=0.0)
    latest = {key for key in stored if start_of(key) > newest - 300.0}
    live = await live_panes(settings)
    return bool(latest) and latest <= live.keys() and all(stored.get(key) == version for key, version in live.items())


def start_of(key: str) -> float:
    return float(key.rpartition("|")[2])

"""Time without windows after their worker was killed, by the number of series that the next one has to load."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import uuid5

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas import Brand, FidelityWindow, ModelCard, OutcomeEvent
from sql.database import connect
from streams.kafka.topics import TOPICS, topic_of
from streams.settings import Settings
from streams.worker.supervisor import Workers
from tests.bench.measure import Figure
from tests.bench.tables import Measured, promote_first

__all__ = ["recovery_figure"]

FEW, MANY = 100, 100_000
PATIENCE_S = 900.0
OUTCOMES, WINDOWS = topic_of(OutcomeEvent), topic_of(FidelityWindow)
NAMED = f"the same with {FEW} series"
_WINDOWS_TOPIC = next(topic for topic in TOPICS if topic.name == WINDOWS)


class _Gap(NamedTuple):
    """Seconds from the kill to the first window with a later outcome, and memory of the process that published it."""

    seconds: float
    megabytes: float


def recovery_figure(measured: Measured, settings: Settings) -> Figure:
    """Kill the fidelity worker while every window is open and has to be published again."""
    own = settings.model_copy(update={"window_s": settings.pane_s, "max_segment_values": 2 * MANY})
    with Workers(["outcomes", "fidelity"], own, log_folder=settings.home / "logs") as workers, asyncio.Runner() as runner:
        workers.wait_ready()
        few, many = (
            runner.run(_gap(own, workers, _card(measured, brand), count))
            for brand, count in ((Brand.FABHALTA, FEW), (Brand.REMIBRUTINIB, MANY))
        )
    note = f"{own.session_timeout_s:g} s of it until Kafka expires the session; {many.megabytes:.0f} MB with {MANY:,} series"
    return Figure(f"silence after a kill, {MANY:,} series", measured.name, "s", many.seconds, few.seconds, NAMED, 1, note=note)


def _card(measured: Measured, brand: Brand) -> ModelCard:
    card = measured.model.card
    return card.model_copy(update={"brand": brand, "model_id": uuid5(card.model_id, brand.value)})


async def _gap(settings: Settings, workers: Workers, card: ModelCard, series: int) -> _Gap:
    await _promote(settings, card)
    async with _all_windows(settings) as consumer:
        await _publish(settings, _outcomes(card, series))
        await _await_windows(consumer, card, series)
        os.kill(workers.pids["fidelity"], signal.SIGKILL)
        killed = time.perf_counter()
        await _publish(settings, _outcomes(card, 1, first=series))
        await _await_windows(consumer, card, 1, n=series + 1)
        workers.check()
        return _Gap(time.perf_counter() - killed, psutil.Process(workers.pids["fidelity"]).memory_info().rss / 2**20)


async def _promote(settings: Settings, card: ModelCard) -> None:
    connection = await connect(settings.postgres_dsn.get_secret_value())
    try:
        await promote_first(connection, card, settings)
    finally:
        await connection.close()


def _all_windows(settings: Settings) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(WINDOWS, partition) for partition in range(_WINDOWS_TOPIC.partitions)])
    return consumer


def _outcomes(card: ModelCard, count: int, *, first: int = 0) -> Iterator[bytes]:
    """Outcomes of one pane, each of another region."""
    at = datetime.now(UTC).replace(minute=2, second=0, microsecond=0) - timedelta(hours=1)
    for number in range(first, first + count):
        fields: dict[str, Any] = {
            "event_id": str(uuid5(card.model_id, f"silence {number}")),
            "observed_at": at.isoformat(),
            "twin_type": card.twin_type.value,
            "brand": card.brand.value,
            "metric_type": card.target,
            "actual_value": 0.1,
            "predicted_value": 0.1,
            "segment": {"region": f"r{number}"},
        }
        yield json.dumps(fields).encode()


async def _publish(settings: Settings, values: Iterator[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, linger_ms=20) as producer:
        for value in values:
            await producer.send(OUTCOMES, value)


async def _await_windows(consumer: AIOKafkaConsumer, card: ModelCard, series: int, *, n: int = 0) -> None:
    """Wait for windows of this many series of the line, and for one that holds at least ``n`` outcomes."""
    segments: set[str] = set()
    largest = 0
    async with asyncio.timeout(PATIENCE_S):
        while len(segments) < series or largest < n:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for window in (json.loads(record.value) for record in records if record.key == card.line.encode()):
                    segments.add(window["segment"])
                    largest = max(largest, window["metrics"]["n"])

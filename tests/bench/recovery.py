"""Starts, and restarts of a role after SIGKILL, by the number of open series that the fidelity role has to load."""

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
from streams.settings import ROLES, Role, Settings
from streams.worker.startup import read_activity
from streams.worker.supervisor import Workers
from tests.bench.measure import Aim, Figure
from tests.bench.stock_faust import STOCK, stock_restart_s
from tests.bench.tables import promote_first
from tests.outcomes import make_card

__all__ = ["recovery_figures"]

SERIES = {1_000: 3.0, 10_000: 5.0, 100_000: 5.0}
"""Open series, and the most seconds until the role is back."""
BRANDS = (Brand.KISQALI, Brand.FABHALTA, Brand.REMIBRUTINIB)
PATIENCE_S = 900.0
POLL_S = 0.02
OUTCOMES, WINDOWS = topic_of(OutcomeEvent), topic_of(FidelityWindow)
_WINDOWS_TOPIC = next(topic for topic in TOPICS if topic.name == WINDOWS)


class _Restart(NamedTuple):
    """Seconds from the kill until the role was ready, and until a window held a later outcome; memory of the new process."""

    ready_s: float
    window_s: float
    megabytes: float


def recovery_figures(settings: Settings) -> list[Figure]:
    """Kill each role, and the fidelity role while every window is open."""
    own = settings.model_copy(update={"window_s": settings.pane_s, "max_segment_values": 2 * max(SERIES)})
    start = time.perf_counter()
    with Workers(ROLES, own, log_folder=settings.home / "logs") as workers, asyncio.Runner() as runner:
        workers.wait_ready(PATIENCE_S)
        start_s = time.perf_counter() - start
        others = {role: runner.run(_kill(own, workers, role)) for role in ROLES if role != "fidelity"}
        restarts: dict[int, _Restart] = {}
        for brand, series in zip(BRANDS, SERIES, strict=True):
            added = series - max(restarts, default=0)
            restarts[series] = runner.run(_restart(own, workers, make_card().model_copy(update=_line(brand)), added))
    stock = {series: stock_restart_s(own.kafka_bootstrap, series, own.session_timeout_s) for series in SERIES}
    return [*_figures(restarts, stock), *_role_figures(others, start_s, stock[min(SERIES)])]


def _line(brand: Brand) -> dict[str, Any]:
    return {"brand": brand, "model_id": uuid5(make_card().model_id, brand.value)}


def _figures(restarts: dict[int, _Restart], stock: dict[int, float]) -> Iterator[Figure]:
    for series, restart in restarts.items():
        data, aim = f"{series:,} series", Aim("ours", SERIES[series])
        note = f"with {data} {restart.megabytes:.0f} MB"
        yield Figure("killed fidelity role ready again", data, "s", restart.ready_s, stock[series], STOCK, 1, aim, note)
        yield Figure("first later outcome in a window", data, "s", restart.window_s, stock[series], STOCK, 1, aim)


def _role_figures(ready_s: dict[Role, float], start_s: float, stock_s: float) -> Iterator[Figure]:
    for role, seconds in ready_s.items():
        yield Figure(f"killed {role} role ready again", "idle", "s", seconds, stock_s, STOCK, 1, Aim("ours", 3.0))
    yield Figure("start of all roles", "idle", "s", start_s, stock_s, STOCK, 1, Aim("ours", 10.0))


async def _kill(settings: Settings, workers: Workers, role: Role) -> float:
    """Kill the process of a role, and return the seconds until the next one is ready."""
    pid = workers.pids[role]
    os.kill(pid, signal.SIGKILL)
    killed = time.perf_counter()
    async with asyncio.timeout(PATIENCE_S):
        while workers.pids[role] == pid or await asyncio.to_thread(read_activity, settings, role) is not None:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
    return time.perf_counter() - killed


async def _restart(settings: Settings, workers: Workers, card: ModelCard, series: int) -> _Restart:
    await _promote(settings, card)
    async with _all_windows(settings) as consumer:
        await _publish(settings, _outcomes(card, series))
        await _await_windows(consumer, card, series)
        ready = asyncio.create_task(_kill(settings, workers, "fidelity"))
        killed = time.perf_counter()
        await _publish(settings, _outcomes(card, 1, first=series))
        await _await_windows(consumer, card, 1, n=series + 1)
        window_s = time.perf_counter() - killed
        ready_s = await ready
        workers.check()
        return _Restart(ready_s, window_s, psutil.Process(workers.pids["fidelity"]).memory_info().rss / 2**20)


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
            for records in (await consumer.getmany(timeout_ms=100)).values():
                for window in (json.loads(record.value) for record in records if record.key == card.line.encode()):
                    segments.add(window["segment"])
                    largest = max(largest, window["metrics"]["n"])

"""Time from a simulation request to its answer, through Kafka and one worker process, beside a bare echo of the same records.

An echo is sent halfway between every two requests, so both meet the same brokers and the same neighbours on the machine.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing as mp
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import cycle
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import NewTopic

from engine.twins import TwinModel
from schemas import InterventionConfig, SimulationAnswer, SimulationRequest
from schemas.arrays import Floats
from sql.database import connect
from sql.ledger import Ledger
from streams.kafka import open_admin, topic_of
from streams.registry import MlflowRegistry, prepare_store
from streams.settings import Settings
from streams.worker.supervisor import Workers
from tests.bench.measure import Aim, Figure
from tests.bench.tables import ROWS, Measured

__all__ = ["CAMPAIGNS", "promote", "request_figures"]

RATES = ((1, 15), (10, 20), (50, 15), (100, 15))
"""Requests a second, and for how many seconds."""

STARTS = 3
WARM_UP = 30
PATIENCE_S = 120.0
SMALL_RATE = 10
OVER_ECHO_S, FIRST_S, QUEUED_S = 0.030, 0.300, 0.300
REQUESTS, ANSWERS = topic_of(SimulationRequest), topic_of(SimulationAnswer)
ECHO_REQUESTS, ECHO_ANSWERS = "bench-echo-requests", "bench-echo-answers"
ECHO = "a bare aiokafka consumer that sends each record back, at the same rate in the same seconds: two hops of Kafka"
FIRST_ECHO = "the same echo consumer, warm"
CAMPAIGNS = tuple(
    InterventionConfig(intervention_type=name, channel=channel, frequency="monthly", duration_weeks=weeks)
    for name, channel in (
        ("email_campaign", "email"),
        ("speaker_program_invitation", "in_person"),
        ("educational_content_share", "email"),
    )
    for weeks in (8, 12, 16, 24)
)


def request_figures(measured: Measured, settings: Settings) -> list[Figure]:
    """Percentiles of the time to an answer by rate, the first after a start, and the processor time of the worker."""
    with asyncio.Runner() as runner:
        runner.run(promote(measured.model, settings))
        return runner.run(_measure(measured, settings))


async def promote(model: TwinModel, settings: Settings) -> None:
    """Register a model with its files, and make it the first champion of its line."""
    prepare_store(settings.mlflow_uri)
    stored = MlflowRegistry(settings.mlflow_uri).save(model)
    card = model.card.model_copy(update={"mlflow_run_id": stored.mlflow_run_id})
    connection = await connect(settings.postgres_dsn.get_secret_value())
    try:
        ledger = Ledger(connection)
        await ledger.register_model(card, stored.sha256, pane_s=settings.pane_s, window_s=settings.window_s)
        await ledger.promote(card.line, card.model_id, reason="first model of the line")
    finally:
        await connection.close()


async def _measure(measured: Measured, settings: Settings) -> list[Figure]:
    async with _echo(settings), _clients(settings) as clients:
        firsts = [await _first_after_start(settings, clients) for _ in range(STARTS)]
        with Workers(["simulation"], settings, log_folder=settings.home / "logs") as worker:
            worker.wait_ready()
            await clients.run(SMALL_RATE, WARM_UP // SMALL_RATE)
            figures = []
            for rate, seconds in RATES:
                figures += await _at_rate(measured, clients, worker, rate, seconds, None)
            figures += await _at_rate(measured, clients, worker, SMALL_RATE, 10, iter(range(1_000_000)))
            worker.check()
    echo = float(np.median([echo for _, echo in firsts]))
    slowest = max(first for first, _ in firsts)
    first = Figure(
        "first answer after a start", measured.name, "s", slowest, echo, FIRST_ECHO, STARTS, Aim("ours", FIRST_S), "slowest start"
    )
    return [*figures, first]


async def _at_rate(measured: Measured, clients: _Clients, worker: Workers, rate: int, seconds: int, seeds: Any) -> list[Figure]:
    process = psutil.Process(worker.pids["simulation"])
    before = process.cpu_times()
    times = await clients.run(rate, seconds, seeds)
    after = process.cpu_times()
    cpu_s = (after.user + after.system - before.user - before.system) / len(times.ours) * 1000
    note = f"{cpu_s:.1f} s of processor time for 1,000 requests; queue at the end {times.drained_s:.2f} s"
    kind = "" if seeds is None else ", a seed each"
    aims = {99: Aim("excess", QUEUED_S if rate > SMALL_RATE else OVER_ECHO_S)} if seeds is None else {}
    return [
        Figure(
            f"request to answer, {rate} a second{kind}, p{percent}",
            f"{ROWS:,} twins",
            "s",
            float(np.percentile(times.ours, percent)),
            float(np.percentile(times.echo, percent)),
            ECHO,
            len(times.ours),
            aims.get(percent),
            note if percent == 99 else "",
        )
        for percent in (50, 95, 99)
    ]


async def _first_after_start(settings: Settings, clients: _Clients) -> tuple[float, float]:
    """Seconds to the first answer of a new worker that has just said that it is ready, and of an echo."""
    with Workers(["simulation"], settings, log_folder=settings.home / "logs") as worker:
        await asyncio.to_thread(worker.wait_ready)
        await clients.warm_up()
        times = await clients.run(1, 1)
        return float(times.ours[0]), float(times.echo[0])


class _Run(NamedTuple):
    """Seconds to each answer, to each echo, and from the last request to the last answer."""

    ours: Floats
    echo: Floats
    drained_s: float


class _Clients:
    """Sends requests and echoes, and notes when each is answered."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._sent: dict[bytes, float] = {}
        self._answers: dict[bytes, asyncio.Future[float]] = {}

    async def receive(self, consumer: AIOKafkaConsumer) -> None:
        """Note the time of every answer and echo."""
        async for record in consumer:
            answer = self._answers.get(record.key)
            if answer is None or answer.done():
                continue
            if record.topic == ANSWERS and b'"completed"' not in record.value:
                answer.set_exception(AssertionError(record.value))
            else:
                answer.set_result(time.perf_counter() - self._sent[record.key])

    async def warm_up(self) -> None:
        """Let the producer and the echo meet every partition."""
        await self._all([(await self._send(ECHO_REQUESTS, b"{}"))[0] for _ in range(WARM_UP)])

    async def run(self, rate: int, seconds: int, seeds: Any = None) -> _Run:
        """Send at an even pace for some seconds, and wait for all answers."""
        await self.warm_up()
        campaigns, ours, echo = cycle(CAMPAIGNS), [], []
        begin = time.perf_counter()
        for number in range(rate * seconds):
            value = _request(next(campaigns), None if seeds is None else next(seeds))
            await _until(begin + number / rate)
            ours.append((await self._send(REQUESTS, value))[0])
            await _until(begin + (number + 0.5) / rate)
            echo.append((await self._send(ECHO_REQUESTS, value))[0])
        last = time.perf_counter()
        our_times = await self._all(ours)
        drained_s = time.perf_counter() - last
        return _Run(our_times, await self._all(echo), drained_s)

    async def _send(self, topic: str, value: bytes) -> tuple[bytes, Awaitable[Any]]:
        key = str(json.loads(value).get("simulation_id", uuid4())).encode() if topic == REQUESTS else str(uuid4()).encode()
        self._answers[key] = asyncio.get_running_loop().create_future()
        self._sent[key] = time.perf_counter()
        return key, await self._producer.send(topic, value, key=key)

    async def _all(self, keys: Sequence[bytes]) -> Floats:
        async with asyncio.timeout(PATIENCE_S):
            return np.array([await self._answers[key] for key in keys])


def _request(campaign: InterventionConfig, seed: int | None) -> bytes:
    request = SimulationRequest(
        simulation_id=uuid4(),
        requested_at=datetime.now(UTC),
        twin_type="hcp",
        brand="kisqali",
        intervention=campaign,
        twin_count=ROWS,
        seed=seed,
        requested_by="bench",
    )
    return request.model_dump_json(exclude_none=True).encode()


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.perf_counter()))


@asynccontextmanager
async def _clients(settings: Settings) -> AsyncIterator[_Clients]:
    consumer = AIOKafkaConsumer(ANSWERS, ECHO_ANSWERS, bootstrap_servers=settings.kafka_bootstrap)
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, acks="all") as producer, consumer:
        clients = _Clients(producer)
        receiving = asyncio.create_task(clients.receive(consumer))
        try:
            yield clients
        finally:
            receiving.cancel()


@asynccontextmanager
async def _echo(settings: Settings) -> AsyncIterator[None]:
    """A process that echoes, with topics of its own."""
    async with open_admin(settings) as admin:
        await admin.create_topics([NewTopic(name, 4, 1) for name in (ECHO_REQUESTS, ECHO_ANSWERS)])
    child = mp.get_context("spawn").Process(target=_echo_all, args=(settings.kafka_bootstrap,), daemon=True)
    child.start()
    try:
        yield
    finally:
        child.terminate()
        child.join()


def _echo_all(bootstrap: str) -> None:
    asyncio.run(_send_back(bootstrap))


async def _send_back(bootstrap: str) -> None:
    consumer = AIOKafkaConsumer(ECHO_REQUESTS, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    async with consumer, AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        async for record in consumer:
            await producer.send(ECHO_ANSWERS, record.value, key=record.key)

"""Outcomes from Kafka into the database by one worker process, against reading alone, scoring alone, and among invalid records.

For each second that is measured, as many outcomes are published before as the aim demands. Afterwards every count is compared with
what was published, by ==.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import numpy as np
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from engine.fidelity.error_sums import QUANTUM
from schemas import OutcomeEvent
from schemas.twin_models import BEHAVIOUR, LOWER, UPPER
from sql.database import Connection, connect
from streams.kafka import topic_of
from streams.settings import Settings
from streams.worker.supervisor import Workers
from tests.bench.measure import Aim, Figure
from tests.bench.tables import Measured, promote_first
from tests.bench.unstored import without_transaction

__all__ = [
    "AIM",
    "CONSUMER",
    "STORED",
    "TOPIC",
    "InArrays",
    "Outcomes",
    "Rate",
    "decode",
    "drained",
    "ends",
    "outcome_figures",
    "publish",
    "read_counted",
]

Offsets = Mapping[TopicPartition, int]

AIM = 30_000  # outcomes a second and worker
TWINS = 20_000
INTERVAL_S = 5.0
PATIENCE = 20.0  # times as long as the aim would take
INVALID_EVERY = 10
INVALID: tuple[Callable[[dict[str, Any]], bytes], ...] = (
    lambda body: json.dumps(body | {"actual_value": "much"}).encode(),
    lambda body: json.dumps(body).encode()[:-1],
    lambda body: json.dumps(body | {"brand": "Placebo"}).encode(),
    lambda body: json.dumps(body | {"model_id": str(UUID(int=404))}).encode(),
)
TOPIC = topic_of(OutcomeEvent)
STORED = "SELECT coalesce(sum(elements), 0)::bigint FROM source_positions"
CONSUMER = "aiokafka's consumer alone, each record decoded as JSON"
CLEAN = "the same process with outcomes only, the mean of before and after"
SCORING = "the same process without the transaction: its windows are in memory, and their changed rows on Kafka"


def outcome_figures(measured: Measured, settings: Settings, seconds: float) -> list[Figure]:
    """Outcomes a second that a worker scores, stores and counts exactly once; and what the exactness costs."""
    outcomes = Outcomes(measured, round(seconds * AIM))
    with asyncio.Runner() as runner:
        connection = runner.run(connect(settings.postgres_dsn.get_secret_value()))
        runner.run(promote_first(connection, measured.model.card, settings))
        begin = runner.run(ends(settings))
        runner.run(publish(settings, outcomes))
        decoded = runner.run(decode(settings, begin, outcomes.count))
        stored = runner.run(drained(connection, settings, outcomes.count))
        runner.run(_check(connection, outcomes.count, 0, outcomes.sums()))
        scored = without_transaction(settings, begin, outcomes.count)[0]
        mixed = _InvalidAmong(measured, outcomes.count // 3)
        runner.run(publish(settings, mixed))
        among = runner.run(drained(connection, settings, mixed.count))
        runner.run(_check(connection, outcomes.count + mixed.good, mixed.count - mixed.good, None))
        more = _MoreOutcomes(measured, mixed.count)
        runner.run(publish(settings, more))
        after = runner.run(drained(connection, settings, more.count))
        runner.run(connection.close())
    note = (
        f"{outcomes.count:,} outcomes, slowest {INTERVAL_S:g} s {stored.slowest:,.0f}/s; every count agrees;"
        " one worker process, Kafka and PostgreSQL on the same cores"
    )
    aim, clean = Aim("rate", AIM), (stored.rate + after.rate) / 2
    return [
        Figure("ingest outcomes", measured.name, "outcomes/s", stored.rate, decoded, CONSUMER, 1, aim, note),
        Figure("the cost of exactness", measured.name, "outcomes/s", stored.rate, scored, SCORING, 1),
        Figure(
            f"ingest records of which one in {INVALID_EVERY} is invalid", measured.name, "records/s", among.rate, clean, CLEAN, 1
        ),
    ]


class Outcomes:
    """Outcomes of the hour that has just ended, evenly spread, each with its prediction and interval."""

    def __init__(self, measured: Measured, count: int) -> None:
        self.count = count
        self.card = measured.model.card
        twins = measured.model.generate(TWINS, seed=1).frame
        columns = (twins[name].round(6).tolist() for name in (BEHAVIOUR, LOWER, UPPER, self.card.target, "region"))
        self._twins = list(zip(*columns, strict=True))
        self._start = datetime.now(UTC) - timedelta(hours=1)

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of each, made as a producer would make them."""
        for number in range(self.count):
            yield b"%d" % number, self.value(number)

    def value(self, number: int) -> bytes:
        """Value of one record."""
        return json.dumps(self.body(number)).encode()

    def body(self, number: int) -> dict[str, Any]:
        """Fields of one outcome."""
        card = self.card
        expected, lower, upper, actual, region = self._twins[number % TWINS]
        return {
            "event_id": str(uuid5(card.model_id, f"{type(self).__name__} {number}")),
            "observed_at": (self._start + timedelta(seconds=3600 * number / self.count)).isoformat(),
            "twin_type": card.twin_type.value,
            "brand": card.brand.value,
            "metric_type": card.target,
            "actual_value": actual,
            "predicted_value": expected,
            "predicted_lower": lower,
            "predicted_upper": upper,
            "segment": {"region": region},
        }

    def sums(self) -> dict[str, int]:
        """Expected sums of the series ``all``."""
        rows = np.array([twin[:4] for twin in self._twins], dtype=float)
        times = self.count // TWINS + (np.arange(TWINS) < self.count % TWINS)
        whole = np.rint((rows - self.card.baseline.center) / self.card.baseline.scale / QUANTUM).astype(np.int64)
        predicted, actual = whole[:, 0], whole[:, 3]
        inside = (rows[:, 1] <= rows[:, 3]) & (rows[:, 3] <= rows[:, 2])
        sums = {"n": 1, "n_inside": inside, "predicted": predicted, "actual": actual, "absolute_error": abs(predicted - actual)}
        return {name: int((column * times).sum()) for name, column in sums.items()}


class InArrays(Outcomes):
    """The same, in arrays of outcomes of one region, whose key is the region."""

    def __init__(self, measured: Measured, count: int, size: int) -> None:
        super().__init__(measured, count)
        self._size = size

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of each record; those of single events are no arrays."""
        waiting: defaultdict[str, list[bytes]] = defaultdict(list)
        for number in range(self.count):
            region = self._twins[number % TWINS][-1]
            waiting[region].append(self.value(number))
            if len(waiting[region]) == self._size:
                yield region.encode(), self._joined(waiting.pop(region))
        for region, values in waiting.items():
            yield region.encode(), self._joined(values)

    def body(self, number: int) -> dict[str, Any]:
        """Fields of one outcome; each size has events of its own, or they would be duplicates."""
        return super().body(number) | {"event_id": str(uuid5(self.card.model_id, f"in {self._size} {number}"))}

    def _joined(self, values: list[bytes]) -> bytes:
        return values[0] if self._size == 1 else b"[" + b", ".join(values) + b"]"


class _InvalidAmong(Outcomes):
    """Other events, with invalid records among them: in turn a wrong field, no JSON, an unknown brand, an unknown model."""

    def value(self, number: int) -> bytes:
        """An outcome or an invalid record."""
        if number % INVALID_EVERY:
            return super().value(number)
        return INVALID[number // INVALID_EVERY % len(INVALID)](self.body(number))

    @property
    def good(self) -> int:
        """Number of valid outcomes."""
        return self.count - -(-self.count // INVALID_EVERY)


class _MoreOutcomes(Outcomes):
    """Other events again, all of them valid."""


async def publish(settings: Settings, outcomes: Outcomes, *topics: str) -> int:
    """Publish to the topic of outcomes, or to all of these topics; returns the number of records."""
    n_records = 0
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, linger_ms=20, max_batch_size=256 * 1024) as producer:
        for key, value in outcomes.records():
            n_records += 1
            for topic in topics or (TOPIC,):
                await producer.send(topic, value, key=key)
    return n_records


async def ends(settings: Settings) -> Offsets:
    """Where the partitions of the topic end."""
    async with AIOKafkaConsumer(TOPIC, bootstrap_servers=settings.kafka_bootstrap) as consumer:
        return dict(await consumer.end_offsets(consumer.assignment()))


async def decode(settings: Settings, begin: Offsets, count: int) -> float:
    """Records a second, from the first that arrive to the last."""
    async with AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap) as consumer:
        consumer.assign(list(begin))
        for partition, offset in begin.items():
            consumer.seek(partition, offset)
        first = await _decoded(consumer)
        began, missing = time.perf_counter(), count - first
        while missing > 0:
            missing -= await _decoded(consumer)
        return (count - first) / (time.perf_counter() - began)


async def _decoded(consumer: AIOKafkaConsumer) -> int:
    batches = await consumer.getmany(timeout_ms=1000, max_records=4000)
    return len([json.loads(record.value) for records in batches.values() for record in records])


class Rate(NamedTuple):
    """Outcomes a second, over all and in the slowest interval, and seconds of processor time for a million of them."""

    rate: float
    slowest: float
    cpu_s: float = 0.0
    postgres_s: float = 0.0


def _cpu_s(pid: int) -> tuple[float, float]:
    """Processor seconds of a process so far, and of the PostgreSQL of this benchmark."""
    own, servers = sum(psutil.Process(pid).cpu_times()[:2]), 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a server process ends with its connection
            servers += sum(child.cpu_times()[:2]) if child.name() == "postgres" else 0.0
    return own, servers


async def drained(connection: Connection, settings: Settings, count: int) -> Rate:
    """Of one worker, from the first of ``count`` more outcomes that are stored to the last; its start is not included."""
    cpu: list[tuple[float, float]] = []
    before, patience, progress = await connection.fetchval(STORED), PATIENCE * count / AIM, [(0.0, 0)]
    with Workers(["outcomes"], settings, log_folder=settings.home / "logs") as worker:
        worker.wait_ready()
        deadline = time.monotonic() + patience
        while progress[-1][1] < count:
            worker.check()
            stored = await connection.fetchval(STORED) - before
            if stored > progress[-1][1]:
                progress.append((time.perf_counter(), stored))
                if len(cpu) == 0 or stored >= count:
                    cpu.append(_cpu_s(worker.pids["outcomes"]))
            if time.monotonic() > deadline:
                raise TimeoutError(f"{stored} of {count} records were stored after {patience:g} s")
            await asyncio.sleep(0.05)
    (began, first), (ended, last) = progress[1], progress[-1]
    rate = (last - first) / (ended - began)
    own_s, postgres_s = (1e6 * (end - start) / (last - first) for start, end in zip(cpu[0], cpu[-1], strict=True))
    intervals = [began, *np.arange(began + INTERVAL_S, ended, INTERVAL_S).tolist()]
    stored_by = np.interp(intervals, *zip(*progress[1:], strict=True)).tolist()
    return Rate(
        rate, min(((after - before) / INTERVAL_S for before, after in pairwise(stored_by)), default=rate), own_s, postgres_s
    )


async def read_counted(connection: Connection) -> int:
    """Number of outcomes in the sums of all sources."""
    return int(await connection.fetchval("SELECT coalesce(sum(n), 0) FROM fidelity_panes WHERE segment = 'all'"))


async def _check(connection: Connection, counted: int, refused: int, sums: Mapping[str, int] | None) -> None:
    """Raise AssertionError unless every count, and every sum that is given, is what was published."""
    expected = sums or {"n": counted}
    columns = ", ".join(f"sum({name})::bigint AS {name}" for name in expected)
    row = await connection.fetchrow(f"SELECT {columns} FROM fidelity_panes WHERE segment = 'all'")
    rows = await connection.fetch("SELECT fate::text, count(*) FROM fidelity_tracking GROUP BY 1")
    bad = await connection.fetchval("SELECT count(*) FROM refused_records")
    if row is None or dict(row) != expected or [tuple(row) for row in rows] != [("counted", counted)] or bad != refused:
        raise AssertionError(
            f"published {expected} and {refused} to refuse, counted {dict(row or {})}, stored {rows}, refused {bad}"
        )

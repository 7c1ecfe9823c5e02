"""Outcomes from Kafka into the database by a worker's process, against a consumer that only decodes them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from statistics import median
from uuid import uuid5

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas import ModelCard, OutcomeEvent
from schemas.twin_models import BEHAVIOUR, LOWER, UPPER
from sql.database import Connection, connect
from sql.ledger import Ledger
from streams.client import TwinClient
from streams.settings import Settings
from streams.topics import topic_of
from streams.worker import Workers
from tests.bench.measure import Figure
from tests.bench.tables import Measured

__all__ = ["outcome_figure"]

Offsets = Mapping[TopicPartition, int]

ROUNDS, A_ROUND = 3, 20_000
SPREAD_S = 86_400.0 / (ROUNDS * A_ROUND)
LONGEST_S = 60.0
TAKEN = "SELECT coalesce(sum(elements), 0)::int FROM source_positions"
TOPIC = topic_of(OutcomeEvent)
CONSUMER = "aiokafka's consumer alone, each record decoded as JSON"


def outcome_figure(measured: Measured, settings: Settings) -> Figure:
    """Outcomes a second that a worker scores, stores and counts exactly once, of those that wait in Kafka when it starts."""
    events = _events(measured)
    with asyncio.Runner() as runner:
        connection = runner.run(connect(settings.postgres_dsn.get_secret_value()))
        runner.run(_promote(connection, measured.model.card, settings))
        rates = [_round(runner, connection, settings, events) for _ in range(ROUNDS)]
        runner.run(connection.close())
    ours, decoded = (median(each) for each in zip(*rates, strict=True))
    note = "one worker process; Kafka and PostgreSQL have the same cores"
    return Figure("take outcomes in", measured.name, "outcomes/s", ours, decoded, CONSUMER, ROUNDS, note=note)


def _events(measured: Measured) -> Iterator[OutcomeEvent]:
    """Outcomes of a day that has just ended, evenly spread, each with its prediction and interval."""
    card = measured.model.card
    start = datetime.now(UTC) - timedelta(seconds=SPREAD_S * ROUNDS * A_ROUND)
    twins = measured.model.generate(ROUNDS * A_ROUND, seed=1).frame
    columns = (twins[name].tolist() for name in (BEHAVIOUR, LOWER, UPPER, card.target, "region"))
    for number, (expected, lower, upper, actual, region) in enumerate(zip(*columns, strict=True)):
        yield OutcomeEvent(
            event_id=uuid5(card.model_id, str(number)),
            observed_at=start + timedelta(seconds=SPREAD_S * number),
            twin_type=card.twin_type,
            brand=card.brand,
            metric_type=card.target,
            actual_value=actual,
            predicted_value=expected,
            predicted_lower=lower,
            predicted_upper=upper,
            segment={"region": region},
        )


async def _promote(connection: Connection, card: ModelCard, settings: Settings) -> None:
    ledger = Ledger(connection)
    await ledger.register_model(card, "0" * 64, pane_s=settings.pane_s, window_s=settings.window_s)
    await ledger.promote(card.line, card.model_id, reason="first model of the line")


def _round(
    runner: asyncio.Runner, connection: Connection, settings: Settings, events: Iterator[OutcomeEvent]
) -> tuple[float, float]:
    """Outcomes a second, ours and decoded only."""
    before, begin = runner.run(connection.fetchval(TAKEN)), runner.run(_ends(settings))
    runner.run(_publish(settings, [next(events) for _ in range(A_ROUND)]))
    decoded = runner.run(_decode(settings, begin))
    with Workers(["outcomes"], settings, log_folder=settings.home / "logs") as worker:
        worker.wait_ready()
        return runner.run(_drained(connection, worker, before, before + A_ROUND)), decoded


async def _publish(settings: Settings, events: Iterable[OutcomeEvent]) -> None:
    async with TwinClient(settings, name="bench") as client:
        await client.publish_outcomes(events)


async def _ends(settings: Settings) -> Offsets:
    async with AIOKafkaConsumer(TOPIC, bootstrap_servers=settings.kafka_bootstrap) as consumer:
        return dict(await consumer.end_offsets(consumer.assignment()))


async def _decode(settings: Settings, begin: Offsets) -> float:
    """Records a second, from the first that arrive to the last of a round."""
    async with AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap) as consumer:
        consumer.assign(list(begin))
        for partition, offset in begin.items():
            consumer.seek(partition, offset)
        first = await _decoded(consumer)
        began, missing = time.perf_counter(), A_ROUND - first
        while missing > 0:
            missing -= await _decoded(consumer)
        return (A_ROUND - first) / (time.perf_counter() - began)


async def _decoded(consumer: AIOKafkaConsumer) -> int:
    slices = await consumer.getmany(timeout_ms=1000, max_records=1000)
    return len([json.loads(record.value) for records in slices.values() for record in records])


async def _drained(connection: Connection, worker: Workers, before: int, after: int) -> float:
    """Outcomes a second from the first that are stored to the last; what a process takes to start is not in it."""
    deadline, seen = time.monotonic() + LONGEST_S, [(0.0, before)]
    while seen[-1][1] < after:
        worker.check()
        taken = await connection.fetchval(TAKEN)
        if taken > seen[-1][1]:
            seen.append((time.perf_counter(), taken))
        if time.monotonic() > deadline:
            raise TimeoutError(f"{taken - before} of {after - before} outcomes were taken in within {LONGEST_S:g} s")
        await asyncio.sleep(0.01)
    (began, first), (ended, last) = seen[1], seen[-1]
    return (last - first) / (ended - began)

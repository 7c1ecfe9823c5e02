"""Floods of refused records are stored by slices, and hold up no other partition, on a real Kafka and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from schemas import EffectsEvent, ExperimentResult, InterventionConfig, ModelEvent, SimulationAnswer
from sql.database import Pool
from streams.kafka import PARTITIONS, open_producer
from streams.kafka.topics import DEAD_LETTERS
from streams.metrics import SOURCE_LAG
from streams.settings import Settings
from tests.flow.conftest import Service
from tests.hostile.traces import READERS
from tests.polling import until

FLOOD, LONG_FLOOD = 450, 3000
REQUESTS, EXPERIMENTS, SUMS, RETRAINS = "simulation-requests", "experiment-results", "fidelity-errors", "retrain-events"
EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)


def request(number: int, **fields: Any) -> bytes:
    defaults = {"simulation_id": str(UUID(int=number)), "requested_at": datetime(2025, 3, 1, tzinfo=UTC).isoformat()}
    campaign = {"twin_type": "hcp", "brand": "kisqali", "intervention": EMAIL.model_dump(exclude_none=True), "twin_count": 100}
    return json.dumps(defaults | campaign | fields).encode()


def experiment(name: str, **fields: Any) -> bytes:
    result = ExperimentResult(
        experiment_id=name,
        observed_at=datetime(2025, 3, 1, tzinfo=UTC),
        twin_type="hcp",
        brand="kisqali",
        intervention=EMAIL,
        effect=0.05,
        standard_error=0.01,
        n_treated=500,
        n_control=500,
    )
    return json.dumps(json.loads(result.model_dump_json()) | fields).encode()


async def flood(client: Any, topic: str, values: list[bytes], partition: int = 0) -> list[int]:
    """Publish values to one partition; returns their offsets."""
    sent = await asyncio.gather(*(client.publish_bytes(topic, b"k", value, partition=partition) for value in values))
    return sorted(offset for _, offset in sent)


async def refused(pool: Any, topic: str, n: int) -> bool:
    statement = "SELECT count(*) FROM refused_records WHERE topic = $1 AND sent_at IS NOT NULL"
    return await pool.fetchval(statement, topic) == n


async def test_refused_records_have_a_row_and_a_letter_each_and_few_transactions(service, client, listener, pool, promoted):
    junk = [b'{"a": %d}' % number for number in range(FLOOD)]
    async with service(["simulation", "experiments", "fidelity", "trainer"]):
        for topic in (REQUESTS, EXPERIMENTS, SUMS, RETRAINS):
            offsets = await flood(client, topic, junk, partition=1)
            await until(lambda topic=topic: refused(pool, topic, FLOOD), within_s=60.0)
            rows = await pool.fetch("SELECT source_offset FROM refused_records WHERE topic = $1 ORDER BY 1", topic)
            assert [row["source_offset"] for row in rows] == offsets
            n_transactions = await pool.fetchval("SELECT count(DISTINCT xmin::text) FROM refused_records WHERE topic = $1", topic)
            assert n_transactions <= FLOOD / 10
    assert await listener.count(DEAD_LETTERS) == 4 * FLOOD


async def test_rejected_requests_are_answered_each_in_few_transactions(service, client, listener, pool, promoted):
    values = [request(number, filters=[]) for number in range(1, FLOOD)] + [request(1, filters=[]), request(2)]
    await flood(client, REQUESTS, values)
    async with service(["simulation"]):
        answers = await listener.events(SimulationAnswer, FLOOD + 1, timeout_s=60.0)
    reasons = [answer.reason for answer in answers if answer.simulation_id == UUID(int=2)]
    assert {answer.status.value for answer in answers} == {"rejected"}
    assert {answer.simulation_id.int for answer in answers} == set(range(1, FLOOD))
    assert sorted("other content" in reason for reason in reasons) == [False, True]
    assert await pool.fetchval("SELECT count(DISTINCT xmin::text) FROM simulation_runs") <= FLOOD / 10


async def test_a_request_that_waits_for_a_lock_holds_up_no_other_partition(service, client, listener, pool, promoted):
    async with service(["simulation"]), pool.acquire() as connection:
        async with connection.transaction():
            await connection.execute("SELECT FROM model_lines WHERE line = $1 FOR UPDATE", promoted.line)
            await flood(client, REQUESTS, [request(1), request(2)])
            await flood(client, REQUESTS, [request(3, filters=[])], partition=1)
            (answer,) = await listener.events(SimulationAnswer, 1)
            assert answer.simulation_id == UUID(int=3)
            lag = SOURCE_LAG.labels(topic=REQUESTS, partition=0)
            await until(lambda: asyncio.sleep(0, lag._value.get() == 2))
        answers = await listener.events(SimulationAnswer, 3)
    assert {answer.simulation_id.int for answer in answers} == {1, 2, 3}


async def test_an_experiment_that_waits_for_its_line_holds_up_no_other_partition(service, client, listener, pool, promoted):
    async with service(["experiments"]), pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('effects of ' || $1, 0))", promoted.line)
        await flood(client, EXPERIMENTS, [experiment("waits")])
        await flood(client, EXPERIMENTS, [experiment("goes-on", brand="fabhalta")], partition=1)
        (event,) = await listener.events(EffectsEvent, 1)
    assert event.experiments == ("goes-on",)


STORED_BEFORE_THE_OTHERS = """
SELECT count(*) FROM refused_records WHERE topic = $1 AND partition = 0
  AND refused_at <= (SELECT max(refused_at) FROM refused_records WHERE topic = $1 AND partition > 0)"""


@pytest.mark.parametrize("topic", [topic for topic in READERS if topic != "outcome-events" and PARTITIONS[topic] > 1])
async def test_a_flood_on_one_partition_holds_up_no_other(
    settings: Settings, pool: Pool, promoted: ModelEvent, service: Service, topic: str
):
    async def refused_of(partition: int) -> int:
        return int(
            await pool.fetchval("SELECT count(*) FROM refused_records WHERE topic = $1 AND partition = $2", topic, partition)
        )

    async with open_producer(settings) as producer:
        flood = [await producer.send(topic, b'{"a": %d}' % number, partition=0) for number in range(LONG_FLOOD)]
        await asyncio.gather(*flood)
        for partition in (1, 2, 3):
            await producer.send_and_wait(topic, b"{", partition=partition)
    async with service([READERS[topic]]):
        for partition in range(4):
            await until(lambda partition=partition: refused_of(partition))  # type: ignore[misc]  # mypy cannot infer it
        await until(lambda: refused_of(0), lambda n: n == LONG_FLOOD)
    assert await pool.fetchval(STORED_BEFORE_THE_OTHERS, topic) < LONG_FLOOD / 2

"""A record that cannot be processed is parked alone, on a real Kafka and a real PostgreSQL, and is replayed exactly once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from schemas import (
    Brand,
    ExperimentResult,
    FidelityErrors,
    FidelityWindow,
    InterventionConfig,
    SimulationAnswer,
    SourceId,
    TwinType,
)
from sql.park_store import pending_park_requests
from streams.agents import experiments as experiments_agent
from streams.ingestion import decoding
from streams.kafka import topic_of
from streams.kafka.app import TwinApp
from streams.kafka.batch_consumer import PollBatch
from streams.metrics import PARKED
from streams.monitoring.line_monitor import LineMonitor
from streams.simulation import request_slice
from tests.outcomes import LINE, START, TOPIC, make_card, make_line, outcome
from tests.polling import until

POISON = b"poison"


class Trap:
    """Raises an error for every batch that has a record with the key ``poison``, until it is released."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.decode = decoding.decode

    def __call__(self, batch: PollBatch, *bounds: Any) -> Any:
        if self.error is not None and any(record.key == POISON for record in batch.records):
            raise self.error
        return self.decode(batch, *bounds)


@pytest.fixture
def trap(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    trap = Trap(KeyError("an error of the code"))
    monkeypatch.setattr(decoding, "decode", trap)
    yield trap
    trap.error = None


@pytest.fixture
async def line(settings: Any) -> None:
    await make_line(settings.postgres_dsn.get_secret_value(), make_card())


async def send(client: Any, number: int, *, key: bytes | None = b"key", partition: int = 0, value: Any = None) -> tuple[int, int]:
    return await client.publish_bytes(TOPIC, key, json.dumps(value or outcome(number)).encode(), partition=partition)


async def counted(pool: Any) -> int:
    return int(await pool.fetchval("SELECT coalesce(sum(n), 0) FROM fidelity_panes WHERE segment = 'all'"))


async def is_counted(pool: Any, n: int) -> bool:
    return await counted(pool) == n


async def test_a_poison_record_is_parked_alone_shown_with_its_traceback_and_replayed_exactly_once(
    service, client, pool, line, twinstream, trap: Trap
):
    array = [outcome(1), outcome(2), {"event_id": 7}]
    before = PARKED.labels(topic=TOPIC)._value.get()
    async with service(["outcomes", "fidelity"]):
        for number in range(10, 20):
            await send(client, number)
        _, offset = await send(client, 0, key=POISON, value=array)
        for number in range(20, 30):
            await send(client, number)
        for number in range(30, 40):
            await send(client, number, partition=1)
        await until(lambda: is_counted(pool, 30))
        await until(lambda: parked_offsets(pool, [offset]))

        (letter,) = (await twinstream("dlq", "list", "--kind", "parked", "--json"))["letters"]
        assert (letter["offset"], letter["exception"]) == (offset, "KeyError")
        shown = await twinstream("dlq", "show", letter["refusal_id"])
        assert "Traceback (most recent call last)" in shown
        assert "KeyError: 'an error of the code'" in shown
        assert PARKED.labels(topic=TOPIC)._value.get() - before == 1
        report = await twinstream("verify", "--json")
        assert (report["mismatches"], report["parked"], report["park_requests"]) == ([], {TOPIC: 1}, [])
        assert "1 parked on outcome-events" in await twinstream("verify")

        trap.error = None
        await twinstream("dlq", "replay", letter["refusal_id"], "--json")
        await until(lambda: is_counted(pool, 32))
        await twinstream("dlq", "replay", letter["refusal_id"], "--json")
        await until(lambda: elements(pool, 37))  # 30 outcomes, the parked row, and three elements twice
        assert await counted(pool) == 32
        assert (await twinstream("verify", "--json"))["mismatches"] == []


async def parked_offsets(pool: Any, offsets: list[int]) -> bool:
    rows = await pool.fetch("SELECT source_offset FROM refused_records WHERE kind = 'parked' AND sent_at IS NOT NULL ORDER BY 1")
    return [row[0] for row in rows] == offsets


async def elements(pool: Any, n: int) -> bool:
    return int(await pool.fetchval("SELECT sum(elements) FROM source_positions")) == n


async def test_an_operator_parks_a_record_that_is_taken_for_an_outage_and_other_partitions_go_on_meanwhile(
    service, client, pool, line, twinstream, trap: Trap, settings, monkeypatch
):
    trap.error = ConnectionResetError("an outage that is none")
    async with service(["outcomes"]):
        _, offset = await send(client, 0, key=POISON)
        for first in range(0, 400, 20):  # more batches behind it than a lane takes
            await asyncio.gather(*(send(client, 1000 + first + number) for number in range(20)))
            await asyncio.sleep(0.05)
        for number in range(50):
            await send(client, number + 1, partition=1)
        await until(lambda: is_counted(pool, 50))

        assert "will be parked" not in await twinstream("dlq", "park", TOPIC, "0", str(offset), "--why", "it never passes")
        await until(lambda: is_counted(pool, 450))
    (letter,) = (await twinstream("dlq", "list", "--kind", "parked", "--json"))["letters"]
    assert (letter["offset"], letter["exception"], letter["traceback"]) == (offset, "ParkRequested", "")
    assert letter["reason"].endswith(": it never passes")


async def test_a_record_is_parked_before_its_role_has_read_it_and_a_request_that_makes_no_sense_is_refused(
    service, client, pool, line, twinstream
):
    offsets = [(await send(client, number))[1] for number in range(3)]
    result = await twinstream("dlq", "park", TOPIC, "0", str(offsets[1]), "--json")
    assert result == {"topic": TOPIC, "partition": 0, "offset": offsets[1], "state": "requested", "why": ""}
    assert (await twinstream("verify", "--json"))["park_requests"] == [f"{TOPIC}:0:{offsets[1]}"]
    async with service(["outcomes"]):
        await until(lambda: is_counted(pool, 2))
        await until(lambda: parked_offsets(pool, [offsets[1]]))

        for arguments, reason in (
            (("model-events", "0", "0"), "no role reads the topic 'model-events': choose one of"),
            ((TOPIC, "4", "0"), "outcome-events has no partition 4: choose one from 0 to 3"),
            ((TOPIC, "0", "3"), "outcome-events:0 has no record at offset 3: its records have the offsets 0 to 2"),
            ((TOPIC, "1", "0"), "outcome-events:1 has no record at offset 0: it has no records"),
            ((TOPIC, "0", "0"), "the record at outcome-events:0:0 was processed already: counted"),
            ((TOPIC, "0", str(offsets[1])), f"the record at outcome-events:0:{offsets[1]} was processed already: parked"),
        ):
            assert reason in await twinstream("dlq", "park", *arguments, status=1)
    assert await pending_park_requests(pool) == []


async def test_an_error_that_every_record_trips_parks_a_few_then_waits_not_ready_and_goes_on_when_it_is_corrected(
    service, client, pool, line, trap: Trap, settings, monkeypatch
):
    monkeypatch.setattr("streams.ingestion.isolation.LONGEST_WAIT_S", 0.5)
    apps: list[TwinApp] = []
    monkeypatch.setattr(TwinApp, "on_first_start", remember(apps, TwinApp.on_first_start))
    async with service(["outcomes"]):
        for number in range(40):
            await send(client, number, key=POISON)
        await until(lambda: is_blocked(apps))
        assert int(await pool.fetchval("SELECT count(*) FROM refused_records WHERE kind = 'parked'")) == settings.park_in_a_row
        trap.error = None
        await until(lambda: is_counted(pool, 40 - settings.park_in_a_row))
        assert apps[0].parking.blocked == {}


def remember(apps: list[TwinApp], method: Any) -> Any:
    async def on_first_start(app: TwinApp) -> None:
        apps.append(app)
        await method(app)

    return on_first_start


async def is_blocked(apps: list[TwinApp]) -> bool:
    return bool(apps and apps[0].parking.blocked)


async def test_a_line_that_fails_does_not_keep_the_windows_of_other_lines_from_being_published(
    service, client, pool, line, settings, listener, monkeypatch
):
    other = make_card("other").model_copy(update={"brand": Brand.FABHALTA})
    await make_line(settings.postgres_dsn.get_secret_value(), other)
    evaluate = LineMonitor.evaluate

    async def fail_for_the_first_line(monitor: LineMonitor, model_line: Any) -> None:
        if model_line.line == LINE:
            raise ZeroDivisionError("an error of the code")
        await evaluate(monitor, model_line)

    monkeypatch.setattr(LineMonitor, "evaluate", fail_for_the_first_line)
    async with service(["outcomes", "fidelity"]):
        for number in range(20):
            await send(client, number)
            await send(client, 100 + number, value=outcome(100 + number, brand="fabhalta"))
        (window,) = await listener.events(FidelityWindow, 1, timeout_s=90.0)
        assert window.line == other.line
        assert LINE not in await lines_with_windows(listener)
        monkeypatch.setattr(LineMonitor, "evaluate", evaluate)
        await until(lambda: lines_with_windows(listener), lambda lines: LINE in lines)


async def lines_with_windows(listener: Any) -> set[str]:
    count = await listener.count(topic_of(FidelityWindow))
    return {window.line for window in await listener.events(FidelityWindow, count)}


async def test_a_request_that_fails_is_answered_and_an_experiment_and_sums_that_fail_are_parked(
    service, client, listener, pool, line, settings, monkeypatch
):
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("an error of the code")

    monkeypatch.setattr(request_slice, "decode_request", fail)
    monkeypatch.setattr(experiments_agent, "update_effects", fail)
    monkeypatch.setattr(LineMonitor, "ingest", fail)
    async with service(["simulation", "experiments", "fidelity"]):
        request = {"simulation_id": str(UUID(int=5)), "twin_type": "hcp"}
        await client.publish_bytes("simulation-requests", None, json.dumps(request).encode())
        await client.publish_bytes("experiment-results", None, EXPERIMENT.model_dump_json().encode())
        sums = FidelityErrors(line="*", source=SourceId(topic=TOPIC, partition=0), watermark=START)
        await client.publish_bytes("fidelity-errors", b"*", sums.model_dump_json().encode())
        (answer,) = await listener.events(SimulationAnswer, 1)
        assert (answer.simulation_id, answer.status.value) == (UUID(int=5), "failed")
        assert answer.reason == "RuntimeError: an error of the code"
        await until(lambda: topics_parked(pool, {"experiment-results", "fidelity-errors"}))


EXPERIMENT = ExperimentResult(
    experiment_id="email-spring",
    observed_at=START,
    twin_type=TwinType.HCP,
    brand=Brand.KISQALI,
    intervention=InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12),
    effect=0.05,
    standard_error=0.01,
    n_treated=100,
    n_control=100,
)


async def topics_parked(pool: Any, topics: set[str]) -> bool:
    rows = await pool.fetch("SELECT DISTINCT topic FROM refused_records WHERE kind = 'parked' AND traceback LIKE 'Traceback%'")
    return {row[0] for row in rows} == topics

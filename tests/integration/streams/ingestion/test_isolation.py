"""Records that fail for a reason that no rule foresees, against a real PostgreSQL: they are parked, and all others count once."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from sql import park_store
from sql.database import Pool, open_pool, transaction
from sql.dead_letter_store import RefusalQuery, list_refused
from sql.settings import PostgresSettings
from streams.errors import Subject, subject_of
from streams.ingestion import BatchSteps, ContextLoader, IngestResult, OutcomePipeline, RecordIsolation, isolation
from streams.kafka.batch_consumer import PollBatch
from streams.kafka.parking import Parking
from tests.audits import mismatches
from tests.outcomes import TOPIC, Record, outcome, poll_batches, record

ATTEMPTS, IN_A_ROW = 3, 4
IDLE_LIMIT_S = 0.4
POISON = b"poison"


class Poisoned(RuntimeError):
    """Raised for a record that a test has poisoned."""


class PoisonedPipeline(OutcomePipeline):
    """Fails at a step for every batch that has a poisoned record, as an error in the code of this step would."""

    step = "decode"
    error: Exception = Poisoned("the record trips an error of the code")

    async def decode(self, batch: PollBatch) -> Any:
        self._raise_at("decode", batch.records)
        return await super().decode(batch)

    async def score(self, decoded: Any) -> Any:
        self._raise_at("score", decoded.batch.records)
        return await super().score(decoded)

    async def _store(self, connection: Any, scored: Any, other_lines: set[str]) -> IngestResult:
        result = await super()._store(connection, scored, other_lines)
        self._raise_at("store", scored.decoded.batch.records)
        return result

    def _raise_at(self, step: str, records: Sequence[Record]) -> None:
        if step == self.step and any(record.key == POISON for record in records):
            raise self.error


async def nothing(_: Any) -> None:
    return None


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "pause_s", lambda _failures: 0.0)
    monkeypatch.setattr(isolation, "LONGEST_WAIT_S", 0.02)


@pytest.fixture
def pipeline(pool: Pool) -> PoisonedPipeline:
    return PoisonedPipeline(pool, ContextLoader(pool, nothing, nothing), 300.0, 30 * 86_400.0)


@pytest.fixture
def parking() -> Parking:
    return Parking(ATTEMPTS, TOPIC)


@pytest.fixture
def isolate(pool: Pool, pipeline: PoisonedPipeline, parking: Parking) -> RecordIsolation:
    return RecordIsolation(BatchSteps(pool, pipeline, asyncio.Semaphore(2)), parking, IN_A_ROW)


def records_of(values: Sequence[Any], poisoned: Sequence[int] = (), *, first: int = 0, partition: int = 0) -> list[Record]:
    return [
        replace(record(first + number, value, partition=partition), key=POISON if number in poisoned else b"key")
        for number, value in enumerate(values)
    ]


def cleaned(records: Sequence[Record]) -> list[Record]:
    return [replace(item, key=b"key") for item in records]


async def ingest(isolate: RecordIsolation, records: Sequence[Record], size: int = 100) -> list[IngestResult]:
    return [result for batch in poll_batches(records, size) async for result in isolate.ingest(batch)]


async def parked(pool: Pool) -> list[int]:
    return sorted(item.offset for item in await list_refused(pool, RefusalQuery(kind="parked"), 10_000))


async def counted(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT coalesce(sum(n), 0) FROM fidelity_panes WHERE segment = 'all'"))


@pytest.mark.parametrize("step", ["decode", "score", "store"])
async def test_a_record_that_fails_is_parked_with_its_bytes_and_traceback_and_all_others_count_once(
    isolate: RecordIsolation, pipeline: PoisonedPipeline, pool: Pool, fresh_database: str, step: str
):
    pipeline.step = step
    records = records_of([outcome(number) for number in range(100)], poisoned=[0, 41, 99])

    await ingest(isolate, records)

    assert await parked(pool) == [0, 41, 99]
    assert await counted(pool) == 97
    assert await pool.fetchval("SELECT elements FROM source_positions WHERE partition = 0") == 100
    assert await mismatches(fresh_database) == ()
    refused = (await list_refused(pool, RefusalQuery(kind="parked"), 1))[0]
    assert (refused.key, refused.value) == (POISON, records[refused.offset].value)
    assert (refused.kind, refused.exception) == ("parked", "Poisoned")
    assert refused.reason == "Poisoned: the record trips an error of the code"
    assert "Traceback" in refused.traceback
    assert "_raise_at" in refused.traceback


@pytest.mark.parametrize(
    "error",
    [
        TypeError("unhashable type: 'list'"),
        MemoryError(),
        RecursionError("maximum recursion depth exceeded"),
        asyncpg.DataError("value out of int64 range"),
        asyncpg.UniqueViolationError("an element would be stored twice"),
        FileNotFoundError("no artifact"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_record_raises_it_alone_is_parked(
    isolate: RecordIsolation, pipeline: PoisonedPipeline, pool: Pool, error: Exception
):
    pipeline.error = error
    await ingest(isolate, records_of([outcome(number) for number in range(10)], poisoned=[4]))
    assert await parked(pool) == [4]
    assert await counted(pool) == 9
    (refused,) = await list_refused(pool, RefusalQuery(kind="parked"), 10)
    assert refused.exception == type(error).__name__


async def test_an_outage_parks_nothing_and_is_waited_for(isolate: RecordIsolation, pipeline: PoisonedPipeline, pool: Pool):
    pipeline.error = ConnectionResetError("Postgres restarts")
    work = asyncio.create_task(ingest(isolate, records_of([outcome(0), outcome(1)], poisoned=[1])))
    await asyncio.sleep(0.5)
    assert not work.done()
    pipeline.step = "nothing fails any more"
    await work
    assert await parked(pool) == []
    assert await counted(pool) == 2


async def test_a_failure_that_passes_parks_nothing(isolate: RecordIsolation, pipeline: PoisonedPipeline, pool: Pool):
    failures = 0
    fail = pipeline._raise_at

    def fail_twice(step: str, records: Sequence[Record]) -> None:
        nonlocal failures
        failures += step == "decode" and any(item.key == POISON for item in records)
        if failures <= ATTEMPTS - 1:
            fail(step, records)

    pipeline._raise_at = fail_twice  # type: ignore[method-assign]
    await ingest(isolate, records_of([outcome(0), outcome(1), outcome(2)], poisoned=[1]))
    assert await parked(pool) == []
    assert await counted(pool) == 3


async def test_a_parked_array_is_one_row_and_a_redelivery_of_it_changes_nothing_even_when_it_passes_by_then(
    isolate: RecordIsolation, pool: Pool, pipeline: PoisonedPipeline, fresh_database: str
):
    array = [outcome(1), outcome(2), {"event_id": 7}]
    records = records_of([outcome(0), array, outcome(3)], poisoned=[1])
    await ingest(isolate, records)
    assert await parked(pool) == [1]
    before = await pool.fetch("SELECT * FROM fidelity_panes ORDER BY 1, 2, 3, 4, 5")

    await ingest(isolate, records)
    pipeline.step = "nothing fails any more"
    (result,) = await ingest(isolate, records)

    assert (result.n_replayed, dict(result.fates)) == (5, {})
    assert await parked(pool) == [1]
    assert await pool.fetch("SELECT * FROM fidelity_panes ORDER BY 1, 2, 3, 4, 5") == before
    assert await mismatches(fresh_database) == ()


async def test_a_record_that_counts_already_is_not_parked_when_it_fails_in_a_redelivery(
    isolate: RecordIsolation, pool: Pool, fresh_database: str
):
    records = records_of([[outcome(0), outcome(1)], outcome(2), outcome(3)], poisoned=[0, 1])
    await ingest(isolate, cleaned(records))

    await ingest(isolate, records)

    assert await parked(pool) == []
    assert await counted(pool) == 4
    assert await mismatches(fresh_database) == ()


async def test_a_gap_before_a_parked_record_is_noticed(isolate: RecordIsolation, pool: Pool, fresh_database: str):
    await ingest(isolate, records_of([outcome(0)], first=0))
    await ingest(isolate, records_of([outcome(5)], poisoned=[0], first=5))
    assert [tuple(row) for row in await pool.fetch("SELECT first_offset, last_offset FROM source_gaps")] == [(1, 4)]
    assert await mismatches(fresh_database) == ()


@pytest.mark.parametrize("seed", range(6))
async def test_kills_at_any_moment_of_the_bisection_leave_counts_that_verify_recomputes(
    pipeline: PoisonedPipeline, parking: Parking, pool: Pool, fresh_database: str, seed: int
):
    rnd = random.Random(seed)
    pipeline.step = rnd.choice(["decode", "score", "store"])
    poisoned = sorted(rnd.sample(range(60), 6))
    values: list[Any] = [[outcome(number), outcome(1000 + number)] if number % 7 == 0 else outcome(number) for number in range(60)]
    records = records_of(values, poisoned)
    isolate = RecordIsolation(BatchSteps(pool, pipeline, asyncio.Semaphore(2)), parking, in_a_row=100)
    for _ in range(12):  # killed workers, each of which starts from an older offset with batches of another size
        work = asyncio.create_task(ingest(isolate, records, size=rnd.choice([7, 20, 60])))
        await asyncio.sleep(rnd.uniform(0.0, 0.15))
        work.cancel()
        await asyncio.wait([work])
    await ingest(isolate, records, size=13)

    assert await parked(pool) == poisoned
    n_elements = sum(2 if number % 7 == 0 else 1 for number in range(60) if number not in poisoned)
    assert await counted(pool) == n_elements
    assert await mismatches(fresh_database) == ()


async def test_a_failure_that_every_record_has_parks_a_few_and_then_waits_and_goes_on_when_it_is_corrected(
    isolate: RecordIsolation, pipeline: PoisonedPipeline, parking: Parking, pool: Pool, fresh_database: str
):
    records = records_of([outcome(number) for number in range(40)], poisoned=range(40))

    work = asyncio.create_task(ingest(isolate, records, size=20))
    await _until(lambda: parking.blocked)
    await asyncio.sleep(0.3)

    assert not work.done()
    assert await parked(pool) == list(range(IN_A_ROW))
    assert "outcome-events:0 waits at offset 4: every record fails alike, by Poisoned" in parking.blocked[0]
    pipeline.step = "nothing fails any more"
    await work
    assert parking.blocked == {}
    # A failed attempt at the first that waits can be in work at the correction: then records behind it pass, and it is parked too.
    assert await counted(pool) in {40 - IN_A_ROW, 40 - IN_A_ROW - 1}
    assert await mismatches(fresh_database) == ()


async def test_many_bad_records_in_a_row_are_all_parked_when_a_record_behind_them_passes(
    isolate: RecordIsolation, parking: Parking, pool: Pool
):
    await ingest(isolate, records_of([outcome(number) for number in range(21)], poisoned=range(20)))
    assert await parked(pool) == list(range(20))
    assert await counted(pool) == 1
    assert parking.blocked == {}


async def test_a_partition_that_waits_goes_on_when_records_of_another_one_pass(
    isolate: RecordIsolation, parking: Parking, pool: Pool
):
    work = asyncio.create_task(ingest(isolate, records_of([outcome(number) for number in range(8)], poisoned=range(8))))
    await _until(lambda: parking.blocked)
    while not work.done():
        await ingest(isolate, records_of([outcome(100)], partition=1))
    assert await parked(pool) == list(range(8))


async def test_an_operator_parks_a_record_of_a_batch_and_one_for_which_a_partition_waits(
    isolate: RecordIsolation, parking: Parking, pool: Pool, pipeline: PoisonedPipeline, fresh_database: str
):
    await park_store.add_park_request(pool, TOPIC, 0, 3, why="asked by the producer", by="ops@host")
    await parking.read_requests(pool)
    await ingest(isolate, records_of([outcome(number) for number in range(6)]))
    (refused,) = await list_refused(pool, RefusalQuery(kind="parked"), 10)
    assert (refused.offset, refused.exception, refused.traceback) == (3, "ParkRequested", "")
    assert refused.reason == "parked by ops@host: asked by the producer"
    assert await park_store.pending_park_requests(pool) == []

    pipeline.error = ConnectionResetError("an outage that is none")
    work = asyncio.create_task(ingest(isolate, records_of([outcome(6), outcome(7)], poisoned=[0], first=6)))
    await asyncio.sleep(0.3)
    await park_store.add_park_request(pool, TOPIC, 0, 6, why="", by="ops@host")
    await parking.read_requests(pool)
    await asyncio.wait_for(work, 30)
    assert await parked(pool) == [3, 6]
    assert await counted(pool) == 6
    assert await mismatches(fresh_database) == ()


async def test_a_record_whose_bytes_cannot_be_stored_is_parked_without_them(
    isolate: RecordIsolation, pool: Pool, monkeypatch: pytest.MonkeyPatch
):
    records = [replace(item, headers=(("na\ud800me", b""),)) for item in records_of([outcome(0)], poisoned=[0])]
    await ingest(isolate, records)
    (refused,) = await list_refused(pool, RefusalQuery(kind="parked"), 10)
    assert refused.key in (None, POISON)
    assert json.loads(await pool.fetchval("SELECT count(*)::text FROM refused_records")) == 1


async def _until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.01)


class SlowPipeline(OutcomePipeline):
    """Computes inside the transaction of a batch with a poisoned record for longer than Postgres lets a session be idle."""

    async def _store(self, connection: Any, scored: Any, other_lines: set[str]) -> IngestResult:
        result = await super()._store(connection, scored, other_lines)
        if any(record.key == POISON for record in scored.decoded.batch.records):
            start_s = time.process_time()
            while time.process_time() - start_s < 1.5 * IDLE_LIMIT_S:
                pass
            await connection.fetchval("SELECT 1")
        return result


async def test_a_record_that_computes_for_too_long_in_its_transaction_is_parked_alone_with_the_reason(
    fresh_database: str, pool: Pool
):
    """Postgres ends its session, which looks like an outage: that would be waited for, for ever."""
    settings = PostgresSettings(postgres_dsn=fresh_database, postgres_idle_in_transaction_timeout_s=IDLE_LIMIT_S)
    records = records_of([outcome(number) for number in range(3)], poisoned=[1])
    async with await open_pool(settings) as short, asyncio.timeout(60):
        pipeline = SlowPipeline(short, ContextLoader(short, nothing, nothing), 300.0, 30 * 86_400.0)
        steps = BatchSteps(short, pipeline, asyncio.Semaphore(2))
        await ingest(RecordIsolation(steps, Parking(ATTEMPTS, TOPIC), IN_A_ROW), records)

    (refused,) = await list_refused(pool, RefusalQuery(kind="parked"), 10)
    assert (refused.offset, refused.value, refused.exception) == (1, records[1].value, "SlowTransaction")
    assert re.match(r"SlowTransaction: a computation of [\d.]+ s inside a transaction was too slow", refused.reason)
    assert "TWIN_POSTGRES_IDLE_IN_TRANSACTION_TIMEOUT_S" in refused.reason
    assert "in _store" in refused.traceback
    assert await counted(pool) == 2
    assert await mismatches(fresh_database) == ()


@pytest.mark.parametrize("end", ["SELECT pg_terminate_backend(pg_backend_pid())", "SELECT pg_sleep(0)"])
async def test_a_session_that_ends_while_nothing_is_computed_is_an_outage(fresh_database: str, end: str):
    """A process that was suspended, and one whose Postgres ends, have done nothing wrong."""
    settings = PostgresSettings(postgres_dsn=fresh_database, postgres_idle_in_transaction_timeout_s=IDLE_LIMIT_S)

    async def wait_in_a_transaction(pool: Pool) -> None:
        async with transaction(pool) as connection:
            await connection.fetchval(end)
            time.sleep(1.5 * IDLE_LIMIT_S)  # noqa: ASYNC251  # as a suspended process does
            await connection.fetchval("SELECT 1")

    async with await open_pool(settings) as short:
        with pytest.raises((asyncpg.InterfaceError, asyncpg.PostgresError)) as raised:
            await wait_in_a_transaction(short)
    assert subject_of(raised.value) is Subject.DEPENDENCY

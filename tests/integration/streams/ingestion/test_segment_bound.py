"""The bound on segment values against a real PostgreSQL: which values have series of their own, and that every sum stays exact."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, NoReturn
from uuid import UUID

import pytest

from schemas import SourceId
from sql import source_position_store
from sql.database import Pool, connect, open_pool
from sql.migrate import migrate, migrations
from sql.segment_store import Dimension, SegmentLimits, count_segment_values
from streams.ingestion import ContextLoader, IngestResult, OutcomePipeline, segment_bound
from tests.audits import mismatches
from tests.outcomes import LINE, TOPIC, make_card, make_line, outcome, poll_batches, record

REGION = Dimension(LINE, "region")
PARTITIONS = range(3)


async def unused(item_id: UUID) -> NoReturn:
    raise LookupError(f"{item_id} is not needed here")


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    await make_line(fresh_database, make_card(), pane_s=60.0, window_s=300.0)
    opened = await open_pool(dsn=fresh_database)
    for partition in PARTITIONS:
        await source_position_store.begin_source(opened, SourceId(topic=TOPIC, partition=partition))
    yield opened
    await opened.close()


def make_pipeline(pool: Pool, max_values: int) -> OutcomePipeline:
    return OutcomePipeline(pool, ContextLoader(pool, unused, unused), 300.0, 30 * 86_400.0, SegmentLimits(max_values))


def of_region(number: int, region: str, **fields: Any) -> dict[str, Any]:
    return outcome(number, segment={"region": region}, **fields)


async def ingest(pipeline: OutcomePipeline, values: list[Any], *, first: int = 0, partition: int = 0) -> IngestResult:
    records = [record(first + number, value, partition=partition) for number, value in enumerate(values)]
    return await pipeline.ingest(next(iter(poll_batches(records, len(records)))))


async def n_by_series(pool: Pool) -> dict[str, int]:
    rows = await pool.fetch("SELECT segment, sum(n)::int FROM fidelity_panes GROUP BY segment HAVING sum(n) <> 0")
    return {row[0]: row[1] for row in rows}


async def test_the_most_frequent_values_of_the_first_batch_are_followed_and_all_others_are_counted_together(
    fresh_database: str, pool: Pool
):
    regions = ["rare", *["east"] * 2, *["west"] * 3, "scarce"]

    result = await ingest(make_pipeline(pool, 2), [of_region(number, region) for number, region in enumerate(regions)])

    assert await n_by_series(pool) == {"all": 7, "region=west": 3, "region=east": 2, "region:other": 2}
    assert result.in_other == {REGION: 2}
    assert await count_segment_values(pool, LINE) == {"region": 2}
    assert await mismatches(fresh_database) == ()


async def test_a_value_that_is_called_other_has_a_series_of_its_own(pool: Pool):
    await ingest(make_pipeline(pool, 1), [of_region(1, "other"), of_region(2, "other"), of_region(3, "region:other")])

    assert await n_by_series(pool) == {"all": 3, "region=other": 2, "region:other": 1}


async def test_two_hundred_values_are_followed_by_default(pool: Pool):
    pipeline = OutcomePipeline(pool, ContextLoader(pool, unused, unused), 300.0, 86_400.0)

    for first in range(0, 1000, 100):
        await ingest(pipeline, [of_region(number, f"r{number}") for number in range(first, first + 100)], first=first)

    series = await n_by_series(pool)
    assert len(series) == 202
    assert series["region:other"] == 800


async def test_a_correction_is_taken_out_of_the_series_it_was_added_to_whatever_was_admitted_since(fresh_database: str, pool: Pool):
    before = make_pipeline(pool, 1)
    await ingest(before, [of_region(1, "west")])
    await ingest(before, [of_region(2, "late"), of_region(3, "late")], first=1)
    assert await n_by_series(pool) == {"all": 3, "region=west": 1, "region:other": 2}

    after = make_pipeline(pool, 2)
    await ingest(after, [of_region(4, "late"), of_region(2, "late", revision=1, actual_value=None)], first=3)
    assert await n_by_series(pool) == {"all": 3, "region=west": 1, "region:other": 1, "region=late": 1}

    await ingest(after, [of_region(3, "west", revision=1)], partition=1)
    assert await n_by_series(pool) == {"all": 3, "region=west": 2, "region=late": 1}
    assert await mismatches(fresh_database) == ()


async def test_a_lower_limit_takes_no_series_away(fresh_database: str, pool: Pool):
    await ingest(make_pipeline(pool, 3), [of_region(number, f"r{number}") for number in range(3)])

    await ingest(make_pipeline(pool, 1), [of_region(number, f"r{number}") for number in range(5)], first=3)
    await ingest(make_pipeline(pool, 1), [of_region(number + 10, f"r{number}") for number in range(5)], first=8)

    assert await n_by_series(pool) == {"all": 10, "region=r0": 2, "region=r1": 2, "region=r2": 2, "region:other": 4}
    assert await mismatches(fresh_database) == ()


async def test_outcomes_that_are_refused_or_read_again_take_no_room(pool: Pool):
    pipeline = make_pipeline(pool, 2)
    await ingest(pipeline, [of_region(1, "west"), of_region(2, "far", actual_value=1e9), of_region(3, "x" * 101)])

    await ingest(pipeline, [of_region(1, "west"), of_region(2, "far", actual_value=1e9), of_region(4, "east")])

    assert await n_by_series(pool) == {"all": 1, "region=west": 1}  # the third is a replay of the refused one
    assert await count_segment_values(pool, LINE) == {"region": 1}


async def test_a_batch_that_fails_admits_nothing(fresh_database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch):
    pipeline = make_pipeline(pool, 1)

    async def fail(*_: object) -> NoReturn:
        raise ConnectionError("lost")

    with monkeypatch.context() as patched:
        patched.setattr("sql.outcome_store.add_outcomes", fail)
        with pytest.raises(ConnectionError):
            await ingest(pipeline, [of_region(1, "west")])
    assert await count_segment_values(pool, LINE) == {}

    await ingest(pipeline, [of_region(2, "east")], partition=1)
    await ingest(pipeline, [of_region(1, "west")])

    assert await n_by_series(pool) == {"all": 2, "region=east": 1, "region:other": 1}
    assert await mismatches(fresh_database) == ()


async def test_a_batch_without_a_new_value_reads_nothing(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    pipeline = make_pipeline(pool, 2)
    await ingest(pipeline, [of_region(number, f"r{number % 3}") for number in range(6)])

    async def fail(*_: object) -> NoReturn:
        raise AssertionError("the values are remembered")

    monkeypatch.setattr(segment_bound, "lock_segment_values", fail)
    await ingest(pipeline, [of_region(number, f"r{number % 5}") for number in range(6, 16)], first=6)

    assert set(await n_by_series(pool)) == {"all", "region=r0", "region=r1", "region:other"}


@pytest.mark.parametrize("seed", [1, 2])
async def test_several_workers_admit_no_more_than_the_limit_between_them(fresh_database: str, pool: Pool, seed: int):
    rng, limit = random.Random(seed), 5
    batches = {
        partition: [[of_region(rng.randrange(400), f"r{rng.randrange(30)}", revision=rng.randrange(3)) for _ in range(20)]] * 2
        for partition in PARTITIONS
    }

    async def work(partition: int) -> None:
        pipeline = make_pipeline(pool, limit)  # as another process: it remembers nothing of the others
        for number, values in enumerate(batches[partition]):
            await ingest(pipeline, values, first=number * 10, partition=partition)  # half of it is a replay

    await asyncio.gather(*map(work, PARTITIONS))

    assert await count_segment_values(pool, LINE) == {"region": limit}
    assert set(await n_by_series(pool)) <= {"all", "region:other", *(f"region=r{number}" for number in range(30))}
    assert await mismatches(fresh_database) == ()


async def test_a_series_whose_value_was_not_admitted_is_reported(fresh_database: str, pool: Pool, owner_pool: Pool):
    await ingest(make_pipeline(pool, 2), [of_region(1, "west"), of_region(2, "east")])

    await owner_pool.execute("DELETE FROM segment_values WHERE value = 'east'")

    assert await mismatches(fresh_database) == (f"segment: {LINE}, region=east: it has a series of its own and was not admitted",)


async def test_a_migration_keeps_the_two_hundred_most_frequent_values_of_each_dimension(empty_database: str):
    await migrate(empty_database)
    connection = await connect(empty_database)
    try:
        await connection.execute("DROP TABLE segment_values")  # as it was before the migration
        await connection.execute("INSERT INTO source_positions (source, topic, partition, incarnation) VALUES ('s', 't', 0, 0)")
        zeros = ", ".join(["0"] * 14)
        await connection.execute(
            f"""INSERT INTO fidelity_panes
                SELECT $1, segment, 0, 60, 's', 'line', 1, 0, n, {zeros}
                FROM (SELECT 'region=r' || i, i FROM generate_series(1, 250) i UNION ALL VALUES ('all', 9), ('specialty=a=b', 1))
                     AS s (segment, n)""",
            UUID(int=1),
        )
        await connection.execute(next(m.text for m in migrations() if m.number == 29))
        rows = await connection.fetch("SELECT dimension, value, followed FROM segment_values")
    finally:
        await connection.close()

    assert Counter((row["dimension"], row["followed"]) for row in rows) == {
        ("region", True): 200,
        ("region", False): 50,
        ("specialty", True): 1,
    }
    assert {row["value"] for row in rows if row["dimension"] == "specialty"} == {"a=b"}
    assert {row["value"] for row in rows if not row["followed"]} == {f"r{number}" for number in range(1, 51)}

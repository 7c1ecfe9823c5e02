"""Refused records are found again by where they came from."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

from schemas import SourceId
from sql import publication_store
from sql.dead_letter_store import (
    RefusalQuery,
    RefusedRecord,
    add_refused_once,
    list_refused,
    mark_refused_sent,
    refusal_id,
    unsent_refused_between,
)

SOURCE = SourceId(topic="outcome-events", partition=1)
AT = datetime(2026, 3, 1, tzinfo=UTC)


def refused(offset: int, source: SourceId = SOURCE) -> RefusedRecord:
    return RefusedRecord(refusal_id(source, offset, AT), source, offset, 0, AT, None, b"x", [], "json", "no JSON", "ValueError")


async def test_a_batch_that_is_delivered_again_sends_its_own_copies_and_not_those_of_all_later_ones(pool):
    records = [refused(offset) for offset in range(2, 9)]
    await add_refused_once(pool, records)
    await add_refused_once(pool, [refused(4, SOURCE.model_copy(update={"partition": 2}))])
    await mark_refused_sent(pool, [records[2].refusal_id])

    unsent = await unsent_refused_between(pool, SOURCE, 3, 6)

    assert sorted(record.offset for record in unsent) == [3, 5, 6]
    assert {record.source for record in unsent} == {SOURCE}


async def test_a_batch_that_cannot_be_read_is_found_by_each_of_its_offsets(pool):
    batch = refused(9)._replace(first_offset=3)
    await add_refused_once(pool, [batch, refused(12), refused(7)])
    await add_refused_once(pool, [refused(5, SOURCE.model_copy(update={"partition": 2}))])

    async def offsets_of(offset: int) -> list[str]:
        return sorted(record.offsets for record in await list_refused(pool, RefusalQuery(partition=1, offset=offset), 10))

    assert [await offsets_of(offset) for offset in range(2, 13)] == [
        [],
        *[["3-9"]] * 4,
        ["3-9", "7"],
        *[["3-9"]] * 2,
        *[[]] * 2,
        ["12"],
    ]
    (stored,) = await list_refused(pool, RefusalQuery(offset=4), 10)
    assert (stored.first_offset, stored.offset, stored.position) == (3, 9, "outcome-events:1:3-9")


async def test_no_index_takes_longer_the_more_equal_values_it_has(pool):
    assert await pool.fetch("SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND indexdef ~ 'USING hash'") == []


async def test_refusals_of_a_published_event_are_found_by_an_index(pool):
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await connection.fetch(f"EXPLAIN {publication_store._TALLY}", uuid4(), UUID(int=0), UUID(int=2**128 - 1), "topic")

    assert any("refused_records_key" in row[0] for row in plan)

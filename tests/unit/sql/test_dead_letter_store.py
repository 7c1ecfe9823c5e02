"""Refused records are found again by where they came from."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas import SourceId
from sql.dead_letter_store import (
    RefusedRecord,
    add_refused_once,
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

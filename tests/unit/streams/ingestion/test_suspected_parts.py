"""What may have ended the role is stored apart from the rest: some records together, fewer with each end, and alone at last."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from schemas import SourceId
from sql.interrupted_work_store import InterruptedWork
from streams.ingestion import RecordIsolation
from streams.ingestion.rows import IngestResult
from streams.kafka.batch_consumer import PollBatch
from streams.kafka.parking import Parking

AT = datetime(2026, 3, 1, tzinfo=UTC)
SOURCE = SourceId(topic="outcome-events", partition=1, incarnation=0)


class Steps:
    """Stores every part, and notes the offsets of each."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, int]] = []
        self.parked: list[int] = []

    async def ingest(self, batch: PollBatch) -> IngestResult:
        self.parts.append((batch.first_offset, batch.last_offset))
        return IngestResult(SOURCE, batch.first_offset, batch.last_offset, (), None)

    async def rehearse(self, batch: PollBatch) -> None:
        raise AssertionError(batch)

    async def park(self, batch: PollBatch, error: Exception) -> IngestResult:
        self.parked.append(batch.first_offset)
        return IngestResult(SOURCE, batch.first_offset, batch.last_offset, (), None)


async def stored(n_records: int, *interrupted: tuple[int, int]) -> Steps:
    """Store a batch after the role has ended with these offsets in work; it parks after 5 attempts."""
    steps, parking = Steps(), Parking(5, "outcome-events")
    parking._interrupted = [InterruptedWork(1, first, last, AT) for first, last in interrupted]
    batch = PollBatch("outcome-events", 1, 0, records(range(n_records)))
    async for _ in RecordIsolation(steps, parking, in_a_row=10).ingest(batch):
        pass
    return steps


def records(offsets: Sequence[int]) -> Any:
    return [SimpleNamespace(offset=offset, headers=(), key=None, value=None) for offset in offsets]


async def test_after_two_ends_suspects_are_stored_some_together_and_the_rest_at_once():
    steps = await stored(4000, (0, 1109), (0, 1109))
    assert steps.parts == [(0, 499), (500, 999), (1000, 1109), (1110, 3999)]


async def test_with_each_end_fewer_are_stored_together_and_at_last_each_alone():
    steps = await stored(1000, (0, 999), (0, 999), (500, 999))
    assert steps.parts == [(0, 499), *((first, first + 24) for first in range(500, 1000, 25))]
    steps = await stored(1000, (0, 999), (0, 999), (500, 549), (525, 549))
    alone = [(offset, offset) for offset in range(525, 550)]
    assert steps.parts == [(0, 499), (500, 524), *alone, (550, 999)]


async def test_a_record_that_ends_the_role_is_parked_alone_after_as_many_ends_as_attempts():
    steps = await stored(100, (0, 99), (0, 99), (25, 49), (25, 49), (40, 40))
    assert steps.parked == [40]
    assert sum(last - first + 1 for first, last in steps.parts) == 99


async def test_a_batch_without_suspects_is_stored_as_a_whole():
    assert (await stored(100, (0, 99))).parts == [(0, 99)]

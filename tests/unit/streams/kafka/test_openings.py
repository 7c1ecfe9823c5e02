"""Batches whose opening ends their role: they are known by the marks of the reading thread, and parked without being opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from aiokafka import TopicPartition

from sql.interrupted_work_store import InterruptedWork
from sql.park_store import ParkRequest
from streams.bounds import BoundSettings
from streams.kafka import record_batches
from streams.kafka.parking import Parking, UnreadableBytes
from streams.kafka.record_batches import BatchReader, FetchedBatches, guard_openings
from streams.kafka.work_marks import MARKS
from tests.kafka_batches import GZIP, Rec, batch

TOPIC = "openings"
AT = datetime(2026, 3, 1, tzinfo=UTC)
OPENED = ~3  # the partition by which the opening of a batch of partition 3 is marked


@pytest.fixture(autouse=True)
def _guards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_batches, "_GUARDS", {})


def read(parking: Parking) -> list[object]:
    """The values of a batch of offsets 10 to 12 and of one of offset 13, of an unreadable batch its first offset and its reason."""
    guard_openings(TOPIC, parking.opening)
    data = batch([Rec(b"0"), Rec(b"1"), Rec(b"2")], base_offset=10, codec=GZIP) + batch([Rec(b"3")], base_offset=13, codec=GZIP)
    records = BatchReader(BoundSettings(), TopicPartition(TOPIC, 3), FetchedBatches(data), None, 10, None, None, True, 0)
    return [
        (record.value.first_offset, record.offset, str(record.value.error))
        if isinstance(record.value, UnreadableBytes)
        else record.value
        for record in records
    ]


def parking_after(ends: int, *requested: int) -> Parking:
    parking = Parking(3, TOPIC)
    parking._interrupted = [InterruptedWork(OPENED, 10, 12, AT)] * ends
    parking._requests = {(3, offset): ParkRequest(TOPIC, 3, offset, "it hangs", "ops", AT, None) for offset in requested}
    return parking


def test_a_batch_is_marked_while_it_is_opened():
    in_work: list[InterruptedWork] = []

    @contextmanager
    def look(partition: int, first: int, last: int) -> Iterator[None]:
        with Parking(3, TOPIC).opening(partition, first, last):
            in_work.extend(MARKS.take(AT))
            yield

    parking = Parking(3, TOPIC)
    parking.opening = look  # type: ignore[method-assign]
    assert read(parking) == [b"0", b"1", b"2", b"3"]
    assert in_work == [InterruptedWork(OPENED, 10, 12, AT), InterruptedWork(OPENED, 13, 13, AT)]
    assert MARKS.take(AT) == []


def test_a_batch_that_ended_its_role_at_its_opening_as_often_as_allowed_is_not_opened_and_the_next_one_is():
    assert read(parking_after(2)) == [b"0", b"1", b"2", b"3"]
    (first, last, reason), following = read(parking_after(3))  # type: ignore[misc]
    assert (first, last, following) == (10, 12, b"3")
    assert "EndedRole" in reason


def test_work_on_records_that_ended_the_role_does_not_keep_their_batch_closed():
    parking = Parking(3, TOPIC)
    parking._interrupted = [InterruptedWork(3, 10, 12, AT)] * 3
    assert read(parking) == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("ends", [0, 1])
async def test_a_request_to_park_holds_before_a_batch_is_opened_once_its_opening_ended_the_role(ends: int):
    values = read(parking_after(ends, 11))
    if not ends:  # the record alone is parked
        assert values == [b"0", b"1", b"2", b"3"]
    else:
        (first, last, reason), following = values  # type: ignore[misc]
        assert (first, last, following) == (10, 12, b"3")
        assert "parked by ops: it hangs" in reason


async def test_requests_before_the_position_are_completed_when_their_batch_was_parked_and_else_withdrawn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    done: list[tuple[str, object]] = []

    async def complete(_pool: object, _topic: str, _partition: int, offsets: list[int]) -> None:
        done.append(("completed", offsets[0]))

    async def withdraw(_pool: object, _topic: str, _partition: int, offset: int) -> None:
        done.append(("withdrawn", offset))

    monkeypatch.setattr("streams.kafka.parking.complete_park_requests", complete)
    monkeypatch.setattr("streams.kafka.parking.withdraw_park_request", withdraw)
    parking = parking_after(1, 5, 11, 13)
    read(parking)
    await parking.clear_passed_requests(None, {})  # type: ignore[arg-type]  # nothing is assigned
    await parking.clear_passed_requests(None, {3: 13})  # type: ignore[arg-type]
    assert done == [("withdrawn", 5), ("completed", 11)]
    assert [record.message for record in caplog.records] == [
        "the request to park openings:3:5 is cleared: the record was processed before, or is not on its topic"
    ]

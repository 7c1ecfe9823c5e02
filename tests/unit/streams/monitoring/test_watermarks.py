"""Event time over all sources: as far as the slowest, and nowhere while one of them is silent."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas import SourceId
from streams.monitoring.watermarks import Watermarks


def at(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


def source(partition: int, incarnation: int = 0) -> SourceId:
    return SourceId(topic="outcome-events", partition=partition, incarnation=incarnation)


def told(*said: tuple[SourceId, datetime | None]) -> float | None:
    marks = Watermarks(2)
    for each, watermark in said:
        marks.note(each, watermark)
    return marks.reached()


def test_event_time_is_that_of_the_slowest_source():
    assert told((source(0), at(50)), (source(1), at(20))) == 20


def test_a_source_that_nobody_reads_holds_windows_open():
    assert told((source(0), at(50))) is None
    assert told((source(0), at(50)), (source(1), None)) is None


def test_a_new_incarnation_begins_anew_and_the_old_one_is_heard_no_more():
    assert told((source(0), at(50)), (source(1), at(60)), (source(1, 1), at(10)), (source(1), at(70))) == 10
    assert told((source(0), at(50)), (source(1), at(60)), (source(1, 1), None)) is None


def test_a_worker_that_has_only_begun_takes_nothing_back():
    assert told((source(0), at(50)), (source(1), at(60)), (source(1), None)) == 50

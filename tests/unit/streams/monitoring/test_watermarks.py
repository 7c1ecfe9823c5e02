"""The watermark over all sources is the lowest of theirs, and undefined while one of them has none."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas import SourceId
from streams.monitoring.watermarks import Watermarks


def at(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


def source(partition: int, incarnation: int = 0) -> SourceId:
    return SourceId(topic="outcome-events", partition=partition, incarnation=incarnation)


def current(*updates: tuple[SourceId, datetime | None]) -> float | None:
    watermarks = Watermarks(2)
    for updated, watermark in updates:
        watermarks.update(updated, watermark)
    return watermarks.current()


def test_the_watermark_is_that_of_the_slowest_source():
    assert current((source(0), at(50)), (source(1), at(20))) == 20


def test_a_source_without_a_watermark_keeps_windows_open():
    assert current((source(0), at(50))) is None
    assert current((source(0), at(50)), (source(1), None)) is None


def test_a_new_incarnation_replaces_the_old_one_whose_watermarks_are_then_ignored():
    assert current((source(0), at(50)), (source(1), at(60)), (source(1, 1), at(10)), (source(1), at(70))) == 10
    assert current((source(0), at(50)), (source(1), at(60)), (source(1, 1), None)) is None


def test_a_worker_that_has_just_started_does_not_remove_a_watermark():
    assert current((source(0), at(50)), (source(1), at(60)), (source(1), None)) == 50


def test_the_watermark_of_a_source_only_rises():
    assert current((source(0), at(50)), (source(1), at(60)), (source(1), at(10))) == 50


def test_partitions_that_are_added_keep_windows_open_until_they_are_read():
    watermarks = Watermarks(1)
    watermarks.update(source(0), at(50))
    watermarks.n_sources = 2
    assert watermarks.current() is None
    watermarks.update(source(1), at(60))
    assert watermarks.current() == 50


def test_a_partition_that_is_read_before_its_topic_is_known_to_have_it_counts_from_then_on():
    watermarks = Watermarks(1)
    watermarks.update(source(1), at(20))
    watermarks.update(source(0), at(50))
    assert watermarks.current() == 50
    watermarks.n_sources = 2
    assert watermarks.current() == 20


def test_there_is_no_watermark_before_the_number_of_partitions_is_known():
    watermarks = Watermarks()
    watermarks.update(source(0), at(50))
    assert watermarks.current() is None

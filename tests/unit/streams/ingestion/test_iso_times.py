"""Times that are read by columns are those that datetime reads."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.ingestion.iso_times import parse_times
from streams.ingestion.outcome_batch import to_microseconds

ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
PARTS = st.sampled_from(["seconds", "milliseconds", "microseconds"])


def parse(*texts: str) -> list[int] | None:
    values = parse_times(pa.array(texts))
    return None if values is None else values.tolist()


@given(st.lists(st.datetimes(timezones=ZONES), min_size=1, max_size=5), PARTS)
def test_times_are_those_that_datetime_reads(times: list[datetime], parts: str):
    texts = [at.isoformat(timespec=parts) for at in times]

    assert parse(*texts) == [to_microseconds(datetime.fromisoformat(text)) for text in texts]


def test_times_without_seconds_and_with_a_blank_are_read_too():
    assert parse("1970-01-01T00:01Z", "1970-01-01 00:00:02Z", "1970-01-01 01:00-00:30") == [60_000_000, 2_000_000, 5_400_000_000]


@pytest.mark.parametrize("digits", range(1, 7))
def test_any_part_of_a_second_is_read(digits: int):
    assert parse(f"1970-01-01T00:00:01.{'123456'[:digits]}Z") == [1_000_000 + int("123456"[:digits].ljust(6, "0"))]


@pytest.mark.parametrize(
    "text",
    [
        *("2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-01-00T00:00:00Z"),
        *("2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01T00:00:60Z", "2026-01-01T00:00:00+24:00"),
        *("2026-01-01T00:00:00+00:60", "2026-01-01T00:00:00 00:00", "2026-01-01T00:00:00", "2026-01-01", ""),
        *("2026-01-01T00:00:00.Z", "2026-01-01T00:00:00.1234567Z", "2026-01-01T00:00:0xZ", "2026-01-01T00Z", "Z", "soon"),
        *(
            "2026-01-01T00:00:00+0000",
            "2026-01-01T00:00:00+00",
            "2026-01-01T00+00:00",
            "2026-01-01T00:00:00,5Z",
            "2026-01-01T00:00:00z",
            "+026-01-01T00:00:00Z",
        ),
    ],
)
def test_any_other_time_is_left_to_others(text: str):
    assert parse(text) is None


def test_one_time_that_does_not_exist_leaves_all_to_others():
    assert parse("2026-02-28T00:00:00Z", "2026-02-29T00:00:00Z") is None

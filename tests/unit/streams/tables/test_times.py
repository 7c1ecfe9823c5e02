"""Times: nothing is guessed, and nothing lands in 1970."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from schemas import TwinType
from streams.tables import DateOrder, TableOptions, TableReading, TableRefused, TimeUnit, outcome_columns, read_frame, read_table


@pytest.fixture
def read(tmp_path: Path):
    def times(*cells: str, **options: Any) -> TableReading:
        path = tmp_path / "outcomes.csv"
        path.write_text("".join(["event_id,observed_at\n", *(f'{row},"{cell}"\n' for row, cell in enumerate(cells))]))
        return read_table(path, outcome_columns(TwinType.HCP), TableOptions(**options))

    return times


def utc(reading: TableReading) -> list[str]:
    return [time.isoformat() for time in reading.frame["observed_at"]]


@pytest.mark.parametrize(
    ("cell", "moment"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31 12:00:00.123456+02:00", "2026-01-31T10:00:00.123456+00:00"),
        ("2026-01-31T12:00-0530", "2026-01-31T17:30:00+00:00"),
        ("2026-01-31 12:00 UTC", "2026-01-31T12:00:00+00:00"),
        ("20260131T120000Z", "2026-01-31T12:00:00+00:00"),
        ("31.01.2026 12:00+01:00", "2026-01-31T11:00:00+00:00"),
    ],
)
def test_a_time_with_its_zone_is_read(read, cell, moment):
    assert utc(read(cell)) == [moment]


@pytest.mark.parametrize(
    ("cell", "in_berlin"),
    [
        ("2026-01-31T12:00:00", "2026-01-31T11:00:00+00:00"),
        ("2026-07-31 12:00", "2026-07-31T10:00:00+00:00"),
        ("2026-01-31", "2026-01-30T23:00:00+00:00"),
        ("31.01.2026", "2026-01-30T23:00:00+00:00"),
        ("5-Mar-2026", "2026-03-04T23:00:00+00:00"),
    ],
)
def test_a_time_without_a_zone_needs_a_stated_one(read, cell, in_berlin):
    with pytest.raises(TableRefused, match=rf"row 3, observed_at: '{cell}' has no zone: .*--timezone"):
        read("2026-01-31T12:00:00Z", cell)
    reading = read("2026-01-31T12:00:00Z", cell, timezone="Europe/Berlin")
    assert utc(reading) == ["2026-01-31T12:00:00+00:00", in_berlin]
    assert "times of Europe/Berlin" in reading.notes[0]


@pytest.mark.parametrize("cell", ["20260131", "46053", "46053.5", "1769860800", "1769860800000", "1.7e9"])
def test_a_number_is_a_time_only_in_a_stated_unit(read, cell):
    with pytest.raises(TableRefused, match=r"row 2, observed_at: .* is a number, not a time: .*--time-unit"):
        read(cell, timezone="UTC")


@pytest.mark.parametrize(
    ("unit", "cell", "moment"),
    [
        (TimeUnit.SECONDS, "1769860800.5", "2026-01-31T12:00:00.500000+00:00"),
        (TimeUnit.MILLISECONDS, "1769860800000", "2026-01-31T12:00:00+00:00"),
        (TimeUnit.MICROSECONDS, "1769860800000000", "2026-01-31T12:00:00+00:00"),
        (TimeUnit.NANOSECONDS, "1769860800000000000", "2026-01-31T12:00:00+00:00"),
        (TimeUnit.DATE, "20260131", "2026-01-30T23:00:00+00:00"),
        (TimeUnit.EXCEL, "46053.5", "2026-01-31T11:00:00+00:00"),  # Excel shows 46053 as 2026-01-31
    ],
)
def test_numbers_in_their_stated_unit(read, unit, cell, moment):
    assert utc(read(cell, time_unit=unit, timezone="Europe/Berlin")) == [moment]


@pytest.mark.parametrize(
    ("unit", "cell", "reason"),
    [
        (TimeUnit.MILLISECONDS, "1769860800", "is 1970-01-21 in the unit ms"),
        (TimeUnit.SECONDS, "20260131", "is 1970-08-23 in the unit s"),
        (TimeUnit.DATE, "46053", "is no time in the unit yyyymmdd"),
        (TimeUnit.DATE, "20261301", "is no time in the unit yyyymmdd"),
        (TimeUnit.EXCEL, "7", "is 1900-01-06 in the unit excel"),
    ],
)
def test_a_number_that_is_no_likely_time_in_its_unit_is_bad(read, unit, cell, reason):
    with pytest.raises(TableRefused, match=f"row 2, observed_at: '{cell}' {reason}"):
        read(cell, time_unit=unit, timezone="UTC")


def test_a_date_in_doubt_is_refused_and_the_order_settles_it(read):
    with pytest.raises(TableRefused, match=r"row 2, observed_at: '01/03/2025' does not say .*--date-order"):
        read("01/03/2025", "05/03/2025", timezone="UTC")
    assert utc(read("01/03/2025", timezone="UTC", date_order=DateOrder.DMY)) == ["2025-03-01T00:00:00+00:00"]
    assert utc(read("01/03/2025", timezone="UTC", date_order=DateOrder.MDY)) == ["2025-01-03T00:00:00+00:00"]
    assert utc(read("25/03/01", timezone="UTC", date_order=DateOrder.YMD)) == ["2025-03-01T00:00:00+00:00"]


def test_one_date_that_is_clear_settles_the_order_of_its_column(read):
    reading = read("01/03/2025", "25/03/2025 14:05", "1.3.2025", timezone="UTC")
    assert utc(reading) == ["2025-03-01T00:00:00+00:00", "2025-03-25T14:05:00+00:00", "2025-03-01T00:00:00+00:00"]
    assert utc(read("1/3/2025 2:05 PM", "3/25/2025 2:05 AM", timezone="UTC"))[0] == "2025-01-03T14:05:00+00:00"
    with pytest.raises(TableRefused, match="--date-order"):
        read("13/03/2025", "03/13/2025", timezone="UTC")


@pytest.mark.parametrize("cell", ["5-Mar-2025", "05 March 2025", "Mar 5, 2025", "March 5 2025", "2025/03/05"])
def test_a_date_with_a_named_month_or_the_year_in_front_is_clear(read, cell):
    assert utc(read(cell, timezone="UTC")) == ["2025-03-05T00:00:00+00:00"]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [("2026-03-29 02:30", "does not exist in Europe/Berlin"), ("2026-10-25 02:30", "occurs twice in Europe/Berlin")],
)
def test_a_local_time_that_the_clocks_skip_or_have_twice_is_bad(read, cell, reason):
    reading = read(*["2026-01-31 12:00"] * 40, cell, timezone="Europe/Berlin")
    assert [(bad.row, bad.value) for bad in reading.bad_cells] == [(42, cell)]
    assert reason in reading.bad_cells[0].reason
    assert reading.frame["observed_at"].notna().all()


@pytest.mark.parametrize("cell", ["yesterday", "2026-02-30T00:00:00Z", "2026-01-31T25:00:00Z", "12:30", "2026-01-31 12:00 CET"])
def test_what_is_no_time_is_bad(read, cell):
    with pytest.raises(TableRefused, match=f"row 2, observed_at: '{cell}' is no time"):
        read(cell)


def test_na_and_an_empty_cell_are_missing_times(read):
    reading = read("", "NA", "2026-01-31T12:00:00Z")
    assert reading.frame["observed_at"].isna().tolist() == [True, True, False]
    assert reading.notes == ("observed_at: 1 cell such as NA read as missing",)


def read_times(values: Any, **options: Any) -> TableReading:
    return read_frame(pd.DataFrame({"observed_at": values}), outcome_columns(TwinType.HCP), TableOptions(**options))


def test_times_of_a_typed_column_follow_the_same_rules():
    assert utc(read_times(pd.to_datetime(["2026-01-31T12:00+02:00"]))) == ["2026-01-31T10:00:00+00:00"]
    naive = pd.to_datetime(["2026-01-31T12:00"])
    dates = pd.Series([pd.Timestamp("2026-01-31").date()], dtype=pd.ArrowDtype(pa.date32()))
    for values, hour in ((naive, 11), (dates, 23)):
        with pytest.raises(TableRefused, match="--timezone"):
            read_times(values)
        assert read_times(values, timezone="Europe/Berlin").frame["observed_at"][0].hour == hour
    with pytest.raises(TableRefused, match="row 0, observed_at: 20260131 is a number"):
        read_times([20260131])
    with pytest.raises(TableRefused, match="is no time"):
        read_times([True])

"""Cells that are probably not meant are told with their row, and rows that are of no entity are refused."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import TwinType
from streams.tables import RawTable, TableOptions, TableReading, TableRefused, entity_columns, read_frame, read_table
from streams.tables.doubts import header_below
from tests.unit.streams.tables.tables import column_text, read_text

MANY = [f"{number},south,{number % 10 + 1},{number}" for number in range(40)]


def table(*rows: str, header: str = "hcp_id,region,decile,own") -> str:
    return "\n".join([header, *MANY, *rows, ""])


def read_file(path: Path, **options: object) -> TableReading:
    return read_table(path, entity_columns(TwinType.HCP), TableOptions(**options))


def workbook(path: Path, rows: list[list[object]], *merged: str) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    for row in rows:
        sheet.append(row)
    for cells in merged:
        sheet.merge_cells(cells)
    book.save(path)
    return path


@pytest.mark.parametrize(
    "row", ["Total,,,780", "grand total:,,,", "Summe,,,1", ",Total,,780", "Total,all regions,220,780", "TOTAL,south,3,780"]
)
def test_a_row_of_totals_is_refused_and_told(tmp_path, row):
    reading = read_text(tmp_path, table(row))
    assert len(reading.frame) == 40
    assert {cell.row for cell in reading.bad_cells} == {42}
    assert "is a row of totals, and not of one entity" in {cell.reason for cell in reading.bad_cells}


@pytest.mark.parametrize("row", ["Total,south,3,7", "Total Care Clinic,south,,", "7,total,3,5"])
def test_a_name_like_a_total_in_a_row_like_all_others_is_kept(tmp_path, row):
    assert len(read_text(tmp_path, table(row)).frame) == 41


@pytest.mark.parametrize("title", ["Report of 2025\n", "Report of 2025,,,\n", "Report,of 2025,,\n\nmade by me,,,\n"])
def test_a_title_above_the_header_is_told_with_the_row_of_the_header(tmp_path, title):
    with pytest.raises(TableRefused, match=rf"row {title.count(chr(10)) + 1} looks like the header: delete the rows above it"):
        read_text(tmp_path, title + table())


def test_a_title_above_the_header_of_a_workbook_is_told(tmp_path):
    path = workbook(tmp_path / "t.xlsx", [["Report"], [], ["hcp_id", "region", "decile"], ["a", "south", 3]])
    with pytest.raises(TableRefused, match="row 3 looks like the header"):
        read_file(path)


@pytest.mark.parametrize("cells", ["B3:B5", "B3:C3", "A3:B4"])
def test_rows_with_merged_cells_are_refused_and_not_read_as_missing(tmp_path, cells):
    rows = [["hcp_id", "region", "decile"], *([f"e{number}", "south", 3] for number in range(200))]
    reading = read_file(workbook(tmp_path / "t.xlsx", rows, cells))
    first, last = int(cells[1]), int(cells[-1])
    assert {cell.row for cell in reading.bad_cells} == set(range(first, last + 1))
    assert {cell.reason for cell in reading.bad_cells} == {"is a merged cell: give each row its own"}
    assert reading.frame["region"].notna().all()


def test_merged_cells_of_a_title_or_without_a_value_change_nothing(tmp_path):
    rows = [["hcp_id", "region", "decile"], ["a", "south", 3], ["b", None, 4], ["c", None, 5]]
    reading = read_file(workbook(tmp_path / "t.xlsx", rows, "B3:B4"))
    assert (len(reading.frame), reading.bad_cells) == (3, ())


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(5), pa.binary_view()])
def test_bytes_of_text_are_this_text(tmp_path, kind):
    levels = pa.array([b"south", b"north"]).cast(pa.binary()) if kind == pa.binary_view() else pa.array([b"south", b"north"], kind)
    levels = levels.cast(kind)
    names = ["hcp_id", "region", "own"]
    pq.write_table(pa.table([pa.array([b"a1234", b"b1234"]), levels, levels], names), tmp_path / "t.parquet")
    frame = read_file(tmp_path / "t.parquet").frame
    assert frame.to_dict("list") == {"hcp_id": ["a1234", "b1234"], "region": ["south", "north"], "own": ["south", "north"]}
    typed = read_frame(pd.DataFrame({"region": [b"south", None, "west"]}), entity_columns(TwinType.HCP)).frame
    assert typed["region"].dropna().tolist() == ["south", "west"]


def test_bytes_that_are_no_text_are_refused(tmp_path):
    pq.write_table(pa.table({"hcp_id": ["a"], "region": [b"\xff\xfe"]}), tmp_path / "t.parquet")
    with pytest.raises(TableRefused, match=r"region: .* is no text in UTF-8"):
        read_file(tmp_path / "t.parquet")
    with pytest.raises(TableRefused, match="no text in UTF-8"):
        read_frame(pd.DataFrame({"region": [b"\xff\xfe"]}), entity_columns(TwinType.HCP))


def test_decimals_of_parquet_beyond_64_bits_are_refused_as_in_text_and_exact_as_levels(tmp_path):
    large = pa.array([Decimal(2**70), Decimal(5)], pa.decimal128(38, 0))
    pq.write_table(pa.table({"hcp_id": ["a", "b"], "own": large}), tmp_path / "t.parquet")
    with pytest.raises(TableRefused, match="is beyond the whole numbers of 64 bits"):
        read_file(tmp_path / "t.parquet")
    with pytest.raises(TableRefused, match="is beyond the whole numbers of 64 bits"):
        read_text(tmp_path, f"hcp_id,own\na,{2**70}\nb,5\n")
    pq.write_table(pa.table({"hcp_id": ["a", "b"], "region": large}), tmp_path / "t.parquet")
    assert read_file(tmp_path / "t.parquet").frame["region"].tolist() == [str(2**70), "5"]


def test_a_number_too_large_for_a_float_is_refused(tmp_path):
    (cell,) = read_text(tmp_path, table("x,south,3,1e400")).bad_cells
    assert (cell.row, cell.value) == (42, "1e400")


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["(5)", "7", "(1,240.50)"], [-5, 7, -1240.5]),
        (["\u22125", "7", "\u22121.5"], [-5, 7, -1.5]),
        (["($5)", "$7", "$(2)"], [-5, 7, -2]),
        (["1,10,000", "20", "12,34,567.5"], [110_000, 20, 1_234_567.5]),
    ],
)
def test_numbers_with_signs_that_mean_one_thing_are_read_and_told(tmp_path, cells, values):
    reading = read_text(tmp_path, column_text("own", [f'"{cell}"' for cell in cells]))
    assert reading.frame["own"].tolist() == values
    assert any(note.startswith("own: ") for note in reading.notes)


@pytest.mark.parametrize(
    ("cells", "unit"),
    [
        (["5 USD", "7 USD", "8.5 USD"], "USD"),
        (["12k", "3k", "1.5k"], "k"),
        (["5-", "7-", "3"], "-"),
        (["EUR 5", "EUR 1.000"], "EUR"),
    ],
)
def test_numbers_with_a_unit_in_most_cells_are_levels_and_told_with_what_settles_it(tmp_path, cells, unit):
    reading = read_text(tmp_path, column_text("own", cells))
    assert reading.frame["own"].tolist() == cells
    (note,) = reading.notes
    assert f"write them without '{unit}', or state that they are levels (--column own=category)" in note
    assert read_file(tmp_path / "table.csv", kinds={"own": "category"}).notes == ()


@pytest.mark.parametrize("cells", [["tier 1", "tier 2"], ["65-74", "75+"], ["q1", "q2"], ["1st", "2nd"], ["5 mg", "5 mg"]])
def test_levels_with_numbers_in_them_are_levels_without_a_word(tmp_path, cells):
    assert read_text(tmp_path, column_text("own", cells)).notes == ()


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("2025-03", "a month"),
        ("March 2025", "a month"),
        ("2025-W12", "a week"),
        ("2025-W12-3", "a day of a week"),
        ("2025-Q1", "a quarter"),
    ],
)
def test_a_period_that_is_no_time_is_refused_as_what_it_is(tmp_path, cell, reason):
    with pytest.raises(TableRefused, match=f"'{cell}' is {reason}.*, not a time: write the day that is meant"):
        read_text(tmp_path, column_text("observed_at", [cell]), timezone="UTC")


def test_times_that_stand_for_none_are_told(tmp_path):
    cells = ["9999-12-31T00:00:00Z", "1899-12-30T00:00:00Z", "2025-01-31T00:00:00Z"]
    (note,) = read_text(tmp_path, column_text("observed_at", cells)).notes
    assert note == "observed_at: 9999-12-31, 1899-12-30 may stand for a missing time: --missing makes its text one"


@pytest.mark.parametrize("cell", ["5-Oct", "Oct-05", "2025-10-05"])
def test_a_level_that_a_spreadsheet_made_a_date_of_is_told_with_its_row(tmp_path, cell):
    (note,) = read_text(tmp_path, column_text("own", ["1-4", "5-9", "65+", cell])).notes
    assert note == f"own: 1 cell that a spreadsheet may have made a date of: check them, such as {cell!r} in row 5"
    rows = [["hcp_id", "own"], ["a", "1-4"], ["b", datetime(2025, 10, 5)], ["c", "65+"]]  # noqa: DTZ001  # as workbooks have them
    (note,) = read_file(workbook(tmp_path / "t.xlsx", rows)).notes
    assert note.endswith("in row 3")


def test_an_error_of_a_formula_means_the_same_in_text_and_in_a_workbook(tmp_path):
    rows = [["hcp_id", "region", "own"], *([f"e{number}", "south", number] for number in range(40)), ["x", "#N/A", "#N/A"]]
    text = read_text(tmp_path, "\n".join(",".join(map(str, row)) for row in rows) + "\n")
    sheet = read_file(workbook(tmp_path / "t.xlsx", rows))
    assert text.bad_cells == sheet.bad_cells
    assert text.notes == sheet.notes
    assert len(text.bad_cells) == 1


@pytest.mark.parametrize(
    "content", ["region\nM\u00c3\u00bcnchen\nk\u00f6ln\n".encode(), "region\nM\u00fcnchen\n".encode() + b"k\xf6ln\n"]
)
def test_letters_of_another_encoding_are_told_with_their_row(tmp_path, content):
    notes = read_text(tmp_path, b"hcp_id," + content.replace(b"\nM", b"\na,M").replace(b"\nk", b"\nb,k")).notes
    assert "region: 1 cell with damaged letters: is the encoding another one?, such as 'M\u00c3\u00bcnchen' in row 2" in notes


def test_a_title_above_headers_of_any_names_is_told_with_the_row_of_the_header():
    below = RawTable(
        "hcps.xlsx",
        ("Liste des médecins", "", ""),
        (pa.array([None, "N° RPPS", "1"]), pa.array([None, "Spécialité", "x"]), pa.array([None, "Ville", "y"])),
        np.array([2, 4, 5]),
    )
    assert header_below(below, frozenset()) == "row 4 looks like the header: delete the rows above it"
    single = RawTable("ids.csv", ("RPPS",), (pa.array(["A, B, C", "D"]),), np.array([2, 3]))
    assert header_below(single, frozenset()) is None
    headed = RawTable("hcps.csv", ("Arzt", "Ort", "Fach"), (pa.array(["a"]), pa.array(["b"]), pa.array(["c"])), np.array([2]))
    assert header_below(headed, frozenset()) is None

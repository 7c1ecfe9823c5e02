"""Parquet files, workbooks and data frames: the rules of text files on typed columns."""

import zipfile
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import TwinType
from streams.tables import TableOptions, TableReading, TableRefused, entity_columns, read_frame, read_table


def read_file(path: Path, **options: Any) -> TableReading:
    return read_table(path, entity_columns(TwinType.HCP), TableOptions(**options))


def read_columns(folder: Path, columns: dict[str, Any], **options: Any) -> TableReading:
    pq.write_table(pa.table(columns), folder / "table.parquet")
    return read_file(folder / "table.parquet", **options)


def plain(column: pd.Series) -> list[Any]:
    return [None if pd.isna(value) else value for value in column]


def test_the_types_of_parquet_columns_become_declared_kinds(tmp_path):
    frame = read_columns(
        tmp_path,
        {
            "hcp_id": pa.array([1, None, 3], pa.int64()),
            "region": pa.array(["a", "B", "a"]).dictionary_encode(),
            "adoption_stage": pa.array([1.0, 2.0, None]),
            "decile": pa.array([Decimal("3.00"), Decimal("4.00"), None]),
            "practice_size": pa.array([1, 2, 3], pa.int8()),
            "prescribing_change": pa.array([Decimal("0.10"), Decimal("0.20"), Decimal("0.3")]),
            "observed_at": pa.array([date(2026, 1, 31)] * 3),
            "own_flag": pa.array([True, False, None]),
            "own_count": pa.array([1, 2, None], pa.uint64()),
        },
        timezone="UTC",
    ).frame
    assert plain(frame["hcp_id"]) == ["1", None, "3"]
    assert frame["region"].tolist() == ["a", "B", "a"]
    assert plain(frame["adoption_stage"]) == ["1", "2", None]
    assert plain(frame["decile"]) == [3, 4, None]
    assert frame["practice_size"].tolist() == [1, 2, 3]
    assert frame["prescribing_change"].tolist() == [0.1, 0.2, 0.3]
    assert frame["observed_at"].tolist() == [pd.Timestamp("2026-01-31", tz="UTC")] * 3
    assert plain(frame["own_flag"]) == [True, False, None]
    assert plain(frame["own_count"]) == [1, 2, None]


def test_ids_that_pandas_has_made_decimals_are_whole_again_and_inexact_ones_are_refused(tmp_path):
    assert plain(read_columns(tmp_path, {"hcp_id": [1.0, None], "region": ["a", "b"]}).frame["hcp_id"]) == ["1", None]
    for wrong in (1.5, 2.0**60):
        with pytest.raises(TableRefused, match=r"hcp_id: .* no id"):
            read_columns(tmp_path, {"hcp_id": [wrong], "region": ["a"]})


def test_ids_and_levels_that_a_database_exports_as_decimals_are_whole(tmp_path):
    decimals = pa.array([Decimal("123.00"), Decimal("7.00"), None], pa.decimal128(10, 2))
    frame = read_columns(tmp_path, {"hcp_id": decimals, "region": decimals}).frame
    assert plain(frame["hcp_id"]) == plain(frame["region"]) == ["123", "7", None]


def test_whole_numbers_of_parquet_beyond_64_bits_are_refused(tmp_path):
    with pytest.raises(TableRefused, match="is beyond the whole numbers of 64 bits"):
        read_columns(tmp_path, {"hcp_id": ["a"], "practice_size": pa.array([2**63], pa.uint64())})


def test_a_column_of_lists_is_left_out_and_told_and_refused_where_it_is_declared(tmp_path):
    reading = read_columns(tmp_path, {"hcp_id": ["a"], "own": [[1, 2]]})
    assert reading.frame.columns.tolist() == ["hcp_id"]
    assert "own left out" in reading.notes[0]
    with pytest.raises(TableRefused, match="decile: cells of the type list"):
        read_columns(tmp_path, {"hcp_id": ["a"], "decile": [[1, 2]]})


def write_workbook(path: Path, sheets: dict[str, list[list[Any]]], padded_cell: str = "") -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
        if padded_cell:
            sheet[padded_cell].number_format = "00000"
    book.save(path)


def test_a_workbook_is_read_with_ids_as_they_are_shown(tmp_path):
    path = tmp_path / "table.xlsx"
    rows = [
        ["hcp_id", " Region", "Decile", "observed_at", "share"],
        [123, "NA", 7, datetime(2026, 1, 31, 12), 0.12],  # noqa: DTZ001  # as workbooks have them
        [None] * 5,
        ["x", "south", 3, datetime(2026, 2, 1), 0.5],  # noqa: DTZ001
    ]
    write_workbook(path, {"data": rows, "empty": []}, padded_cell="A2")
    reading = read_file(path, timezone="UTC")
    assert reading.frame["hcp_id"].tolist() == ["00123", "x"]
    assert reading.frame["region"].tolist() == ["NA", "south"]
    assert reading.frame["decile"].tolist() == [7, 3]
    assert reading.frame["share"].tolist() == [0.12, 0.5]
    assert reading.frame["observed_at"].tolist() == [pd.Timestamp("2026-01-31T12:00Z"), pd.Timestamp("2026-02-01T00:00Z")]
    assert reading.rows.tolist() == [2, 4]
    with pytest.raises(TableRefused, match=r"row 2, observed_at: .* has no zone"):
        read_file(path)


def test_a_workbook_that_states_a_wrong_size_is_read_completely(tmp_path):
    path = tmp_path / "table.xlsx"
    write_workbook(path, {"data": [["hcp_id", "decile"], ["a", 3], ["b", 5]]})
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sheet = next(name for name in parts if name.endswith("sheet1.xml"))
    assert b'<dimension ref="A1:B3"' in parts[sheet]
    parts[sheet] = parts[sheet].replace(b'<dimension ref="A1:B3"', b'<dimension ref="A1"')
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert read_file(path).frame["decile"].tolist() == [3, 5]


def test_of_several_sheets_one_is_chosen(tmp_path):
    path = tmp_path / "table.xlsx"
    write_workbook(path, {"first": [["hcp_id"], ["a"]], "second": [["hcp_id"], ["b"]]})
    with pytest.raises(TableRefused, match="2 sheets with cells, first, second: choose one with --sheet"):
        read_file(path)
    assert read_file(path, sheet="second").frame["hcp_id"].tolist() == ["b"]
    with pytest.raises(TableRefused, match="unknown sheet 'third'"):
        read_file(path, sheet="third")


def test_a_formula_without_a_saved_result_is_not_read_as_an_empty_cell(tmp_path):
    write_workbook(tmp_path / "table.xlsx", {"data": [["hcp_id", "decile"], ["a", "=1+2"]]})
    with pytest.raises(TableRefused, match="cell B2 is a formula without a saved result"):
        read_file(tmp_path / "table.xlsx")


def test_a_frame_of_objects_is_read_as_its_text_would_be():
    frame = pd.DataFrame(
        {
            "hcp_id": [UUID(int=1), 2, "003"],
            "region": pd.Categorical(["1", "2", "1"]),
            "decile": pd.array([1, None, 3], dtype="Int64"),
            "prescribing_change": [Decimal("0.1"), np.nan, None],
            "practice_size": ["1,240", 980, None],
            "digital_engagement_score": [0.125, "NA", "0.5"],
            "own": [1.125, "NA", None],
        },
        index=[7, 8, 9],
    )
    read = read_frame(frame, entity_columns(TwinType.HCP)).frame
    assert read["hcp_id"].tolist() == [str(UUID(int=1)), "2", "003"]
    assert read["region"].tolist() == ["1", "2", "1"]
    assert plain(read["decile"]) == [1, None, 3]
    assert plain(read["prescribing_change"]) == [0.1, None, None]
    assert plain(read["practice_size"]) == [1240, 980, None]
    assert plain(read["digital_engagement_score"]) == [0.125, None, 0.5]
    assert plain(read["own"]) == [1.125, None, None]


def test_the_index_of_rows_that_pandas_drew_from_a_table_is_left_out_with_a_note(tmp_path):
    whole = pd.DataFrame({"hcp_id": list("abcdef"), "decile": [1, 2, 3, 4, 5, 6]})
    whole.sample(4, random_state=0).to_parquet(tmp_path / "table.parquet")
    reading = read_file(tmp_path / "table.parquet")
    assert list(reading.frame.columns) == ["hcp_id", "decile"]
    assert "1 column without a name left out, empty or numbers of rows" in reading.notes
    whole.set_index(pd.Index(list("uvwxyz"))).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(TableRefused, match="column 3 has no name: its first value is 'u'"):
        read_file(tmp_path / "table.parquet")


def test_a_decimal_is_the_number_that_its_text_is(tmp_path):
    texts = [f"{number / 10_000:.4f}" for number in range(1, 3000)]
    reading = read_columns(tmp_path, {"prescribing_change": pa.array(map(Decimal, texts), pa.decimal128(8, 4))})
    assert reading.frame["prescribing_change"].tolist() == [float(text) for text in texts]

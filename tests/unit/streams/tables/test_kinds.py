"""Ids, levels and flags of text, and columns that nobody declared."""

import pandas as pd
import pytest

from streams.tables import TableRefused
from tests.unit.streams.tables.tables import column_text


def plain(column: pd.Series) -> list[object]:
    return [None if pd.isna(value) else value for value in column]


def test_ids_stay_as_they_are_written_also_beside_an_empty_one(read):
    ids = read("hcp_id,region\n00123,a\n 00124 ,b\n,c\nNA,d\n1.0,e\n").frame["hcp_id"]
    assert plain(ids) == ["00123", "00124", None, "NA", "1.0"]


def test_a_formula_that_only_keeps_a_text_is_that_text_and_told(read):
    reading = read('hcp_id,region\n"=""00123""",a\n7,"=""01"""\n')
    assert reading.frame["hcp_id"].tolist() == ["00123", "7"]
    assert reading.frame["region"].tolist() == ["a", "01"]
    assert reading.notes[0] == 'hcp_id: 1 cell read without ="" around them'


def test_ids_that_a_spreadsheet_has_shortened_are_refused(read):
    with pytest.raises(TableRefused, match=r"'1.23E\+09' is an id that a spreadsheet has shortened"):
        read("hcp_id,region\n1.23E+09,a\n")


def test_na_is_a_level_unless_it_is_declared_missing(read):
    content = column_text("region", ["NA", "south", ""])
    assert plain(read(content).frame["region"]) == ["NA", "south", None]
    assert plain(read(content, missing=("NA",)).frame["region"]) == [None, "south", None]


def test_spellings_of_one_level_are_read_as_the_most_frequent_and_told(read):
    reading = read(column_text("region", ["south", "SOUTH", "south ", "West"]))
    assert reading.frame["region"].tolist() == ["south", "south", "south", "West"]
    assert reading.notes == ("region: 1 level read in another spelling: 'SOUTH' as 'south'",)


def test_an_error_of_a_spreadsheet_is_no_level(read):
    reading = read(column_text("region", [*["a"] * 40, "#REF!"]))
    assert [(cell.column, cell.value) for cell in reading.bad_cells] == [("region", "#REF!")]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "2"], [1, 2]),
        (["1.5", "2"], [1.5, 2]),
        (["1", ""], [1, None]),
        (["01234", "94110"], ["01234", "94110"]),
        (["true", "False"], [True, False]),
        (["a", "NA"], ["a", "NA"]),
        (["1", "2", "A"], ["1", "2", "A"]),
    ],
)
def test_a_column_that_nobody_declared_has_the_kind_of_its_cells(read, cells, values):
    assert plain(read(column_text("own", cells)).frame["own"]) == values


def test_numbers_with_a_few_other_texts_are_numbers_and_the_texts_bad_cells(read):
    content = column_text("own", [*["5"] * 40, "unknown"])
    reading = read(content)
    assert reading.frame["own"].tolist() == [5] * 40
    assert [(cell.row, cell.column, cell.value) for cell in reading.bad_cells] == [(42, "own", "unknown")]
    assert read(content, kinds={"own": "category"}).frame["own"].tolist() == [*["5"] * 40, "unknown"]


def test_a_stated_kind_of_a_column_that_does_not_exist_is_refused(read):
    with pytest.raises(TableRefused, match="no column 'zap'"):
        read("hcp_id,zip\n1,2\n", kinds={"zap": "category"})

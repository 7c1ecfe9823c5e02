"""Encodings, delimiters, uneven rows and headers of text files."""

import codecs
import gzip

import pytest

from streams.tables import TableRefused

ZURICH = "hcp_id,region\n00123,Zürich\n"


@pytest.mark.parametrize(
    "content",
    [
        ZURICH.encode(),
        codecs.BOM_UTF8 + ZURICH.encode(),
        ZURICH.encode("utf-16"),
        ZURICH.encode("utf-16-be"),
        ZURICH.encode("utf-16-le"),
        ZURICH.encode("utf-32"),
        ZURICH.encode("latin-1"),
        ZURICH.replace("\n", "\r\n").encode("cp1252"),
        ZURICH.replace("\n", "\r").encode(),
        gzip.compress(ZURICH.encode(), mtime=0),
    ],
    ids=["utf-8", "utf-8 with mark", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "latin-1", "cp1252", "old line ends", "gzip"],
)
def test_a_table_is_the_same_in_every_encoding(read, content):
    assert read(content).frame.to_dict("list") == {"hcp_id": ["00123"], "region": ["Zürich"]}


def test_an_encoding_other_than_utf_8_is_told(read):
    assert any("cp1252" in note for note in read(ZURICH.encode("latin-1")).notes)
    assert read(ZURICH).notes == ()


def test_damaged_utf_8_is_refused_with_the_line_and_not_read_in_another_encoding(read):
    with pytest.raises(TableRefused, match=r"UTF-8 with 1 damaged letters, the first in line 5: --encoding"):
        read((ZURICH + "1,Zürich\n2,Köln\n").encode() + b"3,Z\xfcrich\n")


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_the_delimiter_is_detected_and_another_than_the_comma_is_told(read, sign):
    reading = read(f'hcp_id{sign}region{sign}trx\n1{sign}"a{sign}b"{sign}5\n2{sign}c{sign}6\n')
    assert reading.frame.to_dict("list") == {"hcp_id": ["1", "2"], "region": [f"a{sign}b", "c"], "trx": [5, 6]}
    assert bool(reading.notes) == (sign != ",")


def test_a_delimiter_that_is_not_clear_is_refused_with_its_option(read):
    content = "a,b;c\n1,2;3\n4,5;6\n"
    with pytest.raises(TableRefused, match="--delimiter"):
        read(content)
    assert read(content, delimiter=";").frame.columns.tolist() == ["a,b", "c"]


def test_a_first_line_that_names_the_delimiter_is_followed(read):
    assert read("sep=;\r\nhcp_id;region\r\n1;a\r\n").frame.to_dict("list") == {"hcp_id": ["1"], "region": ["a"]}


@pytest.mark.parametrize(
    "content",
    [
        "hcp_id,region,\n1,a,\n2,b,\n",
        "hcp_id,region\n1,a,\n2,b,\n",
        "hcp_id,region\n1,a\n2,b,,\n",
        "\n\nhcp_id,region\n1,a\n\n2,b\n\n",
    ],
    ids=["everywhere", "in the rows", "in one row", "blank lines"],
)
def test_delimiters_at_the_end_and_blank_lines_add_nothing(read, content):
    assert read(content).frame.to_dict("list") == {"hcp_id": ["1", "2"], "region": ["a", "b"]}


@pytest.mark.parametrize(("line", "n_cells"), [("b,41", 2), ("b,41,3,4", 4)])
def test_a_row_with_too_few_or_too_many_cells_is_left_out_with_its_number(read, line, n_cells):
    reading = read("\n".join(["region,hcp_id,decile", *(f"a,{row},3" for row in range(40)), line, "c,42,5", ""]))
    assert reading.frame["hcp_id"].tolist() == [*map(str, range(40)), "42"]
    assert reading.rows[-1] == 43
    assert reading.remarks() == ["1 of 42 rows left out", f"  row 42: '{line}' has {n_cells} cells, the header has 3"]


def test_names_of_columns_are_matched_whatever_their_case_blanks_and_signs_and_it_is_told(read):
    reading = read("HCP ID,Specialty, region,decile ,digitalEngagementScore,My Column \n7,a,b,3,0.5,x\n")
    assert reading.frame.columns.tolist() == ["hcp_id", "specialty", "region", "decile", "digital_engagement_score", "My Column"]
    assert "' region' as region" in reading.notes[0]


@pytest.mark.parametrize("header", ["region,region", "Region,region ", "trx,trx", "trx,trx "])
def test_repeated_columns_are_refused_with_their_names(read, header):
    first, second = header.split(",")
    with pytest.raises(TableRefused, match=f"several columns are '{first.lower()}': '{first}', '{second}'"):
        read(f"hcp_id,{header}\n1,a,b\n")


def test_a_column_without_a_name_is_left_out_when_it_numbers_the_rows_and_refused_when_it_holds_values(read):
    assert read(",hcp_id,region\n0,7,a\n1,8,b\n").frame.to_dict("list") == {"hcp_id": ["7", "8"], "region": ["a", "b"]}
    with pytest.raises(TableRefused, match="column 2 has no name: its first value is 'x'"):
        read("hcp_id,,region\n1,x,a\n2,y,b\n")


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "table.csv", "it has no line"),
        (b"hcp_id\n1\0\n", "table.csv", "the character NUL"),
        (b"PK\x03\x04", "table.csv", "a workbook or an archive"),
        (b"\xd0\xcf\x11\xe0", "table.csv", "an old or protected workbook"),
        (gzip.compress(b"hcp_id\n1\n" * 999, mtime=0)[:40], "table.csv.gz", "cannot be read as text"),
        (b"no parquet", "table.parquet", "cannot be read as parquet"),
        (b"hcp_id\n1\n", "table.xlsx", "it is no Excel workbook"),
        (b"hcp_id\n1\n", "table.xls", "give a file that ends in .csv"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_reason(read, content, name, reason):
    with pytest.raises(TableRefused, match=reason):
        read(content, name)

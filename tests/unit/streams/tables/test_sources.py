"""Tables in folders and databases, and tables that are read in blocks."""

import gzip
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from schemas import TwinType
from streams.tables import TableOptions, TableRefused, entity_columns, load_table, read_table, table_blocks, table_headers
from streams.tables.blocks import concat_tables, parquet_blocks, text_parts
from streams.tables.queries import _replace_secrets

DECLARED = entity_columns(TwinType.HCP)


def folder(tmp_path: Path, **files: str) -> Path:
    path = tmp_path / "parts"
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / f"{name}.csv").write_text(content)
    return path


# -- folders


def test_the_files_of_a_folder_are_one_table_in_the_order_of_their_names(tmp_path: Path):
    path = folder(tmp_path, b="decile,hcp_id\n2,c\n", a="hcp_id,decile\na,1\nb,\n")
    (path / ".hidden.csv").write_text("x\n")
    (path / "notes.pdf").write_text("x")
    reading = read_table(path, DECLARED)
    assert reading.frame["hcp_id"].tolist() == ["a", "b", "c"]
    assert reading.frame["decile"].tolist()[::2] == [1, 2]
    assert table_headers(path, TableOptions()) == ("hcp_id", "decile")


def test_a_bad_cell_of_a_folder_is_found_by_its_row_and_the_row_of_its_files_header(tmp_path: Path):
    first = "hcp_id,decile\n" + "".join(f"a{row},1\n" for row in range(60))
    reading = read_table(folder(tmp_path, a=first, b="hcp_id,decile\nb,11\n"), DECLARED, TableOptions())
    assert [cell.row for cell in reading.bad_cells] == [63]
    assert "row 62 of parts is the header of b.csv" in reading.notes


def test_files_of_a_folder_with_other_columns_are_refused_by_name(tmp_path: Path):
    with pytest.raises(TableRefused, match=r"b\.csv: its columns are not those of a\.csv: 'decile', 'tier'"):
        load_table(folder(tmp_path, a="hcp_id,decile\na,1\n", b="hcp_id,tier\nb,1\n"), TableOptions())
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableRefused, match="the folder has no file that ends in"):
        load_table(tmp_path / "empty", TableOptions())


def test_parquet_and_text_of_one_folder_are_one_table(tmp_path: Path):
    path = folder(tmp_path, a="hcp_id,decile\n007,1\n")
    pd.DataFrame({"hcp_id": ["8"], "decile": [2]}).to_parquet(path / "b.parquet")
    assert read_table(path, DECLARED).frame.to_dict("list") == {"hcp_id": ["007", "8"], "decile": [1, 2]}


# -- blocks

CELLS = st.text(alphabet='ab,"\n é', max_size=6)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELLS, CELLS), max_size=30), st.integers(1, 40), st.booleans(), st.sampled_from(["", "\n", "sep=,\n"]))
def test_blocks_of_a_text_file_are_the_rows_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[tuple[str, str]], size: int, is_packed: bool, lead: str
):
    quoted = "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in cells)
    content = f"{lead}one,two\n{quoted}uneven\n".encode()
    path = tmp_path / ("t.csv.gz" if is_packed else "t.csv")
    path.write_bytes(gzip.compress(content) if is_packed else content)
    options = TableOptions(delimiter=",")
    whole = load_table(path, options)
    monkeypatch.setattr("streams.tables.files.text_parts", lambda path: text_parts(path, size))
    blocks = list(table_blocks(path, options))
    joined = concat_tables(path.name, blocks, are_files=False)
    assert joined.headers == whole.headers
    assert joined.rows.tolist() == whole.rows.tolist()
    assert [column.to_pylist() for column in joined.columns] == [column.to_pylist() for column in whole.columns]
    assert [cell.row for cell in joined.bad_rows] == [cell.row for cell in whole.bad_rows]


def test_blocks_of_parquet_are_the_rows_of_the_whole_and_an_empty_file_has_one(tmp_path: Path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"hcp_id": list("abcde"), "decile": range(5)}).to_parquet(path)
    blocks = list(parquet_blocks(path, 2))
    assert [block.rows.tolist() for block in blocks] == [[2, 3], [4, 5], [6]]
    whole, joined = load_table(path, TableOptions()), concat_tables("t.parquet", blocks, are_files=False)
    assert [column.to_pylist() for column in joined.columns] == [column.to_pylist() for column in whole.columns]
    pd.DataFrame({"hcp_id": pd.Series(dtype="str")}).to_parquet(path)
    assert [block.headers for block in parquet_blocks(path)] == [("hcp_id",)]


def test_text_of_two_bytes_a_letter_is_one_block(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_bytes("hcp_id,decile\na,1\n".encode("utf-16"))
    assert [block.headers for block in table_blocks(path, TableOptions())] == [("hcp_id", "decile")]


# -- queries


@pytest.fixture
def query(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "crm.db") as connection:
        connection.execute("create table hcp (npi text, decile integer, note text)")
        connection.executemany("insert into hcp values (?, ?, ?)", [(f"00{row}", row % 10 + 1, "12:30 a%") for row in range(25)])
    path = tmp_path / "hcps.sql"
    path.write_text("select npi as hcp_id, decile from hcp where note like '12:30%' order by rowid;\n")
    return path


def database(tmp_path: Path) -> TableOptions:
    return TableOptions(database=SecretStr(f"sqlite:///{tmp_path / 'crm.db'}"))


def test_the_rows_of_a_query_are_read_as_those_of_a_file(tmp_path: Path, query: Path):
    frame = read_table(query, DECLARED, database(tmp_path)).frame
    assert frame["hcp_id"].tolist()[:2] == ["000", "001"]
    assert frame["decile"].tolist()[:3] == [1, 2, 3]
    assert sum(len(block.rows) for block in table_blocks(query, database(tmp_path))) == 25


def test_a_query_without_rows_has_its_columns(tmp_path: Path, query: Path):
    query.write_text("select npi as hcp_id, decile from hcp where decile > 99")
    assert load_table(query, database(tmp_path)).headers == ("hcp_id", "decile")


def test_a_query_changes_nothing(tmp_path: Path, query: Path):
    query.write_text("delete from hcp")
    with pytest.raises(TableRefused, match="it returns no rows: give one SELECT"):
        load_table(query, database(tmp_path))
    with sqlite3.connect(tmp_path / "crm.db") as connection:
        assert connection.execute("select count(*) from hcp").fetchone() == (25,)


def test_a_query_that_fails_is_refused_with_the_words_of_the_database(tmp_path: Path, query: Path):
    query.write_text("select zap from hcp")
    with pytest.raises(TableRefused, match=r"hcps\.sql: the query failed on sqlite: no such column: zap"):
        load_table(query, database(tmp_path))
    with pytest.raises(TableRefused, match="name its database with --database URL or TWIN_TABLES_URL"):
        load_table(query, TableOptions())


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("postgresql://ann:hunter%402!@127.0.0.1:9/crm", ["hunter@2!", "hunter%402!"]),
        ("nosuchdialect://ann:p@ss#w0rd@host/crm", ["p@ss#w0rd"]),
        ("sqlite:////nowhere/at/all.db?timeout=t0psecret", ["t0psecret"]),
        ("://:secretsecret@", ["secretsecret"]),
    ],
)
def test_no_password_of_a_database_is_in_a_refusal_or_in_its_causes(query: Path, url: str, secrets: list[str]):
    options = TableOptions(database=SecretStr(url))
    assert not any(secret in repr(options) for secret in secrets)
    with pytest.raises(TableRefused) as refused:
        load_table(query, options)
    chain = [refused.value, refused.value.__cause__, refused.value.__context__]
    for secret in [*secrets, url]:
        assert secret not in "".join(map(repr, chain))


def test_secrets_are_replaced_in_every_form_that_a_driver_writes():
    url = "db://ann:a%20b@host/x?api_key=abc%2Fdef"
    for text in ("a%20b", "a b", "a+b", "abc/def", "abc%2Fdef", url):
        assert _replace_secrets(f"<{text}>", url) == "<***>"


def test_duckdb_queries_files_where_they_lie(tmp_path: Path):
    pytest.importorskip("duckdb", reason="the extra sql is not installed")
    pd.DataFrame({"hcp_id": [f"{row:04}" for row in range(3000)], "decile": np.arange(3000) % 10 + 1}).to_parquet(
        tmp_path / "t.parquet"
    )
    query = tmp_path / "q.sql"
    query.write_text(f"select * from '{tmp_path}/*.parquet' where decile = 3 order by hcp_id")
    frame = read_table(query, DECLARED, TableOptions(database=SecretStr("duckdb:"))).frame
    assert (len(frame), frame["hcp_id"][0]) == (300, "0002")
    query.write_text("select zap")
    with pytest.raises(TableRefused, match="the query failed on duckdb: Binder Error"):
        load_table(query, TableOptions(database=SecretStr("duckdb:")))

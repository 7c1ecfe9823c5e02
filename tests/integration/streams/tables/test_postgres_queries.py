"""A table from a query on a live Postgres server, with the driver of the extra sql."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from schemas import TwinType
from streams.tables import TableOptions, TableRefused, entity_columns, read_table, table_blocks

pytest.importorskip("psycopg", reason="the extra sql is not installed")

ROWS = 1000


@pytest.fixture
async def table(postgres_dsn: str) -> Iterator[str]:
    """A table of a CRM, with types that a file does not have."""
    name = f"crm_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(postgres_dsn)
    try:
        await connection.execute(f"""
            CREATE TABLE {name} (npi text, decile smallint, share numeric(6, 4), seen timestamptz, note text);
            INSERT INTO {name}
            SELECT lpad(row::text, 10, '0'), CASE WHEN row % 7 > 0 THEN row % 10 + 1 END, row / 10000.0,
                   '2026-01-31 23:30:00+02'::timestamptz + row * interval '1 day', '100 % "ü", ' || row
            FROM generate_series(0, {ROWS - 1}) AS row""")
        yield name
    finally:
        await connection.execute(f"DROP TABLE {name}")
        await connection.close()


@pytest.fixture
def query(tmp_path: Path):
    def of(text: str) -> Path:
        path = tmp_path / "crm.sql"
        path.write_text(text, encoding="utf-8")
        return path

    return of


def options(dsn: str) -> TableOptions:
    return TableOptions(database=SecretStr(dsn))


async def test_rows_of_postgres_are_read_with_their_types_and_a_percent_sign_is_one(table, query, postgres_dsn):
    path = query(
        f"SELECT npi AS hcp_id, decile, share, seen AS observed_at FROM {table} WHERE note LIKE '100 % \"ü\"%' ORDER BY npi;"
    )
    frame = read_table(path, entity_columns(TwinType.HCP), options(postgres_dsn)).frame
    assert len(frame) == ROWS
    assert frame["hcp_id"].tolist()[:2] == ["0000000000", "0000000001"]
    assert frame["decile"].isna().sum() == -(-ROWS // 7)
    assert frame["decile"].tolist()[1] == 2
    assert frame["share"].tolist()[12] == 0.0012
    assert frame["observed_at"][0].isoformat() == "2026-01-31T21:30:00+00:00"


async def test_rows_come_in_blocks_that_are_fetched_one_by_one(table, query, postgres_dsn, monkeypatch):
    monkeypatch.setattr("streams.tables.files.BLOCK_ROWS", 300)
    blocks = list(table_blocks(query(f"SELECT npi FROM {table} ORDER BY npi"), options(postgres_dsn)))
    assert [len(block.rows) for block in blocks] == [300, 300, 300, 100]
    assert blocks[1].rows[0] == 302  # below a header


async def test_a_query_that_would_write_is_refused_by_the_server(table, query, postgres_dsn):
    writing = f"WITH gone AS (DELETE FROM {table} RETURNING npi) SELECT * FROM gone"
    for text in (writing, f"DELETE FROM {table} RETURNING npi", f"SELECT 1 AS one; DELETE FROM {table}"):
        with pytest.raises(TableRefused, match="the query failed on postgresql"):
            read_table(query(text), {}, options(postgres_dsn))
    assert len(read_table(query(f"SELECT npi FROM {table}"), {}, options(postgres_dsn)).frame) == ROWS


async def test_what_the_server_refuses_is_told_without_the_password(query, postgres_dsn):
    wrong = "postgresql://nobody:hunter2secret@127.0.0.1:1/crm?connect_timeout=2"
    with pytest.raises(TableRefused, match="the query failed on postgresql") as refused:
        read_table(query("SELECT 1 AS one"), {}, options(wrong))
    assert "hunter2secret" not in repr([refused.value, refused.value.__cause__, refused.value.__context__])
    with pytest.raises(TableRefused, match='relation "nowhere" does not exist'):
        read_table(query("SELECT * FROM nowhere"), {}, options(postgres_dsn))

"""Reads the rows of a query: a ``.sql`` file with one SELECT, and a database by its SQLAlchemy URL, or DuckDB.

The extra ``sql`` brings SQLAlchemy with the driver of Postgres (psycopg), and DuckDB, which also queries Parquet and CSV files
larger than memory; SQLite is part of Python. For other databases the user installs the SQLAlchemy dialect. Nothing is written: a
transaction is never committed, and Postgres and DuckDB are asked for one that only reads.

Passwords are in no message: URLs are shown without them, and errors of drivers have them replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

import numpy as np
import pyarrow as pa
from pydantic import SecretStr

from streams.tables.raw import FIRST_ROW, RawTable, mixed_array, plain_array
from streams.tables.report import TableRefused

__all__ = ["QUERY_SUFFIX", "query_blocks"]

QUERY_SUFFIX = ".sql"
_DUCKDB = "duckdb:"
_STARS = "***"
_MIN_SECRET = 3
_INSTALL = (
    "install the extra sql (pip install 'twinstream[sql]': SQLite, Postgres, DuckDB), or the SQLAlchemy dialect of your database"
)


def query_blocks(path: Path, database: SecretStr | None, size: int) -> Iterator[RawTable]:
    """The rows of a query in blocks of at most ``size`` rows, at least one block; rows are numbered as below a header.

    Args:
        path: of a file with one query.
        database: SQLAlchemy URL, such as ``postgresql://ann@host/crm``, ``sqlite:///crm.db``, ``duckdb:///crm.duckdb``, or
            ``duckdb:`` for a query of files alone.
        size: most rows of a block.

    Raises:
        TableRefused: without a database, a driver or an answer, and for a query that returns no rows or fails.
    """
    if database is None or not database.get_secret_value():
        raise TableRefused(path.name, ["it is a query: name its database with --database URL or TWIN_TABLES_URL"])
    query = path.read_text(encoding="utf-8-sig").strip().rstrip(";")
    url = database.get_secret_value()
    problem = ""
    try:
        yield from _numbered(path.name, _blocks(url, query, size))
    except TableRefused:
        raise
    except Exception as error:  # noqa: BLE001  # every driver has errors of its own, and any may quote the URL
        problem = _problem(error, url)
    if problem:
        raise TableRefused(path.name, [problem])  # here the error of the driver, which may have a password, is not its context


def _numbered(name: str, blocks: Iterable[tuple[list[str], list[pa.Array]]]) -> Iterator[RawTable]:
    first = FIRST_ROW
    for headers, columns in blocks:
        n = len(columns[0]) if columns else 0
        yield RawTable(name, tuple(headers), tuple(columns), np.arange(n) + first)
        first += n


def _problem(error: Exception, url: str) -> str:
    """What is wrong, without the secrets of the URL."""
    if isinstance(error, ImportError):
        return f"there is no driver for {_scheme(url)} ({error.name or error}): {_INSTALL}"
    if type(error).__name__ == "NoSuchModuleError":
        return f"there is no driver for {_scheme(url)}: {_INSTALL}"
    text = " ".join(str(getattr(error, "orig", None) or error).split())
    return f"the query failed on {_scheme(url)}: {_replace_secrets(text, url)}"


def _scheme(url: str) -> str:
    return re.split(r"[:+]", url, maxsplit=1)[0] if ":" in url else "the database"


def _secrets(url: str) -> set[str]:
    """The password and the values of the query of a URL, in every form in which a driver may write them, the whole URL too."""
    authority = re.match(r"[\w+]+://(?P<user>[^:/@]*):(?P<password>.*)@", url)
    texts = {authority["password"]} if authority else set()
    texts |= {value for _, value in parse_qsl(urlsplit(url.replace("#", "%23")).query)}
    forms = {form for text in texts for form in (text, unquote(text), quote(unquote(text), safe=""), quote_plus(unquote(text)))}
    return {form for form in forms if len(form) >= _MIN_SECRET} | {url}


def _replace_secrets(text: str, url: str) -> str:
    """A text without the secrets of a URL.

    >>> _replace_secrets("no login for ann with s3cret", "postgresql://ann:s3cret@host/crm")
    'no login for ann with ***'
    """
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, _STARS)
    return text


def _blocks(url: str, query: str, size: int) -> Iterator[tuple[list[str], list[pa.Array]]]:
    return _duckdb_blocks(url, query, size) if url.startswith(_DUCKDB) else _sqlalchemy_blocks(url, query, size)


def _duckdb_blocks(url: str, query: str, size: int) -> Iterator[tuple[list[str], list[pa.Array]]]:
    import duckdb  # noqa: PLC0415  # of the extra sql

    location = url.removeprefix(_DUCKDB).removeprefix("//").removeprefix("/") or ":memory:"
    with duckdb.connect(location, read_only=location != ":memory:") as connection:
        relation = connection.sql(query)
        if relation is None:
            raise ValueError("it returns no rows: give one SELECT")
        reader = relation.to_arrow_reader(size)
        headers, is_first = list(reader.schema.names), True
        for batch in reader:
            if batch.num_rows or is_first:
                yield headers, [plain_array(column) for column in batch.columns]
            is_first = False
        if is_first:
            yield headers, [plain_array(pa.array([], type=field.type)) for field in reader.schema]


def _sqlalchemy_blocks(url: str, query: str, size: int) -> Iterator[tuple[list[str], list[pa.Array]]]:
    import sqlalchemy  # noqa: PLC0415  # of the extra sql

    url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)
    engine = sqlalchemy.create_engine(url, hide_parameters=True, poolclass=sqlalchemy.NullPool)
    options: dict[str, Any] = {"stream_results": True, "max_row_buffer": size, "no_parameters": True}
    if engine.dialect.name == "postgresql":
        options["postgresql_readonly"] = True
    with engine.connect().execution_options(**options) as connection:
        result = connection.exec_driver_sql(query)
        if not result.returns_rows:
            raise ValueError("it returns no rows: give one SELECT")
        headers, is_first = list(result.keys()), True
        for rows in result.partitions(size):
            yield headers, _columns(rows)
            is_first = False
        if is_first:
            yield headers, [pa.nulls(0, pa.string()) for _ in headers]


def _columns(rows: Sequence[Sequence[Any]]) -> list[pa.Array]:
    return [mixed_array(cells) for cells in zip(*rows, strict=True)]

"""Array literals, by what Postgres reads out of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sql import arrays


@pytest.fixture
async def connection(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    opened = await asyncpg.connect(postgres_dsn)
    yield opened
    await opened.close()


VALUES = {
    "words": (arrays.words, "text", st.none() | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))),
    "floats": (arrays.numbers, "float8", st.none() | st.floats(allow_nan=False, allow_infinity=False)),
    "integers": (arrays.numbers, "bigint", st.none() | st.integers(-(2**63), 2**63 - 1)),
    "whole numbers": (arrays.numbers, "numeric", st.integers(-(10**40), 10**40)),
    "uuids": (arrays.uuids, "uuid", st.none() | st.uuids()),
    "octets": (arrays.octets, "bytea", st.binary()),
    "flags": (arrays.flags, "bool", st.none() | st.booleans()),
    "moments": (arrays.moments, "timestamptz", st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))),  # noqa: DTZ001
}


@pytest.mark.parametrize("kind", VALUES)
async def test_postgres_reads_what_was_written(connection: asyncpg.Connection[Any], kind: str):
    write, of_type, values = VALUES[kind]
    said: list[list[Any]] = []

    @settings(database=None, max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(values, max_size=20))
    def collect(column: list[Any]) -> None:
        said.append(column)

    collect()
    for column in said:
        read = await connection.fetchval(f"SELECT $1::text::{of_type}[]", write(column))
        assert read == column


async def test_a_word_that_looks_like_a_null_is_none(connection: asyncpg.Connection[Any]):
    assert await connection.fetchval("SELECT $1::text::text[]", arrays.words(["NULL", "null", None, "", "{}", ","])) == [
        "NULL",
        "null",
        None,
        "",
        "{}",
        ",",
    ]


def test_ids_are_written_in_full():
    assert arrays.uuids([UUID(int=1)]) == "{" + "0" * 31 + "1}"

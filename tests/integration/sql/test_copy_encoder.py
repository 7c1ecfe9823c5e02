"""Rows written by COPY in the binary format are read back unchanged."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import numpy as np

from sql import copy_encoder
from sql.database import connect

TABLE = """
CREATE TABLE written (a smallint, b integer, c bigint, d double precision, e timestamptz, f boolean, g uuid, h bigint[], i text,
                      j text[], k uuid, l jsonb)"""


async def test_rows_are_read_back_as_they_were_written_with_their_nulls(owned_database: str):
    connection = await connect(owned_database)
    await connection.execute(TABLE)
    n = 5
    ids = np.arange(16 * n, dtype=np.uint8).reshape(n, 16)
    odd = np.arange(n) % 2 == 1
    at = datetime(1990, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    lists = np.array([[0, 2**62, -(2**62)]] * n, dtype=np.int64)
    columns = (
        copy_encoder.integers(range(-2, n - 2), 2),
        copy_encoder.integers([2**31 - 1] * n, 4),
        copy_encoder.integers([-(2**63)] * n, 8),
        copy_encoder.floats(np.array([0.1, np.nan, -1e300, np.nan, 5e-324])),
        copy_encoder.timestamps(np.full(n, round(at.timestamp() * 1e6), dtype=np.int64)),
        copy_encoder.flags(odd, np.arange(n) == 2),
        copy_encoder.octets(ids, odd),
        copy_encoder.lists(lists, odd),
    )
    shared = (
        copy_encoder.text("naïve 'text'\t\\N"),
        copy_encoder.texts(("all", "region=süd")),
        copy_encoder.uuid(UUID(int=7)),
        copy_encoder.jsonb('{"a": [1, null]}'),
    )
    empty = (copy_encoder.text(None), copy_encoder.texts(()), copy_encoder.uuid(None), copy_encoder.jsonb(None))
    tails = [b"".join(empty if row == 3 else shared) for row in range(n)]

    await copy_encoder.copy(connection, "written", tuple("abcdefghijkl"), copy_encoder.pack(columns, 12, tails))

    rows = [tuple(row) for row in await connection.fetch("SELECT * FROM written ORDER BY a")]
    await connection.close()
    texts = ("naïve 'text'\t\\N", ["all", "region=süd"], UUID(int=7), {"a": [1, None]})
    numbers = [0.1, None, -1e300, None, 5e-324]
    truths = [False, True, None, True, False]
    assert rows == [
        (
            row - 2,
            2**31 - 1,
            -(2**63),
            numbers[row],
            at,
            truths[row],
            None if odd[row] else UUID(bytes=ids[row].tobytes()),
            None if odd[row] else lists[row].tolist(),
            *((None, [], None, None) if row == 3 else texts),
        )
        for row in range(n)
    ]

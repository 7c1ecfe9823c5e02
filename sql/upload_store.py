"""Stores tables that were uploaded for a training, with their bytes in blocks.

Tables: ``uploaded_tables`` and ``uploaded_blocks``. A table is never changed; the daily sweep deletes it, and so does the
erasure of a person whom it names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from sql.database import Connection, Database, transaction
from sql.erasure_store import erased_entities, has_erasures

__all__ = [
    "ErasedInTable",
    "UnknownTable",
    "UploadedTable",
    "add_table",
    "copy_table",
    "count_aged_tables",
    "delete_aged_tables",
    "delete_table",
    "erase_table",
    "find_table",
    "list_tables",
    "table_bytes",
    "tables_with_blocks",
]

BLOCK_BYTES = 1_000_000
_TABLES_A_STATEMENT = 20

_ADD = """
INSERT INTO uploaded_tables (table_id, name, twin_type, ending, options, n_rows, size, sha256, uploaded_by, uploaded_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (table_id) DO UPDATE SET uploaded_at = EXCLUDED.uploaded_at
RETURNING xmax = 0"""  # whether it is new
_ADD_BLOCK = "INSERT INTO uploaded_blocks (table_id, place, bytes) VALUES ($1, $2, $3)"
_TABLE = """
SELECT table_id, name, twin_type, ending, options, n_rows, size, sha256, uploaded_by, uploaded_at FROM uploaded_tables"""
_LIST = f"""{_TABLE}
WHERE $1::timestamptz IS NULL OR (uploaded_at, table_id) < ($1, $2::uuid)
ORDER BY uploaded_at DESC, table_id DESC LIMIT $3"""  # our own constant
_BLOCK = "SELECT bytes FROM uploaded_blocks WHERE table_id = $1 AND place = $2"
_PLACES = "SELECT place FROM uploaded_blocks WHERE table_id = $1 ORDER BY place"
_DELETE = "DELETE FROM uploaded_tables WHERE table_id = $1"
_DELETE_BLOCKS = "DELETE FROM uploaded_blocks WHERE table_id = $1"
_WITH_BLOCKS = """
SELECT b.table_id, t.ending FROM (SELECT DISTINCT table_id FROM uploaded_blocks) b LEFT JOIN uploaded_tables t USING (table_id)
WHERE $1 = '' OR t.twin_type = $1 ORDER BY 1"""

# A table is needed as long as a training on it may still be started, or started again.
_AGED = """
FROM uploaded_tables t
WHERE t.uploaded_at < $1
  AND NOT EXISTS (SELECT FROM trainings r WHERE r.table_id = t.table_id AND r.status IN ('queued', 'running'))"""
_COUNT_AGED = f"SELECT count(*) {_AGED}"
_DELETE_AGED = f"""
DELETE FROM uploaded_tables WHERE table_id IN (SELECT t.table_id {_AGED} ORDER BY t.uploaded_at LIMIT $2)
RETURNING table_id"""  # noqa: S608  # our own constant


class UnknownTable(LookupError):
    """No uploaded table has this id."""

    def __init__(self, table_id: UUID) -> None:
        super().__init__(
            f"there is no uploaded table {table_id}: it was deleted, or is older than TWIN_UPLOAD_DAYS; upload it again"
        )


class ErasedInTable(ValueError):
    """A table names a person who was erased."""


class UploadedTable(NamedTuple):
    """What is stored of a table beside its bytes.

    Attributes:
        ending: of its file, ``.csv`` or ``.parquet``.
        options: answers to what the file leaves open.
        size: bytes.
    """

    table_id: UUID
    name: str
    twin_type: str
    ending: str
    options: dict[str, Any]
    n_rows: int
    size: int
    sha256: bytes
    uploaded_by: str
    uploaded_at: datetime


async def add_table(database: Database, table: UploadedTable, file: Path, texts: Collection[str]) -> None:
    """Store a table with the bytes of its file; one that is stored stays as it is, and counts as uploaded now.

    Args:
        database: a pool or a connection.
        table: what to store beside the bytes.
        file: with the bytes.
        texts: of its cells, among which no erased person may be.

    Raises:
        ErasedInTable: when one of the texts is the id of a person who was erased.
    """
    async with transaction(database) as connection:
        if await has_erasures(connection) and await erased_entities(connection, texts):
            raise ErasedInTable("the table names a person who was erased: leave these rows out")
        if not await connection.fetchval(_ADD, *table):
            return
        with file.open("rb") as stream:
            for place, block in enumerate(iter(lambda: stream.read(BLOCK_BYTES), b"")):
                await connection.execute(_ADD_BLOCK, table.table_id, place, block)


async def find_table(database: Database, table_id: UUID) -> UploadedTable:
    """What is stored of a table beside its bytes.

    Raises:
        UnknownTable: when there is no such table.
    """
    row = await database.fetchrow(f"{_TABLE} WHERE table_id = $1", table_id)
    if row is None:
        raise UnknownTable(table_id)
    return UploadedTable(*row)


async def list_tables(database: Database, limit: int, before: tuple[datetime, UUID] | None = None) -> list[UploadedTable]:
    """Tables, the newest first; those before the time and id of one, where it is given."""
    at, table_id = before or (None, None)
    return [UploadedTable(*row) for row in await database.fetch(_LIST, at, table_id, limit)]


async def table_bytes(database: Database, table_id: UUID) -> bytes:
    """The bytes of all blocks that are there of a table; empty where it is gone."""
    places = [row[0] for row in await database.fetch(_PLACES, table_id)]
    return b"".join([await database.fetchval(_BLOCK, table_id, place) or b"" for place in places])


async def copy_table(database: Database, table: UploadedTable, file: Path) -> None:
    """Write the bytes of a table to a file.

    Raises:
        UnknownTable: when the table was deleted meanwhile.
    """
    size, place = 0, 0
    with file.open("wb") as stream:
        while (block := await database.fetchval(_BLOCK, table.table_id, place)) is not None:
            size, place = size + stream.write(block), place + 1
    if size != table.size:
        raise UnknownTable(table.table_id)


async def delete_table(database: Database, table_id: UUID) -> None:
    """Delete a table.

    Raises:
        UnknownTable: when there is no such table.
    """
    if await database.execute(_DELETE, table_id) == "DELETE 0":
        raise UnknownTable(table_id)


async def tables_with_blocks(database: Database, twin_type: str) -> Iterable[tuple[UUID, str | None]]:
    """Id and ending of every table with bytes, of one twin type or, where that is empty, of all."""
    return [(row[0], row[1]) for row in await database.fetch(_WITH_BLOCKS, twin_type)]


async def erase_table(connection: Connection, table_id: UUID) -> None:
    """Delete a table with all of its blocks, also where only these are left."""
    await connection.execute(_DELETE_BLOCKS, table_id)
    await connection.execute(_DELETE, table_id)


async def delete_aged_tables(database: Database, before: datetime) -> int:
    """Delete the tables that were uploaded before a time, unless a training waits for them; returns their number."""
    deleted, part = 0, _TABLES_A_STATEMENT
    while part == _TABLES_A_STATEMENT:
        part = len(await database.fetch(_DELETE_AGED, before, _TABLES_A_STATEMENT))
        deleted += part
    return deleted


async def count_aged_tables(database: Database, before: datetime) -> int:
    """Number of tables that :func:`delete_aged_tables` would delete."""
    return int(await database.fetchval(_COUNT_AGED, before))

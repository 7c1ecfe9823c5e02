"""Sums of errors by pane: rows of ``fidelity_panes``, what batches add to them, and the cells that panes are split into."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg

from schemas.events import SUM_FIELDS, PaneRow, SourceId
from sql.database import Connection, Database
from sql.parts import parts

__all__ = [
    "PANE_COLUMNS",
    "LinePaneRow",
    "PaneChange",
    "add_pane_changes",
    "pane_row",
    "pane_rows_since",
    "split_cells",
]


class PaneChange(NamedTuple):
    """What a batch adds to one cell of one series; ``sums`` in the order of ``SUM_FIELDS``."""

    line: str
    model_id: UUID
    segment: str
    pane: float
    width_s: float
    sums: Sequence[int]


class LinePaneRow(NamedTuple):
    """A row of ``fidelity_panes`` and the model line it belongs to."""

    line: str
    row: PaneRow


_SUMS = ", ".join(SUM_FIELDS)
PANE_COLUMNS = f"line, model_id, segment, pane, width_s, version, last_offset, ARRAY[{_SUMS}]::text[] AS sums"
"""Columns that :func:`pane_row` reads."""

_FIRST_SUM = 8  # number of the first parameter with sums
_ADD_CHANGES = f"""
INSERT INTO fidelity_panes AS p (line, model_id, segment, pane, width_s, source, last_offset, {_SUMS})
SELECT c.line, c.model_id, c.segment, c.pane, c.width_s, $6, $7, {_SUMS}
FROM unnest($1::text[], $2::uuid[], $3::text[], $4::float8[], $5::float8[],
            {", ".join(f"${_FIRST_SUM + i}::text::numeric[]" for i in range(len(SUM_FIELDS)))})
     AS c (line, model_id, segment, pane, width_s, {_SUMS})
ORDER BY c.model_id, c.segment COLLATE "C", c.pane, c.width_s
ON CONFLICT (model_id, segment, pane, width_s, source) DO UPDATE
SET version = p.version + 1, last_offset = greatest(p.last_offset, excluded.last_offset), changed_at = clock_timestamp(),
    {", ".join(f"{name} = p.{name} + excluded.{name}" for name in SUM_FIELDS)}
RETURNING {PANE_COLUMNS}"""  # noqa: S608  # names of columns


async def add_pane_changes(
    connection: Connection, source: SourceId, last_offset: int, changes: Sequence[PaneChange]
) -> list[LinePaneRow]:
    """Add the changes of a batch to the source's rows, in the order of their keys, and return these rows as they are now.

    Each row's version rises by one, and its ``last_offset`` to that of the batch.
    """
    ordered = sorted(changes, key=lambda change: (change.model_id, change.segment, change.pane, change.width_s))
    return [row for part in parts(ordered) for row in await _add_changes(connection, source, last_offset, part)]


async def _add_changes(
    connection: Connection, source: SourceId, last_offset: int, changes: Sequence[PaneChange]
) -> list[LinePaneRow]:
    lines, models, segments, panes, widths, sums = zip(*changes, strict=True)
    columns = [_numeric_array(column) for column in zip(*sums, strict=True)]
    records = await connection.fetch(_ADD_CHANGES, lines, models, segments, panes, widths, str(source), last_offset, *columns)
    return _line_pane_rows(records)


def _numeric_array(values: Iterable[int]) -> str:
    """An array literal: asyncpg encodes a ``numeric`` by way of Decimal, which takes three times as long for a whole batch."""
    return "{" + ",".join(map(str, values)) + "}"


_PANE_ROWS_SINCE = f"SELECT {PANE_COLUMNS} FROM fidelity_panes WHERE source = $1 AND last_offset >= $2"  # noqa: S608  # names of columns


async def pane_rows_since(database: Database, source: SourceId, offset: int) -> list[LinePaneRow]:
    """Rows of the source whose last change came from this offset or a later one."""
    return _line_pane_rows(await database.fetch(_PANE_ROWS_SINCE, str(source), offset))


def _line_pane_rows(records: Iterable[asyncpg.Record]) -> list[LinePaneRow]:
    return [LinePaneRow(record["line"], pane_row(record)) for record in records]


def pane_row(record: asyncpg.Record) -> PaneRow:
    """The row in a record of ``PANE_COLUMNS``."""
    return PaneRow.model_construct(
        model_id=record["model_id"],
        segment=record["segment"],
        pane=record["pane"],
        width_s=record["width_s"],
        version=record["version"],
        last_offset=record["last_offset"],
        sums=tuple(map(int, record["sums"])),
    )


_SPLIT_CELLS = """
INSERT INTO detector_cells (line, splits) VALUES ($1, $2)
ON CONFLICT (line) DO UPDATE SET splits = greatest(detector_cells.splits, excluded.splits)"""


async def split_cells(database: Database, line: str, splits: int) -> None:
    """Split the line's panes into this many cells from now on; a larger number that is stored already stays."""
    await database.execute(_SPLIT_CELLS, line, splits)

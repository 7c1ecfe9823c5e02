"""Reads a table in blocks of rows, for steps that need not have all of it in memory, and joins blocks and files to one table.

Delimited text (also gzipped), Parquet and queries are read in blocks; a workbook, and text in UTF-16 or UTF-32, is one block.
"""

from __future__ import annotations

import gzip
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streams.tables.raw import FIRST_ROW, RawTable, plain_array
from streams.tables.report import TableRefused

__all__ = ["BLOCK_ROWS", "concat_tables", "folder_files", "header_part", "open_text", "parquet_blocks", "text_parts"]

BLOCK_ROWS = 200_000
"""Most rows of a block of Parquet or of a query."""

_BLOCK_BYTES = 1 << 24
_QUOTE, _NEWLINE = ord('"'), ord("\n")


def parquet_blocks(path: Path, size: int = BLOCK_ROWS) -> Iterator[RawTable]:
    """A Parquet file in blocks, at least one."""
    first = FIRST_ROW
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(size):
            columns = tuple(plain_array(column) for column in batch.columns)
            yield RawTable(path.name, tuple(batch.schema.names), columns, np.arange(batch.num_rows) + first)
            first += batch.num_rows
        if first == FIRST_ROW:
            empty = tuple(plain_array(pa.array([], type=field.type)) for field in file.schema_arrow)
            yield RawTable(path.name, tuple(file.schema_arrow.names), empty, np.arange(0))


@contextmanager
def open_text(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a text file, unpacked where it is gzipped."""
    with path.open("rb") as raw:
        is_packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if is_packed:
            with gzip.open(raw) as unpacked:
                yield unpacked  # type: ignore[misc]  # it is a file of bytes
        else:
            yield raw


def text_parts(path: Path, size: int = _BLOCK_BYTES) -> Iterator[tuple[bytes, int]]:
    """The bytes of a text file in parts that end where a row ends, and the number of rows of each; a row may have several lines.

    The first part has the header.
    """
    rest, has_header = b"", False
    with open_text(path) as file:
        while chunk := file.read(size):
            rest += chunk
            ends = _row_ends(rest)
            end = int(ends[-1]) + 1 if len(ends) else 0
            has_header = has_header or header_part(rest[:end]) is not None
            if has_header and end:
                yield rest[:end], len(ends)
                rest = rest[end:]
    if rest:
        yield rest, len(_row_ends(rest)) + (not rest.endswith(b"\n"))


def _row_ends(content: bytes) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Places of the line breaks that are not inside quotes."""
    characters = np.frombuffer(content, dtype=np.uint8)
    ends = np.flatnonzero(characters == _NEWLINE)
    quotes = np.flatnonzero(characters == _QUOTE)
    return ends[np.searchsorted(quotes, ends) % 2 == 0] if len(quotes) else ends


def header_part(content: bytes) -> tuple[bytes, int] | None:
    """The bytes to the end of the first row that is not blank, after a line such as ``sep=;``, and the number of rows in it.

    None where they do not have such a row.
    """
    start = 0
    for n, end in enumerate(_row_ends(content).tolist(), start=1):
        line = content[start:end].strip(b'\xef\xbb\xbf\r" ')
        if line and not line.lower().startswith(b"sep="):
            return content[: end + 1], n
        start = end + 1
    return None


def folder_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The tables in a folder in the order of their names; hidden files and other kinds are passed over.

    Raises:
        TableRefused: when there is none.
    """
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "_")))
    tables = [path for path in paths if path.name.lower().endswith(tuple(suffixes))]
    if not tables:
        raise TableRefused(folder.name, [f"the folder has no file that ends in {', '.join(suffixes)}"])
    return tables


def concat_tables(name: str, tables: Sequence[RawTable], *, are_files: bool) -> RawTable:
    """Tables with the same headers as one, rows numbered on from one to the next.

    Args:
        name: of the whole.
        tables: at least one; the columns of each may be in any order.
        are_files: whether each is a file, whose rows are numbered from 1 and whose place in the whole is told.

    Raises:
        TableRefused: when headers differ; it names the file and the columns.
    """
    first = tables[0]
    if len(tables) == 1:
        return replace(first, name=name)
    rows, bad_rows, notes, offset = [], [], [], 0
    arrays: list[list[pa.Array]] = [[] for _ in first.headers]
    for table in tables:
        _require_same_headers(first, table)
        rows.append(table.rows + offset)
        bad_rows += [cell._replace(row=cell.row + offset) for cell in table.bad_rows]
        notes += [note for note in table.notes if note not in notes]
        for place, header in enumerate(first.headers):
            arrays[place].append(table.columns[table.headers.index(header)])
        if are_files:
            notes.append(f"row {offset + 1} of {name} is the header of {table.name}")
            offset = max([offset, *rows[-1].tolist()[-1:], *(cell.row for cell in bad_rows)])
    columns = tuple(_joined(parts) for parts in arrays)
    return RawTable(name, first.headers, columns, np.concatenate(rows), tuple(bad_rows), tuple(notes))


def _require_same_headers(first: RawTable, table: RawTable) -> None:
    differing = sorted(set(first.headers) ^ set(table.headers))
    if differing or len(first.headers) != len(table.headers):
        raise TableRefused(
            table.name, [f"its columns are not those of {first.name}: {', '.join(map(repr, differing)) or 'repeated'}"]
        )


def _joined(parts: Sequence[pa.Array]) -> pa.Array:
    """Arrays as one: of their type, as numbers where all are, otherwise as text."""
    types = {part.type for part in parts if len(part) and not pa.types.is_null(part.type)}
    if not types:
        return pa.concat_arrays([part.cast(parts[0].type) for part in parts])
    if len(types) > 1:
        is_number = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in types)
        types = {pa.float64() if is_number else pa.string()}
    kind = types.pop()
    return pa.concat_arrays([part.cast(kind) if len(part) else pa.array([], type=kind) for part in parts])

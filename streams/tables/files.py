"""Reads the cells of a file: CSV and other delimited text, also gzipped, Parquet, and Excel workbooks."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from streams.tables.blocks import BLOCK_ROWS, concat_tables, folder_files, header_part, open_text, parquet_blocks, text_parts
from streams.tables.conversion import as_flags
from streams.tables.detect import DELIMITER_NAMES, Dialect, decode_text, detect_delimiter, encoding_note, is_wide
from streams.tables.headers import header_key
from streams.tables.options import TableOptions
from streams.tables.queries import QUERY_SUFFIX, query_blocks
from streams.tables.raw import FIRST_ROW, RawTable, plain_array
from streams.tables.report import BadCell, TableRefused

__all__ = ["SUFFIXES", "load_table", "table_blocks", "table_headers"]

_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_WORKBOOK = (".xlsx", ".xlsm")
SUFFIXES = (*_TEXT, ".parquet", *_WORKBOOK)
_ENDINGS = ".csv, .tsv, .txt (also .gz), .parquet or .xlsx, a folder of such files, or a query that ends in .sql"
_SAMPLE_CHARACTERS = 200_000
_SAMPLE_LINES = 500


def load_table(path: Path, options: TableOptions, declared_keys: Collection[str] = ()) -> RawTable:
    """Read the cells of a file as they are.

    Args:
        path: ends in one of ``SUFFIXES``.
        options: delimiter, encoding and sheet are used here.
        declared_keys: keys of declared headers, by which the delimiter is detected.

    Raises:
        TableRefused: for another kind of file, or one that cannot be read as the kind that its name has.
        FileNotFoundError: when there is no such file.
    """
    if options.mapping is not None:
        declared_keys = {*declared_keys, *map(header_key, options.mapping.headers())}
    if path.is_dir():
        tables = [load_table(file, options, declared_keys) for file in folder_files(path, SUFFIXES)]
        return concat_tables(path.name, tables, are_files=True)
    if path.name.lower().endswith(QUERY_SUFFIX) and path.is_file():
        return concat_tables(path.name, list(query_blocks(path, options.database, BLOCK_ROWS)), are_files=False)
    return _file_table(path, options, declared_keys)


def _file_table(path: Path, options: TableOptions, declared_keys: Collection[str]) -> RawTable:
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise TableRefused(path.name, [f"it cannot be read: give a file that ends in {_ENDINGS}"])
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    kind = "text" if suffix in _TEXT else suffix.removeprefix(".")
    try:
        if suffix in _WORKBOOK:
            from streams.tables.workbooks import workbook_table  # noqa: PLC0415  # few tables are workbooks

            return workbook_table(path, options.sheet)
        return _text_table(path, options, declared_keys) if suffix in _TEXT else _parquet_table(path)
    except TableRefused:
        raise
    except (ValueError, OSError, EOFError, zlib.error, pa.ArrowException, csv.Error) as error:
        raise TableRefused(path.name, [f"it cannot be read as {kind}: {error}"]) from error


def table_blocks(path: Path, options: TableOptions, declared_keys: Collection[str] = ()) -> Iterator[RawTable]:
    """The cells of a file in blocks of rows, at least one, so that all of them need not be in memory; see :func:`load_table`.

    A workbook, and text in an encoding of more than one byte a letter other than UTF-8, is one block.
    """
    name = path.name.lower()
    if path.is_dir():
        for file in folder_files(path, SUFFIXES):
            yield from table_blocks(file, options, declared_keys)
    elif name.endswith(QUERY_SUFFIX) and path.is_file():
        yield from query_blocks(path, options.database, BLOCK_ROWS)
    elif name.endswith(".parquet") and path.is_file():
        yield from parquet_blocks(path)
    elif name.endswith(_TEXT) and path.is_file() and _has_single_bytes(path, options):
        yield from _text_blocks(path, options, declared_keys)
    else:
        yield load_table(path, options, declared_keys)


def _has_single_bytes(path: Path, options: TableOptions) -> bool:
    """Whether a byte of a text file can be a line break or a quote only where one is."""
    if options.encoding is not None:
        return "\n".encode(options.encoding) == b"\n"
    with open_text(path) as file:
        return not is_wide(file.read(_SAMPLE_CHARACTERS))


def _text_blocks(path: Path, options: TableOptions, declared_keys: Collection[str]) -> Iterator[RawTable]:
    """A text file in blocks: each is read as the header and some of the rows, all with the dialect of the first."""
    header, n_header, n_before = b"", 0, 0
    dialect: Dialect | None = None
    for part, n_rows in text_parts(path):
        try:
            content = _decoded(header + part, options, declared_keys, dialect)
            dialect = content.dialect
            table = _split_rows(path.name, *content)
        except (ValueError, pa.ArrowException, csv.Error) as error:
            raise TableRefused(path.name, [f"it cannot be read as text: {error}"]) from error
        offset = n_before - n_header
        bad = tuple(cell._replace(row=cell.row + offset) for cell in table.bad_rows)
        yield replace(table, rows=table.rows + offset, bad_rows=bad)
        if not header:
            n_undeclared = int(_declared_delimiter(part)[0] is None)  # a line such as sep=; is no row
            header, n_header = header_part(part) or (part, n_rows)
            n_before = n_undeclared - 1
            n_header += n_before
        n_before += n_rows


def table_headers(path: Path, options: TableOptions) -> tuple[str, ...]:
    """The headers of a file, of which as little is read as its kind allows; see :func:`load_table`."""
    if path.is_dir():
        return table_headers(folder_files(path, SUFFIXES)[0], options)
    name = path.name.lower()
    try:
        if name.endswith(".parquet") and path.is_file():
            return tuple(pq.read_schema(path).names)
        if name.endswith(_TEXT) and path.is_file():
            with open_text(path) as file:
                content, _ = decode_text(file.read(_SAMPLE_CHARACTERS), options.encoding)
            sign, content = _declared_delimiter(content)
            return detect_delimiter(_first_lines(content), options.delimiter or sign, ()).headers
    except (ValueError, OSError, EOFError, zlib.error, pa.ArrowException, csv.Error):
        pass  # reading the whole file says what is wrong with it
    return load_table(path, options).headers


def _parquet_table(path: Path) -> RawTable:
    table = pq.read_table(path)
    columns = tuple(plain_array(column) for column in table.columns)
    return RawTable(path.name, tuple(table.column_names), columns, np.arange(table.num_rows) + FIRST_ROW)


class _Content(NamedTuple):
    """Bytes of text in UTF-8, how its lines are split, and what was detected."""

    text: bytes
    dialect: Dialect
    notes: tuple[str, ...]


def _text_table(path: Path, options: TableOptions, declared_keys: Collection[str]) -> RawTable:
    return _split_rows(path.name, *_decoded(_text_bytes(path), options, declared_keys))


def _decoded(content: bytes, options: TableOptions, declared_keys: Collection[str], dialect: Dialect | None = None) -> _Content:
    content, encoding = decode_text(content, options.encoding)
    if b"\0" in content:
        raise ValueError("it holds the character NUL: it is not text, or in another encoding (--encoding)")
    sign, content = _declared_delimiter(content)
    lines = _first_lines(content)
    if not lines:
        raise ValueError("it has no line")
    dialect = dialect or detect_delimiter(lines, options.delimiter or sign, declared_keys)
    notes = [encoding_note(encoding, options.encoding)] if encoding else []
    if dialect.delimiter != "," and options.delimiter is None:
        notes.append(f"the delimiter is {DELIMITER_NAMES.get(dialect.delimiter, repr(dialect.delimiter))}")
    return _Content(content, dialect, tuple(notes))


def _text_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    if content.startswith(b"PK\x03\x04"):
        raise ValueError("it is a workbook or an archive: name a workbook .xlsx, unpack an archive")
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise ValueError("it is an old or protected workbook: save it as .xlsx without a password")
    return content


def _declared_delimiter(content: bytes) -> tuple[str | None, bytes]:
    """The delimiter of a first line such as ``sep=;``, which Excel reads, and the lines after it."""
    first, newline, _ = content[:20].partition(b"\n")
    text = first.strip(b"\r").strip(b'"').decode(errors="replace")
    is_declared = bool(newline) and text.lower().startswith("sep=") and len(text) == 5
    return (text[4], content[len(first) + 1 :]) if is_declared else (None, content)


def _first_lines(content: bytes) -> list[str]:
    sample = content[:_SAMPLE_CHARACTERS].decode(errors="replace")
    lines = io.StringIO(sample.lstrip("\r\n"), newline=None).readlines()
    return (lines[:-1] or lines if len(content) > _SAMPLE_CHARACTERS else lines)[:_SAMPLE_LINES]


def _split_rows(name: str, content: bytes, dialect: Dialect, notes: tuple[str, ...]) -> RawTable:
    """Split all rows; one with too many or too few cells is bad, unless only empty ones at its end are too many."""
    uneven: list[tuple[int, str]] = []

    def note_uneven(row: Any) -> str:
        uneven.append((row.number or 0, row.text))
        return "skip"

    table = _parse(content, dialect, note_uneven, threads=True)
    if uneven:  # only without threads the rows have numbers
        uneven.clear()
        table = _parse(content, dialect, note_uneven, threads=False)
    numbers = np.delete(np.arange(table.num_rows + len(uneven)), [number - 1 for number, _ in uneven]) + 1
    columns = [plain_array(column) for column in table.columns]
    mended = {number: cells for number, text in uneven if (cells := _fitting(text, dialect)) is not None}
    if mended:
        columns, numbers = _inserted(columns, numbers, mended)
    n_headers = len(dialect.headers)
    bad = tuple(
        BadCell(number, "", text.strip("\r\n"), f"has {_n_cells(text, dialect)} cells, the header has {n_headers}")
        for number, text in uneven
        if number not in mended
    )
    headers = (*dialect.headers, *[""] * (dialect.width - n_headers))
    return _without_header_and_blank_rows(RawTable(name, headers, tuple(columns), numbers, bad, notes))


def _parse(content: bytes, dialect: Dialect, handler: Any, *, threads: bool) -> pa.Table:
    names = [str(place) for place in range(dialect.width)]
    return pa_csv.read_csv(
        pa.BufferReader(content),
        pa_csv.ReadOptions(use_threads=threads, column_names=names, block_size=1 << 23),
        pa_csv.ParseOptions(
            delimiter=dialect.delimiter,
            newlines_in_values=b'"' in content,
            ignore_empty_lines=False,
            invalid_row_handler=handler,
        ),
        pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
    )


def _cells(text: str, dialect: Dialect) -> list[str]:
    return next(csv.reader([text], delimiter=dialect.delimiter), [])


def _n_cells(text: str, dialect: Dialect) -> int:
    return len(_cells(text, dialect))


def _fitting(text: str, dialect: Dialect) -> list[str] | None:
    """The cells of an uneven row where it differs from others only in empty cells at its end."""
    cells = _cells(text, dialect)
    if any(cells[dialect.width :]) or len(cells) < len(dialect.headers):
        return None
    return [*cells, *[""] * dialect.width][: dialect.width]


def _inserted(columns: list[pa.Array], numbers: Any, rows: dict[int, list[str]]) -> tuple[list[pa.Array], Any]:
    numbers = np.concatenate([numbers, np.fromiter(rows, dtype=np.int64)])
    order = np.argsort(numbers, kind="stable")
    added = [pa.array([cells[place] for cells in rows.values()], type=pa.string()) for place in range(len(columns))]
    merged = [pa.concat_arrays([column, more]).take(pa.array(order)) for column, more in zip(columns, added, strict=True)]
    return merged, numbers[order]


def _without_header_and_blank_rows(table: RawTable) -> RawTable:
    """The rows after the header that have a value in any cell."""
    blank = np.ones(len(table.rows), dtype=np.bool_)
    for column in table.columns:
        if blank.any():
            blank &= as_flags(pc.equal(pc.binary_length(column), 0))
    header = int(np.flatnonzero(~blank)[0]) if (~blank).any() else 0
    if not blank.any():
        return replace(table, columns=tuple(column.slice(header + 1) for column in table.columns), rows=table.rows[header + 1 :])
    blank[: header + 1] = True
    return table.take(~blank)

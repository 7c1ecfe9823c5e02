"""Reads the cells of a file: CSV and other delimited text, also gzipped, Parquet, and Excel workbooks."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from streams.tables.conversion import as_flags
from streams.tables.detect import DELIMITER_NAMES, Dialect, decode_text, detect_delimiter
from streams.tables.headers import header_key
from streams.tables.options import TableOptions
from streams.tables.raw import FIRST_ROW, RawTable, plain_array
from streams.tables.report import BadCell, TableRefused

__all__ = ["SUFFIXES", "load_table", "table_headers"]

_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_WORKBOOK = (".xlsx", ".xlsm")
SUFFIXES = (*_TEXT, ".parquet", *_WORKBOOK)
_ENDINGS = ".csv, .tsv, .txt (also .gz), .parquet or .xlsx"
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


def table_headers(path: Path, options: TableOptions) -> tuple[str, ...]:
    """The headers of a file, of which as little is read as its kind allows; see :func:`load_table`."""
    name = path.name.lower()
    try:
        if name.endswith(".parquet") and path.is_file():
            return tuple(pq.read_schema(path).names)
        if name.endswith(_TEXT) and path.is_file():
            with (gzip.open if _is_gzipped(path) else open)(path, "rb") as file:
                content, _ = decode_text(file.read(_SAMPLE_CHARACTERS), options.encoding)
            sign, content = _declared_delimiter(content)
            return detect_delimiter(_first_lines(content), options.delimiter or sign, ()).headers
    except (ValueError, OSError, EOFError, zlib.error, pa.ArrowException, csv.Error):
        pass  # reading the whole file says what is wrong with it
    return load_table(path, options).headers


def _is_gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _parquet_table(path: Path) -> RawTable:
    table = pq.read_table(path)
    columns = tuple(plain_array(column) for column in table.columns)
    return RawTable(path.name, tuple(table.column_names), columns, np.arange(table.num_rows) + FIRST_ROW)


def _text_table(path: Path, options: TableOptions, declared_keys: Collection[str]) -> RawTable:
    content, encoding = decode_text(_text_bytes(path), options.encoding)
    if b"\0" in content:
        raise ValueError("it holds the character NUL: it is not text, or in another encoding (--encoding)")
    sign, content = _declared_delimiter(content)
    lines = _first_lines(content)
    if not lines:
        raise ValueError("it has no line")
    dialect = detect_delimiter(lines, options.delimiter or sign, declared_keys)
    notes = [f"read as {encoding}, it is not UTF-8"] if encoding else []
    if dialect.delimiter != "," and options.delimiter is None:
        notes.append(f"the delimiter is {DELIMITER_NAMES.get(dialect.delimiter, repr(dialect.delimiter))}")
    return _split_rows(path.name, content, dialect, tuple(notes))


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

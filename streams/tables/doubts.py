"""Finds what is probably not meant in a table: damaged letters, dates that a spreadsheet made, totals, a title above the header."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrays import Flags, Floats, Integers
from schemas.base import shorten
from streams.tables.conversion import Converted, as_flags, contains, matches, trimmed
from streams.tables.declared import ID_COLUMNS, Column
from streams.tables.headers import header_key
from streams.tables.raw import RawTable, is_text
from streams.tables.report import count_of

__all__ = ["doubtful_cells", "header_below", "totals"]

_DAMAGED = "[\u00c2\u00c3\u00c4\u00c5][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192]|\u00e2\u20ac|\ufffd"
"""UTF-8 that was read in another encoding: a capital with an accent before a sign, or the sign of what could not be read."""

_DAMAGED_SIGNS = ("\u00c2", "\u00c3", "\u00c4", "\u00c5", "\u00e2\u20ac", "\ufffd")
_MONTH = "(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_SHEET_DATE = rf"^(\d{{1,2}}-{_MONTH}|{_MONTH}-\d{{2}}|\d{{4}}-\d{{2}}-\d{{2}}([T ]00:00:00)?)$"
_TOTAL = r"^(?i:(grand |sub)?-?totals?|sum|gesamt|gesamtsumme|summe|insgesamt)\s*:?$"
_TOTAL_SIGNS = ("otal", "OTAL", "um", "UM", "esamt", "ESAMT")  # one of them is in each total: most tables have none
_FEW = 5  # most rows that are taken for totals: more of them are a level of this name
_SCANNED = 10  # rows in which a header may stand below a title
_EXACT = 1e-9


def doubtful_cells(columns: Mapping[str, pa.Array], kinds: Mapping[str, Column], rows: Integers) -> Iterator[str]:
    """A note for each column with texts that are damaged, or levels that are dates where the others are none.

    Args:
        columns: by name.
        kinds: what they hold.
        rows: row of the file of each cell.
    """
    for name, column in columns.items():
        if not is_text(column) or name not in kinds or not len(column):
            continue
        if any(contains(column, sign) for sign in _DAMAGED_SIGNS):
            yield from _note(name, column, matches(column, _DAMAGED), rows, "with damaged letters: is the encoding another one?")
        if kinds[name].kind == "category":
            dates = _in_form(column, _SHEET_DATE)
            n_given = len(column) - int(as_flags(pc.equal(pc.binary_length(column), 0)).sum()) - column.null_count
            if 0 < dates.sum() < 0.5 * n_given:
                yield from _note(name, column, dates, rows, "that a spreadsheet may have made a date of: check them")


def _in_form(column: pa.Array, pattern: str) -> Flags:
    """Which cells have a form, from the distinct ones: levels are few."""
    encoded = column.dictionary_encode()
    has_form = np.append(matches(trimmed(encoded.dictionary), pattern), False)  # the value of empty cells
    return np.asarray(has_form[encoded.indices.fill_null(-1).to_numpy()], dtype=np.bool_)


def _note(name: str, column: pa.Array, cells: Flags, rows: Integers, what: str) -> Iterator[str]:
    if cells.any():
        first = int(np.flatnonzero(cells)[0])
        cell = shorten(column[first].as_py())
        yield f"{name}: {count_of(int(cells.sum()), 'cell')} {what}, such as {cell} in row {rows[first]}"


def totals(
    columns: Mapping[str, pa.Array], kinds: Mapping[str, Column], converted: Mapping[str, Converted]
) -> tuple[str, Flags] | None:
    """The rows that sum up the others, and the column that names them so; None where there are none.

    Such a row is named a total in the first column, that of ids, or the first one of levels, and most of its other cells
    are empty, or a number is the sum of those of the other rows.
    """
    texts = [name for name, column in columns.items() if is_text(column)]
    ids = [name for name in ID_COLUMNS if name in texts]
    levels = [name for name in texts if name in kinds and kinds[name].kind in {"category", "text"}]
    for name in dict.fromkeys([*texts[:1], *ids[:1], *levels[:1]]):
        if not any(contains(columns[name], sign) for sign in _TOTAL_SIGNS):
            continue
        named = matches(trimmed(columns[name]), _TOTAL)
        if 0 < named.sum() <= _FEW and named.sum() < len(named):
            rest = {header: column for header, column in columns.items() if header != name}
            rows = named & (_mostly_empty(rest, len(named)) | _has_sums(converted, named))
            if rows.any():
                return name, rows
    return None


def _mostly_empty(columns: Mapping[str, pa.Array], n: int) -> Flags:
    empty = np.zeros(n, dtype=np.int64)
    for column in columns.values():
        empty += ~as_flags(pc.is_valid(trimmed(column) if is_text(column) else column))
    return np.asarray(2 * empty > len(columns), dtype=np.bool_)


def _has_sums(converted: Mapping[str, Converted], named: Flags) -> Flags:
    """Which of the named rows have a number that is the sum of all rows without a name."""
    has_sum = np.zeros(len(named), dtype=np.bool_)
    for item in converted.values():
        if pd.api.types.is_numeric_dtype(item.values) and not pd.api.types.is_bool_dtype(item.values):
            values: Floats = item.values.to_numpy(dtype=np.float64, na_value=np.nan)
            total = float(np.nansum(values[~named]))
            has_sum |= named & (total != 0) & (np.abs(values - total) <= _EXACT * abs(total))
    return has_sum


_FEWEST_HEADERS = 3
_NUMERIC = "+-.,0123456789"


def header_below(raw: RawTable, declared_keys: Collection[str]) -> str | None:
    """What is wrong with a table whose header is below its first row: a title, or rows about the export; None for another one."""
    n_named = _n_declared(raw.headers, declared_keys)
    texts = [column.slice(0, _SCANNED).to_pylist() for column in raw.columns if is_text(column)]
    below = [(int(row), cells) for row, cells in zip(raw.rows, zip(*texts, strict=False), strict=False)]
    split = [(cell.row, tuple(_cells(cell.value))) for cell in raw.bad_rows[:_SCANNED]]
    for row, cells in sorted([*below, *split], key=lambda item: item[0])[:_SCANNED]:
        if _n_declared(map(str, filter(None, cells)), declared_keys) > max(1, n_named) or _is_below_title(raw.headers, cells):
            return f"row {row} looks like the header: delete the rows above it"
    return None


def _is_below_title(headers: Iterable[str], cells: Sequence[Any]) -> bool:
    """Whether cells are several words, below a first row that has a single one, as a title has."""
    texts = [str(cell).strip() for cell in cells if cell is not None and str(cell).strip()]
    has_title = sum(bool(header.strip()) for header in headers) <= 1
    return has_title and len(texts) >= _FEWEST_HEADERS and not any(text[0] in _NUMERIC for text in texts)


def _n_declared(cells: Iterable[str], declared_keys: Collection[str]) -> int:
    return len({header_key(cell) for cell in cells}.intersection(declared_keys))


def _cells(line: str) -> list[str]:
    delimiter = max(",;\t|", key=line.count)
    return [cell.strip('" ') for cell in line.split(delimiter)]

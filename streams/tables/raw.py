"""A table as its source has it: text cells of a text file, typed columns of a Parquet file, a workbook or a data frame."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrays import Flags, Integers
from schemas.base import shorten
from streams.tables.report import BadCell, TableRefused

__all__ = ["FIRST_ROW", "RawTable", "frame_table", "mixed_array"]

_PLAIN_TYPES = (str, bool, int, float, Decimal, np.number, np.bool_)
FIRST_ROW = 2
"""Number of the first row after the header."""


@dataclass(frozen=True)
class RawTable:
    """Columns before they are converted.

    Attributes:
        name: of the file.
        headers: as they are written.
        columns: one array per header, all of the same length; text where the source has text.
        rows: row of the file of each row of the columns; the header is row 1.
        bad_rows: rows that could not be split into cells; they are not in the columns.
        notes: what was detected.
    """

    name: str
    headers: tuple[str, ...]
    columns: tuple[pa.Array, ...]
    rows: Integers
    bad_rows: tuple[BadCell, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def n_rows(self) -> int:
        """All rows, bad ones included."""
        return len(self.rows) + len(self.bad_rows)

    def with_columns(self, columns: Mapping[str, pa.Array], notes: Sequence[str]) -> RawTable:
        """The table with other headers and columns, and more notes."""
        return replace(self, headers=tuple(columns), columns=tuple(columns.values()), notes=(*self.notes, *notes))

    def take(self, rows: Flags) -> RawTable:
        """The rows at which the mask, of shape ``(n,)``, is true."""
        mask = pa.array(rows)
        return replace(self, columns=tuple(column.filter(mask) for column in self.columns), rows=self.rows[rows])


def frame_table(frame: pd.DataFrame, name: str = "the table") -> RawTable:
    """A data frame as a raw table; its index is not read, and its rows count from 0."""
    columns = tuple(_series_array(frame.iloc[:, place]) for place in range(frame.shape[1]))
    return RawTable(name, tuple(map(str, frame.columns)), columns, np.arange(len(frame)))


def _series_array(series: pd.Series[Any]) -> pa.Array:
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.cat.categories.dtype)
    if series.dtype == object:
        return mixed_array(series.tolist())
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        return pc.assume_timezone(pa.array(series.dt.tz_convert("UTC").dt.tz_localize(None), from_pandas=True), "UTC")
    array = pa.array(series, from_pandas=True)
    return plain_array(array)


def mixed_array(cells: Sequence[Any]) -> pa.Array:
    """An array of cells of any types: of their type where it is one of numbers, flags or texts, otherwise of text."""
    values = [None if _is_missing(cell) else _as_text(cell) for cell in cells]
    types = {type(value) for value in values if value is not None}
    if len(types) <= 1 and all(issubclass(kind, _PLAIN_TYPES) for kind in types):
        try:
            return pa.array(values, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            pass
    return pa.array([None if value is None else _text(value) for value in values], type=pa.string())


def _as_text(cell: Any) -> Any:
    """Bytes of UTF-8, as some programs store text, as this text."""
    if not isinstance(cell, bytes):
        return cell
    try:
        return cell.decode()
    except UnicodeDecodeError as error:
        raise TableRefused("the table", [f"{shorten(cell)} are bytes that are no text in UTF-8"]) from error


def _decoded(array: pa.Array) -> pa.Array:
    """A column of bytes as text where all of them are UTF-8, as some programs write text to Parquet; others as they are."""
    if pa.types.is_fixed_size_binary(array.type) or pa.types.is_binary_view(array.type):
        array = pc.cast(array, pa.binary())
    if not (pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type)):
        return array
    try:
        return pc.cast(array, pa.string())
    except pa.ArrowInvalid:
        return array


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NaT or cell is pd.NA or (isinstance(cell, float | np.floating) and cell != cell)  # noqa: PLR0124  # only NaN differs from itself


def _text(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return f"{value:.0f}"
    if isinstance(value, float | np.floating) and re.fullmatch(r"-?\d+\.\d{3}", str(value)):
        return f"{value}0"  # a decimal point, which no reader takes for a sign between thousands
    return value.isoformat() if isinstance(value, datetime | date) else str(value)


def is_text(array: pa.Array) -> bool:
    """Whether the cells of a column are text."""
    return bool(pa.types.is_string(array.type) or pa.types.is_large_string(array.type))


def plain_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column in one piece, levels of dictionaries as their values."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # of no rows, or too long for one piece
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], type=array.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    array = _decoded(array)
    if pa.types.is_string_view(array.type) or pa.types.is_large_string(array.type):
        array = pc.cast(array, pa.string())
    return array

"""Reads a file or a data frame as a table whose columns have their declared kinds: the one reader of all commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrays import Flags, Integers
from streams.tables.conversion import (
    Converted,
    Unsettled,
    as_flags,
    blanked,
    convert_flags,
    convert_ids,
    convert_levels,
    convert_text,
    in_other_words,
    matches,
    trimmed,
)
from streams.tables.declared import Column
from streams.tables.doubts import doubtful_cells, header_below, totals
from streams.tables.files import load_table
from streams.tables.headers import header_key, name_columns
from streams.tables.inference import inferred_kind
from streams.tables.mapped import apply_rules, map_headers
from streams.tables.numbers import convert_numbers
from streams.tables.options import TableOptions
from streams.tables.raw import RawTable, frame_table, is_text
from streams.tables.report import BadCell, TableReading, TableRefused, count_of
from streams.tables.text_numbers import convert_number_columns
from streams.tables.times import convert_times

__all__ = ["convert_table", "read_frame", "read_table", "read_times"]

_FORMULA = r'^="([^"]*)"$'
_BY_KIND = {"id": convert_ids, "category": convert_levels, "flag": convert_flags, "text": convert_text}


def read_table(path: Path, declared: Mapping[str, Column], options: TableOptions | None = None) -> TableReading:
    """Read a file, and convert its columns to their declared kinds.

    Rows with a cell that cannot be read are left out and counted; the reading says which.

    Args:
        path: text (CSV and the like, also gzipped), Parquet or Excel, by the end of its name.
        declared: columns by name; others get the kind that their cells have.
        options: answers to what the file leaves open.

    Raises:
        TableRefused: when the file cannot be read, a column can be read in two ways, names of columns are missing or repeated, or
            more rows are bad than are allowed.
        FileNotFoundError: when there is no such file.
    """
    options = options or TableOptions()
    raw = load_table(path, options, frozenset(map(header_key, declared)))
    return convert_table(raw, declared, options).require_usable(strict=options.strict)


def read_frame(frame: pd.DataFrame, declared: Mapping[str, Column], options: TableOptions | None = None) -> TableReading:
    """Convert the columns of a data frame as :func:`read_table` does those of a file.

    Raises:
        TableRefused: when a column can be read in two ways, names are repeated, or more rows are bad than are allowed.
    """
    options = options or TableOptions()
    return convert_table(frame_table(frame), declared, options).require_usable(strict=options.strict)


def read_times(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column of times in UTC, with its index.

    Raises:
        TableRefused: for numbers, times without a zone, and what is no time; it names the value.
    """
    name = str(column.name)
    times = read_frame(column.to_frame(), {name: Column(name, "time")}, TableOptions(strict=True)).frame[name]
    return times.set_axis(column.index)


def convert_table(raw: RawTable, declared: Mapping[str, Column], options: TableOptions) -> TableReading:
    """Convert the columns of a raw table, whatever the number of bad rows.

    Raises:
        TableRefused: for what concerns whole columns; it names all of them.
    """
    if options.mapping is not None:
        mapped = map_headers(raw, declared, options.mapping)
        zone = options.timezone or options.mapping.timezone
        return apply_rules(convert_table(mapped.raw, mapped.declared, replace(options, mapping=None, timezone=zone)), mapped.uses)
    table, problems = name_columns(raw, declared)
    if below := header_below(raw, frozenset(map(header_key, declared))):
        raise TableRefused(raw.name, [below])
    problems += [f"it has no column {name!r}, whose kind is stated" for name in options.kinds if name not in table.headers]
    texts, formula_notes = _without_formulas(table)
    columns = {name: _without_marks(column, options) for name, column in texts.items()}
    columns |= {name: in_other_words(columns[name], column.levels) for name, column in declared.items() if name in columns}
    kinds, notes = _kinds(columns, declared, options)
    converted, unsettled = _convert(columns, kinds, table.rows, options)
    if problems or unsettled:
        raise TableRefused(raw.name, [*problems, *unsettled])
    notes += formula_notes
    notes += [note for item in converted.values() for note in item.notes]
    notes += doubtful_cells(columns, kinds, table.rows)
    return _reading(table, columns, converted, totals(columns, kinds, converted), notes)


def _without_formulas(table: RawTable) -> tuple[dict[str, pa.Array], list[str]]:
    """The columns with cells such as ``="00123"``, which make a spreadsheet show the text as it is, as that text."""
    columns = dict(zip(table.headers, table.columns, strict=True))
    notes = []
    for name, column in columns.items():
        if is_text(column) and (rows := matches(column, _FORMULA, '="')).any():
            columns[name] = pc.replace_substring_regex(column, _FORMULA, r"\1")
            notes.append(f'{name}: {count_of(int(rows.sum()), "cell")} read without ="" around them')
    return columns, notes


def _without_marks(column: pa.Array, options: TableOptions) -> pa.Array:
    """A column with null where its text stands for a missing value."""
    if not options.missing or not is_text(column):
        return column
    return blanked(column, as_flags(pc.is_in(trimmed(column), pa.array(options.missing, type=pa.string()))))


def _kinds(
    columns: Mapping[str, pa.Array], declared: Mapping[str, Column], options: TableOptions
) -> tuple[dict[str, Column], list[str]]:
    """Declaration of each column that can be used, and remarks on the others."""
    kinds: dict[str, Column] = {}
    notes: list[str] = []
    for name, column in columns.items():
        if name in options.kinds:
            kinds[name] = replace(declared.get(name, Column(name, "text", is_declared=False)), kind=options.kinds[name])
        elif name in declared:
            kinds[name] = declared[name]
        else:
            inferred = inferred_kind(column, name)
            notes += [inferred.note] if inferred.note else []
            if inferred.kind is not None:
                kinds[name] = Column(name, inferred.kind, is_declared=False)
    return kinds, notes


def _convert(
    columns: Mapping[str, pa.Array], kinds: Mapping[str, Column], rows: Integers, options: TableOptions
) -> tuple[dict[str, Converted], list[str]]:
    """Every column in its kind, and what cannot be settled."""
    numeric = {name: kind for name, kind in kinds.items() if kind.kind in {"integer", "number"}}
    text = {name: columns[name] for name in numeric if is_text(columns[name])}
    converted, unsettled = convert_number_columns(text, numeric, options)
    problems = []
    for name, kind in kinds.items():
        if name in text:
            continue
        try:
            converted[name] = _convert_column(columns[name], kind, options)
        except Unsettled as error:
            unsettled[name] = error
        except pa.ArrowException:
            problems.append(f"{name}: cells of the type {columns[name].type} are no {kind.kind}")
    problems += [f"row {rows[error.place]}, {name}: {error}" for name, error in unsettled.items()]
    return {name: converted[name] for name in kinds if name in converted}, problems


def _convert_column(column: pa.Array, kind: Column, options: TableOptions) -> Converted:
    if kind.kind == "time":
        return convert_times(column, kind.name, options)
    if kind.kind in {"integer", "number"}:
        return convert_numbers(column, kind)
    return _BY_KIND[kind.kind](column, kind.name)


def _reading(
    table: RawTable,
    columns: Mapping[str, pa.Array],
    converted: Mapping[str, Converted],
    summed: tuple[str, Flags] | None,
    notes: Sequence[str],
) -> TableReading:
    bad: Flags = np.zeros(len(table.rows), dtype=np.bool_)
    cells = list(table.bad_rows)
    for name, item in converted.items():
        for wrong in item.wrong:
            bad |= wrong.rows
            places = np.flatnonzero(wrong.rows)
            values = columns[name].take(pa.array(places)).to_pylist()
            cells += [
                BadCell(int(table.rows[at]), name, str(value), wrong.reason) for at, value in zip(places, values, strict=True)
            ]
    if summed is not None:
        name, rows = summed
        bad |= rows
        labels = [(int(table.rows[at]), columns[name][int(at)].as_py()) for at in np.flatnonzero(rows)]
        cells += [BadCell(row, name, label, "is a row of totals, and not of one entity") for row, label in labels]
    frame = pd.DataFrame({name: item.values for name, item in converted.items()}, index=pd.RangeIndex(len(table.rows)))
    good = frame[~bad].reset_index(drop=True) if bad.any() else frame
    return TableReading(table.name, good, table.rows[~bad], table.n_rows, tuple(sorted(cells)), (*table.notes, *notes))

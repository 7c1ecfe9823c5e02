"""Names of columns: matched to declared ones whatever their case, blanks and signs; empty and repeated ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from streams.tables.raw import RawTable, is_text
from streams.tables.report import count_of

__all__ = ["header_key", "name_columns"]

_PANDAS_INDEX = "__index_level_"  # how pandas writes an index without a name to Parquet


def header_key(header: str) -> str:
    """What is left of a header without case, blanks and signs; headers with the same key mean the same declared column.

    >>> header_key(" Total Patient-Volume"), header_key("totalPatientVolume")
    ('totalpatientvolume', 'totalpatientvolume')
    """
    return "".join(character for character in header.casefold() if character.isalnum() or character == ".")


def name_columns(table: RawTable, declared: Mapping[str, Any]) -> tuple[RawTable, list[str]]:
    """The table with the declared names of its columns, and what is wrong with its headers.

    A column without a name is left out where it is empty or holds the numbers of its rows.
    """
    by_key = {header_key(name): name for name in declared}
    problems: list[str] = []
    notes: list[str] = []
    written: dict[str, list[str]] = {}
    columns: dict[str, pa.Array] = {}
    for place, (header, column) in enumerate(zip(table.headers, table.columns, strict=True), start=1):
        if not header.strip() or header.startswith(("Unnamed: ", _PANDAS_INDEX)):
            if not _holds_nothing(column) and not (header.startswith(_PANDAS_INDEX) and _are_distinct_numbers(column)):
                problems.append(f"column {place} has no name: its first value is {_first(column)!r}")
            continue
        name = header if header in declared else by_key.get(header_key(header), " ".join(header.split()))
        written.setdefault(name, []).append(header)
        columns[name] = column
    problems += [f"several columns are {name!r}: {', '.join(map(repr, same))}" for name, same in written.items() if len(same) > 1]
    renamed = [f"{same[0]!r} as {name}" for name, same in written.items() if same[0] != name and len(same) == 1]
    if renamed:
        notes.append(f"columns read by their declared names: {', '.join(renamed)}")
    unnamed = len(table.headers) - sum(map(len, written.values()))
    if unnamed and not problems:
        notes.append(f"{count_of(unnamed, 'column')} without a name left out, empty or numbers of rows")
    return table.with_columns(columns, notes), problems


def _holds_nothing(column: pa.Array) -> bool:
    """Whether a column is empty, or holds the numbers of its rows."""
    if column.null_count == len(column):
        return True
    if is_text(column) and not pc.any(pc.not_equal(pc.utf8_trim_whitespace(column), "")).as_py():
        return True
    try:
        numbers = pc.cast(column, pa.int64())
    except pa.ArrowInvalid:
        return False
    first = numbers[0].as_py()
    return first in {0, 1} and numbers.equals(pa.array(range(first, first + len(numbers)), type=pa.int64()))


def _are_distinct_numbers(column: pa.Array) -> bool:
    """Whether a column holds whole numbers, none twice: as the index of rows that were drawn from another table."""
    return pa.types.is_integer(column.type) and not column.null_count and len(column.unique()) == len(column)


def _first(column: pa.Array) -> Any:
    return next((cell for cell in column.to_pylist() if cell not in {None, ""}), None)

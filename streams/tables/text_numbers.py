"""Reads the number columns of a text file together: what is clear in one settles what is open in another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.tables.conversion import Converted, Unsettled, as_flags, contains, matches, sample_of, trimmed
from streams.tables.declared import Column
from streams.tables.numbers import Numerals, checked, convert_numerals, parse_numerals, settled_decimal
from streams.tables.options import Decimal, TableOptions

__all__ = ["convert_number_columns"]

_TWO_READINGS = r"^[+-]?[1-9]\d{0,2}\.\d{3}$"


def convert_number_columns(
    columns: Mapping[str, pa.Array], declared: Mapping[str, Column], options: TableOptions
) -> tuple[dict[str, Converted], dict[str, Unsettled]]:
    """Convert columns of text to numbers.

    Args:
        columns: text, by name.
        declared: what each holds.
        options: whose ``decimal`` settles all of them.

    Returns:
        The columns that could be converted, and those that can be read in two ways.
    """
    converted: dict[str, Converted] = {}
    open_columns: dict[str, Numerals] = {}
    clear: dict[str, Decimal | None] = {}
    for name, column in columns.items():
        plain, decimal = _plain(column, declared[name]) if options.decimal is not Decimal.COMMA else (None, None)
        if plain is not None:
            converted[name], clear[name] = plain, decimal
        else:
            open_columns[name] = numerals = parse_numerals(column)
            clear[name] = numerals.clear_decimal
    if Decimal.COMMA in clear.values() and options.decimal is None:  # what looks plain may be read in two ways beside such columns
        open_columns |= {name: parse_numerals(columns[name]) for name in converted if clear[name] is Decimal.POINT}
    unsettled: dict[str, Unsettled] = {}
    for name, numerals in open_columns.items():
        try:
            decimal = options.decimal or settled_decimal(numerals, declared[name], _agreed(clear, name))
            converted[name] = convert_numerals(numerals, declared[name], decimal)
        except Unsettled as error:
            unsettled[name] = error
    return converted, unsettled


def _agreed(clear: Mapping[str, Decimal | None], name: str) -> Decimal | None:
    """The sign of decimals of all other columns that have a clear one, None where they differ."""
    signs = {sign for column, sign in clear.items() if sign is not None and column != name}
    return signs.pop() if len(signs) == 1 else None


def _plain(column: pa.Array, declared: Column) -> tuple[Converted | None, Decimal | None]:
    """Numbers as programs write them, and the sign of decimals that they show; None for columns with anything else."""
    text = trimmed(column)
    if contains(text, "x") or contains(text, "X"):  # Arrow reads 0x10 as a number
        return None, None
    try:
        if declared.kind == "integer" and not text.null_count:
            return checked(pc.cast(text, pa.int64()).to_numpy(), declared), None
        numbers = pc.cast(text, pa.float64())
    except pa.ArrowInvalid:
        return None, None
    values = np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)
    if not np.isfinite(values[np.asarray(pc.is_valid(text))]).all():
        return None, None
    for cells in (sample_of(text), text):
        n_pointed = int(as_flags(pc.match_substring(cells, ".")).sum())
        if n_pointed > int(matches(cells, _TWO_READINGS, ".").sum()):
            return checked(values, declared), Decimal.POINT
    return (None if n_pointed else checked(values, declared)), None

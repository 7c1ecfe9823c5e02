"""Reads columns of numbers as people write them: 1,240.5 and 1.240,5, 12 %, with signs of currency, and NA for none.

The sign of the decimals is that of the cells which can be read in one way only: ``0,5`` has a decimal comma, ``1,240.5`` a point.
A column in which every cell can be read in both ways, such as ``1,240``, is settled by the whole numbers or the bounds that are
declared for it, by the other columns of the table, by the form of many cells, and otherwise by the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrays import Flags, Floats, Integers
from streams.tables.conversion import (
    MISSING_NUMBERS,
    Converted,
    Unsettled,
    Wrong,
    as_flags,
    blanked,
    example,
    matches,
    missing_note,
    trimmed,
)
from streams.tables.declared import Column
from streams.tables.options import Decimal
from streams.tables.report import count_of

__all__ = ["Numerals", "checked", "convert_numbers", "convert_numerals", "parse_numerals", "settled_decimal"]

_SPACES = r" '\x{2019}\x{a0}\x{202f}"  # between thousands: blanks, also narrow ones, and apostrophes


def _number_pattern(decimal: str, grouping: str, other_groups: str = "") -> str:
    exponent = r"(?:[eE][+-]?\d+)?"
    return rf"^[+-]?(?:(?:\d+|[1-9]\d{{0,2}}(?:[{grouping}]\d{{3}})+{other_groups})(?:{decimal}\d*)?|{decimal}\d+){exponent}$"


_GROUPING = {Decimal.POINT: f",{_SPACES}", Decimal.COMMA: f".{_SPACES}"}
_DIGITS = {
    Decimal.POINT: _number_pattern(r"\.", _GROUPING[Decimal.POINT], r"|[1-9]\d?(?:,\d{2})+,\d{3}"),  # 1,10,000 is 110000
    Decimal.COMMA: _number_pattern(",", _GROUPING[Decimal.COMMA]),
}
_TWO_READINGS = r"^[+-]?[1-9]\d{0,2}[.,]\d{3}$"
_CURRENCY = r"[$\x{20ac}\x{a3}]"
_LONG_MINUS = r"^\x{2212}"
_IN_PARENTHESES = rf"^({_CURRENCY}?)\s*\(\s*({_CURRENCY}?\s*[\d.,][^()+-]*)\)$"
_CLEAR_SHARE = 0.95
"""Share of the cells with a clear sign of decimals that must agree; the others are wrong."""

_MANY = 20
_INT64 = 2.0**63


@dataclass(frozen=True)
class Numerals:
    """The cells of a text column that may be numbers.

    Attributes:
        text: digits and signs without blanks, percent signs and currency around them; null where a cell is empty or means missing.
        percent, missing, currency: which cells had these signs or words, shape ``(n,)``.
        minus: which cells are negative by parentheses, as in accounts, or by the long minus sign.
        n_point, n_comma: cells that are numbers with a decimal point only, and with a decimal comma only.
        two_readings: cells that are numbers either way, with another value.
        is_number: cells that are numbers in any reading.
    """

    text: pa.Array
    percent: Flags
    missing: Flags
    currency: Flags
    minus: Flags
    n_point: int
    n_comma: int
    two_readings: Flags
    is_number: Flags

    @property
    def clear_decimal(self) -> Decimal | None:
        """The sign of the decimals by the column's own cells."""
        n_clear = self.n_point + self.n_comma
        if self.n_point >= max(1, _CLEAR_SHARE * n_clear):
            return Decimal.POINT
        return Decimal.COMMA if self.n_comma >= max(1, _CLEAR_SHARE * n_clear) else None


def parse_numerals(column: pa.Array) -> Numerals:
    """Take the signs around the digits of a text column off, and count what the digits say about the sign of decimals."""
    text = trimmed(column)
    missing = as_flags(pc.is_in(pc.utf8_lower(text), pa.array(sorted(MISSING_NUMBERS))))
    text = blanked(text, missing)
    text, minus = _with_minus(text)
    percent = as_flags(pc.ends_with(text, "%"))
    if percent.any():
        text = pc.utf8_trim_whitespace(pc.replace_substring_regex(text, r"%$", ""))
    currency = matches(text, _CURRENCY)
    if currency.any():
        text = pc.utf8_trim_whitespace(pc.replace_substring_regex(text, rf"^([+-]?)\s*{_CURRENCY}\s*|\s*{_CURRENCY}$", r"\1"))
    point, comma = (matches(text, _DIGITS[sign]) for sign in (Decimal.POINT, Decimal.COMMA))
    two_readings = point & comma & matches(text, _TWO_READINGS)
    return Numerals(
        text,
        percent,
        missing,
        currency,
        minus,
        int((point & ~comma).sum()),
        int((comma & ~point).sum()),
        two_readings,
        point | comma,
    )


def _with_minus(text: pa.Array) -> tuple[pa.Array, Flags]:
    """The cells with the minus sign of a keyboard for the long one, and for parentheses around a number: (5) is -5 in accounts."""
    minus = matches(text, _LONG_MINUS, "\u2212") | matches(text, _IN_PARENTHESES, "(")
    if minus.any():
        text = pc.replace_substring_regex(text, _LONG_MINUS, "-")
        text = pc.replace_substring_regex(text, _IN_PARENTHESES, r"-\1\2")
    return text, minus


def settled_decimal(numerals: Numerals, column: Column, others: Decimal | None) -> Decimal:
    """The sign of the decimals of a column.

    Args:
        numerals: its cells.
        column: its declaration.
        others: the sign by the other columns of the table, if they agree.

    Raises:
        Unsettled: when the column can be read in two ways.
    """
    is_open = bool(numerals.two_readings.any())
    place = int(np.argmax(numerals.two_readings if is_open else numerals.is_number))
    clear = numerals.clear_decimal
    if clear is not None and (others in {None, clear} or not is_open):
        return clear
    if numerals.n_point or numerals.n_comma:
        in_others = f", other columns a decimal {others}" if others else ""
        raise Unsettled(
            f"{count_of(numerals.n_point, 'cell')} with a decimal point and {numerals.n_comma:,} with a decimal comma{in_others}:"
            " settle it with --decimal point or --decimal comma",
            place,
        )
    if not is_open:
        return Decimal.POINT
    possible = [sign for sign in Decimal if _fits(_floats(numerals.text, sign)[numerals.two_readings], column)]
    if len(possible) == 1:
        return possible[0]
    hints = {others, _sign_beside_thousands(numerals, column)} - {None}
    if len(hints) == 1:
        return Decimal(str(hints.pop()))
    cell = example(numerals.text, numerals.two_readings)
    values = " or ".join(f"{_floats(numerals.text, sign)[numerals.two_readings][0]:g} (--decimal {sign})" for sign in Decimal)
    raise Unsettled(f"{cell} can be read as {values}", place)


def _sign_beside_thousands(numerals: Numerals, column: Column) -> Decimal | None:
    """The sign of decimals where the cells show that their only sign is between thousands.

    Programs write decimals with a fixed number of places, or without zeros at their end. Where whole numbers stand without places,
    and zeros stand at the end of others, the sign is that of thousands: 980 and 1,240. In a column of counts one is enough.
    """
    text = numerals.text.filter(pa.array(numerals.two_readings))
    has_form = column.kind == "integer" or (len(text) >= _MANY and bool(matches(text, "0$").any()))
    if not has_form or not matches(numerals.text, r"^[+-]?\d+$").any():
        return None
    commas = matches(text, ",")
    return Decimal.POINT if commas.all() else None if commas.any() else Decimal.COMMA


def _fits(values: Floats, column: Column) -> bool:
    whole = column.kind != "integer" or not (values % 1).any()
    low, high = -np.inf if column.low is None else column.low, np.inf if column.high is None else column.high
    return bool(whole and (values >= low).all() and (values <= high).all())


def _floats(text: pa.Array, decimal: Decimal) -> Floats:
    """The numbers, NaN where a cell is none with this sign of decimals."""
    text = blanked(text, ~matches(text, _DIGITS[decimal]))
    text = pc.replace_substring_regex(text, f"[{_GROUPING[decimal]}]", "")
    if decimal is Decimal.COMMA:
        text = pc.replace_substring(text, ",", ".")
    return np.asarray(pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def convert_numerals(numerals: Numerals, column: Column, decimal: Decimal) -> Converted:
    """Numbers of a text column with this sign of decimals."""
    has_value = as_flags(pc.is_valid(numerals.text))
    values = _floats(numerals.text, decimal)
    wrong = [Wrong(has_value & np.isnan(values), _no_number(numerals, decimal))]
    notes = [*missing_note(numerals.missing, column.name), *_sign_notes(numerals, column.name, decimal, values)]
    if numerals.percent.any():
        values, percent_wrong = _percentages(values, numerals, has_value, column)
        wrong += percent_wrong
        notes.append(f"{column.name}: {count_of(int(numerals.percent.sum()), 'percentage')} read as fractions: 12% is 0.12")
    return checked(values, column, wrong, tuple(notes))


def _no_number(numerals: Numerals, decimal: Decimal) -> str:
    n_otherwise = numerals.n_comma if decimal is Decimal.POINT else numerals.n_point
    return f"is no number with a decimal {decimal}" if n_otherwise else "is no number"


def _sign_notes(numerals: Numerals, name: str, decimal: Decimal, values: Floats) -> list[str]:
    """What was taken out of the cells, with the first of them as an example."""
    notes = []
    grouped = matches(numerals.text, f"[{_GROUPING[decimal]}]") & ~np.isnan(values)
    if grouped.any():
        notes.append(_sign_note(numerals, name, grouped, "signs between thousands", values))
    commas = matches(numerals.text, ",") & ~np.isnan(values) if decimal is Decimal.COMMA else np.zeros(len(values), dtype=np.bool_)
    if commas.any():
        notes.append(_sign_note(numerals, name, commas, "a decimal comma", values))
    if (minus := numerals.minus & ~np.isnan(values)).any():
        kinds = "in parentheses or with a long minus sign"
        notes.append(f"{name}: {count_of(int(minus.sum()), 'cell')} {kinds} read as negative, such as {values[minus][0]:.15g}")
    if numerals.currency.any():
        notes.append(f"{name}: {count_of(int(numerals.currency.sum()), 'cell')} read without their sign of currency")
    return notes


def _sign_note(numerals: Numerals, name: str, rows: Flags, sign: str, values: Floats) -> str:
    return f"{name}: {count_of(int(rows.sum()), 'cell')} read with {sign}, {example(numerals.text, rows)} as {values[rows][0]:.15g}"


def _percentages(values: Floats, numerals: Numerals, has_value: Flags, column: Column) -> tuple[Floats, list[Wrong]]:
    """Percentages as fractions; where the unit is no fraction they are wrong.

    Bare numbers among many percentages are wrong too, and so are a few percentages in a column without a declared unit.
    """
    percent = numerals.percent & ~np.isnan(values)
    if column.is_declared and not column.is_fraction:
        return values, [Wrong(percent, "is a percentage: the unit of the column is no fraction")]
    bare = has_value & ~percent & (values != 0)
    fractions = np.where(percent, values / 100, values)
    if percent.sum() > bare.sum():
        return fractions, [Wrong(bare, "has no percent sign, as most cells of the column have")]
    return fractions, [] if column.is_declared else [Wrong(percent, "is a percentage, as most cells of the column are not")]


def convert_numbers(column: pa.Array, declared: Column) -> Converted:
    """Numbers of a typed column: integers, floats, decimals, flags."""
    if pa.types.is_boolean(column.type) and declared.is_declared:
        rows = as_flags(pc.is_valid(column))
        return Converted(pd.Series(np.nan, index=range(len(column))), (Wrong(rows, "is no number"),))
    if pa.types.is_integer(column.type) and not column.null_count and _is_int64(column):
        return checked(pc.cast(column, pa.int64()).to_numpy(), declared)
    if pa.types.is_decimal(column.type):  # by their text, which gives the nearest number; a cast of a decimal does not
        column = pc.cast(column, pa.string())
    values = np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    return checked(values, declared)


def _is_int64(column: pa.Array) -> bool:
    return column.type != pa.uint64() or not len(column) or pc.max(column).as_py() < 2**63


def checked(values: Floats | Integers, column: Column, wrong: Sequence[Wrong] = (), notes: tuple[str, ...] = ()) -> Converted:
    """The numbers, shape ``(n,)``, with those refused that the column cannot have; a complete column of whole numbers is int64."""
    refused = list(wrong)
    bad = np.logical_or.reduce([np.zeros(len(values), dtype=np.bool_), *(item.rows for item in refused)])
    rules = [
        Wrong(np.isinf(values), "is infinite, or too large for a number"),
        *_out_of_bounds(values, column),
        *(_not_whole(values) if column.kind == "integer" else ()),
    ]
    for rule in rules:
        refused.append(Wrong(rule.rows & ~bad, rule.reason))
        bad |= rule.rows
    if column.kind == "integer" and values.dtype != np.int64 and bool((np.isfinite(values) | bad).all()):
        values = np.where(bad, 0, values).astype(np.int64)
    return Converted(pd.Series(values), tuple(item for item in refused if item.rows.any()), notes)


def _not_whole(values: Floats | Integers) -> tuple[Wrong, ...]:
    if values.dtype == np.int64:
        return ()
    finite = np.isfinite(values)
    fraction = finite & (values % 1 != 0)
    beyond = finite & ~fraction & (np.abs(values) >= _INT64)
    return Wrong(fraction, "is no whole number"), Wrong(beyond, "is beyond the whole numbers of 64 bits")


def _out_of_bounds(values: Floats | Integers, column: Column) -> tuple[Wrong, ...]:
    low, high = -np.inf if column.low is None else column.low, np.inf if column.high is None else column.high
    outside = (values < low) | (values > high)
    allowed = f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} or more"
    return (Wrong(outside, f"is out of bounds: allowed is {allowed}"),) if outside.any() else ()

"""Concludes the kind of a column that nobody declared from all of its cells."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from schemas.base import shorten
from streams.tables.conversion import as_flags, example, matches, sample_of, trimmed
from streams.tables.declared import Kind
from streams.tables.numbers import parse_numerals
from streams.tables.raw import is_text

__all__ = ["Inferred", "inferred_kind"]

_NUMBER_SHARE = 0.95
"""A column with at least this share of numbers is a column of numbers, whose other cells are wrong."""

_SOME = 0.05
_MOST = 0.5
_WITH_UNIT = r"^[($\x{20ac}\x{a3}]?\s*[+-]?\s*\d[\d.,' ]*\s*(?P<unit>\p{L}{1,12}|-)\)?$"
_AFTER_CURRENCY = r"^(?P<unit>USD|EUR|GBP|CHF|JPY|CAD|AUD|INR|CNY|Rs|CA\$|US\$|\x{20b9}|\x{a5})\.?\s*[+-]?\s*\d[\d.,' ]*$"
_LEADING_ZERO = r"^[+-]?0\d"


class Inferred(NamedTuple):
    """A kind, None for a column that cannot be used, and a remark on why, which may be empty."""

    kind: Kind | None
    note: str = ""


def inferred_kind(column: pa.Array, name: str) -> Inferred:
    """Kind of a column by its type, or by its cells where it is text."""
    kind = column.type
    if is_text(column):
        return _text_kind(column, name)
    if pa.types.is_boolean(kind):
        return Inferred("flag")
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale <= 0):
        return Inferred("integer")
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return Inferred("number")
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        return Inferred("text")
    return Inferred(None, f"{name} left out: its cells are of the type {kind}")


def _text_kind(column: pa.Array, name: str) -> Inferred:
    text = trimmed(column)
    n_given = len(text) - text.null_count
    if not n_given:
        return Inferred("number")
    if not parse_numerals(sample_of(text)).is_number.any():
        flags = as_flags(pc.is_in(pc.utf8_lower(text), pa.array(["true", "false"])))
        return Inferred("flag") if int(flags.sum()) == n_given else Inferred("category", _unit_note(text, n_given, name))
    if matches(text, _LEADING_ZERO, "0").any():
        return Inferred("category", f"{name} read as levels: some of its numbers begin with a zero")
    if _can_cast(text, pa.float64()):
        is_whole = _can_cast(text, pa.int64()) or not matches(text, r"[.eE]").any()
        return Inferred("integer" if is_whole else "number")
    return _mixed_kind(text, n_given, name)


def _mixed_kind(text: pa.Array, n_given: int, name: str) -> Inferred:
    """Kind of a column that holds numbers with signs in and around them, or numbers and other texts."""
    numerals = parse_numerals(text)
    n_given -= int(numerals.missing.sum())
    share = float(numerals.is_number.sum()) / max(1, n_given)
    if share >= _NUMBER_SHARE:
        is_whole = not numerals.percent.any() and not matches(numerals.text, r"[.,eE]").any()
        return Inferred("integer" if is_whole else "number")
    if unit := _unit_note(text, n_given, name):
        return Inferred("category", unit)
    mixed = f"{name} read as levels: {share:.0%} of its cells are numbers (--column {name}=number refuses the others)"
    return Inferred("category", mixed if share > _SOME else "")


def _unit_note(text: pa.Array, n_given: int, name: str) -> str:
    """A remark on a column of levels most of whose cells are numbers beside a common unit; empty for another one."""
    units = pc.struct_field(pc.extract_regex(text, _WITH_UNIT), "unit").fill_null("")
    prefixes = pc.struct_field(pc.extract_regex(text, _AFTER_CURRENCY), "unit").fill_null("")
    named = pc.if_else(pc.equal(units, ""), prefixes, units)
    has_unit = as_flags(pc.not_equal(named, ""))
    if has_unit.sum() <= _MOST * n_given:
        return ""
    counts = named.filter(pa.array(has_unit)).value_counts().to_pylist()
    unit, n_most = max(((item["values"], item["counts"]) for item in counts), key=lambda item: item[1])
    if n_most <= _MOST * has_unit.sum() or pc.count_distinct(text.filter(pa.array(has_unit))).as_py() < 2:
        return ""
    return (
        f"{name} read as levels: {int(has_unit.sum()):,} of its cells are numbers with a sign, such as {example(text, has_unit)}:"
        f" write them without {shorten(unit)}, or state that they are levels (--column {name}=category)"
    )


def _can_cast(text: pa.Array, arrow_type: pa.DataType) -> bool:
    try:
        pc.cast(text, arrow_type)
    except pa.ArrowInvalid:
        return False
    return True

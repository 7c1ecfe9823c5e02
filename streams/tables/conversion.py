"""What the conversion of one column gives, and the conversions of ids, texts, levels and flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrays import Flags
from schemas.base import shorten
from schemas.levels import level_key, levels_of
from streams.tables.raw import is_text
from streams.tables.report import count_of

__all__ = [
    "MISSING_NUMBERS",
    "Converted",
    "Unsettled",
    "Wrong",
    "as_flags",
    "blanked",
    "contains",
    "convert_flags",
    "convert_ids",
    "convert_levels",
    "convert_text",
    "example",
    "in_other_words",
    "matches",
    "missing_note",
    "trimmed",
]

MISSING_NUMBERS = frozenset({"na", "n/a", "nan", "null", "none", "#n/a", "-", "--", "."})
"""Texts in small letters that no number, flag or time can be: there they mean a missing value, which is told."""

_ERROR_OF_SHEET = r"^#(REF!|DIV/0!|VALUE!|NAME\?|NUM!|NULL!|N/A)$"
_SHORTENED_NUMBER = r"^\d(\.\d+)?E\+\d+$"
_FLAGS = {
    "true": True,
    "1": True,
    "yes": True,
    "y": True,
    "t": True,
    "false": False,
    "0": False,
    "no": False,
    "n": False,
    "f": False,
}
_MAX_EXACT_FLOAT = 2.0**53
_SAMPLE = 2_000


class Unsettled(ValueError):
    """A column that can be read in two ways.

    Attributes:
        place: of the first such cell.
    """

    def __init__(self, message: str, place: int) -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True)
class Wrong:
    """Cells of one column that cannot be read, for one reason.

    Attributes:
        rows: which they are, shape ``(n,)``.
        reason: what is wrong, as a phrase that follows the value.
    """

    rows: Flags
    reason: str


@dataclass(frozen=True)
class Converted:
    """A column in its kind.

    Attributes:
        values: shape ``(n,)``; what they hold where a cell is wrong is of no meaning.
        wrong: cells that cannot be read.
        notes: what was converted.
    """

    values: pd.Series[Any]
    wrong: tuple[Wrong, ...] = ()
    notes: tuple[str, ...] = field(default=())


def trimmed(column: pa.Array) -> pa.Array:
    """A column of text without surrounding blanks; empty cells are null."""
    text = pc.utf8_trim_whitespace(column)
    return blanked(text, as_flags(pc.equal(pc.binary_length(text), 0)))


def blanked(text: pa.Array, rows: Flags) -> pa.Array:
    """The column with null in these rows."""
    return pc.if_else(pa.array(rows), pa.scalar(None, pa.string()), text) if rows.any() else text


def as_flags(mask: pa.Array) -> Flags:
    """A mask with false where it is null."""
    return np.asarray((mask.fill_null(False) if mask.null_count else mask).to_numpy(zero_copy_only=False), dtype=np.bool_)


def in_other_words(column: pa.Array, levels: Mapping[str, str]) -> pa.Array:
    """A column as text, each cell as what it stands for; cells that ``levels`` does not have stay as they are written."""
    if not levels or _is_binary(column):
        return column
    text = (
        trimmed(column) if is_text(column) else pa.array(levels_of(column.to_pandas()).texts(), type=pa.string(), from_pandas=True)
    )
    meant = {level_key(written): level for written, level in levels.items()}
    encoded = text.dictionary_encode()
    meanings = [meant.get(level_key(written), written) for written in encoded.dictionary.to_pylist()]
    return pa.array(meanings, type=pa.string()).take(encoded.indices)


def matches(text: pa.Array, pattern: str, containing: str = "") -> Flags:
    """Which cells match a regular expression, false where a cell is empty; with a text that all of them contain it is fast."""
    if not containing:
        return as_flags(pc.match_substring_regex(text, pattern))
    if not contains(text, containing):
        return np.zeros(len(text), dtype=np.bool_)
    rows = as_flags(pc.match_substring(text, containing))
    if rows.any():
        rows[rows] = as_flags(pc.match_substring_regex(text.filter(pa.array(rows)), pattern))
    return rows


def contains(text: pa.Array, sign: str) -> bool:
    """Whether any cell contains a text; all cells are searched at once."""
    _, offsets, data = text.buffers()
    if data is None or not len(text):
        return False
    ends = np.frombuffer(offsets, dtype=np.int32)[[text.offset, text.offset + len(text)]].tolist()
    return sign.encode() in data.slice(ends[0], ends[1] - ends[0]).to_pybytes()


def sample_of(column: pa.Array) -> pa.Array:
    """At most 2,000 cells from begin to end of a column."""
    step = max(1, len(column) // _SAMPLE)
    return column.take(pa.array(np.arange(0, len(column), step))) if step > 1 else column


def example(text: pa.Array, rows: Flags) -> str:
    """The first of some cells, for a message."""
    return shorten(text[int(np.flatnonzero(rows)[0])].as_py())


def _is_binary(column: pa.Array) -> bool:
    return bool(pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type))


def convert_ids(column: pa.Array, name: str) -> Converted:
    """Ids as text, as they are written; those that a spreadsheet has shortened (1.23E+09) are wrong."""
    if _is_binary(column):
        wrong = Wrong(as_flags(pc.is_valid(column)), "is no text in UTF-8")
        return Converted(pd.Series([None] * len(column), dtype="str"), _found(wrong))
    if is_text(column):
        text = trimmed(column)
        shortened = matches(text, _SHORTENED_NUMBER, "E+")
        wrong = Wrong(shortened, "is an id that a spreadsheet has shortened: format its cells as text")
        return Converted(_strings(text), _found(wrong, *_errors(text)), _padded_note(column, text, name))
    if pa.types.is_floating(column.type):
        numbers = column.to_numpy(zero_copy_only=False)
        whole = np.isfinite(numbers) & (numbers % 1 == 0) & (np.abs(numbers) <= _MAX_EXACT_FLOAT)
        text = pa.array([f"{number:.0f}" if good else None for number, good in zip(numbers, whole, strict=True)], type=pa.string())
        wrong = Wrong(~whole & ~np.isnan(numbers), "is a number with a fraction, or too large to be exact: no id")
        return Converted(_strings(text), _found(wrong))
    text = pc.cast(column, pa.string())
    if pa.types.is_decimal(column.type):
        text = pc.replace_substring_regex(text, r"\.0+$", "")
        return Converted(_strings(text), _found(Wrong(matches(text, r"\."), "is a number with a fraction: no id")))
    return Converted(_strings(text))


def convert_text(column: pa.Array, _name: str) -> Converted:
    """Texts without surrounding blanks."""
    text = trimmed(column if is_text(column) else pc.cast(column, pa.string()))
    return Converted(_strings(text), _errors(text))


def convert_levels(column: pa.Array, name: str) -> Converted:
    """Levels in the spelling that most cells have, see ``schemas.levels``."""
    if pa.types.is_decimal(column.type):  # as text: large ones are no exact floats
        text = pc.replace_substring_regex(pc.cast(column, pa.string()), r"(\..*?)0+$", r"\1")
        return Converted(levels_of(_strings(pc.replace_substring_regex(text, r"\.$", ""))).texts())
    if _is_binary(column):
        wrong = Wrong(as_flags(pc.is_valid(column)), "is no text in UTF-8")
        return Converted(pd.Series([None] * len(column), dtype="str"), _found(wrong))
    if not is_text(column):
        return Converted(levels_of(column.to_pandas()).texts())
    text = trimmed(column)
    levels = levels_of(_strings(text))
    spellings = levels.spellings()
    others = {spelling: usual for spelling, usual in spellings.items() if spelling != usual}
    notes: tuple[str, ...] = ()
    if others:
        listed = ", ".join(f"{shorten(spelling)} as {shorten(usual)}" for spelling, usual in list(others.items())[:3])
        notes = (f"{name}: {count_of(len(others), 'level')} read in another spelling: {listed}",)
    return Converted(levels.texts(spellings), _errors(text), notes)


def convert_flags(column: pa.Array, name: str) -> Converted:
    """Yes and no as true and false."""
    if pa.types.is_boolean(column.type):
        return Converted(_flag_series(column))
    text = pc.utf8_lower(trimmed(column if is_text(column) else pc.cast(column, pa.string())))
    missing = as_flags(pc.is_in(text, pa.array(sorted(MISSING_NUMBERS))))
    text = blanked(text, missing)
    encoded = text.dictionary_encode()
    labels = encoded.dictionary.to_pylist()
    values = pa.array([_FLAGS.get(word.removesuffix(".0")) for word in labels], type=pa.bool_())
    flags = values.take(encoded.indices)
    wrong = Wrong(
        as_flags(pc.is_valid(text)) & ~as_flags(pc.is_valid(flags)), "is neither true nor false (true, false, 1, 0, yes, no)"
    )
    return Converted(_flag_series(flags), _found(wrong), missing_note(missing, name))


def missing_note(missing: Flags, name: str) -> tuple[str, ...]:
    """The note of texts that were read as missing."""
    count = int(missing.sum())
    return (f"{name}: {count_of(count, 'cell')} such as NA read as missing",) if count else ()


def _flag_series(flags: pa.Array) -> pd.Series[Any]:
    return flags.to_pandas() if not flags.null_count else pd.Series(flags.to_pandas(), dtype="boolean")


def _strings(text: pa.Array) -> pd.Series[Any]:
    return pd.Series(text.to_pandas(), dtype="str")


def _found(*wrong: Wrong) -> tuple[Wrong, ...]:
    return tuple(item for item in wrong if item.rows.any())


def _errors(text: pa.Array) -> tuple[Wrong, ...]:
    """The errors of a spreadsheet's formulas."""
    return _found(Wrong(matches(text, _ERROR_OF_SHEET, "#"), "is an error of the spreadsheet: --missing makes it a missing value"))


def _padded_note(column: pa.Array, text: pa.Array, name: str) -> tuple[str, ...]:
    padded = as_flags(pc.and_(pc.not_equal(column, text), pc.is_valid(text)))
    return (f"{name}: {count_of(int(padded.sum()), 'cell')} read without the blanks around them",) if padded.any() else ()

"""The meaning of one value of a feature: the level or the number that it is, decided value by value.

A value means the same alone and in any company, and before and after it was written as JSON, CSV, Parquet or in Postgres. The rule:

- A level is a text without its surrounding blanks, in Unicode's composed form (NFC). A whole number is written without a fraction
  (1, 1.0 and the text ``1.0`` are ``1``), any other number as Python writes it, and a flag as ``true`` or ``false``. Leading zeros
  stay as written: ``01`` is not ``1``.
- Two levels are the same when their texts differ in case only (``level_key``). A table's own spelling is kept: of several spellings
  of one level the most frequent. A model knows a level by the spelling in its training table, a filter in any spelling.
- A text of nothing but blanks is a missing value, like null, NaN and an empty cell. No other text is.
- A number is a number of any type, or a text that is one (``7``, `` 7.5 ``, ``1e3``). Thousands separators and percent signs are
  refused. A flag is true or false, the texts ``true`` or ``false`` in any case, or the number 1 or 0. Elsewhere true and false are
  no numbers.

Columns are converted once per distinct value.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from schemas.arrays import Flags, Floats
from schemas.catalogue_in_effect import catalogue_in_effect

__all__ = [
    "KnownLevels",
    "Levels",
    "compact_frame",
    "frame_of_records",
    "level_key",
    "level_text",
    "levels_of",
    "numbers_among",
    "numbers_of",
]

Kind = Literal["category", "integer", "number", "flag"]

_FLAGS = {"true": 1.0, "false": 0.0}
_NUMBERS = "numbers are expected"
_MIXED = ("mixed", "mixed-integer")  # kinds of content, as pandas names them, that may hold flags beside other values


def level_text(value: Any) -> str | None:
    """The level that a value is, as written; None for a missing value.

    Example:
        >>> [level_text(value) for value in (1, 1.0, "1.0", " 01", 2.5, True, "South ", "  ", float("nan"))]
        ['1', '1', '1', '01', '2.5', 'true', 'South', None, None]
    """
    if isinstance(value, str):
        return _text_level(value)
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if pd.isna(value):
        return None
    if isinstance(value, np.float32 | np.float16):
        value = float(str(value))  # single precision: as it is written, not as it is widened
    return _text_level(str(value))


@lru_cache(maxsize=100_000)
def _text_level(text: str) -> str | None:
    level = unicodedata.normalize("NFC", text.strip())
    return (_whole_number(level) or level) if level else None


def _whole_number(text: str) -> str | None:
    """The integer that a text is when it is exactly as a whole float is written, such as 1.0 or 1e+16."""
    if not text.endswith(".0") and "e+" not in text:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return str(int(number)) if repr(number) == text and number.is_integer() else None


@lru_cache(maxsize=100_000)
def level_key(text: str) -> str:
    """The form in which two texts are compared: equal for the same level.

    Example:
        >>> level_key("SOUTH ") == level_key("south"), level_key("1.0") == level_key("1"), level_key("01") == level_key("1")
        (True, True, False)
    """
    return unicodedata.normalize("NFC", (_text_level(text) or "").casefold())


class Levels(NamedTuple):
    """``codes`` of shape ``(n,)`` into ``values``, distinct levels in order of appearance; -1 where a value is missing."""

    codes: npt.NDArray[np.intp]
    values: tuple[Any, ...]

    def texts(self, spelling: Mapping[str, str] | None = None) -> pd.Series[str]:
        """The column of texts, each written as ``spelling`` has it; missing where a value is."""
        values = self.values if spelling is None else [spelling[text] for text in self.values]
        return pd.Series(pd.Series([*values, None], dtype="str").array.take(self.codes))  # -1 selects the last

    def spellings(self) -> dict[str, str]:
        """The most frequent spelling of each text's level, of equally frequent ones the first in the order of texts.

        Example:
            >>> levels_of(pd.Series(["south", "South", "NY", "south "])).spellings()
            {'south': 'south', 'South': 'south', 'NY': 'NY'}
        """
        counts = np.bincount(self.codes[self.codes >= 0], minlength=len(self.values)).tolist()
        by_key: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        for text, count in zip(self.values, counts, strict=True):
            by_key[level_key(text)].append((-count, text))
        spelling = {key: min(candidates)[1] for key, candidates in by_key.items()}
        return {text: spelling[level_key(text)] for text in self.values}


def levels_of(column: pd.Series[Any]) -> Levels:
    """The levels of a column as written, see ``level_text``.

    Example:
        >>> levels_of(pd.Series([1, None, "1", "South ", True], dtype=object))
        Levels(codes=array([ 0, -1,  0,  1,  2]), values=('1', 'South', 'true'))
    """
    codes, values = pd.factorize(_flags_apart(column))
    text_codes, texts = pd.factorize(np.array([level_text(value) for value in values], dtype=object))
    return Levels(np.append(text_codes, -1)[codes], tuple(texts.tolist()))


def _flags_apart(column: pd.Series[Any]) -> pd.Series[Any]:
    """The column with flags as texts where it holds other values too: pandas takes true and 1 for the same value."""
    if column.dtype != object or pd.api.types.infer_dtype(column, skipna=True) not in _MIXED:
        return column
    return column.where(~_are_flags(column), column.map(level_text, na_action="ignore"))


def _are_flags(column: pd.Series[Any]) -> Flags:
    return np.fromiter((isinstance(value, bool | np.bool_) for value in column), dtype=np.bool_, count=len(column))


class KnownLevels:
    """The levels that a model knows, found in any spelling.

    A model that was trained before the rule may know two spellings of one level: each is then found as written, any other spelling
    means the first of them.

    Example:
        >>> known = KnownLevels(["south", "West", "1"])
        >>> known.find("SOUTH"), known.find("1"), known.find("north")
        ('south', '1', None)
    """

    def __init__(self, levels: Iterable[str], column: str | None = None) -> None:
        """Levels of a ``column``, whose spellings the catalogue in effect declares; without a column none are declared."""
        self.levels = tuple(levels)
        self._column = column
        self._exact = frozenset(self.levels)
        self._by_key = {level_key(level): level for level in reversed(self.levels)}

    def find(self, text: str) -> str | None:
        """The known level that a text is; None when it is not known."""
        return text if text in self._exact else self._by_key.get(level_key(text)) or self._find_by_meaning(text)

    def _find_by_meaning(self, text: str) -> str | None:
        """The known level that has another spelling of the level that a text is."""
        catalogue, column = catalogue_in_effect(), self._column
        if column is None or column not in catalogue.spellings:
            return None
        meant = level_key(catalogue.level_of(column, text))
        return next((level for level in self.levels if level_key(catalogue.level_of(column, level)) == meant), None)

    def spellings(self, texts: Iterable[str]) -> dict[str, str]:
        """How each text is written: as the known level that it is, and as it stands where it is not known."""
        return {text: self.find(text) or text for text in texts}


def numbers_of(column: pd.Series[Any], name: str, kind: Kind = "number") -> Floats:
    """A column as floats, shape ``(n,)``, NaN where a value is missing; the name and the kind of its feature are for the errors.

    Raises:
        ValueError: for a value that is no number, or no flag; it names the value.

    Example:
        >>> numbers_of(pd.Series(["7", None, 2.5, " "], dtype=object), "decile").tolist()
        [7.0, nan, 2.5, nan]
        >>> numbers_of(pd.Series(["TRUE", 0, False], dtype=object), "covered", "flag").tolist()
        [1.0, 0.0, 0.0]
    """
    if kind == "flag":
        return _flag_numbers(column, name)
    content = pd.api.types.infer_dtype(column, skipna=True)
    if content in ("boolean", *_MIXED):
        _refuse(column[_are_flags(column)], name, _NUMBERS)
    if content.startswith(("date", "time")):  # pandas would count their nanoseconds
        _refuse(column.dropna(), name, _NUMBERS)
    return _parse(column, name)


def _flag_numbers(column: pd.Series[Any], name: str) -> Floats:
    levels = levels_of(column)
    values = pd.Series([_FLAGS.get(level_key(text), text) for text in levels.values], dtype=object)
    numbers = np.append(_parse(values, name), np.nan)
    bad = ~np.isnan(numbers) & (numbers != 0) & (numbers != 1)
    _refuse(pd.Series(levels.values, dtype=object)[bad[:-1]], name, "true, false, 1 and 0 are allowed")
    return numbers[levels.codes]


def numbers_among(column: pd.Series[Any]) -> Floats:
    """The numbers and flags of a column as floats, shape ``(n,)``, NaN for everything else.

    Example:
        >>> numbers_among(pd.Series(["7", "seven", True], dtype=object)).tolist()
        [7.0, nan, 1.0]
    """
    if pd.api.types.is_numeric_dtype(column):
        return _floats(column)
    levels = levels_of(column)
    numbers = pd.Series([_FLAGS.get(level_key(text), text) for text in levels.values], dtype=object)
    return np.append(_floats(pd.to_numeric(numbers, errors="coerce")), np.nan)[levels.codes]


def _parse(column: pd.Series[Any], name: str) -> Floats:
    try:
        return _floats(pd.to_numeric(column))
    except (ValueError, TypeError):
        stripped = column.astype(object).map(lambda value: (value.strip() or None) if isinstance(value, str) else value)
        numbers = _floats(pd.to_numeric(stripped, errors="coerce"))
        _refuse(column[np.isnan(numbers) & stripped.notna().to_numpy()], name, _NUMBERS)
        return numbers


def _floats(numbers: pd.Series[Any]) -> Floats:
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def _refuse(bad: pd.Series[Any], name: str, allowed: str) -> None:
    if len(bad):
        value = bad.iloc[0]
        raise ValueError(f"{name!r} holds {value.item() if isinstance(value, np.generic) else value!r}: {allowed}")


def compact_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with columns of objects in the type that pandas gives them, where each value keeps its meaning in it.

    Example:
        >>> frame = compact_frame(frame_of_records([{"a": 1, "b": 10**17 + 1, "c": True}, {"c": 1}]))
        >>> [str(dtype) for dtype in frame.dtypes], frame["b"][0]
        (['float64', 'object', 'object'], 100000000000000001)
    """
    typed = {str(name): pd.Series(frame[name].tolist(), index=frame.index) for name in frame if _keeps_meaning(frame[name])}
    return frame.assign(**typed)


_MOST_EXACT = 2**53  # of the whole numbers that a float holds exactly


def _keeps_meaning(column: pd.Series[Any]) -> bool:
    content = pd.api.types.infer_dtype(column, skipna=True)
    if content in ("integer", "mixed-integer-float"):
        return bool((column.dropna().abs() <= _MOST_EXACT).all())
    return column.dtype == object and content in ("string", "boolean", "floating", "empty")


def frame_of_records(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame of objects with a column for each name in any record; values are as in the records, None where one has no value.

    Example:
        >>> frame_of_records([{"region": 1}, {"decile": 3}]).to_dict("list")
        {'region': [1, None], 'decile': [None, 3]}
    """
    names = dict.fromkeys(chain.from_iterable(records))
    columns = {name: pd.Series([record.get(name) for record in records], dtype=object) for name in names}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(records)))

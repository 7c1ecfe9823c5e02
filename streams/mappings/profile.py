"""What the columns of a table hold, as far as their cells tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from schemas.arrays import Floats
from streams.tables import Kind, RawTable, TableOptions, TableRefused, convert_table
from streams.tables.raw import is_text

__all__ = ["MAX_PROFILED_ROWS", "ColumnProfile", "profile_table"]

MAX_PROFILED_ROWS = 200_000
"""Rows that a profile looks at, the first of a table."""

_SAMPLES = 3


@dataclass(frozen=True)
class ColumnProfile:
    """One column of a table.

    Attributes:
        name: header as it is written.
        kind: concluded from the cells; None where they cannot be read.
        n: rows that were looked at.
        missing: share of them without a value, 0 to 1.
        levels: different values as text, the most frequent first, and the number of rows of each.
        low, high: of numbers; None for other kinds and without a number.
        common_low, common_high: between which the middle 95 % of the numbers are.
        problem: why the cells cannot be read; empty where they can.
    """

    name: str
    kind: Kind | None
    n: int
    missing: float
    levels: pd.Series[int]
    low: float | None = None
    high: float | None = None
    common_low: float | None = None
    common_high: float | None = None
    problem: str = ""

    @property
    def n_different(self) -> int:
        """Number of different values."""
        return len(self.levels)

    @property
    def is_number(self) -> bool:
        """Whether its cells are numbers."""
        return self.kind in {"integer", "number"} and self.low is not None

    @property
    def samples(self) -> tuple[str, ...]:
        """The most frequent values."""
        return tuple(map(str, self.levels.index[:_SAMPLES]))

    def share_of(self, texts: Any) -> float:
        """Share of the rows with a value whose value satisfies the function ``texts``."""
        total = int(self.levels.sum())
        return sum(int(n) for text, n in self.levels.items() if texts(str(text))) / total if total else 0.0


def profile_table(raw: RawTable, options: TableOptions) -> list[ColumnProfile]:
    """The profile of every column with a name.

    Args:
        raw: the table; more than ``MAX_PROFILED_ROWS`` rows are not looked at.
        options: of reading; a mapping in them is not used.
    """
    if len(raw.rows) > MAX_PROFILED_ROWS:
        raw = raw.take(np.arange(len(raw.rows)) < MAX_PROFILED_ROWS)
    plain = replace(options, mapping=None)
    return [_profile(raw, place, plain) for place, header in enumerate(raw.headers) if header.strip()]


def _profile(raw: RawTable, place: int, options: TableOptions) -> ColumnProfile:
    header, column = raw.headers[place], raw.columns[place]
    single = replace(raw, headers=(header,), columns=(column,), bad_rows=(), notes=())
    own = replace(options, kinds={name: kind for name, kind in options.kinds.items() if name == header})
    try:
        frame = convert_table(single, {}, own).frame
    except TableRefused as refused:
        return ColumnProfile(header, None, len(column), 0.0, _texts(column), problem="; ".join(refused.problems))
    if frame.shape[1] == 0:
        return ColumnProfile(
            header, None, len(column), 1.0, pd.Series(dtype="int64"), problem="its cells are of no kind that is read"
        )
    values = frame.iloc[:, 0]
    kind = _kind(values)
    low, high, common_low, common_high = _limits(values) if kind in {"integer", "number"} else (None,) * 4
    written = _texts(column) if is_text(column) else values.dropna().astype(str).value_counts()
    return ColumnProfile(
        header, kind, len(column), float(values.isna().mean()) if len(values) else 1.0, written, low, high, common_low, common_high
    )


def _kind(values: pd.Series[Any]) -> Kind:
    if pd.api.types.is_bool_dtype(values):
        return "flag"
    if not pd.api.types.is_numeric_dtype(values):
        return "category"
    numbers = values.dropna()
    return "integer" if bool((numbers == numbers.round()).all()) else "number"


def _limits(values: pd.Series[Any]) -> Sequence[float | None]:
    """Smallest and largest number, and those between which the middle 95 % are; None without a number."""
    numbers: Floats = values.to_numpy(dtype=float, na_value=np.nan)
    numbers = numbers[np.isfinite(numbers)]
    return np.quantile(numbers, (0, 1, 0.025, 0.975)).tolist() if len(numbers) else (None,) * 4


def _texts(column: Any) -> pd.Series[int]:
    texts: Sequence[Any] = column.to_pylist()
    stripped = [str(text).strip() for text in texts if text is not None]
    return pd.Series([text for text in stripped if text], dtype="str").value_counts()

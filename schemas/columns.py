"""Columns of a table of twins as numbers or as codes of their levels, computed once per column."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from schemas.arrays import Floats

__all__ = ["Columns", "Levels", "encode_levels"]


class Levels(NamedTuple):
    """``codes`` of shape ``(n,)`` into ``values``, the levels in order of appearance; -1 where a value is missing."""

    codes: npt.NDArray[np.intp]
    values: tuple[Any, ...]


def encode_levels(column: pd.Series[Any]) -> Levels:
    """Encode the levels of a column.

    Example:
        >>> encode_levels(pd.Series(["b", None, "a", "b"]))
        Levels(codes=array([ 0, -1,  1,  0]), values=('b', 'a'))
    """
    codes, values = pd.factorize(column)
    return Levels(codes, tuple(values.tolist()))


class Columns:
    """A read-only frame that caches the levels of its columns."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self._levels: dict[str, Levels] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.frame

    def __len__(self) -> int:
        return len(self.frame)

    def numbers(self, name: str) -> Floats:
        """A column as floats, nan where it holds no number, shape ``(n,)``."""
        column = self.frame[name]
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iuf":
            return column.to_numpy(dtype=float)
        return pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)

    def levels(self, name: str) -> Levels:
        """The levels of a column."""
        if name not in self._levels:
            self._levels[name] = encode_levels(self.frame[name])
        return self._levels[name]

"""The error for a filter that no training row satisfies, with the conditions and values that would leave some rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from schemas.arrays import Flags

__all__ = ["EmptyFilter"]

LISTED = 10  # values named in the message


class EmptyFilter(ValueError):
    """No real row satisfies the filter.

    Attributes:
        columns: The filtered columns.
        rows_alone: Real rows that satisfy each column's condition by itself.
        rows_without: Real rows left when the one condition is dropped.
        available: Per column, the values found among the rows that satisfy all other conditions (or, when these
            leave nothing, among all rows): levels, most frequent first, or the smallest and largest number.
    """

    def __init__(
        self,
        rows_alone: Mapping[str, int],
        rows_without: Mapping[str, int],
        available: Mapping[str, Sequence[Any]],
    ) -> None:
        """Compose the message from the counts."""
        self.columns = tuple(rows_alone)
        self.rows_alone = dict(rows_alone)
        self.rows_without = dict(rows_without)
        self.available = dict(available)
        super().__init__(self._message())

    @classmethod
    def from_masks(cls, masks: Mapping[str, Flags], training: Mapping[str, pd.Series[Any]]) -> EmptyFilter:
        """The error from the training rows `(n,)` that satisfy each condition, and the values of each filtered column."""
        everywhere = np.ones_like(next(iter(masks.values())))
        without = {
            name: np.logical_and.reduce([everywhere, *(mask for column, mask in masks.items() if column != name)]) for name in masks
        }
        return cls(
            {name: int(mask.sum()) for name, mask in masks.items()},
            {name: int(rows.sum()) for name, rows in without.items()},
            {name: _available(training[name][rows if rows.any() else everywhere]) for name, rows in without.items()},
        )

    @property
    def relax(self) -> str | None:
        """The condition whose removal alone leaves the most real rows; None when none alone is enough."""
        best = max(self.rows_without, key=self.rows_without.__getitem__)
        return best if self.rows_without[best] else None

    def _message(self) -> str:
        if self.relax is None:
            impossible = [column for column, rows in self.rows_alone.items() if not rows] or list(self.columns)
            listed = "; ".join(f"{column}: {_listed(self.available[column])}" for column in impossible)
            return f"no real row matches the filter; {listed}"
        return (
            f"no real row matches the filter on {', '.join(self.columns)}; without {self.relax} "
            f"{self.rows_without[self.relax]} rows match, where {self.relax} is {_listed(self.available[self.relax])}"
        )


def _available(values: pd.Series[Any]) -> tuple[Any, ...]:
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        return () if values.isna().all() else (values.min(), values.max())
    return tuple(values.value_counts().index)


def _listed(values: Sequence[Any]) -> str:
    if len(values) == 2 and not isinstance(values[0], str):
        return f"from {values[0]} to {values[1]}"
    return f"one of {', '.join(map(str, values[:LISTED]))}" + (", ..." if len(values) > LISTED else "")

"""The marginal distribution of one column: its distinct values, and which of them each training row has.

Values come from training rows only, so gaps, point masses, grids and odd shapes survive without being modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from schemas.arrays import Flags, Floats, Integers

__all__ = ["DrawnColumn", "Marginal", "Predicate", "cast_to_dtype", "evaluate", "fit_marginal", "rows_satisfying"]

Predicate = Callable[["pd.Series[Any]"], Any]

DISCRETE_UP_TO = 40  # distinct values; a column of more is continuous
ATOM_SHARE = 0.01  # a value of a continuous column this frequent is a point mass
EXACT_DECIMALS = 5  # a column of more decimal places is not rounded to them
WIDE_GAP = 0.1  # a gap wider than this share of the value at its end has a reason
GRID_SHARE = 0.5  # fewer distinct values than this share of the rows: the column is on a grid


@dataclass(frozen=True)
class Marginal:
    """One column by itself: the values it takes, and which of them each training row has.

    Attributes:
        name: Name of the column.
        dtype: Dtype in the training frame.
        levels: Text of each level of a category; empty for numbers.
        support: Distinct values `(k,)` in ascending order; of a category 0, 1, ... for its levels. When the column has
            gaps, the first entry is NaN: missing is a value of its own, below all others.
        codes: Position in the support of each training row `(n,)`.
        scores: Normal score of each value `(k,)`.
        atoms: Which values are point masses `(k,)`.
        decimals: Decimal places that the training values use.
    """

    name: str
    dtype: str
    levels: tuple[str, ...]
    support: Floats
    codes: Integers
    scores: Floats
    atoms: Flags
    decimals: int

    @property
    def is_category(self) -> bool:
        """Whether the values are unordered levels."""
        return bool(self.levels)

    @property
    def is_continuous(self) -> bool:
        """Whether there are values beside the point masses."""
        return not self.atoms.all()

    @property
    def on_grid(self) -> bool:
        """Whether values repeat so much that new ones would stand out."""
        return len(self.support) < GRID_SHARE * len(self.codes)

    @property
    def has_gaps(self) -> bool:
        """Whether some training rows lack a value."""
        return bool(np.isnan(self.support[0]))

    @property
    def observed(self) -> Floats:
        """The support without the gap, ascending."""
        return self.support[int(self.has_gaps) :]

    @property
    def training_values(self) -> Floats:
        """The value of each training row `(n,)`; NaN where it is missing."""
        return self.support[self.codes]

    @property
    def training_scores(self) -> Floats:
        """The normal score of each training row `(n,)`."""
        return self.scores[self.codes]

    def restore(self, values: Floats) -> pd.Series[Any]:
        """Values `(n,)` as levels or numbers in the dtype of the training frame."""
        if self.is_category:
            return pd.Series(self._level_array.take(np.nan_to_num(values, nan=-1.0).astype(np.int64)), name=self.name)
        return cast_to_dtype(pd.Series(values, name=self.name), self.dtype)

    @cached_property
    def _level_array(self) -> Any:
        """The levels in the training frame's dtype, followed by the gap, which the code -1 selects."""
        return cast_to_dtype(pd.Series(np.array([*self.levels, None], dtype=object)), self.dtype).array

    @cached_property
    def training(self) -> pd.Series[Any]:
        """The column of the training frame."""
        return self.restore(self.training_values)

    def rows_where(self, predicate: Predicate) -> Flags:
        """Training rows `(n,)` whose value satisfies a predicate, evaluated once per distinct value."""
        return evaluate(predicate, self.restore(self.support))[self.codes]

    def take(self, rows: Integers) -> Marginal:
        """The same support with these training rows only."""
        return replace(self, codes=self.codes[rows])

    def shift(self, values: Floats, change: Floats) -> Floats:
        """Values `(n,)` plus a change `(n,)`, clipped to the observed range and rounded to the grid; point masses and gaps stay."""
        shifted = np.clip(np.round(values + change, self.decimals), self.observed[0], self.observed[-1])
        shifted = _nearest(self.observed, shifted) if self.on_grid else shifted
        return np.where(np.isnan(values) | np.isin(values, self.support[self.atoms]), values, shifted)

    def leave_gaps(self, values: Floats) -> Floats:
        """Values ``(n,)`` moved out of wide gaps between observed ones, such as below the fewest that are reported."""
        last = max(len(self.observed) - 2, 0)
        left = np.clip(np.searchsorted(self.observed, values, side="right") - 1, 0, last)
        low, high = self.observed[left], self.observed[np.minimum(left + 1, len(self.observed) - 1)]
        is_wide = (values > low) & (values < high) & (high - low > WIDE_GAP * np.abs(high))
        return np.where(is_wide, np.where(values - low < high - values, low, high), values)

    def within(self, values: Floats, low: Floats, high: Floats) -> Floats:
        """Values ``(n,)`` moved between their bounds, which may be infinite, to observed ones where the column is on a grid."""
        observed, scale = self.observed, 10.0**self.decimals
        if self.on_grid:
            at_least = observed[np.minimum(np.searchsorted(observed, low), len(observed) - 1)]
            at_most = observed[np.maximum(np.searchsorted(observed, high, side="right") - 1, 0)]
        elif self.decimals > EXACT_DECIMALS:
            at_least, at_most = low, high
        else:
            at_least, at_most = np.ceil(low * scale - 1e-6) / scale, np.floor(high * scale + 1e-6) / scale
        return np.minimum(np.maximum(values, at_least), at_most)

    def score_values(self, values: Floats) -> Floats:
        """Normal scores `(n,)` of values anywhere in the observed range, interpolated between those of the support."""
        scores = np.interp(values, self.observed, self.scores[int(self.has_gaps) :])
        return np.where(np.isnan(values), self.scores[0], scores)


@dataclass(frozen=True)
class DrawnColumn:
    """Drawn values of one column: donor rows, positions in the support, values and normal scores, each `(n,)`."""

    donors: Integers
    codes: Integers
    values: Floats
    scores: Floats

    @classmethod
    def from_donors(cls, column: Marginal, donors: Integers) -> DrawnColumn:
        """The values that these training rows `(n,)` have in a column."""
        codes = column.codes[donors]
        return cls(donors, codes, column.support[codes], column.scores[codes])

    @classmethod
    def from_training(cls, column: Marginal) -> DrawnColumn:
        """The training rows, each its own donor."""
        return cls(np.arange(len(column.codes)), column.codes, column.training_values, column.training_scores)

    def take(self, rows: Integers) -> DrawnColumn:
        """The rows at these positions."""
        return DrawnColumn(self.donors[rows], self.codes[rows], self.values[rows], self.scores[rows])

    def where(self, mask: Flags, alternative: DrawnColumn) -> DrawnColumn:
        """These values where the mask holds, those of the alternative elsewhere; both must have the same donors."""
        values, scores = np.where(mask, self.values, alternative.values), np.where(mask, self.scores, alternative.scores)
        return DrawnColumn(self.donors, self.codes, values, scores)


def fit_marginal(column: pd.Series[Any], *, categorical: bool) -> Marginal:
    """Describe one column.

    Raises:
        ValueError: If it is not categorical and holds text or infinite values.

    Example:
        >>> column = fit_marginal(pd.Series([2, 1, 2, 5], name="visits"), categorical=False)
        >>> column.support.tolist(), column.codes.tolist(), column.decimals
        ([1.0, 2.0, 5.0], [1, 0, 1, 2], 0)
    """
    categorical = categorical and not pd.api.types.is_bool_dtype(column.dtype)
    numbers, levels = _encode_levels(column) if categorical else (_to_numbers(column), ())
    support, codes, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    if np.isnan(support[-1]):  # numpy puts the gap last; here it comes first
        support, counts, codes = np.roll(support, 1), np.roll(counts, 1), (codes + 1) % len(support)
    return Marginal(
        name=str(column.name),
        dtype=str(column.dtype),
        levels=levels,
        support=support,
        codes=codes.astype(np.int64),
        scores=ndtri((np.cumsum(counts) - counts / 2) / counts.sum()),
        atoms=_point_masses(support, counts, categorical=categorical),
        decimals=_decimal_places(support),
    )


def cast_to_dtype(values: pd.Series[Any], dtype: str) -> pd.Series[Any]:
    """The same values in a dtype; `str` stands for the text dtype of the installed pandas."""
    return values if dtype in (str(values.dtype), "str") else values.astype(pd.api.types.pandas_dtype(dtype))


def evaluate(predicate: Predicate, values: pd.Series[Any]) -> Flags:
    """Which values satisfy a predicate, `(n,)`."""
    return np.asarray(predicate(values), dtype=bool)


def rows_satisfying(frame: pd.DataFrame, allowed: Mapping[str, Predicate]) -> Flags:
    """Which rows of a frame satisfy the predicates of all columns, `(n,)`."""
    satisfying = (evaluate(predicate, frame[name]) for name, predicate in allowed.items())
    return np.asarray(np.logical_and.reduce([np.ones(len(frame), dtype=bool), *satisfying]), dtype=bool)


def _nearest(support: Floats, values: Floats) -> Floats:
    return np.asarray(support[np.searchsorted((support[1:] + support[:-1]) / 2, values)])


def _encode_levels(column: pd.Series[Any]) -> tuple[Floats, tuple[str, ...]]:
    codes, levels = pd.factorize(column.astype(object).map(str, na_action="ignore"), sort=True)
    return np.where(codes < 0, np.nan, codes), tuple(levels)


def _to_numbers(column: pd.Series[Any]) -> Floats:
    if not (pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype)):
        raise ValueError(f"column {column.name!r} has dtype {column.dtype}: declare it categorical, or convert it to numbers")
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isinf(numbers).any():
        raise ValueError(f"column {column.name!r} holds {int(np.isinf(numbers).sum())} infinite values")
    return numbers


def _point_masses(support: Floats, counts: Integers, *, categorical: bool) -> Flags:
    if categorical or len(support) <= DISCRETE_UP_TO:
        return np.ones(len(support), dtype=bool)
    return np.asarray((counts > ATOM_SHARE * counts.sum()) | np.isnan(support))


def _decimal_places(support: Floats, limit: int = 6) -> int:
    observed = support[~np.isnan(support)]
    exact = (k for k in range(limit) if np.allclose(np.round(observed, k), observed, rtol=0, atol=1e-9))
    return next(exact, 15)

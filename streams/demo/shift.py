"""Chooses the rows that the demonstration streams, their order, and the shift that it injects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from schemas import TWIN_TYPES, Baseline, TwinType
from streams.reporting import count, signed_number

__all__ = ["Shift", "choose_shift", "split"]

_SHIFTED_SHARE = 0.4
_SIZE_IN_MAE = 2.0
_MAX_LEVELS = 40


@dataclass(frozen=True)
class Shift:
    """Adds ``by``, in units of the target, to the outcomes of rows whose ``dimension`` is one of ``levels``.

    Without a dimension it shifts every row.
    """

    dimension: str | None
    levels: tuple[str, ...]
    by: float

    def rows(self, frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Which rows are shifted, shape ``(n,)``."""
        if self.dimension is None:
            return np.ones(len(frame), dtype=bool)
        return np.asarray(frame[self.dimension].astype(str).isin(self.levels), dtype=bool)

    def __str__(self) -> str:
        group = f"{self.dimension} {', '.join(self.levels)}" if self.dimension else "every row"
        return f"the outcome of {group} changed by {signed_number(self.by, 3)}"


def choose_shift(frame: pd.DataFrame, twin_type: TwinType, baseline: Baseline) -> Shift:
    """A shift that is large and can be learned: two baseline errors against the desired direction, for about 40 % of the rows.

    It applies to the largest levels of the last segment dimension of the twin type that has a manageable number of them.
    """
    entry = TWIN_TYPES[twin_type]
    by = -entry.default_target.direction * _SIZE_IN_MAE * baseline.mae
    for dimension in reversed(entry.segments):
        if (
            dimension in frame
            and 1 < frame[dimension].nunique() <= _MAX_LEVELS
            and not pd.api.types.is_numeric_dtype(frame[dimension])
        ):
            return Shift(dimension, _largest_levels(frame[dimension]), by)
    return Shift(None, (), by)


def _largest_levels(column: pd.Series[str]) -> tuple[str, ...]:
    shares = column.astype(str).value_counts(normalize=True)
    enough = int(np.searchsorted(shares.cumsum().to_numpy(), _SHIFTED_SHARE)) + 1
    return tuple(map(str, shares.index[: min(enough, len(shares) - 1)]))


def split(frame: pd.DataFrame, max_training_rows: int, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to train on and rows to stream, in random order: two fifths of the table, at most ``max_training_rows``, at least 1,000.

    Raises:
        ValueError: when fewer than 200 rows would be left to stream.
    """
    n_train = min(max(1000, int(0.4 * len(frame))), max_training_rows)
    if len(frame) - n_train < 200:
        raise ValueError(f"the table has {count(len(frame))} rows: at least 1,200 are needed, 1,000 to train on and 200 to stream")
    order = rng.permutation(len(frame))
    return (
        frame.iloc[order[:n_train]].reset_index(drop=True),
        frame.iloc[order[n_train:]].reset_index(drop=True),
    )

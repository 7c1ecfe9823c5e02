"""Tables of more rows than twins need: a part of the rows, drawn at random, is what all but the outcome model learns from.

Twins take their values from donor rows, and tens of thousands of donors serve a million twins as well as a million do: more would
only take memory and time in proportion to the table. Histogram boosting alone learns from every row; which levels are frequent and
what stands for a gap is of the drawn ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.twins.entities import cut, shuffle
from engine.twins.training_table import TrainingTable
from schemas.arrays import Integers

__all__ = ["LEARNS_ALL_ROWS", "MOST_ROWS", "SAMPLED_ROWS", "sample_rows", "sampling_sentences"]

MOST_ROWS = 100_000
"""Rows of the largest table that is learned whole."""

SAMPLED_ROWS = 30_000
"""Rows that are drawn from a larger one."""

LEARNS_ALL_ROWS = "HistGradientBoosting"
"""The model type that learns from every row of a large table: its time and memory grow least."""


def sample_rows(table: TrainingTable, first: int, seed: int) -> Integers | None:
    """Positions of the rows that are drawn from a large table, ascending; None where the table is learned whole.

    All rows of an entity are drawn or none. Rows before ``first``, which were carried over from before a change, are at most half
    of them where there are others.

    Args:
        table: what a model is trained on.
        first: index of the first row that is evaluated.
        seed: of the drawing.

    Example:
        >>> import pandas as pd
        >>> table = TrainingTable(pd.DataFrame({"decile": np.ones(200_000)}), np.ones(200_000), {"decile": "number"}, 0, ())
        >>> rows = sample_rows(table, first=150_000, seed=0)
        >>> len(rows), int((rows < 150_000).sum())
        (30000, 15000)
        >>> sample_rows(table.take(rows), first=0, seed=0) is None
        True
    """
    if len(table) <= MOST_ROWS:
        return None
    rng, groups = np.random.default_rng(seed), table.groups
    evaluated = min(len(table) - first, SAMPLED_ROWS - min(first, SAMPLED_ROWS // 2))
    drawn = [
        first + _draw(groups[first:], evaluated, rng),
        _draw(groups[:first], min(first, SAMPLED_ROWS - evaluated), rng) if first else np.empty(0, dtype=np.int64),
    ]
    return np.sort(np.concatenate(drawn))


def _draw(groups: Integers, n: int, rng: np.random.Generator) -> Integers:
    order = shuffle(groups, rng)
    return order[: cut(groups[order], n)]


def sampling_sentences(n_rows: int, n_sampled: int, model_type: str) -> Iterator[str]:
    """What the rows of a large table were used for; nothing where the table was learned whole."""
    if n_sampled == n_rows:
        return
    drawn = f"the table has {n_rows:,} rows, more than {MOST_ROWS:,}: {n_sampled:,} of them are drawn at random, from which"
    if model_type == LEARNS_ALL_ROWS:
        yield f"{drawn} twins, intervals and all figures come; the expected outcome is learned from all rows"
    else:
        yield f"{drawn} the whole model is learned; {LEARNS_ALL_ROWS} learns the expected outcome from all rows"

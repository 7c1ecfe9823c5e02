"""Which features of a row a model has to predict without: missing values, and levels that its training table does not have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from schemas.arrays import Flags
from schemas.levels import KnownLevels

__all__ = ["FeatureGaps", "find_gaps", "gap_sentences"]


class FeatureGaps(NamedTuple):
    """Gaps of rows, by feature.

    Attributes:
        names: of the features from which the outcome is predicted.
        missing: rows without a value, shape ``(n, len(names))``.
        unseen: rows with a level that the training table does not have, of the same shape.
    """

    names: tuple[str, ...]
    missing: Flags
    unseen: Flags


def find_gaps(features: pd.DataFrame, names: Iterable[str], vocabulary: Mapping[str, KnownLevels]) -> FeatureGaps:
    """The gaps of rows in the form of ``feature_frame``; ``vocabulary`` has the levels of each category.

    Example:
        >>> rows = pd.DataFrame({"region": ["south", "mars", None], "decile": [1.0, np.nan, 3.0]})
        >>> gaps = find_gaps(rows, ["region", "decile"], {"region": KnownLevels(["south"])})
        >>> gaps.missing.sum(axis=0).tolist(), gaps.unseen.sum(axis=0).tolist()
        ([1, 1], [1, 0])
    """
    columns = tuple(names)
    missing, unseen = (np.zeros((len(features), len(columns)), dtype=np.bool_) for _ in range(2))
    for index, name in enumerate(columns):
        missing[:, index] = features[name].isna()
        if name in vocabulary:
            unseen[:, index] = ~features[name].isin(vocabulary[name].levels) & ~missing[:, index]
    return FeatureGaps(columns, missing, unseen)


def gap_sentences(
    features: pd.DataFrame,
    names: Iterable[str],
    vocabulary: Mapping[str, KnownLevels],
    named: Collection[str] = (),
    widening: Mapping[str, float] = MappingProxyType({}),
) -> list[str]:
    """A sentence about each feature with an unseen level, and about each without any value unless it is ``named`` already.

    ``widening`` has the factors of the width of intervals of rows with an unseen level.

    Example:
        >>> rows = pd.DataFrame({"region": ["south", "mars", None], "decile": [np.nan] * 3})
        >>> gap_sentences(rows, ["region", "decile"], {"region": KnownLevels(["south"])})
        ['decile has no value in any row', "region has a level that the model never saw in 1 of 3 rows: 'mars' (it counts as rare)"]
    """
    gaps = find_gaps(features, names, vocabulary)
    empty = [name for name, column in zip(gaps.names, gaps.missing.T, strict=True) if column.all() and name not in named]
    unseen = [(name, column) for name, column in zip(gaps.names, gaps.unseen.T, strict=True) if column.any()]
    return [
        *(f"{name} has no value in any row" for name in empty),
        *(
            f"{name} has a level that the model never saw in {int(column.sum()):,} of {len(features):,} rows:"
            f" {_examples(features.loc[column, name])} ({_consequence(widening.get(name, 1.0))})"
            for name, column in unseen
        ),
    ]


def _consequence(widening: float) -> str:
    return "it counts as rare" + (f", and its interval is {widening:.2f} times as wide" if widening > 1 else "")


def _examples(levels: pd.Series[str]) -> str:
    distinct = levels.value_counts().index.tolist()
    more = f" and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else ""
    return ", ".join(map(repr, distinct[:_SHOWN])) + more


_SHOWN = 3

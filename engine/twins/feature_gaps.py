"""Which features of a row a model has to predict without: missing values, and levels that its training table does not have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from schemas.arrays import Flags
from schemas.levels import KnownLevels

__all__ = ["FeatureGaps", "find_gaps"]


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

    def to_text(self, named: Collection[str] = ()) -> list[str]:
        """A sentence about each feature with an unseen level or without any value, but for those that are ``named`` already."""
        n = len(self.missing)
        unseen, missing = self.unseen.sum(axis=0).tolist(), self.missing.sum(axis=0).tolist()
        return [
            *(
                f"{name} has no value in any row"
                for name, count in zip(self.names, missing, strict=True)
                if count == n and name not in named
            ),
            *(
                f"{name} has a level that the model never saw in {count:,} of {n:,} rows: it counts as a rare level"
                for name, count in zip(self.names, unseen, strict=True)
                if count
            ),
        ]


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

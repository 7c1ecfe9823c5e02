"""How much wider or narrower prediction intervals have to be in a segment, such as a specialty, than over all rows.

The size of residuals is predicted from all features, but the tails of a segment differ from those of others: one quantile for all
covers 87 of 100 outcomes in one specialty, and 99 in another. The factor of a level is the quantile of its own scores over that of
all rows, for each tail. A level with few rows is pooled with the others: in its quantile they count together as ``POOLED_ROWS``
rows. Several segments multiply, each estimated after the ones before it.

References:
    Vovk, Gammerman, Shafer (2005), Algorithmic Learning in a Random World, section 4.5, for quantiles by groups. Barber, Candes,
    Ramdas, Tibshirani (2023), Conformal prediction beyond exchangeability, Annals of Statistics 51, for weighted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from schemas.arrays import Floats

__all__ = ["SegmentFactors", "combined_factors", "fit_factors"]

POOLED_ROWS = 100.0
"""Rows that all other rows together count as, in the quantile of a level; 50 to 150 gave equally even coverage, 400 less."""

Quantile = Callable[[Floats, Floats], float]


@dataclass(frozen=True)
class SegmentFactors:
    """Factors of the distance from the prediction to the ends of an interval, by level; 1 for a level that has none.

    Attributes:
        name: the segment's feature.
        below, above: of the lower and of the upper end, > 0.
    """

    name: str
    below: Mapping[Any, float]
    above: Mapping[Any, float]

    def of_rows(self, levels: pd.Series[Any]) -> Floats:
        """Factors of the lower and of the upper end for each row, shape ``(2, n)``."""
        return np.stack([levels.map(factors).fillna(1.0).to_numpy(dtype=np.float64) for factors in (self.below, self.above)])

    def to_meta(self) -> dict[str, Any]:
        """As JSON types, levels apart from their factors, since a level may be a number."""
        levels = list(self.below)
        return {"name": self.name, "levels": levels, "below": [*self.below.values()], "above": [*self.above.values()]}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> SegmentFactors:
        """Restore what ``to_meta`` returned."""
        below, above = (dict(zip(meta["levels"], meta[end], strict=True)) for end in ("below", "above"))
        return cls(meta["name"], below, above)


def combined_factors(factors: Sequence[SegmentFactors], segments: pd.DataFrame) -> Floats:
    """The product of the factors of all segments for each row, shape ``(2, n)``: of the lower and of the upper end."""
    product = np.ones((2, len(segments)))
    for of_segment in factors:
        product *= of_segment.of_rows(segments[of_segment.name])
    return product


def fit_factors(scores: Floats, segments: pd.DataFrame, weights: Floats, quantile: Quantile) -> list[SegmentFactors]:
    """Learn the factors of each segment, in the order of the columns.

    Args:
        scores: of the lower and of the upper end, shape ``(2, n)``: how far the outcome lies beyond the prediction on that side,
            in expected residuals; 0 or less where it lies on the other side.
        segments: levels of each row, one column for each segment.
        weights: of the rows, ``(n,)``.
        quantile: of scores with weights, the one that an interval is made of.
    """
    rest, factors = scores.copy(), []
    for name in segments:
        of_ends = [_factors_of_levels(side, segments[name], weights, quantile) for side in rest]
        factors.append(SegmentFactors(str(name), *of_ends))
        rest /= factors[-1].of_rows(segments[name])
    return factors


def _factors_of_levels(scores: Floats, levels: pd.Series[Any], weights: Floats, quantile: Quantile) -> dict[Any, float]:
    order = np.argsort(scores, kind="stable")  # once: sorting what is sorted already costs little
    scores, levels, weights = scores[order], levels.iloc[order], weights[order]
    whole = quantile(scores, weights)
    if not 0 < whole < np.inf:
        return {_plain(level): 1.0 for level in levels.dropna().unique()}
    factors = {}
    for level, rows in levels.groupby(levels, sort=True).indices.items():
        pooled = np.ones(len(scores), dtype=np.bool_)
        pooled[rows] = False
        others = weights * (POOLED_ROWS / max(weights[pooled].sum(), 1.0))
        of_level = quantile(scores, np.where(pooled, np.minimum(others, weights), weights))
        factors[_plain(level)] = of_level / whole if 0 < of_level < np.inf else 1.0
    return factors


def _plain(level: Any) -> Any:
    return level.item() if isinstance(level, np.generic) else level

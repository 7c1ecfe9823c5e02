"""Conformal prediction intervals for one outcome, scaled by the expected size of a row's residual and by its segments.

The score of a row is its residual divided by the expected absolute residual of such a row, times a factor of its segments
(:mod:`engine.twins.segment_factors`). Each end of an interval is the prediction plus a quantile of the scores times that size, so
that outcomes lie below and above an interval equally often. Scores come from out-of-fold predictions, sizes and factors, so that
coverage is at least the nominal level when new rows are exchangeable with the training rows. Rows are grouped by expected residual,
and each group has its own quantiles (Mondrian conformal prediction), so that coverage holds in each group: the size of large
residuals is underestimated, and tails differ.

Several rows of one entity are not exchangeable with those of a new one, but entities are: an entity's rows are in one fold, and
their scores share the weight of one entity.

No library serves: scikit-learn has no conformal intervals, and packages for them wrap the estimator in classes of their own, while
a model is stored here without pickled classes, as plain arrays beside the scikit-learn estimator.

References:
    Vovk, Gammerman, Shafer (2005), Algorithmic Learning in a Random World, section 4.5 for quantiles by groups. Papadopoulos et al.
    (2002), Inductive confidence machines for regression, for the scaling. Vovk (2015), Cross-conformal predictors. Lee, Barber,
    Willett (2023), Distribution-free inference with hierarchical data, for the weights (arXiv:2306.06342).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import RandomForestRegressor

from engine.twins.entities import entity_weights, folds
from engine.twins.forests import forest_mean
from engine.twins.segment_factors import SegmentFactors, combined_factors, fit_factors
from schemas.arrays import Floats, Integers

__all__ = ["Calibration", "Conformal", "Widths", "conformal_quantile", "fit_conformal"]


_FOLDS = 5
_MOST_GROUPS = 5
_GROUP_ROWS = 300  # fewest scores of a group
_FLOOR = 0.05  # smallest expected residual, in medians of all residuals: no interval has width zero
_CAP = 0.99  # quantile of absolute residuals above which they count as this large: single ones would rule the forest
_LEVEL = 0.95  # at which the factors of segments are learned
_VERSION = 2


def conformal_quantile(scores: npt.ArrayLike, level: float, weights: npt.ArrayLike | None = None) -> float:
    """The ``ceil((n + 1) * level)``-th smallest score; infinite where ``n`` scores are too few for the level.

    With ``weights`` ``n`` is their sum, and the rank of a score the sum up to it.

    Example:
        >>> conformal_quantile([1, 2, 3, 4, 5, 6, 7, 8, 9], 0.9)
        9.0
        >>> conformal_quantile([1, 2], 0.9)
        inf
        >>> conformal_quantile([1, 2, 3, 4, 4], 0.5, weights=[1, 1, 1, 0.5, 0.5])
        3.0
    """
    if weights is not None:
        return _weighted_quantile(np.asarray(scores, dtype=float), level, np.asarray(weights, dtype=float))
    ordered = np.sort(np.asarray(scores, dtype=float))
    rank = math.ceil((len(ordered) + 1) * level - 1e-9)
    return float(ordered[rank - 1]) if rank <= len(ordered) else math.inf


def _weighted_quantile(scores: Floats, level: float, weights: Floats) -> float:
    order = np.argsort(scores, kind="stable")
    ranks = np.cumsum(weights[order])
    place = int(np.searchsorted(ranks, (ranks[-1] + 1) * level - 1e-9))
    return float(scores[order[place]]) if place < len(order) else math.inf


class Widths(NamedTuple):
    """Distances from predictions to the ends of their intervals, units of the target, at least 0, each of shape ``(n,)``."""

    below: Floats
    above: Floats


@dataclass(frozen=True)
class Conformal:
    """Widths of prediction intervals.

    Attributes:
        difficulty: regressor of the absolute residual on the encoded features.
        floor: smallest expected residual, > 0, units of the target.
        edges: smallest expected residual of each group of rows but the first, ascending, shape ``(groups - 1,)``.
        scores: calibration scores of each group, ascending: outcome minus prediction in expected residuals.
        weights: of the scores of each group, one in sum for each entity; none where every row is an entity of its own.
        segments: factors of the levels of segments.
        version: 1 for earlier models, whose regressor predicts the log of the absolute residual, and whose scores have no sign, so
            that intervals are as wide below as above.
    """

    difficulty: RandomForestRegressor
    floor: float
    edges: Floats
    scores: Sequence[Floats]
    weights: Sequence[Floats] = ()
    segments: Sequence[SegmentFactors] = ()
    version: int = _VERSION

    def widths(self, encoded: npt.NDArray[np.floating], features: pd.DataFrame, level: float) -> Widths:
        """Widths of the interval of each row.

        Args:
            encoded: features as the outcome model's encoder transforms them, ``(n, p)``.
            features: of the same rows, with a column for each of ``segments``.
            level: probability of an outcome inside, 0 to 1; it is as likely below as above.

        Raises:
            ValueError: when the scores are too few for ``level``.
        """
        return self.scaled(self._size(encoded), combined_factors(self.segments, features), level)

    def scaled(self, size: Floats, factors: Floats, level: float) -> Widths:
        """Widths of intervals of rows with this expected residual, ``(n,)``, and these factors of their segments, ``(2, n)``.

        Raises:
            ValueError: when the scores are too few for ``level``.
        """
        quantiles = self._quantiles(level)
        if not np.isfinite(quantiles).all():
            n = min(map(len, self.scores)) if not self.weights else round(min(weights.sum() for weights in self.weights))
            raise ValueError(f"{n} scores are too few for an interval at level {level}")
        return Widths(*(quantiles[:, _groups(size, self.edges)] * size * factors))

    def coverage(self, level: float) -> float:
        """Share of the calibration rows whose outcome lies inside their interval."""
        inside = [
            (scores <= above) & (scores >= -below)
            for scores, below, above in zip(self.scores, *self._quantiles(level), strict=True)
        ]
        return float(np.concatenate(inside).mean())

    def _size(self, encoded: npt.NDArray[np.floating]) -> Floats:
        if self.version == 1:
            return np.maximum(np.exp(forest_mean(self.difficulty, encoded)), self.floor)
        return _expected_size(self.difficulty, encoded, self.floor)

    def _quantiles(self, level: float) -> Floats:
        """Quantiles of each group's scores below and above the prediction, shape ``(2, groups)``, at least 0."""
        weights: Sequence[Floats | None] = self.weights or [None] * len(self.scores)
        signed = self.version > 1
        of_tail = (1 + level) / 2 if signed else level
        pairs = list(zip(self.scores, weights, strict=True))
        above = np.array([conformal_quantile(scores, of_tail, of_group) for scores, of_group in pairs])
        below = np.array([conformal_quantile(-scores, of_tail, of_group) for scores, of_group in pairs]) if signed else above
        return np.maximum([below, above], 0.0)


class Calibration(NamedTuple):
    """Widths of intervals, and those of the 95 % intervals of the rows that they were calibrated on, as if these were unseen.

    The model of widths has learned its own rows: the intervals that it gives them cover a few per cent too many.
    """

    conformal: Conformal
    own_widths: Widths


def fit_conformal(
    encoded: npt.NDArray[np.floating],
    residuals: Floats,
    seed: int,
    entities: Integers | None = None,
    segments: pd.DataFrame | None = None,
) -> Calibration:
    """Learn the expected size of residuals and the factors of segments, and calibrate the scores out of fold.

    Args:
        encoded: features as the outcome model's encoder transforms them, ``(n, p)``.
        residuals: actual minus out-of-fold prediction, ``(n,)``, units of the target.
        seed: of the folds.
        entities: the entity of each row, ``(n,)``; by default every row is an entity of its own.
        segments: levels of each row, one column for each segment with factors of its own; by default there are none.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.uniform(size=(1000, 1))
        >>> conformal, _ = fit_conformal(rows, (0.1 + rows[:, 0]) * rng.normal(size=1000), seed=0)
        >>> (easy, hard), _ = conformal.widths(np.array([[0.05], [0.95]]), pd.DataFrame(index=range(2)), 0.95)
        >>> bool(hard > 3 * easy), round(conformal.coverage(0.95), 2)
        (True, 0.96)
    """
    size = np.abs(residuals)
    floor = max(_FLOOR * float(np.median(size)), np.finfo(float).tiny)
    capped = np.minimum(size, np.quantile(size, _CAP))
    expected = np.empty(len(size))
    parts = list(folds(np.arange(len(size)) if entities is None else entities, _FOLDS, seed))
    for train, test in parts:
        expected[test] = _expected_size(_difficulty(encoded[train], capped[train]), encoded[test], floor)
    row_weights = np.ones(len(size)) if entities is None else entity_weights(entities)
    levels = pd.DataFrame(index=range(len(size))) if segments is None else segments.reset_index(drop=True)
    sides = np.stack([-residuals, residuals]) / expected
    own_factors = _own_factors(sides, levels, row_weights, parts)
    scores = residuals / expected / np.where(residuals < 0, *own_factors)
    edges = _edges(expected) if entities is None else _edges_between_entities(expected, entities)
    group = _groups(expected, edges)
    rows_by_group = [np.flatnonzero(group == k) for k in range(len(edges) + 1)]
    ordered = [rows[np.argsort(scores[rows], kind="stable")] for rows in rows_by_group]
    weights = () if entities is None else [entity_weights(entities[rows]) for rows in ordered]
    factors = fit_factors(sides, levels, row_weights, _tail_quantile)
    conformal = Conformal(_difficulty(encoded, capped), floor, edges, [scores[rows] for rows in ordered], weights, factors)
    return Calibration(conformal, conformal.scaled(expected, own_factors, _LEVEL))


def _own_factors(sides: Floats, segments: pd.DataFrame, weights: Floats, parts: Sequence[tuple[Integers, Integers]]) -> Floats:
    """The factors that the other folds give a row's segments, shape ``(2, n)``."""
    factors = np.ones_like(sides)
    for train, test in parts:
        of_others = fit_factors(sides[:, train], segments.iloc[train].reset_index(drop=True), weights[train], _tail_quantile)
        factors[:, test] = combined_factors(of_others, segments.iloc[test])
    return factors


def _tail_quantile(scores: Floats, weights: Floats) -> float:
    """The quantile at an end of an interval of 95 %."""
    return conformal_quantile(scores, (1 + _LEVEL) / 2, weights)


def _edges_between_entities(sizes: Floats, entities: Integers) -> Floats:
    """Edges of groups that each have rows of enough entities; none where one of them would have too few."""
    codes = np.unique(entities, return_inverse=True)[1]
    means = np.bincount(codes, sizes) / np.bincount(codes)
    edges = _edges(means)
    group = _groups(sizes, edges)
    fewest = min(len(np.unique(entities[group == k])) for k in range(len(edges) + 1))
    return edges if fewest >= _GROUP_ROWS else np.empty(0)


def _edges(sizes: Floats) -> Floats:
    """Lower ends of groups of about equally many rows, all but the first; rows of the same expected residual stay together."""
    ordered, n = np.sort(sizes), len(sizes)
    groups = max(1, min(_MOST_GROUPS, n // _GROUP_ROWS))
    starts = np.unique(np.searchsorted(ordered, ordered[n * np.arange(1, groups) // groups]))
    large = (np.diff(starts, prepend=0) >= _GROUP_ROWS) & (n - starts >= _GROUP_ROWS)
    return ordered[starts[large]]


def _groups(sizes: Floats, edges: Floats) -> npt.NDArray[np.intp]:
    return np.searchsorted(edges, sizes, side="right")


def _difficulty(encoded: npt.NDArray[np.floating], size: Floats) -> RandomForestRegressor:
    # One thread of shallow trees: boosting on all processors waits seconds when another process keeps one of them busy.
    # A split considers at least three features: with one of few, trees miss the rows with very large residuals.
    share = min(1.0, max(1 / 3, 3 / encoded.shape[1]))
    forest = RandomForestRegressor(40, min_samples_leaf=30, max_features=share, max_samples=0.5, n_jobs=1, random_state=0)
    return forest.fit(encoded, size)


def _expected_size(difficulty: RandomForestRegressor, encoded: npt.NDArray[np.floating], floor: float) -> Floats:
    return np.maximum(forest_mean(difficulty, encoded), floor)

"""Choose among drawn rows by how much more likely each is among real rows than among drawn ones.

Columns are drawn one after another from trees that split on one column at a time, so ratios of two columns come out blurred, and
some combinations too often. A classifier of training rows against drawn ones, which is given such ratios, estimates the ratio of
their densities. Some more rows are drawn than wanted, and those that stay are chosen with probabilities in proportion to it, under
any filter in the same way.

References:
    Rubin (1988), Using the SIR algorithm to simulate posterior distributions. Bayesian Statistics 3.
    Sugiyama, Suzuki, Kanamori (2012), Density Ratio Estimation in Machine Learning, chapter 4, for the ratio from a classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from engine.twins.joint_model import JointModel, SampledTable
from engine.twins.marginal import Predicate
from engine.twins.resampling import resample
from engine.twins.shares import is_divisible
from schemas.arrays import Floats, Integers

__all__ = ["FEWEST_ROWS", "DensityRatio", "bounded_weights", "draw_rows", "fit_density_ratio"]

FEWEST_ROWS = 5_000
"""Training rows from which a classifier learns more than chance."""

POOL = 1.35  # rows drawn per row that stays, and the largest weight, of a mean of 1, with which no row stays twice
MAX_ROWS = 20_000  # training rows that the classifier learns from: more take long, and gigabytes
DRAWN = 2  # drawn rows per training row that the classifier learns from
HELD_OUT = 0.25  # share of rows on which it is measured
NOTICEABLE = 0.53  # area under its curve (AUC) from which rows are chosen
MAX_LEVELS = 200  # of a category; rarer ones are one level
MAX_RATIOS = 45  # the least noisy ones of a table of many amounts; with a hundred rows are as realistic, and take longer
LOG_OF_ZERO = -50.0
ROWS_AT_ONCE = 2_000  # a table of features of more rows leaves the processor's cache
ROUNDS: Mapping[str, Any] = {"max_iter": 50, "learning_rate": 0.1, "max_leaf_nodes": 12, "early_stopping": False}


@dataclass(frozen=True)
class DensityRatio:
    """An estimate of the density of real rows divided by that of drawn ones, but for a constant factor.

    Attributes:
        classifier: of real rows (1) against drawn ones (0).
        columns: of the table, in the order in which the classifier takes them.
        levels: of each category, those that it tells apart.
        ratios: pairs of columns whose ratio it is also given.
    """

    classifier: HistGradientBoostingClassifier
    columns: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    ratios: tuple[tuple[str, str], ...]

    def estimate(self, frame: pd.DataFrame) -> Floats:
        """The ratio of each row ``(n,)``."""
        parts = (frame.iloc[start : start + ROWS_AT_ONCE] for start in range(0, len(frame), ROWS_AT_ONCE))
        with threadpool_limits(1, user_api="openmp"):  # waiting threads spin
            return np.asarray(np.exp(np.concatenate([self.classifier.decision_function(self.features(part)) for part in parts])))

    def features(self, frame: pd.DataFrame) -> Floats:
        """Features of rows ``(n, p)``: levels as small integers, numbers, and logarithms of ratios."""
        plain = {name: _numbers(frame[name], self.levels.get(name)) for name in self.columns}
        logs = {name: _logarithms(plain[name]) for name in dict.fromkeys(name for pair in self.ratios for name in pair)}
        return np.column_stack([*plain.values(), *(logs[a] - logs[b] for a, b in self.ratios)])

    def draw(self, joint: JointModel, n: int, rng: np.random.Generator, allowed: Mapping[str, Predicate]) -> SampledTable:
        """Rows of the joint distribution as ``JointModel.sample``, chosen among more."""
        pool = joint.sample(ceil(POOL * n), rng=rng, allowed=allowed)
        rows = resample(bounded_weights(self.estimate(pool.frame), len(pool.frame) / n), n, rng)
        return replace(pool, frame=pool.frame.iloc[rows].reset_index(drop=True), donors=pool.donors[rows])

    @property
    def meta(self) -> dict[str, Any]:
        """All but the classifier as JSON types, for ``from_meta``."""
        return {"columns": self.columns, "levels": {**self.levels}, "ratios": self.ratios}

    @classmethod
    def from_meta(cls, classifier: HistGradientBoostingClassifier, meta: Mapping[str, Any]) -> DensityRatio:
        """The ratio that these were taken from."""
        levels = {name: tuple(of_column) for name, of_column in meta["levels"].items()}
        return cls(classifier, tuple(meta["columns"]), levels, tuple((a, b) for a, b in meta["ratios"]))


def draw_rows(
    joint: JointModel, ratio: DensityRatio | None, n: int, rng: np.random.Generator, allowed: Mapping[str, Predicate]
) -> SampledTable:
    """Rows of a joint distribution, chosen by a density ratio where there is one."""
    return ratio.draw(joint, n, rng, allowed) if ratio else joint.sample(n, rng=rng, allowed=allowed)


def fit_density_ratio(joint: JointModel, seed: int) -> DensityRatio | None:
    """Learn the ratio from the training rows and drawn ones; it takes about a second for 10,000 rows.

    None where the classifier hardly tells held-out rows apart: then there is nothing to correct.

    Args:
        joint: the distribution of which rows are drawn.
        seed: of the drawn rows, the held-out ones, and the classifier.

    Example:
        >>> from engine.twins.joint_fit import fit_joint
        >>> rng = np.random.default_rng(0)
        >>> real = pd.DataFrame({"days": rng.lognormal(size=2000), "cost": rng.lognormal(size=2000)})
        >>> fit_density_ratio(fit_joint(real, categorical=[], rng=rng), seed=0) is None
        True
    """
    rng = np.random.default_rng(seed)
    real = joint.table().iloc[_some_rows(joint.n_rows, rng)]
    drawn = joint.sample(DRAWN * len(real), rng=rng).frame
    ratio = _unfitted_ratio(joint, real, seed)
    features, is_real = np.vstack([ratio.features(real), ratio.features(drawn)]), np.repeat([1, 0], [len(real), len(drawn)])
    held_out = rng.random(len(features)) < HELD_OUT
    with threadpool_limits(1, user_api="openmp"):
        ratio.classifier.fit(features[~held_out], is_real[~held_out])
        if roc_auc_score(is_real[held_out], ratio.classifier.decision_function(features[held_out])) < NOTICEABLE:
            return None
        ratio.classifier.fit(features, is_real)
    return ratio


def _some_rows(n: int, rng: np.random.Generator) -> Integers:
    return np.arange(n) if n <= MAX_ROWS else np.sort(rng.permutation(n)[:MAX_ROWS])


def _unfitted_ratio(joint: JointModel, real: pd.DataFrame, seed: int) -> DensityRatio:
    categories = [column.name for column in joint.columns if column.is_category]
    levels = {name: tuple(real[name].value_counts().index[:MAX_LEVELS]) for name in categories}
    ratios = tuple(_least_noisy_pairs(joint))
    flags = [name in levels for name in joint.names] + [False] * len(ratios)
    return DensityRatio(
        HistGradientBoostingClassifier(**ROUNDS, categorical_features=flags, random_state=seed), joint.names, levels, ratios
    )


def bounded_weights(weights: Floats, largest: float) -> Floats:
    """Weights ``(n,)`` scaled to a mean of 1 where the largest are cut to a bound above 1, and the others stay in proportion.

    >>> bounded_weights(np.array([9.0, 1.0, 2.0]), 1.5).round(3).tolist()
    [1.5, 0.5, 1.0]
    """
    descending = np.sort(weights)[::-1]
    cut = np.arange(len(weights))  # number of largest weights that are cut
    rest = np.cumsum(descending[::-1])[::-1]
    scales = (len(weights) - largest * cut) / rest
    fitting = np.flatnonzero(descending * scales <= largest * (1.0 + 1e-12))
    return np.asarray(np.minimum(weights * scales[fitting[0]], largest)) if len(fitting) else np.ones(len(weights))


def _least_noisy_pairs(joint: JointModel) -> list[tuple[str, str]]:
    """Pairs of amounts in the order of the variance of the logarithm of their ratio."""
    logs = {name: _logarithms(column.training_values) for name, column in joint.decoder.columns.items() if is_divisible(column)}
    noise = {(a, b): float(np.nanvar(logs[a] - logs[b])) for a, b in combinations(logs, 2)}
    return sorted(noise, key=noise.__getitem__)[:MAX_RATIOS]


def _numbers(column: pd.Series[Any], levels: tuple[str, ...] | None) -> Floats:
    """A column as numbers ``(n,)``: of a category the place of its level, where rarer levels share the last; gaps are NaN."""
    if levels is None:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    codes, present = pd.factorize(column)
    places = {level: float(place) for place, level in enumerate(levels)}
    return np.array([*(places.get(level, len(levels)) for level in present), np.nan])[codes]


def _logarithms(values: Floats) -> Floats:
    return np.log(values, out=np.where(np.isnan(values), np.nan, LOG_OF_ZERO), where=values > 0)

"""Classifiers that try to tell synthetic rows from real ones; a generator is as realistic as the strongest of them says.

A boosted classifier with defaults misses what more of its trees, a forest, or ratios of columns show: trees split on one column
at a time, so that a blurred ratio of two columns is nearly invisible to them unless it is a column.

Rows of one draw are spread more evenly than independent rows (systematic resampling). When one draw is cut into folds, a
classifier trained on the other folds takes the missing part for real, and its AUC is too low. Each fold should therefore be a draw
of its own.

References:
    Lopez-Paz, Oquab, "Revisiting classifier two-sample tests", ICLR 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit, StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from schemas.arrays import Flags, Floats, Integers
from schemas.realism import BOOSTING, BOOSTING_WITH_RATIOS, FOREST, LONG_BOOSTING

__all__ = ["CLASSIFIERS", "FOLDS", "QUICK", "detection_aucs"]

FOLDS = 5
MAX_CLASSIFIER_LEVELS = 200  # more levels of a category are one level to the classifier
MAX_RATIOS = 200
MISSING = -1e9  # for the forest, which splits on numbers only

Make = Callable[[Flags, int], ClassifierMixin]

CLASSIFIERS: Mapping[str, Make] = MappingProxyType(
    {
        BOOSTING: lambda categorical, seed: HistGradientBoostingClassifier(categorical_features=categorical, random_state=seed),
        BOOSTING_WITH_RATIOS: lambda categorical, seed: HistGradientBoostingClassifier(
            categorical_features=categorical, random_state=seed
        ),
        LONG_BOOSTING: lambda categorical, seed: HistGradientBoostingClassifier(
            max_iter=500, learning_rate=0.03, early_stopping=False, categorical_features=categorical, random_state=seed
        ),
        FOREST: lambda _, seed: RandomForestClassifier(500, n_jobs=1, random_state=seed),
    }
)
"""By name; each is made from the flags of its categorical features and a seed."""

QUICK = (BOOSTING, BOOSTING_WITH_RATIOS)
"""Those that take a second for a few thousand rows."""


def detection_aucs(
    draws: Sequence[pd.DataFrame],
    real: pd.DataFrame,
    categorical: Sequence[str],
    rng: np.random.Generator,
    entities: Integers | None = None,
    names: Sequence[str] = tuple(CLASSIFIERS),
) -> dict[str, float]:
    """Cross-validated AUC of classifiers of synthetic against real rows, by their name; 0.5 means they are indistinguishable.

    Each of several draws is one fold, with about as many real rows; a single draw is cut into five random folds. The real rows of
    one of the ``entities``, ``(n,)``, are in one fold: a classifier that knows some of them would recognise the others as real.

    >>> rng = np.random.default_rng(0)
    >>> twins, real = (pd.DataFrame(rng.lognormal(size=(400, 2)), columns=["part", "whole"]) for _ in range(2))
    >>> real["part"] = 0.9 * real["whole"]
    >>> detection_aucs([twins], real, [], rng, names=QUICK)["boosting with ratios"] > 0.99
    True
    """
    rows = min(*map(len, draws), len(real) // len(draws))
    both = pd.concat([*(draw.iloc[:rows] for draw in draws), real.iloc[: rows * len(draws)]], ignore_index=True)
    is_synthetic = np.repeat([1, 0], rows * len(draws))
    seed = int(rng.integers(2**31))
    groups = np.arange(rows * len(draws)) if entities is None else entities[: rows * len(draws)]
    folds = _folds_of_one_draw(groups, rows, seed) if len(draws) == 1 else _folds(len(draws), rows, groups, rng)
    aucs = {}
    for name in names:
        features, levels = _features(name, both, categorical)
        with threadpool_limits(1, user_api="openmp"):  # its threads spin: two beside one busy core take thirty times as long
            classifier = CLASSIFIERS[name](levels, seed)
            probability = cross_val_predict(classifier, features, is_synthetic, cv=folds, method="predict_proba")[:, 1]
        aucs[name] = float(roc_auc_score(is_synthetic, probability))
    return aucs


def _features(classifier: str, both: pd.DataFrame, categorical: Sequence[str]) -> tuple[Floats, Flags]:
    """The features of a classifier ``(n, p)``, and which of them are levels ``(p,)``."""
    plain = np.column_stack([_classifier_feature(both[name], name in categorical) for name in both])
    levels = np.array([name in categorical for name in both])
    if classifier == FOREST:
        return np.where(np.isnan(plain), MISSING, plain), levels
    if classifier != BOOSTING_WITH_RATIOS:
        return plain, levels
    ratios = _ratios(plain[:, ~levels])
    return np.hstack([plain, ratios]), np.concatenate([levels, np.zeros(ratios.shape[1], dtype=bool)])


def _ratios(numbers: Floats) -> Floats:
    """Ratios of all pairs of columns that are never negative ``(n, pairs)``, of a table of many columns the least noisy ones."""
    amounts = [column for column in numbers.T if not (column < 0).any() and (column > 0).any()]
    pairs = [np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0) for a, b in combinations(amounts, 2)]
    if len(pairs) > MAX_RATIOS:
        pairs = sorted(pairs, key=_log_variance)[:MAX_RATIOS]
    return np.column_stack(pairs) if pairs else np.empty((len(numbers), 0))


def _log_variance(ratio: Floats) -> float:
    positive = ratio[ratio > 0]
    return float(np.log(positive).var()) if len(positive) else np.inf


def _folds(draws: int, rows: int, entities: Integers, rng: np.random.Generator) -> PredefinedSplit:
    """One fold per draw, with the real rows of random entities, of as many in each fold."""
    codes = np.unique(entities, return_inverse=True)[1]
    n = int(codes.max()) + 1
    fold_of_entity = rng.permutation(np.arange(n) * draws // n)
    return PredefinedSplit(np.concatenate([np.repeat(np.arange(draws), rows), fold_of_entity[codes]]))


def _folds_of_one_draw(entities: Integers, rows: int, seed: int) -> list[tuple[Integers, Integers]]:
    """Five random folds of a draw and of as many real rows."""
    is_synthetic, alone = np.repeat([1, 0], rows), np.arange(rows)
    if len(np.unique(entities)) == len(entities):
        return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(is_synthetic, is_synthetic))
    groups = np.concatenate([alone, rows + entities])
    return list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(is_synthetic, is_synthetic, groups))


def _classifier_feature(column: pd.Series[Any], categorical: bool) -> Floats:
    if not categorical:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    codes = pd.factorize(column.astype(object), use_na_sentinel=False)[0].astype(np.int64)
    rank = np.argsort(np.argsort(-np.bincount(codes), kind="stable"), kind="stable")
    return np.minimum(rank, MAX_CLASSIFIER_LEVELS)[codes].astype(np.float64)

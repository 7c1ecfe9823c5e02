"""Fitting a forest and its five folds, against scikit-learn's defaults with the same four settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline

from engine.twins import TrainingTable
from engine.twins.outcome_model import FOLDS, fit_outcome_model
from tests.bench.measure import Aim, Figure, interleaved
from tests.bench.tables import SEED, Measured

__all__ = ["forest_figures"]

SETTINGS = {"n_estimators": 100, "max_depth": 15, "min_samples_split": 20, "min_samples_leaf": 10}
NAMED = "scikit-learn's forest, its defaults and the same trees, depth, splits and leaves; same encoding and folds"


class Split(NamedTuple):
    """Rows to train on and rows to predict."""

    train: TrainingTable
    test: TrainingTable


class _Fitter:
    """Fits the next split at each call and records R2 on its test rows."""

    def __init__(self, fit_on: Callable[[TrainingTable], Pipeline], splits: Sequence[Split]) -> None:
        self.fit_on, self.splits, self.scores = fit_on, iter(splits), list[float]()

    def __call__(self) -> None:
        train, test = next(self.splits)
        self.scores.append(float(r2_score(test.target, self.fit_on(train).predict(test.features))))

    @property
    def fold_score(self) -> float:
        """Mean R2 of the folds."""
        return float(np.mean(self.scores[:FOLDS]))


def forest_figures(measured: Measured) -> list[Figure]:
    """Time of the fits on five folds and on all rows, alternating at each, and R2 on the folds."""
    splits = [*_folds(measured.table), Split(measured.table, measured.table)]
    encoder = fit_outcome_model(measured.table, "HistGradientBoosting", n_jobs=1, seed=SEED)["encoder"]
    plain = Pipeline([("encoder", encoder), ("estimator", RandomForestRegressor(**SETTINGS, n_jobs=1, random_state=SEED))])
    ours = _Fitter(lambda train: fit_outcome_model(train, "RandomForest", n_jobs=1, seed=SEED), splits)
    baseline = _Fitter(lambda train: clone(plain).fit(train.features, train.target), splits)
    times, work = interleaved(ours, baseline, len(splits)), "fit a forest and its 5 folds"
    spent, quality = (sum(times.ours), sum(times.baseline)), (ours.fold_score, baseline.fold_score)
    return [
        Figure(work, measured.name, "s", *spent, NAMED, len(splits), Aim("ratio", 0.25)),
        Figure("R2 of the folds", measured.name, "", *quality, NAMED, FOLDS, Aim("shortfall", 0.02)),
    ]


def _folds(table: TrainingTable) -> Iterator[Split]:
    for train, test in KFold(FOLDS, shuffle=True, random_state=SEED).split(table.target):
        yield Split(table.take(train), table.take(test))

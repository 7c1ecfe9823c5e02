"""A forest and its five folds, against scikit-learn's defaults with the same four settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline

from engine.outcome_model import FOLDS, cross_fit, fit
from engine.training_table import TrainingTable
from tests.bench.measure import Aim, Figure, interleaved
from tests.bench.tables import SEED, Measured

__all__ = ["forest_figures"]

SETTINGS = {"n_estimators": 100, "max_depth": 15, "min_samples_split": 20, "min_samples_leaf": 10}
NAMED = "scikit-learn's forest, its defaults and the same trees, depth, splits and leaves; same encoding and folds"


def forest_figures(measured: Measured) -> list[Figure]:
    """Time and quality of the fit."""
    table, r2 = measured.table, {"ours": 0.0, "baseline": 0.0}
    encoder = fit(table, "HistGradientBoosting", n_jobs=1, seed=SEED)["encoder"]
    plain = Pipeline([("encoder", encoder), ("estimator", RandomForestRegressor(**SETTINGS, n_jobs=1, random_state=SEED))])

    def ours() -> None:
        r2["ours"] = float(cross_fit(table, "RandomForest", n_jobs=1, seed=SEED).r2.mean())
        fit(table, "RandomForest", n_jobs=1, seed=SEED)

    def baseline() -> None:
        r2["baseline"] = float(_fold_scores(plain, table).mean())
        clone(plain).fit(table.features, table.target)

    times = interleaved(ours, baseline, 3, at_most_s=50.0)
    quality = Figure("R2 of the folds", measured.name, "", r2["ours"], r2["baseline"], NAMED, 1, Aim("shortfall", 0.02))
    return [times.figure("fit a forest and its 5 folds", measured.name, NAMED, aim=Aim("ratio", 0.25)), quality]


def _fold_scores(plain: Pipeline, table: TrainingTable) -> npt.NDArray[np.float64]:
    folds = KFold(FOLDS, shuffle=True, random_state=SEED).split(table.target)
    return np.array([_fold_score(plain, table, train, test) for train, test in folds])


def _fold_score(plain: Pipeline, table: TrainingTable, train: npt.NDArray[Any], test: npt.NDArray[Any]) -> float:
    model = clone(plain).fit(table.features.iloc[train], table.target[train])
    return float(r2_score(table.target[test], model.predict(table.features.iloc[test])))

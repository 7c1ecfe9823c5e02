"""Predict the expected outcome from the features: preprocessing and estimator as one pipeline, scored by cross-validation.

Example:
    >>> rng = np.random.default_rng(0)
    >>> frame = pd.DataFrame({"decile": rng.integers(1, 11, 400), "region": rng.choice(["north", "south"], 400)})
    >>> target = 0.1 * frame["decile"].to_numpy() + rng.normal(0, 0.05, 400)
    >>> table = TrainingTable(frame, target, {"decile": "integer", "region": "category"}, 0, ())
    >>> crossed = cross_fit(table, "HistGradientBoosting", n_jobs=1, seed=0)
    >>> bool(crossed.r2.mean() > 0.9)
    True
    >>> model = fit_outcome_model(table, "HistGradientBoosting", n_jobs=1, seed=0)
    >>> bool((predict_outcome(model, encode_features(model, frame)) == model.predict(frame)).all())
    True
    >>> max(feature_importance(model, table, seed=0).items(), key=lambda share: share[1])[0]
    'decile'

References:
    Breiman, "Random forests", Machine Learning 45 (2001). Friedman, "Greedy function approximation: a gradient boosting machine",
    Annals of Statistics 29 (2001).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import RegressorMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.metrics import r2_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from engine.twins.entities import folds
from engine.twins.forests import forest_mean
from engine.twins.training_table import TrainingTable
from schemas.arrays import Floats, Singles
from schemas.base import require_one_of

__all__ = [
    "FOLDS",
    "HYPERPARAMETERS",
    "CrossFit",
    "cross_fit",
    "encode_features",
    "feature_importance",
    "fit_outcome_model",
    "predict_outcome",
]


FOLDS = 5
RARE = 0.005
"""Levels of a category with a smaller share of the rows are encoded as one common level, together with unknown levels."""

HYPERPARAMETERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "RandomForest": MappingProxyType(
            {
                "n_estimators": 100,
                "max_depth": 15,
                "min_samples_split": 20,
                "min_samples_leaf": 10,
                "max_features": 0.25,
                "max_samples": 0.4,
            }
        ),
        "GradientBoosting": MappingProxyType(
            {
                "n_estimators": 100,
                "max_depth": 8,
                "learning_rate": 0.1,
                "min_samples_split": 20,
                "max_features": 1 / 3,
                "subsample": 0.5,
            }
        ),
        "HistGradientBoosting": MappingProxyType({"max_iter": 100, "learning_rate": 0.1, "min_samples_leaf": 20}),
    }
)
"""Numbers of trees, depths, leaves and rates as specified; sampling features and rows per tree makes fitting four times as fast."""


@dataclass(frozen=True)
class CrossFit:
    """Out-of-fold predictions.

    Attributes:
        expected, target: prediction and outcome of all rows of the table, shape ``(rows,)``.
        first: index of the first row that is evaluated; rows before it were carried over from before a change.
        r2: R2 of the evaluated rows of each fold that has any, shape ``(FOLDS,)``.
    """

    expected: Floats
    target: Floats
    first: int
    r2: Floats

    @property
    def predicted(self) -> Floats:
        """Out-of-fold predictions of the evaluated rows."""
        return self.expected[self.first :]

    @property
    def actual(self) -> Floats:
        """Outcomes of the evaluated rows."""
        return self.target[self.first :]

    @property
    def fidelity(self) -> float | None:
        """Pearson correlation of predicted and actual; None where either is constant."""
        if np.ptp(self.predicted) == 0 or np.ptp(self.actual) == 0:
            return None
        return float(np.corrcoef(self.predicted, self.actual)[0, 1])


def fit_outcome_model(
    table: TrainingTable, model_type: str, *, n_jobs: int, seed: int, encoded_by: TrainingTable | None = None
) -> Pipeline:
    """Fit encoder and estimator on all rows; the result predicts on one thread, so that predictions are reproducible bit for bit.

    Args:
        table: what the estimator learns from.
        model_type: of the estimator.
        n_jobs: processors, -1 for all; the result does not depend on it.
        seed: of the estimator.
        encoded_by: rows whose frequent levels and medians the encoder takes, such as a part of a large table; by default the table.

    Raises:
        ValueError: for an unknown model type.
    """
    estimator = _estimator(model_type, n_jobs, seed)
    encoder = _encoder(table).fit((encoded_by or table).features)
    model = Pipeline([("encoder", encoder), ("estimator", estimator)])
    with threadpool_limits(1, user_api="openmp"):  # waiting boosting threads spin: beside a busy core two are slower than one
        estimator.fit(encode_features(model, table.features), table.target)
    if hasattr(estimator, "n_jobs"):
        estimator.n_jobs = 1
    return model


def cross_fit(table: TrainingTable, model_type: str, *, n_jobs: int, seed: int, first: int = 0) -> CrossFit:
    """Predict every row by a model of the other folds, preprocessing included; rows from index ``first`` on are evaluated.

    All rows of an entity are in one fold.
    """
    expected, scores = np.empty(len(table)), []
    for train, test in folds(table.groups, FOLDS, seed):
        model = fit_outcome_model(table.take(train), model_type, n_jobs=n_jobs, seed=seed)
        expected[test] = predict_outcome(model, encode_features(model, table.features.iloc[test]))
        evaluated = test[test >= first]
        if len(evaluated) > 1:
            scores.append(r2_score(table.target[evaluated], expected[evaluated]))
    return CrossFit(expected, table.target, first, np.array(scores))


def encode_features(model: Pipeline, features: pd.DataFrame) -> Floats:
    """Features as the encoder of the model transforms them, ``(n, p)``; each level is encoded once, not once per row."""
    steps = {name: (step, list(columns)) for name, step, columns in model["encoder"].transformers_}
    (levels, categorical), (imputer, numeric) = steps["category"], steps["number"]
    return np.column_stack(
        [
            *(_one_hot(levels, features[categorical]) if categorical else []),
            *(_imputed(imputer, features[numeric]) if numeric else []),
        ]
    )


def predict_outcome(model: Pipeline, encoded: Floats) -> Floats:
    """Expected outcome of encoded rows, ``(n,)``; equal to the pipeline's prediction bit for bit."""
    estimator = model["estimator"]
    if isinstance(estimator, RandomForestRegressor):
        return forest_mean(estimator, encoded)
    if isinstance(estimator, HistGradientBoostingRegressor):
        with threadpool_limits(1, user_api="openmp"):
            return np.asarray(estimator.predict(encoded), dtype=np.float64)
    return np.asarray(estimator.predict(encoded), dtype=np.float64)


def _one_hot(encoder: OneHotEncoder, features: pd.DataFrame) -> list[Singles]:
    """One block ``(n, levels)`` per column.

    The encoder transforms a short table that holds each level once (shorter columns repeat theirs), and rows take its lines.
    """
    coded = [pd.factorize(features[name], use_na_sentinel=False) for name in features]
    longest = max(len(levels) for _, levels in coded)
    levels_table = {name: levels[np.arange(longest) % len(levels)] for name, (_, levels) in zip(features, coded, strict=True)}
    ends = np.cumsum(
        [len(levels) - len(rare) + bool(len(rare)) for levels, rare in zip(encoder.categories_, _rare(encoder), strict=True)]
    )
    blocks = np.split(encoder.transform(pd.DataFrame(levels_table)), ends[:-1], axis=1)
    return [block[codes] for block, (codes, _) in zip(blocks, coded, strict=True)]


def _rare(encoder: OneHotEncoder) -> list[npt.NDArray[Any]]:
    return [np.empty(0) if levels is None else levels for levels in encoder.infrequent_categories_]


def _imputed(imputer: SimpleImputer, features: pd.DataFrame) -> list[Floats]:
    values = features.to_numpy(dtype=np.float64)
    gaps = np.isnan(values)
    return [np.where(gaps, imputer.statistics_, values), gaps[:, imputer.indicator_.features_].astype(np.float64)]


def feature_importance(model: Pipeline, table: TrainingTable, seed: int) -> dict[str, float]:
    """Importance of each feature, summing to 1 (all 0 when no feature has any); impurity-based, or by permutation."""
    estimator = model["estimator"]
    if hasattr(estimator, "feature_importances_"):
        by_column = dict.fromkeys(table.kinds, 0.0)
        for column, share in zip(model["encoder"].get_feature_names_out(), estimator.feature_importances_, strict=True):
            by_column[_origin(column, table.kinds)] += float(share)
        return by_column
    rows = np.random.default_rng(seed).permutation(len(table))[:2000]
    drop = permutation_importance(model, table.features.iloc[rows], table.target[rows], n_repeats=2, random_state=seed)
    shares = np.maximum(drop.importances_mean, 0)
    return dict(zip(table.kinds, (shares / (shares.sum() or 1.0)).tolist(), strict=True))


def _origin(column: str, features: Iterable[str]) -> str:
    """The feature that a column of the encoder's output comes from; such columns are named ``step__feature[_level]``."""
    encoded = column.partition("__")[2].removeprefix("missingindicator_")
    return max((name for name in features if encoded == name or encoded.startswith(f"{name}_")), key=len)


def _estimator(model_type: str, n_jobs: int, seed: int) -> RegressorMixin:
    require_one_of("model_type", model_type, HYPERPARAMETERS)
    parameters = HYPERPARAMETERS[model_type]
    if model_type == "RandomForest":
        return RandomForestRegressor(**parameters, n_jobs=n_jobs, random_state=seed)
    if model_type == "GradientBoosting":
        return GradientBoostingRegressor(**parameters, random_state=seed)
    return HistGradientBoostingRegressor(**parameters, random_state=seed)


def _encoder(table: TrainingTable) -> ColumnTransformer:
    levels = OneHotEncoder(min_frequency=RARE, handle_unknown="infrequent_if_exist", sparse_output=False, dtype=np.float32)
    numbers = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    numeric = [name for name in table.features if name not in table.categorical]
    return ColumnTransformer([("category", levels, list(table.categorical)), ("number", numbers, numeric)])

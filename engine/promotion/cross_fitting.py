"""Predictions of rows that a model was trained on, by the same model fitted without them: what it would say of unseen entities.

Where too few rows are left that neither champion nor challenger has learned, such as after a correction of the table, both are
judged by such predictions. The champion's estimator is fitted again on its own training rows, once for each fold, without those of
the fold's entities; the challenger's out-of-fold predictions are stored with it. Widths of intervals are those of the models, which
have learned these rows: both cover a little more of them than of others.

References:
    Stone (1974), Cross-validatory choice and assessment of statistical predictions. Journal of the Royal Statistical Society B 36.
    Chernozhukov et al. (2018), Double/debiased machine learning for treatment and structural parameters. Econometrics Journal 21,
    for cross-fitting.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from engine.promotion.promotion_gate import NOMINAL_COVERAGE, Predictions
from engine.twins import FOLDS, TwinModel, entity_folds
from schemas.arrays import Floats, Integers

__all__ = ["cross_fitted_predictions", "out_of_fold_predictions"]


def cross_fitted_predictions(
    model: TwinModel, learned: Integers, rows: pd.DataFrame, entities: Integers, *, seed: int = 0, n_jobs: int = -1
) -> Predictions:
    """Predictions for rows, each by ``model`` fitted without the rows of its entity.

    Args:
        model: any model of the line.
        learned: entity of each of its training rows, ``(training rows,)``.
        rows: features, also of entities that the model was not trained on.
        entities: entity of each of these rows, ``(n,)``.
        seed: of the folds. With the seed of a model that was trained on these rows, they are the folds of its training, so that the
            luck of the folds cancels out in a comparison of the two.
        n_jobs: processors for fitting, -1 for all; results do not depend on it.

    Raises:
        ValueError: when ``learned`` has not one entity for each training row of the model.
    """
    if len(learned) != model.joint.n_rows:
        raise ValueError(f"{len(learned):,} entities for the {model.joint.n_rows:,} training rows of model {model.card.model_id}")
    expected = np.empty(len(rows))
    for _, test in entity_folds(pd.factorize(entities)[0], FOLDS, seed):
        training = np.flatnonzero(~np.isin(learned, entities[test]))
        expected[test] = model.predict_fitted_on(training, rows.iloc[test], n_jobs=n_jobs)
    return _with_interval(model, rows, expected)


def out_of_fold_predictions(model: TwinModel, rows: pd.DataFrame) -> Predictions:
    """Predictions of a model's own training rows, given in their order, by the folds of its training."""
    return _with_interval(model, rows, model.adjustment.expected)


def _with_interval(model: TwinModel, rows: pd.DataFrame, expected: Floats) -> Predictions:
    return Predictions(*model.intervals_around(expected, rows, NOMINAL_COVERAGE))

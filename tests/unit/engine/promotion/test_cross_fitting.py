"""Predictions of rows that a model has learned, by the model fitted without them."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from engine import TwinGenerator
from engine.promotion import cross_fitted_predictions, out_of_fold_predictions
from engine.sample_tables import sample_hcps
from engine.twins import TwinModel
from schemas.twin_types import Brand, TwinType

TARGET = "prescribing_change"
KEYS = np.arange(1200)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return sample_hcps(1200, np.random.default_rng(0))


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> TwinModel:
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, model_type="GradientBoosting", n_jobs=2)
    generator.train(table)
    return generator.model


def mae(predicted: np.ndarray, table: pd.DataFrame) -> float:
    return float(np.abs(predicted - table[TARGET]).mean())


def test_a_model_that_learned_the_rows_has_its_error_on_unseen_ones(model: TwinModel, table: pd.DataFrame) -> None:
    unseen = sample_hcps(5000, np.random.default_rng(1))
    crossed = cross_fitted_predictions(model, KEYS, table, KEYS, n_jobs=2)
    assert mae(model.predict(table), table) < 0.8 * mae(model.predict(unseen), unseen)
    assert mae(crossed.predicted, table) == pytest.approx(mae(model.predict(unseen), unseen), rel=0.08)
    assert mae(out_of_fold_predictions(model, table).predicted, table) == pytest.approx(model.card.baseline.mae)
    inside = (crossed.lower <= table[TARGET]) & (table[TARGET] <= crossed.upper)
    assert 0.93 < inside.mean() < 0.98  # widths are of a model that has learned these rows


def test_no_row_of_a_predicted_entity_is_fitted_on(model: TwinModel, table: pd.DataFrame) -> None:
    """Outcomes of a half are moved: their entities' predictions follow only as far as the others tell."""
    entities = KEYS // 2
    fitted: list[np.ndarray] = []

    class Spy(TwinModel):
        def predict_fitted_on(self, rows, frame, *, n_jobs=1):  # type: ignore[no-untyped-def]  # as TwinModel's
            fitted.append(entities[rows])
            assert not set(entities[rows]) & set(entities[frame.index])
            return super().predict_fitted_on(rows, frame, n_jobs=n_jobs)

    cross_fitted_predictions(Spy(**{field.name: getattr(model, field.name) for field in fields(model)}), entities, table, entities)
    assert len(fitted) == 5


def test_results_do_not_depend_on_the_number_of_jobs(model: TwinModel, table: pd.DataFrame) -> None:
    one, two = (cross_fitted_predictions(model, KEYS, table, KEYS, n_jobs=jobs).predicted for jobs in (1, 2))
    assert (one == two).all()


def test_entities_that_are_not_those_of_the_training_rows_are_refused(model: TwinModel, table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"3 entities for the 1,200 training rows"):
        cross_fitted_predictions(model, KEYS[:3], table, KEYS)


def test_a_model_of_the_same_rows_has_its_out_of_fold_predictions(model: TwinModel, table: pd.DataFrame) -> None:
    """With the folds of its own training, nothing but the outcome of the rows can differ between two models of a table."""
    crossed = cross_fitted_predictions(model, KEYS, table, KEYS, seed=model.seed, n_jobs=2)
    assert (crossed.predicted == out_of_fold_predictions(model, table).predicted).all()

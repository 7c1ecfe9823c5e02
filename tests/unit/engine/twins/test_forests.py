from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor

from engine.sample_tables import sample_table
from engine.twins.forests import ROWS_PER_THREAD, forest_mean
from engine.twins.outcome_model import encode_features, fit_outcome_model, predict_outcome
from engine.twins.training_table import build_training_table, feature_frame
from schemas import TWIN_TYPES, TwinType


@settings(max_examples=20)
@given(n=st.integers(1, 400), columns=st.integers(1, 5), trees=st.integers(1, 7), seed=st.integers(0, 999))
def test_the_mean_equals_that_of_scikit_learn_bit_for_bit(n: int, columns: int, trees: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    training = rng.normal(size=(100, columns)).round(1)
    forest = RandomForestRegressor(trees, random_state=seed).fit(training, training.sum(axis=1) + rng.normal(size=100))
    rows = rng.normal(size=(n, columns))
    np.testing.assert_array_equal(forest_mean(forest, rows), forest.predict(rows))


@pytest.mark.parametrize("processors", [1, 2, 3, 64])
def test_the_mean_does_not_depend_on_the_number_of_threads(processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.twins.forests.cpu_count", lambda: processors)
    rng = np.random.default_rng(0)
    training = rng.normal(size=(500, 4))
    forest = RandomForestRegressor(20, random_state=0).fit(training, training.sum(axis=1) + rng.normal(size=500))
    rows = rng.normal(size=(4 * ROWS_PER_THREAD + 7, 4))
    np.testing.assert_array_equal(forest_mean(forest, rows), forest.predict(rows))


@pytest.mark.parametrize("twin_type", TwinType)
@pytest.mark.parametrize("model_type", ["RandomForest", "HistGradientBoosting"])
def test_rows_are_encoded_and_predicted_as_by_the_pipeline_bit_for_bit(twin_type: TwinType, model_type: str) -> None:
    frame = with_gaps(sample_table(twin_type, 1300, np.random.default_rng(3)))
    table = build_training_table(frame, twin_type, TWIN_TYPES[twin_type].default_target.name)
    model = fit_outcome_model(table, model_type, n_jobs=1, seed=0)
    unseen = with_gaps(sample_table(twin_type, 700, np.random.default_rng(4)))
    category = next(name for name, kind in table.kinds.items() if kind == "category")
    unseen.loc[:5, category] = "never seen"
    features = feature_frame(unseen, table.kinds, twin_type)
    np.testing.assert_array_equal(encode_features(model, features), model["encoder"].transform(features))
    np.testing.assert_array_equal(predict_outcome(model, encode_features(model, features)), model.predict(features))


def test_a_feature_that_a_table_lacks_is_encoded_as_missing_in_every_row() -> None:
    frame = with_gaps(sample_table(TwinType.HCP, 1300, np.random.default_rng(3)))
    table = build_training_table(frame, TwinType.HCP, "prescribing_change")
    model = fit_outcome_model(table, "RandomForest", n_jobs=1, seed=0)
    lacking, empty = frame.drop(columns=["specialty", "decile"]), frame.assign(specialty=None, decile=None)
    encoded, encoded_empty = (encode_features(model, feature_frame(rows, table.kinds, TwinType.HCP)) for rows in (lacking, empty))
    np.testing.assert_array_equal(encoded, encoded_empty)


def with_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """One value in twenty is missing, of every column but the last."""
    gaps = np.random.default_rng(5).random(frame.shape) < 0.05
    gaps[:, -1] = False
    return frame.astype(dict.fromkeys(frame.select_dtypes("bool"), "object")).mask(gaps)

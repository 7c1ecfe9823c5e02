"""A table of more rows than are learned whole: what is drawn from it, what is not, and what is told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from engine.twins import TrainingTable, TwinModel, build_training_table, fit_outcome_model, large_tables, sample_rows
from schemas.twin_types import Brand, TwinType
from streams.training.judging import Challenger, LearnedRows, TableRows, judge

TARGET = "prescribing_change"
ROWS, MOST, SAMPLED = 2_000, 1_999, 1_200


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return sample_hcps(ROWS, np.random.default_rng(0))


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> TwinModel:
    """A model of a table that is large by smaller limits."""
    with pytest.MonkeyPatch.context() as patch:
        limits = sample_rows.__globals__  # not the module by its name, which is another one where its examples were run before
        patch.setitem(limits, "MOST_ROWS", MOST)
        patch.setitem(limits, "SAMPLED_ROWS", SAMPLED)
        generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, n_jobs=1)
        generator.train(table)
    return generator.model


def test_histogram_boosting_learns_the_expected_outcome_from_every_row(model: TwinModel, table: pd.DataFrame) -> None:
    selected = build_training_table(table, TwinType.HCP, TARGET).select(tuple(model.card.metrics.feature_importance))
    drawn = selected.take(model.sampled)
    of_all_rows = fit_outcome_model(selected, "HistGradientBoosting", n_jobs=1, seed=0, encoded_by=drawn)
    of_drawn_rows = fit_outcome_model(drawn, "HistGradientBoosting", n_jobs=1, seed=0)
    assert model.card.model_type == "HistGradientBoosting"
    np.testing.assert_array_equal(model.predict(table), of_all_rows.predict(selected.features))
    assert not np.array_equal(model.predict(table), of_drawn_rows.predict(selected.features))


def test_twins_and_figures_come_from_the_drawn_rows_and_the_card_tells_it(model: TwinModel, table: pd.DataFrame) -> None:
    whole = build_training_table(table, TwinType.HCP, TARGET)
    assert model.sampled is not None
    pd.testing.assert_frame_equal(model.table().features, whole.features.iloc[model.sampled].reset_index(drop=True))
    assert (model.card.training_samples, model.card.metrics.training_samples, model.card.metrics.n_entities) == (ROWS,) * 3
    assert model.card.baseline.n == model.joint.n_rows == SAMPLED
    assert model.card.metrics.warnings[0] == (
        "the table has 2,000 rows, more than 1,999: 1,200 of them are drawn at random, from which twins, intervals and all figures"
        " come; the expected outcome is learned from all rows"
    )
    assert model.generate(500, seed=1).twin_count == 500


def test_a_stored_model_knows_the_rows_that_were_drawn(model: TwinModel) -> None:
    np.testing.assert_array_equal(TwinModel.from_parts(model.to_parts()).sampled, model.sampled)


def test_a_challenger_on_the_rows_of_a_large_table_is_judged_by_those_that_were_drawn(
    model: TwinModel, table: pd.DataFrame
) -> None:
    keys = np.arange(ROWS)
    rows = TableRows(table, keys)
    comparison = judge(Challenger(model, rows, rows.where(keys < 0)), model, LearnedRows(keys, complete=True))
    assert (comparison.basis, comparison.n) == ("cross_fitted", SAMPLED)


def test_a_table_up_to_the_limit_is_learned_whole() -> None:
    assert sample_rows(a_table(large_tables.MOST_ROWS), 0, seed=0) is None


def test_all_rows_of_an_entity_are_drawn_or_none() -> None:
    entities = np.random.default_rng(0).integers(0, 30_000, 120_000)
    rows = sample_rows(a_table(120_000, entities), 0, seed=0)
    assert rows is not None
    assert large_tables.SAMPLED_ROWS - 20 < len(rows) <= large_tables.SAMPLED_ROWS
    assert not set(entities[rows]) & set(np.delete(entities, rows))


@pytest.mark.parametrize(("first", "own"), [(0, 30_000), (115_000, 5_000), (60_000, 15_000), (1_000, 29_000)])
def test_rows_from_before_a_change_are_at_most_half_where_there_are_others(first: int, own: int) -> None:
    rows = sample_rows(a_table(120_000), first, seed=0)
    assert rows is not None
    assert (len(rows), int((rows >= first).sum())) == (30_000, own)
    assert (np.diff(rows) > 0).all()


def test_another_seed_draws_other_rows() -> None:
    first, same, other = (sample_rows(a_table(120_000), 0, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def a_table(n: int, entities: np.ndarray | None = None) -> TrainingTable:
    return TrainingTable(pd.DataFrame({"decile": np.ones(n)}), np.ones(n), {"decile": "number"}, 0, (), entities)

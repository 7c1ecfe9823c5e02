"""Which rows of a table judge a challenger, and which train it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.promotion import GATE_ENTITIES, GATE_ROWS
from streams.training.judging import LearnedRows, TableRows, are_enough, hold_out
from streams.training.training_process import TrainingRefused


def rows_of(entities: np.ndarray) -> TableRows:
    return TableRows(pd.DataFrame({"row": np.arange(len(entities))}), entities.astype(np.int64))


def learned(*entities: int) -> LearnedRows:
    return LearnedRows(np.array(entities, dtype=np.int64), complete=True)


def test_the_latest_quarter_of_new_entities_is_held_out() -> None:
    training, held_out = hold_out(rows_of(np.arange(4000)), learned(*range(400)))
    assert held_out.keys.tolist() == list(range(4000 - 3600 // 4, 4000))
    assert training.keys.tolist() == list(range(4000 - 3600 // 4))


def test_no_entity_is_on_both_sides() -> None:
    entities = np.random.default_rng(0).integers(0, 600, 6000)
    training, held_out = hold_out(rows_of(entities), learned(*range(100)))
    assert len(training) + len(held_out) == 6000
    assert not set(training.keys) & set(held_out.keys)
    assert not set(held_out.keys) & set(range(100))
    assert len(held_out) >= GATE_ROWS


@pytest.mark.parametrize(
    ("entities", "known"),
    [
        pytest.param(np.arange(3000), range(3000), id="the champion has learned all"),
        pytest.param(np.arange(3000), range(3000 - GATE_ROWS + 1), id="one row too few is new"),
        pytest.param(np.arange(3000) // 100, range(0), id="the new rows are of too few entities"),
        pytest.param(np.arange(1000 + GATE_ROWS - 1), range(1000 - 1), id="too few would remain for the training"),
    ],
)
def test_all_rows_train_and_judge_where_too_few_can_be_held_out(entities: np.ndarray, known: range) -> None:
    training, held_out = hold_out(rows_of(entities), learned(*known))
    assert (len(training), len(held_out)) == (len(entities), 0)


def test_a_champion_whose_rows_are_unknown_is_met_by_new_entities_only() -> None:
    before = LearnedRows(np.arange(500), complete=False)
    assert len(hold_out(rows_of(np.arange(4000)), before)[1]) == 3500 // 4
    with pytest.raises(TrainingRefused, match="100 of 600 rows are of entities that the line has never seen"):
        hold_out(rows_of(np.arange(600)), before)


def test_rows_are_enough_by_their_number_and_their_entities() -> None:
    assert are_enough(rows_of(np.arange(GATE_ROWS) % GATE_ENTITIES))
    assert not are_enough(rows_of(np.arange(GATE_ROWS) % (GATE_ENTITIES - 1)))
    assert not are_enough(rows_of(np.arange(GATE_ROWS - 1)))

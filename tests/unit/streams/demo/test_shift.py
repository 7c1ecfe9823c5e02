"""The shift of the demonstration: its size, its rows, and the rows to train on and to stream."""

from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest

from schemas import Baseline, TwinType
from streams.demo.shift import Shift, choose_shift, split
from streams.demo.stream import OutcomeRows

BASELINE = Baseline(n=1000, mae=0.1, rmse=0.2, center=0.0, scale=0.2, clip=0.5, clipped_mean=0.2, clipped_sd=0.2)


def test_a_shift_is_two_baseline_errors_against_the_desired_direction_on_two_fifths_of_the_rows() -> None:
    frame = pd.DataFrame({"region": ["south"] * 39 + ["west"] * 31 + ["midwest"] * 30, "decile": range(100)})
    shift = choose_shift(frame, TwinType.HCP, BASELINE)
    assert shift == Shift("region", ("south", "west"), pytest.approx(-0.2))


def test_days_that_should_fall_are_shifted_up() -> None:
    frame = pd.DataFrame({"insurance_type": ["a", "b"]})
    assert choose_shift(frame, TwinType.PATIENT, BASELINE).by == pytest.approx(0.2)


def test_a_table_without_segments_is_shifted_as_a_whole() -> None:
    frame = pd.DataFrame({"decile": [1, 2]})
    shift = choose_shift(frame, TwinType.HCP, BASELINE)
    assert shift.dimension is None
    assert shift.rows(frame).all()


def test_only_its_rows_are_shifted_and_the_input_stays_unchanged() -> None:
    frame = pd.DataFrame({"entity_id": ["a", "b"], "region": ["south", "west"], "prescribing_change": [1.0, 1.0]})
    shift = Shift("region", ("south",), -0.5)
    assert shift.rows(frame).tolist() == [True, False]
    rows = OutcomeRows(frame, "hcp:kisqali:prescribing_change", uuid4())
    outcomes = rows.next_batch(3, datetime(2025, 3, 4, tzinfo=UTC), {0: shift.by})
    assert [(outcome.entity_id, outcome.actual_value) for outcome in outcomes] == [("a", 0.5), ("b", 1.0), ("a", 0.5)]
    assert frame["prescribing_change"].tolist() == [1.0, 1.0]


def test_no_row_is_both_trained_on_and_streamed() -> None:
    frame = pd.DataFrame({"entity_id": [str(uuid4()) for _ in range(5000)]})
    train, stream = split(frame, 12_000, np.random.default_rng(1))
    assert len(train) == 2000
    assert set(train["entity_id"]) | set(stream["entity_id"]) == set(frame["entity_id"])
    assert not set(train["entity_id"]) & set(stream["entity_id"])


def test_a_table_too_small_to_train_and_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="1,199 rows: at least 1,200"):
        split(pd.DataFrame({"x": range(1199)}), 12_000, np.random.default_rng(1))

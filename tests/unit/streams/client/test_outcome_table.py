"""Rows of a table as outcome events."""

from __future__ import annotations

from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from schemas import TwinType
from streams.client.outcome_table import outcome_events

CONSTANTS = {"twin_type": "hcp", "brand": "kisqali", "metric_type": "prescribing_change", "observed_at": "2025-03-01T00:00:00Z"}


def event_of(**columns):
    (event,) = outcome_events(pd.DataFrame({name: [value] for name, value in columns.items()}), CONSTANTS)
    return event


def test_a_row_becomes_an_event_with_the_constants():
    event = event_of(event_id=str(UUID(int=7)), actual_value=0.25, predicted_value=0.2)
    assert (event.event_id, event.actual_value, event.twin_type) == (UUID(int=7), 0.25, TwinType.HCP)
    assert event.line == "hcp:kisqali:prescribing_change"


def test_features_of_the_twin_type_are_collected_and_empty_cells_left_out():
    event = event_of(
        event_id=UUID(int=1), actual_value=0.1, entity_id=17, specialty="oncology", decile=np.int64(9), practice_size=np.nan
    )
    assert event.features == {"decile": 9, "specialty": "oncology"}
    assert event.entity_id == "17"


def test_an_empty_actual_value_is_a_missing_outcome():
    assert event_of(event_id=UUID(int=1), actual_value=np.nan, predicted_value=0.2).actual_value is None


def test_segments_have_columns_of_their_own():
    event = event_of(event_id=UUID(int=1), actual_value=0.1, predicted_value=0.2, **{"segment.region": "south"})
    assert event.segment == {"region": "south"}


def test_an_unknown_column_is_refused_by_name_before_the_first_event():
    with pytest.raises(ValueError, match=r"unknown columns tumour_size.*specialty"):
        event_of(event_id=UUID(int=1), actual_value=0.1, tumour_size=3)


def test_a_feature_of_the_lines_own_models_is_published_when_it_is_declared():
    table = pd.DataFrame({"event_id": [UUID(int=1)], "actual_value": [0.1], "entity_id": ["a"], "trx_growth": [0.5], "decile": [3]})
    (event,) = outcome_events(table, CONSTANTS, own_features=["trx_growth"])
    assert event.features == {"decile": 3, "trx_growth": 0.5}
    with pytest.raises(ValueError, match="unknown columns trx_growth"):
        next(outcome_events(table, CONSTANTS))


def test_the_entity_and_the_time_of_an_outcome_are_never_its_features():
    table = pd.DataFrame(
        {"entity_id": ["a"], "observed_at": [pd.Timestamp("2025-03-01", tz="UTC")], "decile": [3], "actual_value": 0.1}
    )
    constants = {name: value for name, value in CONSTANTS.items() if name != "observed_at"}
    (event,) = outcome_events(table, constants, own_features=["entity_id", "observed_at", "actual_value"])
    assert (event.entity_id, event.features, event.observed_at.year) == ("a", {"decile": 3}, 2025)


def test_a_row_that_is_not_an_outcome_is_refused_by_its_number():
    table = pd.DataFrame({"event_id": [UUID(int=1), "x"], "actual_value": [0.1, 0.2], "predicted_value": [0.1, 0.1]})
    events = outcome_events(table, CONSTANTS)
    next(events)
    with pytest.raises(ValueError, match=r"row 1 .*event_id"):
        next(events)


def test_a_table_may_hold_several_twin_types():
    table = pd.DataFrame(
        {
            "event_id": [UUID(int=1), UUID(int=2)],
            "twin_type": ["hcp", "territory"],
            "metric_type": ["prescribing_change", "market_share_change"],
            "actual_value": [0.1, 0.2],
            "entity_id": ["a", "b"],
            "specialty": ["oncology", None],
            "market_share": [None, 0.3],
        }
    )
    first, second = outcome_events(table, {"brand": "kisqali", "observed_at": "2025-03-01T00:00:00Z"})
    assert (first.features, second.features) == ({"specialty": "oncology"}, {"market_share": 0.3})


def test_cells_are_read_as_the_commands_read_them():
    event = event_of(
        event_id=str(UUID(int=7)), entity_id="00123", actual_value="12%", total_patient_volume="1,240", region=" south "
    )
    assert (event.entity_id, event.actual_value) == ("00123", 0.12)
    assert event.features == {"region": "south", "total_patient_volume": 1240}


def test_features_and_segment_may_be_mappings():
    event = event_of(event_id=UUID(int=1), actual_value=0.1, entity_id="a", features={"decile": 3}, segment={"region": "south"})
    assert (event.features, event.segment) == ({"decile": 3}, {"region": "south"})


@pytest.mark.parametrize("observed_at", [20260131, 46053.5, "20260131", "2026-01-31T12:00:00", pd.Timestamp("2026-01-31")])
def test_a_number_and_a_time_without_its_zone_are_refused_with_row_and_value(observed_at):
    table = pd.DataFrame({"event_id": [UUID(int=1)], "observed_at": [observed_at], "actual_value": [0.1], "predicted_value": [0.1]})
    with pytest.raises(ValueError, match=r"row 0, observed_at: .*(is a number, not a time|has no zone)"):
        next(outcome_events(table, {**CONSTANTS, "observed_at": None}))


def test_a_bad_cell_is_refused_with_its_row_before_the_first_event():
    table = pd.DataFrame({"event_id": [UUID(int=1), UUID(int=2)], "actual_value": ["0.1", "abc"], "predicted_value": [0.1, 0.2]})
    with pytest.raises(ValueError, match="row 1, actual_value: 'abc' is no number"):
        next(outcome_events(table, CONSTANTS))

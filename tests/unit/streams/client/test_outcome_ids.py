"""Ids that follow from the content of outcomes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pandas as pd
import pytest

from schemas import OutcomeEvent
from streams.client.outcome_ids import NO_ID, OutcomeIds
from streams.client.outcome_table import outcome_events
from tests.outcomes import outcome

NAMED = {"entity_id": "hcp-1"}


def event(**fields: Any) -> OutcomeEvent:
    return OutcomeEvent.model_validate(outcome(0) | {"event_id": NO_ID} | fields)


def ids(*events: OutcomeEvent, has_time: bool = True) -> list[UUID]:
    given = OutcomeIds()
    return [given.id_of(item, has_time=has_time) for item in events]


def test_an_outcome_with_an_id_keeps_it():
    assert ids(event(event_id=UUID(int=7))) == [UUID(int=7)]


def test_entity_and_time_name_an_outcome_whatever_its_value():
    first, corrected, other = ids(event(**NAMED), event(**NAMED, actual_value=9.0), event(entity_id="hcp-2"))
    assert first == corrected != other


@pytest.mark.parametrize(
    "other",
    [
        {"brand": "fabhalta"},
        {"observed_at": "2026-03-02T08:00:01Z"},
        {"entity_id": "hcp-2"},
        {"model_id": str(UUID(int=3))},
        {"twin_type": "territory", "metric_type": "market_share_change", "segment": {}},
    ],
    ids=["brand", "time", "entity", "model", "twin type"],
)
def test_outcomes_of_other_lines_entities_times_and_models_have_other_ids(other: dict[str, Any]):
    assert len(set(ids(event(**NAMED), event(**(NAMED | other))))) == 2


def test_the_time_is_the_same_in_every_zone():
    assert len(set(ids(event(**NAMED), event(**NAMED, observed_at="2026-03-02T10:00:00+02:00")))) == 1


def test_equal_outcomes_without_a_name_are_told_apart_by_their_number_in_any_order():
    one, two = event(), event(actual_value=9.0)
    assert set(ids(one, two, one)) == set(ids(two, one, one))
    assert len(set(ids(one, two, one))) == 3
    assert ids(one, two)[0] == ids(two, one)[1]


def test_a_time_that_was_filled_in_is_no_part_of_the_content():
    at, later = event(**NAMED), event(**NAMED, observed_at="2026-03-03T00:00:00Z")
    assert ids(at, has_time=False) == ids(later, has_time=False) != ids(at)


def test_the_spelling_of_a_table_does_not_matter():
    fields = {"observed_at": "2026-03-01T00:00:00Z", "twin_type": "hcp", "brand": "kisqali", "metric_type": "prescribing_change"}
    one = pd.DataFrame({"actual_value": [0.5, 2], "predicted_value": [-0.0, 1]})
    other = pd.DataFrame({"predicted_value": [1, 0], "actual_value": [2.0, 0.50]})
    assert {item.event_id for item in outcome_events(one, fields)} == {item.event_id for item in outcome_events(other, fields)}

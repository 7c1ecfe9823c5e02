"""Corrections of refused records, without Kafka and Postgres."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from schemas import SourceId
from sql.dead_letter_store import RefusedRecord, refusal_id
from streams.operations import Correction, parse_assignment
from streams.operations.corrections import corrected_value
from tests.outcomes import START, TOPIC, outcome


def make_refused(value: Any, topic: str = TOPIC) -> RefusedRecord:
    source = SourceId(topic=topic, partition=0)
    body = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return RefusedRecord(
        refusal_id(source, 7, START), source, 7, 0, START, b"key", body, [], "invalid", "a reason", "ValidationError"
    )


INVALID = outcome(1, actual_value="a tenth", surprise=1)


def test_a_correction_sets_and_drops_fields_and_keeps_all_others():
    correction = Correction({"actual_value": 0.1, "segment.region": "east"}, ["surprise"])

    corrected = json.loads(corrected_value(make_refused(INVALID), correction))

    assert corrected == outcome(1, actual_value=0.1, segment={"region": "east"})
    assert correction.format_text() == 'actual_value = 0.1, segment.region = "east", without surprise'


def test_a_correction_by_default_changes_no_byte():
    value = json.dumps(outcome(1), indent=3).encode()
    assert corrected_value(make_refused(value), Correction()) == value
    assert Correction().format_text() == ""


def test_a_correction_can_replace_the_whole_value():
    value = json.dumps(outcome(1)).encode()
    correction = Correction(value=value)
    assert corrected_value(make_refused(b"\xff"), correction) == value
    assert correction.format_text() == "another value"


def test_an_array_is_accepted_when_all_of_its_elements_are():
    value = json.dumps([outcome(1), outcome(2)]).encode()
    assert corrected_value(make_refused(value), Correction()) == value


@pytest.mark.parametrize(
    ("value", "correction", "reason"),
    [
        (INVALID, Correction({"actual_value": 0.1}), "would be refused again: surprise"),
        (INVALID, Correction({"event_id": str(UUID(int=9))}, ["surprise"]), "would be refused again"),
        (outcome(1), Correction({"event_id": str(UUID(int=9))}), "cannot be changed to"),
        (outcome(1), Correction(drops=["weather"]), "there is no field 'weather' to drop"),
        (outcome(1), Correction({"brand.name": "kisqali"}), "'brand' of 'brand.name' has no fields"),
        (b"\xff", Correction({"actual_value": 0.1}), "not a JSON object"),
        (None, Correction(), "there is no value to publish"),
    ],
)
def test_a_correction_whose_result_would_be_refused_is_refused_with_the_reason(value: Any, correction: Correction, reason: str):
    with pytest.raises(ValueError, match=reason):
        corrected_value(make_refused(value), correction)


def test_an_assignment_without_equals_sign_is_refused():
    with pytest.raises(ValueError, match="is not FIELD=VALUE"):
        parse_assignment("actual_value")

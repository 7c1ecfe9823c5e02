"""Plain outcomes are decoded together, as the model reads each of them; all others are left to the model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import OutcomeEvent
from streams.bounds import DEFAULT_BOUNDS, BoundSettings
from streams.ingestion.decoding import decode
from streams.ingestion.plain_outcomes import decode_plain
from streams.kafka.batch_consumer import PollBatch
from tests.outcomes import TOPIC, outcome, record

WHOLE = json.dumps(outcome(1)).encode()
INDENTED = json.dumps(outcome(1), indent=1).encode()


def is_plain(*values: bytes | dict[str, Any] | list[dict[str, Any]], bounds: BoundSettings = DEFAULT_BOUNDS) -> bool:
    return decode_plain([record(number, value) for number, value in enumerate(values)], bounds) is not None


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in outcome(1).items() if key != name}


def written(name: str, value: str) -> bytes:
    """An outcome with a field as it is written."""
    return json.dumps(without(name)).encode()[:-1] + f', "{name}": {value}}}'.encode()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"actual_value": None},
        {"predicted_lower": None, "predicted_upper": None},
        {"revision": 3, "treated": True, "entity_id": "someone", "schema_version": 1},
        {"model_id": "3F333DF6-90a4-4fda-8dd3-9485d27cee36", "simulation_id": None, "twin_id": None, "features": None},
        {"segment": {}, "observed_at": "2026-03-02T10:00:00.5+02:00"},
    ],
)
def test_an_outcome_with_its_prediction_is_plain_alone_and_in_an_array(fields: dict[str, Any]):
    event = outcome(1) | fields

    assert is_plain(event, outcome(2))
    assert is_plain([event, outcome(2)], outcome(3), [outcome(4)])
    assert is_plain(json.dumps([event, event], separators=(",", ":")).encode())


def test_an_event_as_the_model_writes_it_is_plain():
    event = OutcomeEvent.model_validate(outcome(1, segment={"region": "west"}))

    assert is_plain(event.model_dump_json(exclude={"schema_version"}).encode())


@pytest.mark.parametrize(
    "value",
    [
        *(
            json.dumps(without(name)).encode()
            for name in outcome(1)
            if name not in {"segment", "predicted_lower", "predicted_upper"}
        ),
        *(written(name, "null") for name in ("event_id", "observed_at", "brand", "revision", "segment", "schema_version")),
        *(written("segment", text) for text in ('{"region": null}', '{"region" : null}', '{"planet": "x"}', '{"region": 1}')),
        *(written("actual_value", text) for text in ("NaN", "Infinity", "-Infinity", "1e999", '"1"', "true", "01", "+1", ".5")),
        *(written("revision", text) for text in ("-1", "2147483648", "1.0", "true", '"1"')),
        *(written("entity_id", text) for text in ('""', '" "', '"' + "x" * 201 + '"', '"a\\u0041"', '"é"', '"a\tb"', '"a\nb"')),
        *(written("features", '{"decile": 7}'), written("features", "[1]"), written("surprise", "1"), written("brand", '"none"')),
        *(
            written("treated", "1"),
            written("predicted_lower", "7"),
            written("predicted_lower", "null"),
            WHOLE[:-1] + b', "actual_value": 1}',
        ),
        *(
            WHOLE + b",",
            WHOLE + WHOLE,
            WHOLE + b"\n" + WHOLE,
            b" " + WHOLE,
            WHOLE + b"\0",
            WHOLE[:-1],
            b"",
            b"{}",
            b"[]",
            b"1",
            b"null",
        ),
        *(
            b"\xef\xbb\xbf" + WHOLE,
            b"[" + WHOLE + b" " + WHOLE + b"]",
            b"[" + WHOLE + b"},{}]",
            b"[[" + WHOLE + b"]]",
            INDENTED + b" ",
        ),
    ],
)
def test_whatever_is_not_plain_is_left_to_the_model_with_its_neighbours(value: bytes):
    assert not is_plain(value)
    assert not is_plain(WHOLE, value, WHOLE)


def test_what_separates_outcomes_separates_no_texts():
    assert is_plain(outcome(1, entity_id="}, {"))
    assert not is_plain([outcome(1, entity_id="}, {"), outcome(2)])


def test_a_missing_key_is_not_made_up_for_by_a_text_of_its_name():
    lacks, names = without("actual_value"), outcome(2, entity_id="actual_value", actual_value=None)

    assert not is_plain(lacks, names)
    assert not is_plain(outcome(1, entity_id="null") | {"revision": None}, outcome(2, entity_id="revision"))


@given(
    st.lists(
        st.sampled_from([b"{", b"}", b",", b'"', b"\n", b"[", b"]", b":", WHOLE, b'"segment"', b'{"segment":{"region":"x"}']),
        max_size=6,
    ).map(b"".join),
    st.integers(0, 2000),
)
def test_records_that_are_cut_anywhere_are_never_read_as_others(text: bytes, cut: int):
    whole = WHOLE + text + WHOLE
    values = [whole[: cut % len(whole)], whole[cut % len(whole) :]]

    outcomes = decode_plain([record(number, value) for number, value in enumerate(values)], DEFAULT_BOUNDS)

    if outcomes is not None:
        for value in values:
            OutcomeEvent.model_validate_json(value)


def test_bounds_hold():
    assert not is_plain([outcome(1), outcome(2)], bounds=BoundSettings(max_array_elements=1))
    assert not is_plain(outcome(1, entity_id="x" * 200) | {"metric_type": "y" * 1000}, bounds=BoundSettings(max_record_bytes=1024))


def test_outcomes_that_are_not_plain_leave_those_far_from_them_as_they_are():
    values: list[Any] = [outcome(number) for number in range(1200)]
    values[700] = outcome(700, entity_id="é")
    values[900] = b"{"

    decoded = decode(PollBatch(TOPIC, 0, 0, [record(number, value) for number, value in enumerate(values)]), 300.0)

    expected = [number for number in range(1200) if number != 900]  # the broken one
    assert decoded.outcomes.record_index.tolist() == expected
    assert [item.record_index for item in decoded.refused] == [900]
    assert decoded.outcomes.entities[700].entity_id == "é"
    assert np.array_equal(decoded.outcomes.actual, [values[number]["actual_value"] for number in expected])
    regions = [dict(decoded.outcomes.shared_fields_of(row).segment) for row in range(len(expected))]
    assert regions == [values[number].get("segment", {}) for number in expected]

"""Decoding by columns accepts what the model accepts, refuses what it refuses, and gives equal digests."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import OutcomeEvent
from schemas.events import canonical_digest
from streams.bounds import BoundSettings
from streams.ingestion import decoding
from streams.ingestion.decoding import decode, raw_elements
from streams.ingestion.outcome_batch import DIGEST_BYTES, DecodedBatch, OutcomeBatch
from streams.ingestion.outcome_columns import OutcomeFields
from streams.ingestion.rows import watermark_of
from streams.kafka.batch_consumer import PollBatch
from streams.kafka.parking import unreadable_record
from tests.outcomes import START, TOPIC, Record, outcome, record

SKEW_S = 300.0
IDS = st.sampled_from(
    [
        "3f333df6-90a4-4fda-8dd3-9485d27cee36",
        "3F333DF6-90A4-4FDA-8DD3-9485D27CEE36",
        "3f333df690a44fda8dd39485d27cee36",
        "urn:uuid:3f333df6-90a4-4fda-8dd3-9485d27cee36",
        "{3f333df6-90a4-4fda-8dd3-9485d27cee36}",
        "3f333df6-90a4-4fda-8dd3-9485d27cee3",
        "3f333df6-90a4-4fda-8dd3-9485d27cee36a",
        "3f333df690-a4-4fda-8dd3-9485d27cee36",
        "3f333df6-90a4-4fda-8dd3-9485d27cee3é",
        "nobody",
        "",
        7,
        None,
    ]
)
NUMBERS = st.sampled_from([0.5, -0.0, 0, 3, "1.5", "x", None, True, 1e300]) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.sampled_from(["hcp", "patient", "kisqali", "prescribing_change", "region", "west", "", "\u00e9", None, 3])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "schema_version": st.sampled_from([1, 2, "1"]),
    "event_id": IDS,
    "observed_at": st.sampled_from(
        [
            START.isoformat(),
            "2026-03-02T10:00:00.123456+02:00",
            "2026-03-02T08:00:00",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
            "9999-12-31T23:59:59.999999Z",
            "1900-01-01T00:00:00Z",
            "1600-01-01T00:00:00Z",
            1_772_438_400,
            "soon",
        ]
    ),
    "twin_type": TEXTS,
    "brand": TEXTS,
    "metric_type": TEXTS,
    "actual_value": NUMBERS,
    "revision": st.sampled_from([0, 1, 2**31 - 1, 2**31, -1, "2", 1.0, 1.5]),
    "predicted_value": NUMBERS,
    "predicted_lower": NUMBERS,
    "predicted_upper": NUMBERS,
    "model_id": IDS,
    "simulation_id": IDS,
    "twin_id": IDS,
    "entity_id": st.sampled_from(["someone", "", "x" * 201, None, 3]),
    "features": st.sampled_from([{"decile": 7.0, "a": None}, {"z": 1, "b": True}, {}, {"x": [1]}, "none", None]),
    "treated": st.sampled_from([True, False, None, 1, "yes", 2]),
    "segment": st.dictionaries(TEXTS.map(str), TEXTS, max_size=2) | st.none(),
    "surprise": st.just(1),
}


def changed_outcomes() -> st.SearchStrategy[dict[str, Any]]:
    """A valid outcome with any way to its prediction, in which some fields were replaced and some were left out."""
    ways = [
        {},
        {"predicted_lower": None, "predicted_upper": None},
        {"predicted_value": None, "predicted_lower": None, "predicted_upper": None, "entity_id": "a", "features": {"decile": 7}},
        {
            "predicted_value": None,
            "predicted_lower": None,
            "predicted_upper": None,
            "simulation_id": str(UUID(int=1)),
            "twin_id": str(UUID(int=2)),
        },
    ]
    replaced = st.lists(st.sampled_from(sorted(VALUES)), max_size=2, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: VALUES[name] for name in names})
    )
    left_out = st.sets(st.sampled_from(sorted(VALUES)), max_size=1)
    valid = st.builds(lambda number, way: outcome(number) | way, st.integers(0, 9), st.sampled_from(ways))
    return st.builds(
        lambda fields, new, absent: {name: value for name, value in (fields | new).items() if name not in absent},
        valid,
        replaced,
        left_out,
    )


def event_of(raw: bytes) -> OutcomeEvent | None:
    try:
        return OutcomeEvent.model_validate_json(raw)
    except ValidationError:
        return None


def null(value: float) -> float | None:
    return None if math.isnan(value) else value


def row_of(outcomes: OutcomeBatch, row: int) -> dict[str, Any]:
    shared = outcomes.shared_fields_of(row)
    simulation_id, twin_id = outcomes.twins.get(row, (None, None))
    entity = outcomes.entities.get(row)
    return {
        "event_id": outcomes.event_id_of(row),
        "observed_at": np.datetime64(int(outcomes.observed_us[row]), "us"),
        "line": shared.line,
        "metric_type": shared.metric_type,
        "actual_value": null(outcomes.actual[row]),
        "revision": outcomes.revision[row],
        "predicted_value": null(outcomes.predicted[row]),
        "predicted_lower": null(outcomes.lower[row]),
        "predicted_upper": null(outcomes.upper[row]),
        "model_id": shared.model_id,
        "simulation_id": simulation_id,
        "twin_id": twin_id,
        "entity_id": entity.entity_id if entity else None,
        "features": entity.features if entity else None,
        "treated": {-1: None, 0: False, 1: True}[int(outcomes.treated[row])],
        "segment": dict(shared.segment),
    }


def fields_of(event: OutcomeEvent) -> dict[str, Any]:
    fields = {
        name: getattr(event, name) for name in type(event).model_fields if name not in {"schema_version", "twin_type", "brand"}
    }
    return fields | {"line": event.line, "observed_at": np.datetime64(event.observed_at.replace(tzinfo=None), "us")}


def moved(at: datetime, microseconds: int, sign: int) -> datetime:
    """A time before or after another one, or that one where there is no such time."""
    try:
        return at + timedelta(microseconds=sign * microseconds)
    except OverflowError:
        return at


def decode_records(*records: Record) -> DecodedBatch:
    return decode(PollBatch(TOPIC, 0, 0, records), SKEW_S)


def test_the_fields_are_those_of_the_model():
    assert set(OutcomeFields.__annotations__) == set(OutcomeEvent.model_fields)


@given(st.lists(changed_outcomes(), min_size=1, max_size=4), st.booleans())
@example(
    [outcome(1, event_id="3f333df6-90a4-4fda-8dd3-9485d27cee3"), outcome(2, event_id="3f333df6-90a4-4fda-8dd3-9485d27cee36a")],
    False,
)
def test_decoding_by_columns_is_decoding_by_the_model(fields: list[dict[str, Any]], as_array: bool):
    records = [record(0, fields)] if as_array else [record(number, item) for number, item in enumerate(fields)]
    raws = [raw for item in records for raw in raw_elements(item.value)]
    elements = {(0, number) if as_array else (number, 0): raw for number, raw in enumerate(raws)}

    decoded = decode_records(*records)

    outcomes, refused = decoded.outcomes, decoded.refused
    indices = zip(outcomes.record_index.tolist(), outcomes.element_index.tolist(), strict=True)
    rows = dict(zip(indices, range(len(outcomes)), strict=True))
    assert sorted([*rows, *((item.record_index, item.element_index) for item in refused)]) == sorted(elements)
    for element, raw in elements.items():
        event = event_of(raw or b"")
        if element in rows:
            assert event is not None
            assert row_of(outcomes, rows[element]) == fields_of(event)
            assert decoded.digests[rows[element]].tobytes() == canonical_digest(event)[:DIGEST_BYTES]
        else:
            (refusal,) = [item.refusal for item in refused if (item.record_index, item.element_index) == element]
            assert event is None or refusal.kind in {"future", "past"}


@pytest.mark.parametrize("number", [20260131, 46053, 1769817600, 1769817600.5, "20260131", "46053.5", "1.7e9", " 1769817600", True])
def test_a_number_is_no_time_also_in_quotes_and_its_neighbour_counts(number: Any):
    decoded = decode_records(record(0, [outcome(1, observed_at=number), outcome(2)]), record(1, outcome(3, observed_at=number)))

    assert decoded.outcomes.element_index.tolist() == [1]
    assert [item.refusal.kind for item in decoded.refused] == ["invalid", "invalid"]
    assert all("observed_at" in item.refusal.reason and "not a time" in item.refusal.reason for item in decoded.refused)


@pytest.mark.parametrize(
    ("observed_at", "kind", "reason"),
    [
        (
            "9999-12-31T23:59:59.999999Z",
            "future",
            "observed_at 9999-12-31T23:59:59.999999+00:00 is more than 300 s after the record",
        ),
        ("9999-12-31T23:59:59.9999996Z", "future", "observed_at 9999-12-31T23:59:59.999999+00:00 is more than"),
        ("0001-01-01T00:00:00Z", "past", "observed_at 0001-01-01T00:00:00+00:00 is before 1900-01-01"),
        ("1899-12-31T23:59:59.999999Z", "past", "observed_at 1899-12-31T23:59:59.999999+00:00 is before 1900-01-01"),
        ("9999-12-31T23:59:59-14:00", "invalid", "converted to UTC is outside of the years 1 to 9999"),
        ("0001-01-01T00:00:00+14:00", "invalid", "converted to UTC is outside of the years 1 to 9999"),
    ],
)
def test_a_time_at_the_edge_is_refused_with_a_sentence_and_its_neighbour_counts(observed_at: Any, kind: str, reason: str):
    decoded = decode_records(record(0, [outcome(1, observed_at=observed_at), outcome(2)]))

    assert decoded.outcomes.element_index.tolist() == [1]
    assert [item.refusal.kind for item in decoded.refused] == [kind]
    assert reason in decoded.refused[0].refusal.reason


LIMITS = (datetime.min.replace(tzinfo=UTC), datetime(1900, 1, 1, tzinfo=UTC), START, datetime.max.replace(tzinfo=UTC))
MICROSECONDS = st.sampled_from([0, 1, 10**6, 3600 * 10**6, 86_400 * 10**6]) | st.integers(0, 10**17)
MOMENTS = st.builds(moved, st.sampled_from(LIMITS), MICROSECONDS, st.sampled_from([-1, 1])) | st.datetimes(timezones=st.just(UTC))


@given(MOMENTS, MOMENTS | st.none(), st.sampled_from([0.0, 300.0, 1e12, 1e300]))
def test_whatever_the_times_an_outcome_is_decoded_or_refused(observed_at: datetime, arrived_at: datetime | None, skew_s: float):
    arrived_ms = -1 if arrived_at is None else (arrived_at - START) // timedelta(milliseconds=1) + int(START.timestamp() * 1000)
    item = dataclasses.replace(record(0, outcome(1, observed_at=observed_at.isoformat())), timestamp=arrived_ms)

    decoded = decode(PollBatch(TOPIC, 0, 0, [item]), skew_s)

    observed_us = (observed_at - START) // timedelta(microseconds=1) + int(START.timestamp() * 1_000_000)
    is_future = observed_us - arrived_ms * 1000 > round(skew_s * 1_000_000)
    kinds = [refused.refusal.kind for refused in decoded.refused]
    assert kinds == (["future"] if is_future else ["past"] if observed_at.year < 1900 else [])
    if not kinds:
        assert watermark_of(decoded.outcomes, np.array([0])) == observed_at


@given(st.binary(max_size=30) | st.text('[]{}:,"0 1a\\u', max_size=30).map(str.encode))
def test_every_record_leaves_an_element_whatever_its_bytes(value: bytes):
    decoded = decode_records(record(0, outcome(1)), record(1, value), record(2, outcome(2)))

    assert decoded.outcomes.record_index.tolist() == [0, 2]
    assert {item.record_index for item in decoded.refused} == {1}


def test_two_records_are_never_read_as_one():
    whole = json.dumps(outcome(1)).encode()

    decoded = decode_records(record(0, whole + b"," + whole), record(1, whole[:20]), record(2, whole[20:]))

    assert len(decoded.outcomes) == 0
    assert [item.refusal.kind for item in decoded.refused] == ["json"] * 3


@pytest.mark.parametrize("rest", ["[1]", " garbage", "}{", "[", "]", ",", "\\u0000", "[1,2]]"])
def test_an_array_with_anything_behind_it_is_refused_whole_and_no_outcome_is_lost_without_a_word(rest: str):
    values = [json.dumps(elements).encode() + rest.encode() for elements in ([outcome(1)], [1], [outcome(2), {}])]

    decoded = decode_records(*(record(number, value) for number, value in enumerate(values)))

    assert len(decoded.outcomes) == 0
    assert [(item.record_index, item.element_index, item.refusal.kind) for item in decoded.refused] == [
        (0, 0, "json"),
        (1, 0, "json"),
        (2, 0, "json"),
    ]
    assert [raw_elements(value) for value in values] == [[value] for value in values]


@pytest.mark.parametrize(
    "flags",
    [
        {"actual_value": True},
        {"predicted_value": False},
        {"predicted_value": 0.5, "predicted_lower": False, "predicted_upper": True},
        {"revision": True},
    ],
)
def test_a_flag_is_no_number_whatever_its_neighbours_are(flags: dict[str, Any]):
    flagged = outcome(1, **flags)

    alone, beside = decode_records(record(0, flagged)), decode_records(record(0, [flagged, outcome(2), {}]))

    assert len(alone.outcomes) == 0
    assert beside.outcomes.element_index.tolist() == [1]
    (refused,) = alone.refused
    assert refused.refusal == beside.refused[0].refusal
    assert "is no number: write 1 or 0" in refused.refusal.reason


def test_an_array_is_split_once_however_many_of_its_elements_are_doubtful(monkeypatch: pytest.MonkeyPatch):
    split: list[bytes | None] = []
    monkeypatch.setattr(decoding, "raw_elements", lambda value: split.append(value) or raw_elements(value))
    arrays = [[outcome(number) | {"event_id": "no id"} for number in range(30)] + [outcome(90)] for _ in range(2)]

    decoded = decode_records(*(record(offset, array) for offset, array in enumerate(arrays)))

    assert len(decoded.refused) == 60
    assert decoded.outcomes.element_index.tolist() == [30, 30]
    assert len(split) == 2


def test_a_batch_of_the_log_that_cannot_be_read_is_parked_with_its_bytes():
    raw = b"[not the start of an array"
    unreadable = unreadable_record(TOPIC, 0, 3, 9, 1_000_000, raw, ValueError("decompression failed"))
    decoded = decode(PollBatch(TOPIC, 0, 0, [record(2, outcome(2)), unreadable, record(10, outcome(10))]), 300.0)
    (element,) = decoded.refused
    assert (element.record_index, element.refusal.kind, element.refusal.exception) == (1, "parked", "UnreadableBatch")
    assert element.refusal.reason == "the batch of offsets 3 to 9 cannot be read: ValueError: decompression failed"
    assert "decompression failed" in element.refusal.traceback
    assert decoded.offsets.tolist() == [2, 9, 10]
    assert raw_elements(unreadable.value) == [raw]


MEBIBYTE = 2**20
BOUNDS = BoundSettings(max_array_elements=3, max_record_bytes=3000)
SHORT = BoundSettings(max_features=2, max_name_length=20)


def bounded(*values: Any, bounds: BoundSettings = BOUNDS) -> Any:
    records = [record(number, value) for number, value in enumerate(values)]
    return decode(PollBatch(TOPIC, 0, 0, records), SKEW_S, bounds)


def test_an_array_whose_refused_elements_would_copy_large_headers_is_refused_as_a_whole():
    headers = (("trace", b"x" * 40_000), ("empty", None))
    few, many = record(0, [1, outcome(0)]), record(1, [1, *(outcome(number) for number in range(1, 30))])
    flat, valid = record(2, outcome(40)), record(3, [outcome(number) for number in range(50, 80)])
    decoded = decode(
        PollBatch(TOPIC, 0, 0, [dataclasses.replace(item, headers=headers) for item in (few, many, flat, valid)]),
        SKEW_S,
        BoundSettings(max_decompressed_bytes=MEBIBYTE),
    )

    assert decoded.outcomes.record_index.tolist() == [0, 2]
    assert [(item.record_index, item.refusal.kind, item.refusal.whole_record) for item in decoded.refused] == [
        (0, "invalid", False),
        (1, "bound", True),
        (3, "bound", True),
    ]
    (alone,) = decode(
        PollBatch(TOPIC, 0, 0, [dataclasses.replace(valid, headers=headers)]),
        SKEW_S,
        BoundSettings(max_decompressed_bytes=MEBIBYTE),
    ).refused
    assert alone.refusal.kind == "bound", "also where all of its elements are plain"
    assert "40013 bytes for each of 30 elements exceeds 1048576, TWIN_MAX_DECOMPRESSED_BYTES" in decoded.refused[1].refusal.reason


def test_an_array_of_too_many_elements_is_refused_as_a_whole_with_its_bytes():
    decoded = bounded([outcome(0), outcome(1), outcome(2)], [outcome(3), {}, 1, "x"], b"[1,1,1,1]", outcome(4))

    assert decoded.outcomes.record_index.tolist() == [0, 0, 0, 3]
    assert [(item.record_index, item.element_index, item.refusal.kind) for item in decoded.refused] == [
        (1, 0, "bound"),
        (2, 0, "bound"),
    ]
    assert all(item.refusal.whole_record for item in decoded.refused)
    assert "an array of 4 elements exceeds 3, TWIN_MAX_ARRAY_ELEMENTS" in decoded.refused[0].refusal.reason


def test_a_value_that_is_too_large_is_refused_before_it_is_parsed():
    (refused,) = bounded(b"[" + b" " * 3000).refused

    assert "TWIN_MAX_RECORD_BYTES" in refused.refusal.reason


@pytest.mark.parametrize(
    ("features", "setting"),
    [
        ({"a": 1, "b": 2, "c": 3}, "TWIN_MAX_FEATURES"),
        ({"a" * 21: 1}, "TWIN_MAX_NAME_LENGTH"),
        ({"a": "b" * 21}, "TWIN_MAX_NAME_LENGTH"),
    ],
)
def test_an_element_whose_features_exceed_a_bound_is_refused_alone(features: dict[str, Any], setting: str):
    nothing = dict.fromkeys(("predicted_value", "predicted_lower", "predicted_upper"))
    decoded = bounded([outcome(0), outcome(1, **nothing, entity_id="e", features=features)], bounds=SHORT)

    assert len(decoded.outcomes) == 1
    (refused,) = decoded.refused
    assert (refused.element_index, refused.refusal.kind, refused.refusal.whole_record) == (1, "bound", False)
    assert setting in refused.refusal.reason

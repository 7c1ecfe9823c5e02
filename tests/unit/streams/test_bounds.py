"""Every bound: what is at it is accepted, what exceeds it is refused with the value, the bound and the setting."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.bounds import (
    DEFAULT_BOUNDS,
    BoundSettings,
    OutOfBounds,
    check_array,
    check_features,
    check_json,
    check_message,
    check_size,
    fits,
)
from streams.settings import Settings

BOUNDS = BoundSettings(
    max_record_bytes=4096,
    max_message_bytes=2048,
    max_key_bytes=64,
    max_array_elements=10,
    max_json_depth=5,
    max_string_length=200,
    max_name_length=20,
    max_features=3,
    max_number_length=40,
)


def nested(depth: int, inner: Any = 1) -> Any:
    for level in range(depth):
        inner = [inner] if level % 2 else {"a": inner}
    return inner


AT_THE_BOUND = {
    "max_string_length": {"text": "x" * 200},
    "max_array_elements": {"list": list(range(10)), "object": {str(index): 1 for index in range(10)}},
    "max_json_depth": nested(5),
    "max_number_length": [int("1" * 40)],
}
ABOVE_IT = {
    "max_string_length": {"text": "x" * 201},
    "max_array_elements": {"list": list(range(11))},
    "max_json_depth": nested(6),
    "max_number_length": [int("1" * 41)],
}


@pytest.mark.parametrize("setting", AT_THE_BOUND)
def test_a_value_at_its_bound_is_accepted(setting: str):
    check_json(json.dumps(AT_THE_BOUND[setting]).encode(), BOUNDS)


@pytest.mark.parametrize("text", ['a"b', "a\\b", "\u2028", '["{,'])
def test_a_text_is_measured_with_its_escapes_wherever_it_is(text: str):
    for value in ([text * 200], {text * 200: 1}, [{"a": [1, text * 200]}]):
        with pytest.raises(OutOfBounds, match="TWIN_MAX_STRING_LENGTH"):
            check_json(json.dumps(value).encode(), BOUNDS)
    check_json(json.dumps([text] * 10).encode(), BOUNDS)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("depth", [6, 40, 300, 20_000])
def test_a_depth_is_refused_whether_its_brackets_are_closed_or_not(opening: str, depth: int):
    closed = opening * depth + "1" + "".join("]" if bracket == "[" else "}" for bracket in opening[::-1] if bracket in "[{") * depth
    for value in (opening * depth, closed, f'{{"id": "x", "a": {closed}}}'):
        with pytest.raises(
            OutOfBounds, match=r"a depth of \d+ objects and arrays inside each other exceeds 5, TWIN_MAX_JSON_DEPTH"
        ):
            check_json(value.encode(), BOUNDS)


def test_fields_of_an_object_are_called_fields():
    fields = json.dumps({str(number): [1, {"a": 2}] for number in range(11)}).encode()
    for check in (check_json, check_array):
        with pytest.raises(OutOfBounds, match=r"an object with 11 fields exceeds 10, TWIN_MAX_ARRAY_ELEMENTS"):
            check(fields, BOUNDS)
    with pytest.raises(OutOfBounds, match=r"an object with 11 fields"):
        check_json(b"[" + fields + b"]", BOUNDS)


@pytest.mark.parametrize("setting", ABOVE_IT)
@pytest.mark.parametrize("around", [lambda value: value, lambda value: [{"before": 'a "text" with [{,'}, value, "]"]])
def test_a_value_above_its_bound_is_refused_with_the_bound_and_the_setting(setting: str, around: Any):
    value = around(ABOVE_IT[setting])
    with pytest.raises(OutOfBounds, match=f"exceeds {getattr(BOUNDS, setting)}, TWIN_{setting.upper()}"):
        check_json(json.dumps(value).encode(), BOUNDS)


def test_sizes_of_records_and_messages_have_bounds_of_their_own():
    check_size(b"k" * 64, b"x" * 4096, BOUNDS)
    for key, value, setting in ((b"k" * 65, b"", "MAX_KEY_BYTES"), (None, b"x" * 4097, "MAX_RECORD_BYTES")):
        with pytest.raises(OutOfBounds, match=setting):
            check_size(key, value, BOUNDS)
    check_message(None, None, BOUNDS)
    check_message(b"", json.dumps(["x"] * 10).encode(), BOUNDS)
    with pytest.raises(OutOfBounds, match="MAX_MESSAGE_BYTES"):
        check_message(None, b" " * 2049, BOUNDS)


@pytest.mark.parametrize("n", [10, 11])
@pytest.mark.parametrize("element", [{}, 1, "a,b", [1, 2, 3], {"a": {"b": [1, {"c": 2}]}, "d": "],["}])
def test_the_elements_of_an_array_are_counted_whatever_they_are(n: int, element: Any):
    value = json.dumps([element] * n).encode()
    if n == 10:
        check_array(value, BOUNDS)
    else:
        with pytest.raises(OutOfBounds, match=r"an array of 11 elements exceeds 10, TWIN_MAX_ARRAY_ELEMENTS"):
            check_array(value, BOUNDS)


@pytest.mark.parametrize(
    ("features", "setting"),
    [
        (dict.fromkeys("abcd", 1), "MAX_FEATURES"),
        ({"x" * 21: 1}, "MAX_NAME_LENGTH"),
        ({"x": "y" * 21}, "MAX_NAME_LENGTH"),
    ],
)
def test_features_have_bounds(features: dict[str, object], setting: str):
    with pytest.raises(OutOfBounds, match=setting):
        check_features(features, BOUNDS)
    assert not fits(features, BOUNDS)
    assert fits(None, BOUNDS)
    assert fits({"x" * 20: "y" * 20}, BOUNDS)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=50), lambda inner: st.lists(inner, max_size=4), max_leaves=20))
def test_a_value_within_the_bounds_is_never_refused(value: Any):
    check_json(json.dumps(value).encode(), BoundSettings())


@given(st.binary(max_size=500))
def test_any_bytes_are_accepted_or_out_of_bounds(value: bytes):
    for check in (check_json, check_array):
        try:
            check(value, BOUNDS)
        except OutOfBounds as error:
            assert "TWIN_MAX_" in str(error)  # noqa: PT017  # some bytes are accepted, others are not


SLOW = {
    "open arrays": b"[" * 1_048_576,
    "arrays inside each other": b"[" * 524_288 + b"]" * 524_288,
    "quotes": b'"' * 1_048_576,
    "a text without an end": b'"' + b'\\"' * 524_288,
    "objects": b"[{}]," * 200_000,
    "short texts": b'["",' * 262_144,
}


@pytest.mark.parametrize("name", SLOW)
def test_no_value_of_the_largest_size_takes_more_than_seconds_of_the_processor(name: str):
    start = time.process_time()
    with suppress(OutOfBounds):
        check_json(SLOW[name], BoundSettings(max_array_elements=10**9, max_string_length=10**9))
    assert time.process_time() - start < 10.0


def test_the_bounds_are_settings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TWIN_MAX_DECOMPRESSED_BYTES", "2097152")
    assert Settings().max_decompressed_bytes == 2 * 1024 * 1024
    assert Settings().max_array_elements == 50_000


@pytest.mark.parametrize(
    "value",
    [
        b"]" * 12_000 + b"," * 60_000 + b"[" * 12_000 + b"]" * 12_000,
        b"]" * 12_000 + b"," * 60_000 + b"[" * 12_000 + b"]" * 12_000 + b",",
        b"[" * 20 + b"]" * 40 + b"{" * 33,
    ],
)
def test_brackets_that_close_nothing_hide_no_depth(value: bytes) -> None:
    with pytest.raises(OutOfBounds, match="TWIN_MAX_JSON_DEPTH"):
        check_json(value, DEFAULT_BOUNDS)


def test_brackets_that_do_not_match_end_the_count_of_elements() -> None:
    check_json(b"[" + b"}" * 30 + b"]," * 40_000, DEFAULT_BOUNDS)
    check_json(b"[}" * 40_000 + b"," * 60_000, DEFAULT_BOUNDS)

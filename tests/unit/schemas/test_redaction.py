"""Whatever the bytes, nothing names the person after a redaction, and what is not about them stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.redaction import ERASED, ERASED_VALUE, names_entity, redact, replace_entity, texts_in

ID = "hcp-7"
NAMES = names_entity(ID)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"entity_id": ID, "features": {"a": 1}}, ERASED),
        ({"who": {"id": ID}, "features": {"a": 1}}, ERASED),
        ({"entity_id": "hcp-8"}, {"entity_id": "hcp-8"}),
        ({"note": f"about {ID}."}, ERASED),
        ([{"entity_id": ID}, {"entity_id": "hcp-8"}], [ERASED, {"entity_id": "hcp-8"}]),
        ([[{"entity_id": ID}, {"entity_id": "hcp-8"}], [1]], [[ERASED, {"entity_id": "hcp-8"}], [1]]),
        ({"rows": [{"tags": [ID], "x": 1}, {"x": 2}]}, {"rows": [ERASED, {"x": 2}]}),
        ({"a": {"rows": [{"id": ID}, 1]}, "b": 2}, {"a": {"rows": [ERASED, 1]}, "b": 2}),
        ({ID: {"x": 1}}, ERASED),
        ([ID, "hcp-77"], [ERASED, "hcp-77"]),
        (ID, ERASED),
        (7, 7),
    ],
)
def test_the_smallest_element_about_the_person_is_redacted(before: Any, after: Any) -> None:
    redacted = redact(json.dumps(before).encode(), NAMES)

    assert redacted is not None
    assert json.loads(redacted) == after


@pytest.mark.parametrize(
    ("value", "entity"),
    [
        (b'{"entity_id": "\\u0078"}', "x"),
        (b'{"entity_id": 1234567890}', "1234567890"),
        (b'{"entity_id": 123456789012345678901234567890}', "123456789012345678901234567890"),
        (b'{"entity_id": "x", "entity_id": "y"}', "x"),
        (b'{"entity_id": "x"', "x"),
        (b'{"entity_id": "\\u00e9"', "é"),
        ('{"entity_id": "é"}'.encode(), "é"),
        ('"é"'.encode("utf-16-le"), "é"),
        (b"\xff\xfe x \x80", "x"),
        (b'{"entity_id": "x", "n": NaN}', "x"),
        (b"[" * 100_000 + b'"x"', "x"),
    ],
)
def test_a_person_is_found_however_the_bytes_are_written(value: bytes, entity: str) -> None:
    assert redact(value, names_entity(entity)) == ERASED_VALUE


ODD = "hcp-7'\"%_\u00e9\\x"


@pytest.mark.parametrize("levels", range(4))
@pytest.mark.parametrize("entity", [ID, ODD, "\U0001f600 7", "a\tb"])
def test_a_person_is_found_in_json_that_is_a_text_within_json(entity: str, levels: int) -> None:
    text = json.dumps({"rows": [{"entity_id": entity}], "note": f"line\n{entity}"})
    for _ in range(levels):
        text = json.dumps({"body": text})

    assert json.loads(redact(text.encode(), names_entity(entity)) or b"") == ERASED
    assert entity in texts_in(text.encode())
    assert entity not in str(replace_entity(json.loads(text), entity))


def test_an_id_in_escapes_of_broken_json_is_found() -> None:
    text = "{broken " + json.dumps(json.dumps({"who": ODD}))

    assert redact(text.encode(), names_entity(ODD)) == ERASED_VALUE


@pytest.mark.parametrize(
    "value", [b'{"revision": 7, "decile": 7.0}', b"[7, 77]", b'{"observed_at": "2026-03-07T00:00:00Z"}', b"3.7"]
)
def test_a_short_id_does_not_match_numbers_and_times(value: bytes) -> None:
    assert redact(value, names_entity("7")) is value


def test_an_id_that_is_a_word_of_the_catalogue_does_not_match_every_record() -> None:
    value = b'{"twin_type": "hcp", "brand": "kisqali", "entity_id": "7"}'

    assert redact(value, names_entity("hcp")) is value
    assert redact(b'{"twin_type": "hcp", "entity_id": "hcp"}', names_entity("hcp")) == ERASED_VALUE


def test_numbers_of_the_other_elements_stay_as_they_are_written() -> None:
    value = b'[{"id": "hcp-7"}, {"a": 1.50, "b": 1E400, "c": -0, "d": 123456789012345678901234567890}]'

    assert redact(value, NAMES) == b'["[erased]",{"a":1.50,"b":1E400,"c":-0,"d":123456789012345678901234567890}]'


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([ID, f"see {ID}", "hcp-77", "west", "é"]) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([ID, "entity_id", "a", "b"]), inner, max_size=4),
    max_leaves=20,
)


@given(documents)
def test_after_a_redaction_nothing_names_the_person_and_it_changes_nothing_more(document: Any) -> None:
    value = json.dumps(document).encode()

    redacted = redact(value, NAMES)

    assert redacted is not None
    assert ID not in json.dumps(json.loads(redacted)).replace("hcp-77", "")
    assert redact(redacted, NAMES) is redacted
    assert (redacted is value) == (not any(map(NAMES, texts_in(value))))


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_bytes_that_are_no_json_are_redacted_as_a_whole(before: bytes, after: bytes) -> None:
    value = b"{ " + before + b" " + ID.encode() + b" " + after

    assert redact(value, NAMES) == ERASED_VALUE


@pytest.mark.parametrize("escape", ["u005c", "\\\\", "u005Cu005c"])
def test_a_text_of_many_escapes_is_not_read_more_often_than_a_person_would_encode_it(escape: str) -> None:
    value = ("x\\" + escape * 20_000).encode()
    assert len(texts_in(value)) < 20
    assert len(texts_in(json.dumps({"why": value.decode()}).encode())) < 30
    assert redact(value, names_entity("nobody")) == value


def test_a_wide_array_in_a_deep_document_is_read_once() -> None:
    depth, width = 100, 100_000
    value = b'{"a":' * depth + b"[" + b'"b",' * width + b'"hcp-7"]' + b"}" * depth
    assert texts_in(value) == {"a", "b", "hcp-7"}
    redacted = redact(value, names_entity("hcp-7"))
    assert redacted == b'{"a":' * depth + b"[" + b'"b",' * width + b'"[erased]"]' + b"}" * depth
    members = b'{"a":' * depth + b"{" + b",".join(b'"b%d":1' % number for number in range(width)) + b"}" + b"}" * depth
    assert redact(members, names_entity("hcp-7")) == members

"""A name that is twice in one object is refused by that name, wherever it comes in: a parser would keep its last value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import OutcomeEvent
from streams.errors import require_clear
from streams.ingestion.decoding import decode
from streams.kafka.batch_consumer import PollBatch
from streams.repeated_keys import RepeatedKey, may_repeat_keys, require_unique_keys
from streams.simulation.request_decoding import decode_request
from tests.outcomes import TOPIC, outcome, record

SIMULATION = "00000000-0000-4000-8000-000000000001"


def written(pairs: list[tuple[str, Any]], *, colon: str = ": ") -> str:
    return "{" + ", ".join(f"{json.dumps(name)}{colon}{json.dumps(value)}" for name, value in pairs) + "}"


def decode_values(*values: bytes) -> Any:
    return decode(PollBatch(TOPIC, 0, 0, [record(offset, value) for offset, value in enumerate(values)]), 300.0)


NAMES = st.sampled_from(["a", "b", "é", 'quote"', "colon:", "\\"]) | st.text(max_size=3)
OBJECTS = st.recursive(st.integers() | st.text(max_size=5) | st.booleans(), lambda item: st.lists(item, max_size=3), max_leaves=4)


@given(st.lists(st.tuples(NAMES, OBJECTS), max_size=6), st.sampled_from([":", ": ", " :", "\n:\t"]))
def test_a_name_is_there_twice_or_it_is_not(pairs: list[tuple[str, Any]], colon: str):
    text, parsed = written(pairs, colon=colon).encode(), dict(pairs)
    if len(parsed) == len(pairs):
        require_unique_keys(b"[1, %s]" % text)
    else:
        with pytest.raises(RepeatedKey):
            require_unique_keys(b"[1, %s]" % text)
        assert may_repeat_keys([text], [parsed], [])


@pytest.mark.parametrize(
    "field", sorted(OutcomeEvent.model_fields.keys() - {"model_id", "simulation_id", "twin_id", "entity_id", "features"})
)
@pytest.mark.parametrize("colon", [": ", " : ", ":"])
def test_an_outcome_with_a_field_twice_is_refused_alone_by_the_name_of_the_field(field: str, colon: str):
    fields = {"schema_version": 1, "treated": False, "revision": 0} | outcome(1)
    twice = written([*fields.items(), (field, fields[field])], colon=colon)
    array = f"[{json.dumps(outcome(2))}, {twice}, {json.dumps(outcome(3))}]".encode()

    decoded = decode_values(json.dumps(outcome(4)).encode(), twice.encode(), array, json.dumps(outcome(5)).encode())

    assert decoded.outcomes.record_index.tolist() == [0, 2, 2, 3]
    assert [(item.record_index, item.element_index, item.refusal.kind) for item in decoded.refused] == [
        (1, 0, "json"),
        (2, 1, "json"),
    ]
    assert all(f"the field '{field}' is there more than once" in item.refusal.reason for item in decoded.refused)


@pytest.mark.parametrize(("field", "name"), [("features", "decile"), ("segment", "region")])
def test_a_name_inside_of_an_outcome_is_there_once_too(field: str, name: str):
    fields = outcome(1, entity_id="h1", features={"decile": 4}) if field == "features" else outcome(1)
    for absent in ("predicted_value", "predicted_lower", "predicted_upper") if field == "features" else ():
        del fields[absent]
    text = json.dumps(fields)
    inside = json.dumps(fields[field])

    decoded = decode_values(text.encode(), text.replace(inside, f"{inside[:-1]}, {inside[1:]}").encode())

    assert decoded.outcomes.record_index.tolist() == [0]
    assert f"the field '{name}'" in decoded.refused[0].refusal.reason


def test_a_colon_after_an_escaped_quote_is_part_of_a_text():
    odd = outcome(1, segment={"region": 'a":b'}), outcome(2, segment={"region": "\\"})
    decoded = decode_values(*(json.dumps(fields).encode() for fields in odd))
    assert (len(decoded.outcomes), decoded.refused) == (2, [])


def test_a_request_with_a_field_twice_is_rejected_under_its_id():
    body = f'{{"simulation_id": "{SIMULATION}", "seed": 1, "seed": 2}}'
    decoded = decode_request(body.encode())
    assert (str(decoded.simulation_id), decoded.request) == (SIMULATION, None)
    assert "the field 'seed' is there more than once" in decoded.reason


def test_any_other_record_with_a_field_twice_is_refused():
    with pytest.raises(RepeatedKey, match="'effect'"):
        require_clear(b'{"effect": 0.1, "filters": {}, "effect": 0.5}')
    assert require_clear(b"no JSON") == b"no JSON"

"""Reasons of refusals: whatever a record holds, its refusal has a short sentence that every topic and column takes."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from schemas import RetrainEvent
from streams.errors import describe_error, limit_text

RETRAIN = {
    "retrain_id": str(UUID(int=1)),
    "line": "hcp:kisqali:prescribing_change",
    "model_id": str(UUID(int=2)),
    "attempt": 0,
    "requested_at": "2026-03-01T00:00:00Z",
    "cause": "drift",
    "reason": "errors grow",
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([2**31, 2**64, 10**400]) | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(), values, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*sorted(RetrainEvent.model_fields), "surprise"]), VALUES, max_size=3))
def test_whatever_json_is_in_a_retrain_event_it_is_one_or_has_a_reason(fields: dict[str, Any]):
    event = read(json.dumps(RETRAIN | fields))
    if isinstance(event, str):
        assert 0 < len(event) <= 2000
    else:
        assert 0 <= event.attempt < 2**31


def read(value: str) -> RetrainEvent | str:
    try:
        return RetrainEvent.model_validate_json(value)
    except ValidationError as error:
        return describe_error(error)


def test_an_attempt_that_no_column_holds_is_named():
    assert read(json.dumps(RETRAIN | {"attempt": 2**31})) == "attempt: input should be less than 2147483648, not 2147483648"


@pytest.mark.parametrize("text", ["x" * 10_000, "\ud800" * 10, "a\0b", "\U0001f600" * 3000])
def test_a_reason_is_short_text_that_can_be_encoded(text: str):
    limited = limit_text(text)
    assert 0 < len(limited.encode()) <= 8000
    assert "\0" not in limited
    assert describe_error(ValueError(text)) == limit_text(" ".join(text.split()))


def test_a_number_that_python_cannot_write_is_described():
    with pytest.raises(ValidationError) as refused:
        RetrainEvent.model_validate(RETRAIN | {"attempt": 10**5000, "cause": 10**5000})
    assert "not a number of more than 4300 digits" in describe_error(refused.value)


class _Body(BaseModel):
    value: int


@pytest.mark.parametrize(("body", "shown"), [(b"not json", "not 'not json'"), (b"\xff", r"not '\xff'")])
def test_bytes_are_shown_as_text(body: bytes, shown: str):
    with pytest.raises(ValidationError) as error:
        _Body.model_validate_json(body)
    assert describe_error(error.value).endswith(shown)

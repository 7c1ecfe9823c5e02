"""Corrections of refused records: which fields an operator changes, and the checks that the result would be accepted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from schemas import EVENTS, OutcomeEvent
from sql.dead_letter_store import RefusedRecord
from sql.park_store import PARKED
from streams.errors import describe_error
from streams.kafka import topic_of

__all__ = ["Correction", "corrected_value", "json_object", "parse_assignment"]

_OUTCOMES = topic_of(OutcomeEvent)
_OUTCOME_ARRAY = TypeAdapter(list[OutcomeEvent])
_ID_FIELDS = {
    "outcome-events": "event_id",
    "simulation-requests": "simulation_id",
    "experiment-results": "experiment_id",
    "retrain-events": "retrain_id",
    "training-requests": "training_id",
}


@dataclass(frozen=True)
class Correction:
    """What to change of a refused record before it is published again; nothing by default.

    Attributes:
        sets: values of fields by their path: ``actual_value`` or ``intervention.channel``.
        drops: paths of fields to remove.
        value: a body that replaces the refused one.
    """

    sets: Mapping[str, Any] = field(default_factory=dict)
    drops: Sequence[str] = ()
    value: bytes | None = None

    def format_text(self) -> str:
        """The changes on one line."""
        replaced = ["another value"] if self.value is not None else []
        changed = [f"{path} = {json.dumps(value)}" for path, value in self.sets.items()]
        removed = [f"without {path}" for path in self.drops]
        return ", ".join([*replaced, *changed, *removed])


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split ``FIELD=VALUE`` of the command line; the value is JSON if it parses as JSON, else text.

    Raises:
        ValueError: when there is no ``=``.

    Example:
        >>> parse_assignment("actual_value=0.1"), parse_assignment("brand=kisqali"), parse_assignment("segment.region=null")
        (('actual_value', 0.1), ('brand', 'kisqali'), ('segment.region', None))
    """
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise ValueError(f"{text!r} is not FIELD=VALUE, for example actual_value=0.1")
    try:
        return path, json.loads(value)
    except ValueError:
        return path, value


def corrected_value(refused: RefusedRecord, correction: Correction) -> bytes:
    """The bytes to publish: those that were refused, with the correction applied.

    Raises:
        ValueError: when they would be refused again, or when they would have another id than the refused record.
    """
    value = refused.value if correction.value is None else correction.value
    if value is None:
        raise ValueError("there is no value to publish: give one with --value FILE")
    if correction.sets or correction.drops:
        value = _apply(correction, value)
    if refused.kind != PARKED or correction != Correction():  # a parked record was never judged: its role does that now
        _check_schema(refused.source.topic, value)
    _check_id(refused, value)
    return value


def json_object(value: bytes) -> dict[str, Any] | None:
    """The value as a JSON object; None when it is none."""
    try:
        body = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _apply(correction: Correction, value: bytes) -> bytes:
    body = json_object(value)
    if body is None:
        raise ValueError("the value is not a JSON object, so no field can be changed: give a whole value with --value FILE")
    for path, field_value in correction.sets.items():
        parent, name = _locate(body, path)
        parent[name] = field_value
    for path in correction.drops:
        parent, name = _locate(body, path)
        if name not in parent:
            raise ValueError(f"there is no field {path!r} to drop: the fields are {', '.join(map(str, parent))}")
        del parent[name]
    return json.dumps(body).encode()


def _locate(body: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The object that holds the last field of a dotted path, and the name of that field; missing objects are created."""
    *outer, name = path.split(".")
    for step in outer:
        body = body.setdefault(step, {})
        if not isinstance(body, dict):
            raise ValueError(f"{step!r} of {path!r} has no fields: it is {body!r}")  # noqa: TRY004  # input of the operator
    return body, name


def _check_schema(topic: str, value: bytes) -> None:
    try:
        if topic == _OUTCOMES and value.lstrip()[:1] == b"[":
            _OUTCOME_ARRAY.validate_json(value)
        else:
            EVENTS[topic].model_validate_json(value)
    except ValidationError as error:
        raise ValueError(f"would be refused again: {describe_error(error)}") from error


def _check_id(refused: RefusedRecord, value: bytes) -> None:
    """A correction keeps a readable id: under a new id the event could count twice."""
    name = _ID_FIELDS.get(refused.source.topic)
    before, after = json_object(refused.value or b""), json_object(value)
    if name is None or before is None or after is None or not _is_valid_id(name, before.get(name)):
        return
    if str(before[name]).lower() != str(after[name]).lower():
        raise ValueError(f"{name} is {before[name]} and cannot be changed to {after[name]}: the event could count twice")


def _is_valid_id(name: str, value: Any) -> bool:
    if name == "experiment_id":
        return isinstance(value, str) and bool(value)
    try:
        return bool(UUID(value))
    except (ValueError, TypeError, AttributeError):
        return False

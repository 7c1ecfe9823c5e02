"""From the bytes of a record to outcomes and refusals, element by element."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from schemas import OutcomeEvent

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

__all__ = ["Element", "Refusal", "parse", "refusal_words", "text_headers"]

_OUTCOME = TypeAdapter(OutcomeEvent)
_OUTCOMES = TypeAdapter(list[OutcomeEvent])
_LONGEST_REASON = 2000


class Refusal(NamedTuple):
    """Why an element is not taken: a word for the metric and a sentence for people, and the bytes of the element."""

    kind: str
    reason: str
    raw: bytes | None


class Element(NamedTuple):
    """One outcome of a record, or what was refused of it; ``place`` in its array, ``at`` Kafka's time of the record."""

    offset: int
    place: int
    at: datetime
    event: OutcomeEvent | None
    refusal: Refusal | None


def parse(records: Iterable[ConsumerRecord[bytes | None, bytes | None]], skew_s: float) -> list[Element]:
    """All elements of the records in their order; every record has at least one, if only a refused one."""
    skew = timedelta(seconds=skew_s)
    return [
        _unless_future(Element(record.offset, index, at, event, refusal), skew)
        for record in records
        for at in (datetime.fromtimestamp(record.timestamp / 1000, UTC),)
        for index, (event, refusal) in enumerate(_elements(record.value))
    ]


def refusal_words(error: ValidationError) -> str:
    """What pydantic found, one sentence for each field."""
    details = error.errors(include_url=False, include_context=False)
    found = (f"{'.'.join(map(str, each['loc'])) or 'value'}: {each['msg']}" for each in details)
    return "; ".join(found).replace("\x00", "")[:_LONGEST_REASON]


def text_headers(headers: Iterable[tuple[str, bytes | None]]) -> list[tuple[str, str]]:
    """Headers as text that JSON can carry: base64 of the bytes."""
    return [(name.replace("\x00", ""), base64.b64encode(value or b"").decode()) for name, value in headers]


_Found = tuple[OutcomeEvent | None, Refusal | None]


def _elements(value: bytes | None) -> Sequence[_Found]:
    if value is None:
        return [(None, Refusal("empty", "the record has no value", None))]
    if b"\\u0000" in value:
        return [(None, Refusal("json", "the text contains NUL, which no database keeps", value))]
    if value.lstrip()[:1] == b"[":
        return _array(value)
    try:
        return [(_OUTCOME.validate_json(value), None)]
    except ValidationError as error:
        return [(None, _refusal(error, value))]


def _array(value: bytes) -> Sequence[_Found]:
    try:
        events = _OUTCOMES.validate_json(value)
    except ValidationError:
        return list(_one_by_one(value))
    return [(event, None) for event in events] or [(None, Refusal("empty", "the array has no elements", value))]


def _one_by_one(value: bytes) -> Iterator[_Found]:
    try:
        elements: list[Any] = json.loads(value)
    except ValueError as error:
        yield None, Refusal("json", f"the record is no JSON: {error}", value)
        return
    for element in elements:
        raw = json.dumps(element).encode()
        try:
            yield _OUTCOME.validate_json(raw), None
        except ValidationError as error:
            yield None, _refusal(error, raw)


def _refusal(error: ValidationError, raw: bytes) -> Refusal:
    kind = "json" if error.errors(include_url=False)[0]["type"] == "json_invalid" else "invalid"
    return Refusal(kind, refusal_words(error), raw)


def _unless_future(element: Element, skew: timedelta) -> Element:
    event = element.event
    if event is None or event.observed_at <= element.at + skew:
        return element
    arrived, allowed = element.at.isoformat(), f"{skew.total_seconds():g} s"
    reason = f"observed_at {event.observed_at.isoformat()} lies more than {allowed} after its arrival at {arrived}"
    return element._replace(event=None, refusal=Refusal("future", reason, event.model_dump_json().encode()))

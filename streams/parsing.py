"""From the bytes of a record to outcomes and refusals, element by element."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from pydantic import TypeAdapter, ValidationError

from schemas import OutcomeEvent

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

__all__ = ["Element", "Refusal", "parse", "raw_elements", "refusal_words"]

_OUTCOME = TypeAdapter(OutcomeEvent)
_OUTCOMES = TypeAdapter(list[OutcomeEvent])
_LONGEST_REASON = 2000
_DECODER = json.JSONDecoder()
_BEGIN, _COMMA, _END = (re.compile(rf"[ \t\n\r]*{sign}[ \t\n\r]*") for sign in (r"\[", ",", r"\]"))
_NUL = b"\\u0000"


class Refusal(NamedTuple):
    """Why an element is not taken: a word for the metric, a sentence for people, and the class of what was raised."""

    kind: str
    reason: str
    exception: str = "Refusal"


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


def raw_elements(value: bytes | None) -> list[bytes | None]:
    r"""The bytes of each element as they came: of an array its elements, of anything else the whole.

    Example:
        >>> raw_elements(b'[{"a": 1.50},\n 2 ]')
        [b'{"a": 1.50}', b'2']
        >>> raw_elements(b"no JSON \xff")
        [b'no JSON \xff']
    """
    if value is None or value.lstrip()[:1] != b"[":
        return [value]
    try:
        text = value.decode()
        return [text[first:end].encode() for first, end in _spans(text)] or [value]
    except (ValueError, RecursionError):  # no JSON, or nested too deeply: refused as a whole
        return [value]


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where each element of a JSON array begins and ends."""
    at = _after(_BEGIN, text, 0)
    while not _END.match(text, at):
        first, (_, end) = at, _DECODER.raw_decode(text, at)
        yield first, end
        at = end if _END.match(text, end) else _after(_COMMA, text, end)


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    if found is None:
        raise ValueError(f"no JSON array: unexpected {text[at : at + 1]!r} at {at}")
    return found.end()


_Found = tuple[OutcomeEvent | None, Refusal | None]


def _elements(value: bytes | None) -> Sequence[_Found]:
    if value is None:
        return [(None, Refusal("empty", "the record has no value"))]
    return _array(value) if value.lstrip()[:1] == b"[" else [_element(value)]


def _array(value: bytes) -> Sequence[_Found]:
    """All at once; one by one where something is wrong, so that only that is refused."""
    try:
        events = None if _NUL in value else _OUTCOMES.validate_json(value)
    except ValidationError:
        events = None
    if events is None:
        return [_element(raw or b"") for raw in raw_elements(value)]
    return [(event, None) for event in events] or [(None, Refusal("empty", "the array has no elements"))]


def _element(raw: bytes) -> _Found:
    if _NUL in raw:
        return None, Refusal("json", "the text contains NUL, which no database keeps")
    try:
        return _OUTCOME.validate_json(raw), None
    except ValidationError as error:
        return None, _refusal(error)


def _refusal(error: ValidationError) -> Refusal:
    kind = "json" if error.errors(include_url=False)[0]["type"] == "json_invalid" else "invalid"
    return Refusal(kind, refusal_words(error), type(error).__name__)


def _unless_future(element: Element, skew: timedelta) -> Element:
    event = element.event
    if event is None or event.observed_at <= element.at + skew:
        return element
    arrived, allowed = element.at.isoformat(), f"{skew.total_seconds():g} s"
    reason = f"observed_at {event.observed_at.isoformat()} lies more than {allowed} after its arrival at {arrived}"
    return element._replace(event=None, refusal=Refusal("future", reason))

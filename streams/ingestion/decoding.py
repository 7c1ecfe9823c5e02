"""Decodes the records of a poll batch into columns of outcomes and refused elements.

:class:`~schemas.OutcomeEvent` alone defines what a valid outcome is. Building one takes three times as long as everything else that
is done to an outcome here, so a fast path validates the fields without it and checks rules between fields by columns. An element
that the fast path does not accept for certain is given to the model, which accepts it or names the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NotRequired, TypeAlias, cast
from uuid import UUID

import numpy as np
from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from schemas import TWIN_TYPES, OutcomeEvent, SourceId, TwinType
from schemas.arrays import Flags, Floats, Integers, Octets
from schemas.base import EARLIEST, AwareTime, utc_time
from schemas.canonical import encode_shared_fields
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.events import Features
from schemas.twin_types import model_line
from streams.bounds import DEFAULT_BOUNDS, BoundSettings, OutOfBounds, check_array, check_features, check_json, check_size, fits
from streams.errors import ContainsNul, contains_nul, describe_error
from streams.ingestion.outcome_batch import (
    DecodedBatch,
    ElementRefusal,
    Entity,
    OutcomeBatch,
    RefusedElement,
    SharedFields,
    from_microseconds,
    parked_element,
    to_microseconds,
    tracking_ids,
)
from streams.kafka.parking import UnreadableBytes

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

    from streams.kafka.batch_consumer import PollBatch

__all__ = ["decode", "raw_elements"]

Records: TypeAlias = "Sequence[ConsumerRecord[bytes | None, bytes | None]]"

_DECODER = json.JSONDecoder()
_BEGIN, _COMMA, _END = (re.compile(rf"[ \t\n\r]*{sign}[ \t\n\r]*") for sign in (r"\[", ",", r"\]"))


def decode(batch: PollBatch, skew_s: float, bounds: BoundSettings = DEFAULT_BOUNDS) -> DecodedBatch:
    """Decode all elements of a batch.

    Outcomes observed more than ``skew_s`` after Kafka's time of their record are refused, and so are those observed before 1900 and
    what exceeds ``bounds``.
    """
    source = SourceId(topic=batch.topic, partition=batch.partition, incarnation=batch.incarnation)
    offsets = np.array([record.offset for record in batch.records], dtype=np.int64)
    arrived_us = np.array([record.timestamp for record in batch.records], dtype=np.int64) * 1000
    refused: list[RefusedElement] = []
    outcomes = _refuse_impossible_times(_decode_records(batch.records, bounds, refused), arrived_us, skew_s, refused)
    elements = zip(offsets[outcomes.record_index].tolist(), outcomes.element_index.tolist(), strict=True)
    return DecodedBatch(
        batch=batch,
        source=source,
        offsets=offsets,
        arrived_us=arrived_us,
        outcomes=outcomes,
        ids=tracking_ids(source, elements),
        digests=outcomes.digests(),
        refused=refused,
        refused_ids=tracking_ids(source, ((int(offsets[item.record_index]), item.element_index) for item in refused)),
    )


def _decode_records(records: Records, bounds: BoundSettings, refused: list[RefusedElement]) -> OutcomeBatch:
    elements = _Elements([], [], [], bounds)
    for index, record in enumerate(records):
        try:
            check_size(record.key, record.value, bounds)
            _read_record(index, record.value, elements, refused)
        except OutOfBounds as error:
            refused.append(RefusedElement(index, 0, _refusal_of(error)._replace(whole_record=True)))
    outcomes, doubtful = _build_columns(elements)
    return _check_doubtful(elements, outcomes, doubtful, records, refused) if doubtful else outcomes


def _refusal_of(error: OutOfBounds) -> ElementRefusal:
    return ElementRefusal("bound", describe_error(error), type(error).__name__)


def _refuse_impossible_times(
    outcomes: OutcomeBatch, arrived_us: Integers, skew_s: float, refused: list[RefusedElement]
) -> OutcomeBatch:
    arrived = arrived_us[outcomes.record_index]
    ahead = outcomes.observed_us - arrived > round(skew_s * 1_000_000)
    impossible = ahead | (outcomes.observed_us < to_microseconds(EARLIEST))
    if not impossible.any():
        return outcomes
    for row in np.flatnonzero(impossible).tolist():
        observed = from_microseconds(int(outcomes.observed_us[row])).isoformat()
        if ahead[row]:
            at = utc_time(int(arrived[row]) / 1e6).isoformat()
            refusal = ElementRefusal("future", f"observed_at {observed} is more than {skew_s:g} s after the record arrived at {at}")
        else:
            refusal = ElementRefusal("past", f"observed_at {observed} is before {EARLIEST:%Y-%m-%d}")
        refused.append(RefusedElement(int(outcomes.record_index[row]), int(outcomes.element_index[row]), refusal))
    return outcomes.select(~impossible)


# -- bytes of elements


def raw_elements(value: bytes | None) -> list[bytes | None]:
    r"""The bytes of each element as they came: the elements of a JSON array, else the whole value.

    Example:
        >>> raw_elements(b'[{"a": 1.50},\n 2 ]')
        [b'{"a": 1.50}', b'2']
        >>> raw_elements(b"no JSON \xff"), raw_elements(b"[1,]")
        ([b'no JSON \xff'], [b'[1,]'])
    """
    if value is None or isinstance(value, UnreadableBytes) or value.lstrip()[:1] != b"[":
        return [value]
    try:
        text = value.decode()
        return [text[start:end].encode() for start, end in _element_spans(text)] or [value]
    except (ValueError, RecursionError):  # no JSON, or nested too deeply: refused as a whole
        return [value]


def _element_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where each element of a JSON array starts and ends in the text."""
    position = _skip(_BEGIN, text, 0)
    is_at_end = _END.match(text, position)
    while not is_at_end:
        start, (_, end) = position, _DECODER.raw_decode(text, position)
        yield start, end
        is_at_end = _END.match(text, end)
        position = end if is_at_end else _skip(_COMMA, text, end)  # an element must follow


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    if match is None:
        raise ValueError(f"no JSON array: unexpected {text[position : position + 1]!r} at {position}")
    return match.end()


# -- fields of elements

_Real = Annotated[float, Field(allow_inf_nan=False)]


class _Fields(TypedDict):
    """The fields of an OutcomeEvent, each validated on its own; ids and words of the catalogue stay text."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # as pydantic reads it

    schema_version: NotRequired[Literal[1]]
    event_id: str
    observed_at: AwareTime
    twin_type: str
    brand: str
    metric_type: str
    actual_value: _Real | None
    revision: NotRequired[Annotated[int, Field(ge=0, lt=2**31)]]
    predicted_value: NotRequired[_Real | None]
    predicted_lower: NotRequired[_Real | None]
    predicted_upper: NotRequired[_Real | None]
    model_id: NotRequired[str | None]
    simulation_id: NotRequired[str | None]
    twin_id: NotRequired[str | None]
    entity_id: NotRequired[Annotated[str, Field(min_length=1, max_length=200)] | None]
    features: NotRequired[Features | None]
    treated: NotRequired[bool | None]
    segment: NotRequired[dict[str, str]]


_validate_fields = TypeAdapter(_Fields).validator.validate_json
_validate_array = TypeAdapter(Annotated[list[_Fields], FailFast()]).validator.validate_json
_validate_event = TypeAdapter(OutcomeEvent).validator.validate_json


class _Elements(NamedTuple):
    """Elements with valid fields, the index of the record of each, and its index in the array."""

    fields: list[_Fields]
    record_index: list[int]
    element_index: list[int]
    bounds: BoundSettings

    def add(self, fields: _Fields, record_index: int, element_index: int) -> None:
        self.fields.append(fields)
        self.record_index.append(record_index)
        self.element_index.append(element_index)


def _read_record(index: int, value: bytes | None, elements: _Elements, refused: list[RefusedElement]) -> None:
    if value is None or isinstance(value, UnreadableBytes):
        nothing = ElementRefusal("empty", "the record has no value") if value is None else parked_element(value.error)
        refused.append(RefusedElement(index, 0, nothing))
        return
    if _read_valid(index, value, elements, refused):
        return
    check_array(value, elements.bounds)
    for element_index, raw in enumerate(raw_elements(value)):
        result = _validate_by_model(raw or b"", elements.bounds)
        if isinstance(result, ElementRefusal):
            refused.append(RefusedElement(index, element_index, result))
        else:
            elements.add(result, index, element_index)


def _read_valid(index: int, value: bytes, elements: _Elements, refused: list[RefusedElement]) -> bool:
    """Read a record with valid fields; of others only the invalid elements are refused, one by one (rule 3)."""
    if contains_nul(value):
        return False
    try:
        if value[:1] == b"{":
            elements.add(_validate_fields(value), index, 0)
            return True
        if value.lstrip()[:1] != b"[":
            return False
        if _may_exceed(value, elements.bounds.max_array_elements):
            check_array(value, elements.bounds)
        _add_array(_validate_array(value), index, elements, refused)
    except ValidationError:
        return False
    return True


def _may_exceed(value: bytes, max_elements: int) -> bool:
    """Whether an array may have more elements: valid ones are objects, and others are counted by their commas."""
    n_objects = value.count(b"{")
    return n_objects > max_elements or value.count(b",") > max_elements + _MOST_COMMAS * n_objects


_MOST_COMMAS = 100  # of most objects; where there are more, the elements are counted one by one


def _add_array(array: Sequence[_Fields], index: int, elements: _Elements, refused: list[RefusedElement]) -> None:
    for element_index, fields in enumerate(array):
        elements.add(fields, index, element_index)
    if not array:
        refused.append(RefusedElement(index, 0, ElementRefusal("empty", "the array has no elements")))


def _validate_by_model(raw: bytes, bounds: BoundSettings) -> _Fields | ElementRefusal:
    """The fields of one element as the model reads them, or why the model or a bound refuses it."""
    if contains_nul(raw):
        return ElementRefusal("json", str(ContainsNul()))
    try:
        check_json(raw, bounds)
        event = _validate_event(raw)
        check_features(event.features, bounds)
    except OutOfBounds as error:
        return _refusal_of(error)
    except ValidationError as error:
        kind = "json" if error.errors(include_url=False)[0]["type"] == "json_invalid" else "invalid"
        return ElementRefusal(kind, describe_error(error), type(error).__name__)
    ids = {name: None if value is None else str(value) for name in _IDS for value in (getattr(event, name),)}
    return cast("_Fields", {**dict(event), **ids})


_IDS = ("event_id", "model_id", "simulation_id", "twin_id")


def _check_doubtful(
    elements: _Elements, outcomes: OutcomeBatch, doubtful: Sequence[int], records: Records, refused: list[RefusedElement]
) -> OutcomeBatch:
    """The outcomes without the doubtful rows that the model refuses; of the others the fields are those of the model."""
    valid = np.ones(len(outcomes), dtype=np.bool_)
    for row in doubtful:
        record_index, element_index = elements.record_index[row], elements.element_index[row]
        result = _validate_by_model(_raw_element(records[record_index].value, element_index), elements.bounds)
        if isinstance(result, ElementRefusal):
            refused.append(RefusedElement(record_index, element_index, result))
            valid[row] = False
        else:
            elements.fields[row] = result
    if valid[doubtful].any():
        outcomes, _ = _build_columns(elements)
    return outcomes.select(valid)


def _raw_element(value: bytes | None, element_index: int) -> bytes:
    elements = raw_elements(value)
    return (elements[element_index] if element_index < len(elements) else value) or b""


# -- columns

# A time with a zone can lie outside of these years once it is converted to UTC; the model refuses it.
_FIRST_US, _LAST_US = (to_microseconds(at.replace(tzinfo=UTC)) for at in (datetime.min, datetime.max))  # noqa: DTZ901  # made aware
_NUMBERS = ("actual_value", "predicted_value", "predicted_lower", "predicted_upper")


def _build_columns(elements: _Elements) -> tuple[OutcomeBatch, list[int]]:
    """The outcomes, and the doubtful rows, which the model has to validate."""
    values: dict[str, list[Any]] = {name: [fields.get(name) for fields in elements.fields] for name in _Fields.__annotations__}
    event_id, valid = _uuid_octets(values["event_id"])
    observed_us = np.array([to_microseconds(at) for at in values["observed_at"]], dtype=np.int64)
    actual, predicted, lower, upper = (_reals(values[name]) for name in _NUMBERS)
    shared_fields, shared_index, is_known = _shared_fields(values)
    twins, entities, is_sound = _references(values, predicted, lower, upper, elements.bounds)
    valid &= (observed_us >= _FIRST_US) & (observed_us <= _LAST_US) & is_known[shared_index] & is_sound
    outcomes = OutcomeBatch(
        record_index=np.array(elements.record_index, dtype=np.int64),
        element_index=np.array(elements.element_index, dtype=np.int64),
        event_id=event_id,
        observed_us=observed_us,
        revision=np.array([revision or 0 for revision in values["revision"]], dtype=np.int64),
        actual=actual,
        predicted=predicted,
        lower=lower,
        upper=upper,
        treated=np.array([-1 if treated is None else treated for treated in values["treated"]], dtype=np.int64),
        shared_fields=shared_fields,
        shared_index=shared_index,
        twins=twins,
        entities=entities,
    )
    return outcomes, np.flatnonzero(~valid).tolist()


def _reals(values: Sequence[float | None]) -> Floats:
    return np.array(values, dtype=np.float64) + 0.0  # minus zero becomes zero: the digest compares octets


_NO_ID = "-" * 36
_HYPHENS = np.array([8, 13, 18, 23])
_DIGITS = np.setdiff1d(np.arange(36), _HYPHENS)
_NIBBLES = np.full(256, 255, dtype=np.uint8)  # value of each hexadecimal digit by its character, 255 for all others
_NIBBLES[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = range(16)
_NIBBLES[np.frombuffer(b"ABCDEF", dtype=np.uint8)] = range(10, 16)


def _uuid_octets(ids: Sequence[str]) -> tuple[Octets, Flags]:
    """Ids in hyphenated form as octets, shape ``(n, 16)``, and which of them have this form; others are doubtful."""
    if set(map(len, ids)) != {36} or not "".join(ids).isascii():
        ids = [text if len(text) == len(_NO_ID) and text.isascii() else _NO_ID for text in ids]
    characters = np.frombuffer("".join(ids).encode("ascii"), dtype=np.uint8).reshape(-1, 36)
    nibbles = _NIBBLES[characters[:, _DIGITS]]
    hyphenated: Flags = (characters[:, _HYPHENS] == ord("-")).all(axis=1) & (nibbles < 16).all(axis=1)
    return (nibbles[:, ::2] << 4 | nibbles[:, 1::2]).astype(np.uint8), hyphenated


_HYPHENATED = re.compile("-".join(f"[0-9a-fA-F]{{{length}}}" for length in (8, 4, 4, 4, 12)))


def _hyphenated_id(text: str | None) -> UUID:
    if text is None or not _HYPHENATED.fullmatch(text):
        raise ValueError(f"{text!r} is no UUID in hyphenated form")
    return UUID(text)


_SHARED = ("twin_type", "brand", "metric_type", "model_id")
_UNKNOWN = SharedFields("", TwinType.HCP, "", None, (), b"")


def _shared_fields(values: dict[str, list[Any]]) -> tuple[list[SharedFields], Integers, Flags]:
    """The different shared fields, those of each outcome by index, and which of them the catalogue accepts."""
    numbers: dict[Any, int] = {}
    segments = [tuple(segment.items()) if segment else () for segment in values["segment"]]
    keys = zip(*(values[name] for name in _SHARED), segments, strict=True)
    shared_index = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    version = catalogue_in_effect().sha256
    fields = [_parse_shared(version, *key) for key in numbers]
    return [item or _UNKNOWN for item in fields], shared_index, np.array([item is not None for item in fields], dtype=np.bool_)


@lru_cache(maxsize=10_000)
def _parse_shared(
    _catalogue: str, twin_type: str, brand: str, metric_type: str, model_id: str | None, segment: tuple[tuple[str, str], ...]
) -> SharedFields | None:
    try:
        twin_type_, model = TwinType(twin_type), None if model_id is None else _hyphenated_id(model_id)
        line = model_line(twin_type_, brand, metric_type)
    except ValueError:
        return None
    if not dict(segment).keys() <= set(TWIN_TYPES[twin_type_].segments):
        return None
    pairs = tuple(sorted(segment))
    canonical = encode_shared_fields(1, twin_type, brand, metric_type, model, pairs)
    return SharedFields(line, twin_type_, metric_type, model, pairs, canonical)


def _references(
    values: dict[str, list[Any]], predicted: Floats, lower: Floats, upper: Floats, bounds: BoundSettings
) -> tuple[dict[int, tuple[UUID, UUID]], dict[int, Entity], Flags]:
    """Twins and entities by row, and which outcomes have exactly one way to their prediction and a sound interval and features."""
    n = len(predicted)
    has_prediction, has_interval = ~np.isnan(predicted), ~np.isnan(lower)
    n_ways = has_prediction.astype(np.int64)
    sound = (has_interval == ~np.isnan(upper)) & (~has_interval | ((lower <= predicted) & (predicted <= upper)))
    if values["model_id"].count(None) < n:
        sound &= has_prediction | np.array([model_id is None for model_id in values["model_id"]], dtype=np.bool_)
    twins: dict[int, tuple[UUID, UUID]] = {}
    for row in _rows_with(values["simulation_id"]) | _rows_with(values["twin_id"]):
        n_ways[row] += 1
        try:
            twins[row] = _hyphenated_id(values["simulation_id"][row]), _hyphenated_id(values["twin_id"][row])
        except ValueError:
            sound[row] = False
    entities: dict[int, Entity] = {}
    for row in _rows_with(values["entity_id"]) | _rows_with(values["features"]):
        entity_id, features = values["entity_id"][row], values["features"][row]
        n_ways[row] += features is not None
        sound[row] &= entity_id is not None and fits(features, bounds)
        entities[row] = Entity(entity_id or "", features)
    return twins, entities, sound & (n_ways == 1)


def _rows_with(values: Sequence[Any]) -> set[int]:
    return set() if values.count(None) == len(values) else {row for row, value in enumerate(values) if value is not None}

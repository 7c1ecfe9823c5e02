"""Decodes the records of a poll batch into columns of outcomes and refused elements.

:class:`~schemas.OutcomeEvent` alone defines what a valid outcome is. Building one takes three times as long as everything else that
is done to an outcome here, so two faster ways come first. The records of a batch are decoded together where all of their outcomes
are plain. Of the others each record is validated field by field, and the rules between fields are checked by columns. An element
that neither way accepts for certain is given to the model, which accepts it or names the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, TypeAlias, cast

import numpy as np
from pydantic import FailFast, TypeAdapter, ValidationError

from schemas import OutcomeEvent, SourceId
from schemas.arrays import Integers
from schemas.base import EARLIEST, utc_time
from streams.bounds import (
    DEFAULT_BOUNDS,
    BoundSettings,
    OutOfBounds,
    bytes_beside_value,
    check_array,
    check_features,
    check_json,
    check_size,
    require_bounded,
)
from streams.errors import ContainsNul, contains_nul, describe_error
from streams.ingestion.outcome_batch import (
    DecodedBatch,
    ElementRefusal,
    OutcomeBatch,
    RefusedElement,
    concatenate,
    from_microseconds,
    parked_element,
    to_microseconds,
    tracking_ids,
)
from streams.ingestion.outcome_columns import Elements, OutcomeFields, build_columns
from streams.ingestion.plain_outcomes import decode_plain
from streams.kafka.parking import UnreadableBytes
from streams.repeated_keys import RepeatedKey, may_repeat_keys, require_unique_keys

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

    from streams.kafka.batch_consumer import PollBatch

__all__ = ["decode", "raw_elements"]

Records: TypeAlias = "Sequence[ConsumerRecord[bytes | None, bytes | None]]"

_NEIGHBOURS = 250  # records of a part in which one that is not plain makes all be decoded one by one
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
    """The outcomes of all records: plain ones together, and the others and their neighbours one by one."""
    outcomes = decode_plain(records, bounds)
    if outcomes is not None:
        return outcomes
    if len(records) <= _NEIGHBOURS:
        return _decode_singly(records, bounds, refused)
    parts = []
    for first in range(0, len(records), _NEIGHBOURS):
        refused_there: list[RefusedElement] = []
        part = _decode_records(records[first : first + _NEIGHBOURS], bounds, refused_there)
        parts.append(replace(part, record_index=part.record_index + first))
        refused += [element._replace(record_index=element.record_index + first) for element in refused_there]
    return concatenate(parts)


def _decode_singly(records: Records, bounds: BoundSettings, refused: list[RefusedElement]) -> OutcomeBatch:
    elements = _read_records(records, bounds, refused, frozenset())
    if repeated := _with_repeated_keys(records, elements):
        refused.clear()
        elements = _read_records(records, bounds, refused, repeated)
    outcomes, doubtful = build_columns(elements)
    return _check_doubtful(elements, outcomes, doubtful, records, refused) if doubtful else outcomes


def _read_records(records: Records, bounds: BoundSettings, refused: list[RefusedElement], one_by_one: Container[int]) -> Elements:
    """Read the elements of all records; those of the records in ``one_by_one`` are validated by the model alone."""
    elements = Elements([], [], [], bounds)
    for index, record in enumerate(records):
        try:
            check_size(record.key, record.value, bounds)
            require_bounded(record.headers)
            _check_copies(record, bounds)
            _read_record(index, record.value, elements, refused, is_valid=index not in one_by_one)
        except OutOfBounds as error:
            refused.append(RefusedElement(index, 0, _refusal_of(error)._replace(whole_record=True)))
    return elements


def _check_copies(record: ConsumerRecord[bytes | None, bytes | None], bounds: BoundSettings) -> None:
    """Check the bytes of key and headers times the elements: each refused element of an array has a row with them.

    Raises:
        OutOfBounds: when they could fill the memory.
    """
    value, most = record.value or b"", bounds.max_decompressed_bytes
    if value[:1] == b"{":
        return
    n_bytes = bytes_beside_value(record.key, record.headers)
    if n_bytes * (value.count(b",") + 1) > most and n_bytes * (n := len(raw_elements(value))) > most:
        raise OutOfBounds(f"a key and headers of {n_bytes} bytes for each of {n} elements", most, "max_decompressed_bytes")


def _with_repeated_keys(records: Records, elements: Elements) -> set[int]:
    """Index of each record of these elements in which an object has a name twice: the parser has kept the last value of it."""
    indices = list(dict.fromkeys(elements.record_index))
    values = [records[index].value or b"" for index in indices]
    if not may_repeat_keys(values, elements.fields, _OBJECTS):
        return set()
    return {index for index, value in zip(indices, values, strict=True) if _repeats_key(value)}


_OBJECTS = ("features", "segment")


def _repeats_key(value: bytes) -> bool:
    try:
        require_unique_keys(value)
    except RepeatedKey:
        return True
    return False


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
        >>> raw_elements(b"no JSON \xff"), raw_elements(b"[1,]"), raw_elements(b"[1] [2]")
        ([b'no JSON \xff'], [b'[1,]'], [b'[1] [2]'])
    """
    if value is None or isinstance(value, UnreadableBytes) or value.lstrip()[:1] != b"[":
        return [value]
    try:
        text = value.decode()
        return [text[start:end].encode() for start, end in _element_spans(text)] or [value]
    except (ValueError, RecursionError):  # no JSON, or nested too deeply: refused as a whole
        return [value]


def _element_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where each element of a JSON array starts and ends in the text.

    Raises:
        ValueError: the text is no JSON array, or has more than the array.
    """
    position = _skip(_BEGIN, text, 0)
    is_at_end = _END.match(text, position)
    while not is_at_end:
        start, (_, end) = position, _DECODER.raw_decode(text, position)
        yield start, end
        is_at_end = _END.match(text, end)
        position = end if is_at_end else _skip(_COMMA, text, end)  # an element must follow
    if is_at_end.end() < len(text):
        raise ValueError(f"no JSON array: unexpected {text[is_at_end.end()]!r} at {is_at_end.end()}")


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    if match is None:
        raise ValueError(f"no JSON array: unexpected {text[position : position + 1]!r} at {position}")
    return match.end()


# -- fields of elements

_validate_fields = TypeAdapter(OutcomeFields).validator.validate_json
_validate_array = TypeAdapter(Annotated[list[OutcomeFields], FailFast()]).validator.validate_json
_validate_event = TypeAdapter(OutcomeEvent).validator.validate_json


def _read_record(index: int, value: bytes | None, elements: Elements, refused: list[RefusedElement], *, is_valid: bool) -> None:
    if value is None or isinstance(value, UnreadableBytes):
        nothing = ElementRefusal("empty", "the record has no value") if value is None else parked_element(value.error)
        refused.append(RefusedElement(index, 0, nothing))
        return
    if is_valid and _read_valid(index, value, elements, refused):
        return
    check_array(value, elements.bounds)
    for element_index, raw in enumerate(raw_elements(value)):
        result = _validate_by_model(raw or b"", elements.bounds)
        if isinstance(result, ElementRefusal):
            refused.append(RefusedElement(index, element_index, result))
        else:
            elements.add(result, index, element_index)


def _read_valid(index: int, value: bytes, elements: Elements, refused: list[RefusedElement]) -> bool:
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


def _add_array(array: Sequence[OutcomeFields], index: int, elements: Elements, refused: list[RefusedElement]) -> None:
    for element_index, fields in enumerate(array):
        elements.add(fields, index, element_index)
    if not array:
        refused.append(RefusedElement(index, 0, ElementRefusal("empty", "the array has no elements")))


def _validate_by_model(raw: bytes, bounds: BoundSettings) -> OutcomeFields | ElementRefusal:
    """The fields of one element as the model reads them, or why the model or a bound refuses it."""
    if contains_nul(raw):
        return ElementRefusal("json", str(ContainsNul()))
    try:
        check_json(raw, bounds)
        require_unique_keys(raw)
        event = _validate_event(raw)
        check_features(event.features, bounds)
    except OutOfBounds as error:
        return _refusal_of(error)
    except RepeatedKey as error:
        return ElementRefusal("json", describe_error(error), type(error).__name__)
    except ValidationError as error:
        kind = "json" if error.errors(include_url=False)[0]["type"] == "json_invalid" else "invalid"
        return ElementRefusal(kind, describe_error(error), type(error).__name__)
    ids = {name: None if value is None else str(value) for name in _IDS for value in (getattr(event, name),)}
    return cast("OutcomeFields", {**dict(event), **ids})


_IDS = ("event_id", "model_id", "simulation_id", "twin_id")


def _check_doubtful(
    elements: Elements, outcomes: OutcomeBatch, doubtful: Sequence[int], records: Records, refused: list[RefusedElement]
) -> OutcomeBatch:
    """The outcomes without the doubtful rows that the model refuses; of the others the fields are those of the model."""
    valid = np.ones(len(outcomes), dtype=np.bool_)
    raw: dict[int, list[bytes | None]] = {}  # of each record once: to split an array for each of its elements takes hours
    for row in doubtful:
        record_index, element_index = elements.record_index[row], elements.element_index[row]
        value = records[record_index].value
        if record_index not in raw:
            raw = {record_index: raw_elements(value)}  # rows are in the order of their records
        array = raw[record_index]
        result = _validate_by_model((array[element_index] if element_index < len(array) else value) or b"", elements.bounds)
        if isinstance(result, ElementRefusal):
            refused.append(RefusedElement(record_index, element_index, result))
            valid[row] = False
        else:
            elements.fields[row] = result
    if valid[doubtful].any():
        outcomes, _ = build_columns(elements)
    return outcomes.select(valid)

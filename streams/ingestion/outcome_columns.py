"""Builds the columns of a batch from the valid fields of its elements, and checks the rules between fields by columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, NotRequired
from uuid import UUID

import numpy as np
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from schemas import TWIN_TYPES, TwinType
from schemas.arrays import Flags, Floats, Integers, Octets
from schemas.base import AwareTime
from schemas.canonical import encode_shared_fields
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.events import Features
from schemas.twin_types import model_line
from streams.bounds import BoundSettings, fits
from streams.ingestion.outcome_batch import (
    Entity,
    OutcomeBatch,
    SharedFields,
    to_microseconds,
)

__all__ = [
    "FIRST_US",
    "LAST_US",
    "MAX_ENTITY_CHARACTERS",
    "Elements",
    "OutcomeFields",
    "build_columns",
    "hyphenated_octets",
    "is_sound_interval",
    "parse_shared",
]

MAX_ENTITY_CHARACTERS = 200
_Real = Annotated[float, Field(allow_inf_nan=False, strict=True)]  # no flag; a number that is text is for the model to judge


_NOT_BLANK = r"[^\s\x1c-\x1f]"  # these four are blanks to Python alone


class OutcomeFields(TypedDict):
    """The fields of an OutcomeEvent, each validated on its own; ids and words of the catalogue stay text."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # as pydantic reads it

    schema_version: NotRequired[Annotated[int, Field(ge=1, le=1, strict=True)]]
    event_id: str
    observed_at: AwareTime
    twin_type: str
    brand: str
    metric_type: str
    actual_value: _Real | None
    revision: NotRequired[Annotated[int, Field(ge=0, lt=2**31, strict=True)]]
    predicted_value: NotRequired[_Real | None]
    predicted_lower: NotRequired[_Real | None]
    predicted_upper: NotRequired[_Real | None]
    model_id: NotRequired[str | None]
    simulation_id: NotRequired[str | None]
    twin_id: NotRequired[str | None]
    entity_id: NotRequired[Annotated[str, Field(min_length=1, max_length=MAX_ENTITY_CHARACTERS, pattern=_NOT_BLANK)] | None]
    features: NotRequired[Features | None]
    treated: NotRequired[bool | None]
    segment: NotRequired[dict[str, str]]


class Elements(NamedTuple):
    """Elements with valid fields, the index of the record of each, and its index in the array."""

    fields: list[OutcomeFields]
    record_index: list[int]
    element_index: list[int]
    bounds: BoundSettings

    def add(self, fields: OutcomeFields, record_index: int, element_index: int) -> None:
        """Add an element."""
        self.fields.append(fields)
        self.record_index.append(record_index)
        self.element_index.append(element_index)


# A time with a zone can lie outside of these years once it is converted to UTC; the model refuses it.
FIRST_US, LAST_US = (to_microseconds(at.replace(tzinfo=UTC)) for at in (datetime.min, datetime.max))  # noqa: DTZ901  # made aware
_NUMBERS = ("actual_value", "predicted_value", "predicted_lower", "predicted_upper")


def build_columns(elements: Elements) -> tuple[OutcomeBatch, list[int]]:
    """The outcomes, and the doubtful rows, which the model has to validate."""
    names = OutcomeFields.__annotations__
    values: dict[str, list[Any]] = {name: [fields.get(name) for fields in elements.fields] for name in names}
    event_id, valid = _uuid_octets(values["event_id"])
    observed_us = np.array([to_microseconds(at) for at in values["observed_at"]], dtype=np.int64)
    actual, predicted, lower, upper = (_reals(values[name]) for name in _NUMBERS)
    shared_fields, shared_index, is_known = _shared_fields(values)
    twins, entities, is_sound = _references(values, predicted, lower, upper, elements.bounds)
    valid &= (observed_us >= FIRST_US) & (observed_us <= LAST_US) & is_known[shared_index] & is_sound
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
    return hyphenated_octets(np.frombuffer("".join(ids).encode("ascii"), dtype=np.uint8).reshape(-1, 36))


def hyphenated_octets(characters: Octets) -> tuple[Octets, Flags]:
    """The same for the characters of ids, shape ``(n, 36)``."""
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
    fields = [parse_shared(version, *key) for key in numbers]
    return [item or _UNKNOWN for item in fields], shared_index, np.array([item is not None for item in fields], dtype=np.bool_)


@lru_cache(maxsize=10_000)
def parse_shared(
    _catalogue: str, twin_type: str, brand: str, metric_type: str, model_id: str | None, segment: tuple[tuple[str, str], ...]
) -> SharedFields | None:
    """Shared fields as they are written, None when the catalogue does not accept them."""
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
    has_prediction = ~np.isnan(predicted)
    n_ways = has_prediction.astype(np.int64)
    sound = is_sound_interval(predicted, lower, upper)
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


def is_sound_interval(predicted: Floats, lower: Floats, upper: Floats) -> Flags:
    """Whether each prediction has no interval (NaN), or one that it lies in."""
    has_interval = ~np.isnan(lower)
    sound: Flags = (has_interval == ~np.isnan(upper)) & (~has_interval | ((lower <= predicted) & (predicted <= upper)))
    return sound


def _rows_with(values: Sequence[Any]) -> set[int]:
    return set() if values.count(None) == len(values) else {row for row, value in enumerate(values) if value is not None}

"""From the bytes of records to columns of outcomes and to refusals, element by element.

What an outcome may be is said once, by :class:`~schemas.OutcomeEvent`. Making one takes three times as long as everything else that
happens to it here, so the fields are validated first without the object, and what holds between them is checked by columns. An
outcome that is not plainly good is given to the model after all, which takes it or says why not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NotRequired, cast
from uuid import UUID

import numpy as np
import numpy.typing as npt
from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from schemas import TWIN_TYPES, Brand, OutcomeEvent, TwinType
from schemas.canonical import spell_words
from schemas.events import Features
from schemas.twin_types import model_line
from streams.ingestion.outcome_batch import Entity, Floats, Integers, Octets, OutcomeBatch, SharedFields

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

__all__ = ["DecodedBatch", "ElementRefusal", "RefusedElement", "arrival_times", "decode", "raw_elements", "refusal_words"]

_LONGEST_REASON = 2000
_DECODER = json.JSONDecoder()
_BEGIN, _COMMA, _END = (re.compile(rf"[ \t\n\r]*{sign}[ \t\n\r]*") for sign in (r"\[", ",", r"\]"))
_NUL = b"\\u0000"
_MS = 1000  # microseconds


class ElementRefusal(NamedTuple):
    """Why an element is not taken: a word for the metric, a sentence for people, and the class of what was raised."""

    kind: str
    reason: str
    exception: str = "Refusal"


class RefusedElement(NamedTuple):
    """A refused element, by the number of its record in the slice and its place in the array."""

    record: int
    place: int
    refusal: ElementRefusal


class DecodedBatch(NamedTuple):
    """What the records hold; every record has at least one element, if only a refused one."""

    outcomes: OutcomeBatch
    refused: list[RefusedElement]


def decode(records: Sequence[ConsumerRecord[bytes | None, bytes | None]], skew_s: float) -> DecodedBatch:
    """All elements of the records; outcomes further ahead of Kafka's time than ``skew_s`` are refused."""
    said, refused = _Said([], [], []), list[RefusedElement]()
    for number, record in enumerate(records):
        _read(number, record.value, said, refused)
    outcomes, doubtful = _columns(said)
    if doubtful:
        outcomes = _settled(said, outcomes, doubtful, records, refused)
    return _not_ahead(outcomes, records, skew_s, refused)


def refusal_words(error: ValidationError) -> str:
    """What pydantic found, one sentence for each field."""
    details = error.errors(include_url=False, include_context=False)
    found = (f"{'.'.join(map(str, each['loc'])) or 'value'}: {each['msg']}" for each in details)
    return "; ".join(found).replace("\x00", "")[:_LONGEST_REASON]


# -- the bytes


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


# -- the fields

_Real = Annotated[float, Field(allow_inf_nan=False)]


class _Fields(TypedDict):
    """The fields of an OutcomeEvent, each for itself; ids and catalogue words as text."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # as pydantic reads it

    schema_version: NotRequired[Literal[1]]
    event_id: str
    observed_at: AwareDatetime
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


_read_one = TypeAdapter(_Fields).validator.validate_json
_read_all = TypeAdapter(list[_Fields]).validator.validate_json
_read_model = TypeAdapter(OutcomeEvent).validator.validate_json


class _Said(NamedTuple):
    """Elements with sound fields, the number of the record of each, and its place in the array."""

    fields: list[_Fields]
    record: list[int]
    place: list[int]

    def add(self, fields: _Fields, record: int, place: int) -> None:
        self.fields.append(fields)
        self.record.append(record)
        self.place.append(place)


def _read(number: int, value: bytes | None, said: _Said, refused: list[RefusedElement]) -> None:
    if value is None:
        refused.append(RefusedElement(number, 0, ElementRefusal("empty", "the record has no value")))
        return
    try:
        if _NUL not in value:
            if value[:1] == b"{":
                said.add(_read_one(value), number, 0)
                return
            if value.lstrip()[:1] == b"[":
                _take_all(_read_all(value), number, said, refused)
                return
    except ValidationError:
        pass  # so that only what is wrong is refused: element by element
    for place, raw in enumerate(raw_elements(value)):
        found = _slowly(raw or b"")
        if isinstance(found, ElementRefusal):
            refused.append(RefusedElement(number, place, found))
        else:
            said.add(found, number, place)


def _take_all(found: Sequence[_Fields], number: int, said: _Said, refused: list[RefusedElement]) -> None:
    for place, fields in enumerate(found):
        said.add(fields, number, place)
    if not found:
        refused.append(RefusedElement(number, 0, ElementRefusal("empty", "the array has no elements")))


def _slowly(raw: bytes) -> _Fields | ElementRefusal:
    """What the model says of one element."""
    if _NUL in raw:
        return ElementRefusal("json", "the text contains NUL, which no database keeps")
    try:
        event = _read_model(raw)
    except ValidationError as error:
        kind = "json" if error.errors(include_url=False)[0]["type"] == "json_invalid" else "invalid"
        return ElementRefusal(kind, refusal_words(error), type(error).__name__)
    ids = {name: None if said is None else str(said) for name in _IDS for said in (getattr(event, name),)}
    return cast("_Fields", {**dict(event), **ids})


def _raw(value: bytes | None, place: int) -> bytes:
    elements = raw_elements(value)
    return (elements[place] if place < len(elements) else value) or b""


_IDS = ("event_id", "model_id", "simulation_id", "twin_id")


def _settled(
    said: _Said,
    outcomes: OutcomeBatch,
    doubtful: Sequence[int],
    records: Sequence[ConsumerRecord[bytes | None, bytes | None]],
    refused: list[RefusedElement],
) -> OutcomeBatch:
    """The same without those in doubt that the model refuses; what it takes is read as the model spells it."""
    kept = np.ones(len(outcomes), dtype=np.bool_)
    for row in doubtful:
        record, place = said.record[row], said.place[row]
        found = _slowly(_raw(records[record].value, place))
        if isinstance(found, ElementRefusal):
            refused.append(RefusedElement(record, place, found))
            kept[row] = False
        else:
            said.fields[row] = found
    if kept[doubtful].any():
        outcomes, _ = _columns(said)
    return outcomes.where(kept)


# -- the columns

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_US = -62_135_596_800_000_000  # the year 1
_LAST_US = 253_402_300_799_999_999  # the end of the year 9999


def _columns(said: _Said) -> tuple[OutcomeBatch, list[int]]:
    """The outcomes, and the rows of those that the model has to look at."""
    given: dict[str, list[Any]] = {name: [fields.get(name) for fields in said.fields] for name in _Fields.__annotations__}
    event_id, good = _octets_of(given["event_id"])
    observed = np.array([_microseconds(at) for at in given["observed_at"]], dtype=np.int64)
    actual, *prediction = (_reals(given[name]) for name in _NUMBERS)
    words, of, known = _words_of(given)
    twins, entities, sound = _ways(given, *prediction)
    good &= (observed >= _FIRST_US) & (observed <= _LAST_US) & known[of] & sound
    outcomes = OutcomeBatch(
        record=np.array(said.record, dtype=np.int64),
        place=np.array(said.place, dtype=np.int64),
        event_id=event_id,
        observed_us=observed,
        revision=np.array([revision or 0 for revision in given["revision"]], dtype=np.int64),
        actual=actual,
        predicted=prediction[0],
        lower=prediction[1],
        upper=prediction[2],
        treated=np.array([-1 if treated is None else treated for treated in given["treated"]], dtype=np.int64),
        words=words,
        of=of,
        twins=twins,
        entities=entities,
    )
    return outcomes, np.flatnonzero(~good).tolist()


_NUMBERS = ("actual_value", "predicted_value", "predicted_lower", "predicted_upper")


def _reals(values: Sequence[float | None]) -> Floats:
    return np.array(values, dtype=np.float64) + 0.0  # minus zero is zero


def _microseconds(at: datetime) -> int:
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


_NO_ID = "-" * 36
_HYPHENS = np.array([8, 13, 18, 23])
_DIGITS = np.setdiff1d(np.arange(36), _HYPHENS)
_NIBBLES = np.full(256, 255, dtype=np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = range(16)
_NIBBLES[np.frombuffer(b"ABCDEF", dtype=np.uint8)] = range(10, 16)


def _octets_of(ids: Sequence[str]) -> tuple[Octets, npt.NDArray[np.bool_]]:
    """Ids in their usual spelling as octets, shape ``(n, 16)``, and which of them are spelled so."""
    if set(map(len, ids)) != {36} or not "".join(ids).isascii():
        ids = [said if len(said) == len(_NO_ID) and said.isascii() else _NO_ID for said in ids]
    signs = np.frombuffer("".join(ids).encode("ascii"), dtype=np.uint8).reshape(-1, 36)
    nibbles = _NIBBLES[signs[:, _DIGITS]]
    usual: npt.NDArray[np.bool_] = (signs[:, _HYPHENS] == ord("-")).all(axis=1) & (nibbles < 16).all(axis=1)
    return (nibbles[:, ::2] << 4 | nibbles[:, 1::2]).astype(np.uint8), usual


_USUAL = re.compile("-".join(f"[0-9a-fA-F]{{{length}}}" for length in (8, 4, 4, 4, 12)))


def _usual_id(said: str | None) -> UUID:
    if said is None or not _USUAL.fullmatch(said):
        raise ValueError(f"{said!r} is no id in its usual spelling")
    return UUID(said)


def _words_of(given: dict[str, list[Any]]) -> tuple[list[SharedFields], Integers, npt.NDArray[np.bool_]]:
    """The different words, those of each outcome, and which of them the catalogue knows."""
    found: dict[Any, int] = {}
    segments = [tuple(segment.items()) if segment else () for segment in given["segment"]]
    said = zip(*(given[name] for name in _WORDS), segments, strict=True)
    of = np.array([found.setdefault(key, len(found)) for key in said], dtype=np.int64)
    words = [_words(*key) for key in found]
    return [each or _NO_WORDS for each in words], of, np.array([each is not None for each in words], dtype=np.bool_)


_WORDS = ("twin_type", "brand", "metric_type", "model_id")
_NO_WORDS = SharedFields("", TwinType.HCP, "", None, (), b"")


@lru_cache(maxsize=10_000)
def _words(
    twin_type: str, brand: str, metric_type: str, model_id: str | None, segment: tuple[tuple[str, str], ...]
) -> SharedFields | None:
    try:
        kind, named = TwinType(twin_type), None if model_id is None else _usual_id(model_id)
        line = model_line(kind, Brand(brand), metric_type)
    except ValueError:
        return None
    if not dict(segment).keys() <= set(TWIN_TYPES[kind].segments):
        return None
    pairs = tuple(sorted(segment))
    return SharedFields(line, kind, metric_type, named, pairs, spell_words(1, twin_type, brand, metric_type, named, pairs))


def _ways(
    given: dict[str, list[Any]], predicted: Floats, lower: Floats, upper: Floats
) -> tuple[dict[int, tuple[UUID, UUID]], dict[int, Entity], npt.NDArray[np.bool_]]:
    """Twins and entities that were named, and which outcomes have just one way to their prediction, with a sound interval."""
    n = len(predicted)
    has_prediction = ~np.isnan(predicted)
    has_interval = ~np.isnan(lower)
    ways = has_prediction.astype(np.int64)
    sound = (has_interval == ~np.isnan(upper)) & (~has_interval | ((lower <= predicted) & (predicted <= upper)))
    if given["model_id"].count(None) < n:
        sound &= has_prediction | np.array([model_id is None for model_id in given["model_id"]], dtype=np.bool_)
    twins: dict[int, tuple[UUID, UUID]] = {}
    for row in _said(given["simulation_id"]) | _said(given["twin_id"]):
        ways[row] += 1
        try:
            twins[row] = _usual_id(given["simulation_id"][row]), _usual_id(given["twin_id"][row])
        except ValueError:
            sound[row] = False
    entities: dict[int, Entity] = {}
    for row in _said(given["entity_id"]) | _said(given["features"]):
        entity_id, features = given["entity_id"][row], given["features"][row]
        ways[row] += features is not None
        sound[row] &= entity_id is not None
        entities[row] = Entity(entity_id or "", features)
    return twins, entities, sound & (ways == 1)


def _said(values: Sequence[Any]) -> set[int]:
    return set() if values.count(None) == len(values) else {row for row, value in enumerate(values) if value is not None}


# -- the time


def _not_ahead(
    outcomes: OutcomeBatch,
    records: Sequence[ConsumerRecord[bytes | None, bytes | None]],
    skew_s: float,
    refused: list[RefusedElement],
) -> DecodedBatch:
    arrived = arrival_times(records)[outcomes.record]
    ahead = outcomes.observed_us - arrived > round(skew_s * 1_000_000)
    if not ahead.any():
        return DecodedBatch(outcomes, refused)
    for row in np.flatnonzero(ahead).tolist():
        observed, at = (datetime.fromtimestamp(int(us) / 1e6, UTC).isoformat() for us in (outcomes.observed_us[row], arrived[row]))
        reason = f"observed_at {observed} lies more than {skew_s:g} s after its arrival at {at}"
        refused.append(RefusedElement(int(outcomes.record[row]), int(outcomes.place[row]), ElementRefusal("future", reason)))
    return DecodedBatch(outcomes.where(~ahead), refused)


def arrival_times(records: Iterable[ConsumerRecord[bytes | None, bytes | None]]) -> Integers:
    """Kafka's time of each record, microseconds since 1970."""
    return np.array([record.timestamp for record in records], dtype=np.int64) * _MS

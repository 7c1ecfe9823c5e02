"""Decodes many plain outcomes at once, by pyarrow, into columns without a Python object for any of them.

An outcome is plain when it carries its prediction, and each of its fields is written in the usual way: nothing is escaped, and
times have seconds and a zone. Nearly all are. What is accepted here the model accepts too, with the same values; records of which
any is not plain are left to the slower ways, which ask the model in case of doubt.

Why two records are never read as one: the parser reads one object after another, and to it a line break is a space. Each record
begins with ``{`` and ends with ``}``, an array with ``[{`` and ``}]``. Line breaks are put between the records, and in the place of
the commas between the elements of an array. Such a break stands between ``}`` and ``{``. It is not inside of a string, where a line
break is an error, nor inside of an object, where none may follow another without a name, and no field is an array. So each break
separates two outcomes; and as there is one outcome more than breaks, nothing else separates any.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import json as arrow_json

from schemas import TWIN_TYPES
from schemas.arrays import Floats, Integers, Octets
from schemas.catalogue_in_effect import catalogue_in_effect
from streams.bounds import BoundSettings, ExcessHeaders, bytes_beside_value
from streams.ingestion.iso_times import parse_times
from streams.ingestion.outcome_batch import Entity, OutcomeBatch, SharedFields
from streams.ingestion.outcome_columns import (
    FIRST_US,
    LAST_US,
    MAX_ENTITY_CHARACTERS,
    hyphenated_octets,
    is_sound_interval,
    parse_shared,
)
from streams.ingestion.text_buffers import text_buffers

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

__all__ = ["decode_plain"]

_TEXT, _REAL, _WHOLE = pa.string(), pa.float64(), pa.int32()
_NEVER_NULL = ("schema_version", "revision", "segment")  # null is no value of these fields, which may be absent
_UUID_LENGTH = 36
_LARGEST_CODE = 2**40
_MANY = 100


class _NotPlain(ValueError):
    """Some outcome is not plain."""


def decode_plain(records: Sequence[ConsumerRecord[bytes | None, bytes | None]], bounds: BoundSettings) -> OutcomeBatch | None:
    """The outcomes of these records in their order, None when any of them is not plain."""
    if not records:
        return None
    try:
        if len(records) > _MANY:  # where the first one is not plain, the others are hardly worth the attempt
            _decode(_plain_text(records[:1], bounds))
        return _decode(_plain_text(records, bounds))
    except (_NotPlain, pa.ArrowException, UnicodeDecodeError):
        return None


class _Text(NamedTuple):
    """The outcomes of some records, one after another with line breaks between them, and how many each record has."""

    content: bytes
    n_elements: Integers


def _plain_text(records: Sequence[ConsumerRecord[bytes | None, bytes | None]], bounds: BoundSettings) -> _Text:
    values = [record.value for record in records]
    _require(set(map(type, values)) == {bytes})  # neither None nor bytes that could not be read
    _require(max(map(len, values)) <= bounds.max_record_bytes)
    _require(all(len(record.key or b"") <= bounds.max_key_bytes for record in records))
    _require(not any(isinstance(record.headers, ExcessHeaders) for record in records))
    text = b"\n".join(values)
    n_elements = np.ones(len(values), dtype=np.int64)
    if not _is_object_a_line(text, values):
        lines, counts = zip(*map(_lines, values), strict=True)
        text, n_elements = b"\n".join(lines), np.array(counts, dtype=np.int64)
        _require(int(n_elements.max()) <= bounds.max_array_elements)
        copied = [bytes_beside_value(record.key, record.headers) * n for record, n in zip(records, counts, strict=True) if n > 1]
        _require(max(copied, default=0) <= bounds.max_decompressed_bytes)
    _require(text.isascii() and b"\\" not in text and b"\0" not in text)
    return _Text(text, n_elements)


def _is_object_a_line(text: bytes, values: Sequence[bytes]) -> bool:
    """Whether each value begins and ends as one object does, and has no line breaks of its own."""
    characters = np.frombuffer(text, dtype=np.uint8)
    ends = np.cumsum(np.fromiter(map(len, values), dtype=np.int64) + 1) - 1
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (
        not len(text)
        or (characters[ends - 1] != ord("}")).any()
        or (characters[np.minimum(starts, len(text) - 1)] != ord("{")).any()
    ):
        return False
    return bool(np.count_nonzero(characters == ord("\n")) == len(values) - 1)


def _lines(value: bytes) -> tuple[bytes, int]:
    """The objects of a record, with line breaks between them, and their number."""
    if value[:1] == b"{" and value[-1:] == b"}":
        return value, 1
    _require(value[:2] == b"[{" and value[-2:] == b"}]" and b"\n" not in value)
    comma = b"}, {" if b"}, {" in value else b"},{"
    lines = value[1:-1].replace(comma, b"}\n{")
    return lines, 1 + lines.count(b"\n")


def _decode(text: _Text) -> OutcomeBatch:
    table = _parse(text.content)
    n = int(text.n_elements.sum())
    _require(table.num_rows == n)
    _check_nulls(text.content, table)
    _require(set(table.column("schema_version").unique().to_pylist()) <= {1, None})
    event_id, is_id = hyphenated_octets(_characters(table, "event_id"))
    actual, predicted, lower, upper = (
        _reals(table, name) for name in ("actual_value", "predicted_value", "predicted_lower", "predicted_upper")
    )
    revision = _column(table, "revision").fill_null(0).to_numpy()
    _require(bool((is_id & ~np.isnan(predicted) & is_sound_interval(predicted, lower, upper) & (revision >= 0)).all()))
    shared_fields, shared_index = _shared_fields(table)
    first = np.cumsum(text.n_elements) - text.n_elements
    return OutcomeBatch(
        record_index=np.repeat(np.arange(len(first)), text.n_elements),
        element_index=np.arange(n) - np.repeat(first, text.n_elements),
        event_id=event_id,
        observed_us=_times(table),
        revision=revision.astype(np.int64),
        actual=actual,
        predicted=predicted,
        lower=lower,
        upper=upper,
        treated=_column(table, "treated").cast(pa.int8()).fill_null(-1).to_numpy().astype(np.int64),
        shared_fields=shared_fields,
        shared_index=shared_index,
        twins={},
        entities=_entities(table),
    )


def _require(is_plain: bool) -> None:
    if not is_plain:
        raise _NotPlain


# -- parsing


def _parse(content: bytes) -> pa.Table:
    schema = _schema(catalogue_in_effect().sha256)
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    in_one_block = arrow_json.ReadOptions(use_threads=False, block_size=len(content) + 1)
    return arrow_json.read_json(pa.BufferReader(content), in_one_block, options)


@lru_cache(maxsize=8)
def _schema(_catalogue: str) -> pa.Schema:
    """The fields of a plain outcome; those with the type ``null`` must be null or absent."""
    dimensions = sorted(set(chain.from_iterable(entry.segments for entry in TWIN_TYPES.values())))
    return pa.schema(
        {
            **dict.fromkeys(("event_id", "observed_at", "twin_type", "brand", "metric_type", "model_id", "entity_id"), _TEXT),
            **dict.fromkeys(("actual_value", "predicted_value", "predicted_lower", "predicted_upper"), _REAL),
            **dict.fromkeys(("schema_version", "revision"), _WHOLE),
            **dict.fromkeys(("simulation_id", "twin_id", "features"), pa.null()),
            "treated": pa.bool_(),
            "segment": pa.struct(dict.fromkeys(dimensions, _TEXT)),
        }
    )


def _column(table: pa.Table, name: str) -> pa.Array:
    """A column, which has one chunk as all was read in one block."""
    _require(table.column(name).num_chunks == 1)
    return table.column(name).chunk(0)


def _check_nulls(content: bytes, table: pa.Table) -> None:
    """Check that no field that needs a value is absent, and none is null that may only be absent: both are null to the parser."""
    for name in ("event_id", "observed_at", "twin_type", "brand", "metric_type"):
        _require(_column(table, name).null_count == 0)
    n_values = {name: table.num_rows - _column(table, name).null_count for name in _NEVER_NULL}
    segment = _column(table, "segment")
    n_values |= {name: table.num_rows - values.null_count for name, values in _levels(segment)}
    if b"null" in content:
        _require(all(_n_keys(content, name) == n for name, n in n_values.items()))
    if _column(table, "actual_value").null_count:
        _require(_n_keys(content, "actual_value") == table.num_rows)


def _levels(segment: pa.StructArray) -> list[tuple[str, pa.Array]]:
    """The dimensions of a segment, null where the segment or the dimension is."""
    return [(field.name, values) for field, values in zip(segment.type, segment.flatten(), strict=True)]


def _n_keys(content: bytes, name: str) -> int:
    """How often a field is present; only a key has a colon behind it, as nothing is escaped."""
    quoted = f'"{name}"'.encode()
    n = content.count(quoted + b":")
    _require(content.count(quoted) == n)  # else some are written otherwise, or are no keys
    return n


# -- columns


def _reals(table: pa.Table, name: str) -> Floats:
    column = _column(table, name)
    values = column.to_numpy(zero_copy_only=False) + 0.0  # minus zero becomes zero, as the digest compares octets
    _require(int(np.count_nonzero(np.isfinite(values))) == len(column) - column.null_count)
    return np.asarray(values, dtype=np.float64)


def _characters(table: pa.Table, name: str) -> Octets:
    """Texts of the length of an id, without nulls, shape ``(n, 36)``."""
    data, offsets = text_buffers(_column(table, name))
    _require(bool((np.diff(offsets) == _UUID_LENGTH).all()))
    return data[: offsets[-1]].reshape(-1, _UUID_LENGTH)


def _times(table: pa.Table) -> Integers:
    """Microseconds since 1970."""
    us = parse_times(_column(table, "observed_at"))
    if us is None:
        raise _NotPlain
    _require(int(us.min()) >= FIRST_US and int(us.max()) <= LAST_US)
    return us


def _entities(table: pa.Table) -> dict[int, Entity]:
    column = _column(table, "entity_id")
    if column.null_count == len(column):
        return {}
    ids = column.to_pylist()
    _require(all(text is None or (len(text) <= MAX_ENTITY_CHARACTERS and text.strip()) for text in ids))
    return {row: Entity(text, None) for row, text in enumerate(ids) if text is not None}


def _shared_fields(table: pa.Table) -> tuple[list[SharedFields], Integers]:
    """The different shared fields, and those of each outcome by index."""
    segment = _levels(_column(table, "segment"))
    columns = [*((name, _column(table, name)) for name in ("twin_type", "brand", "metric_type", "model_id")), *segment]
    code, n_codes = np.zeros(table.num_rows, dtype=np.int64), 1
    for _, column in columns:
        if column.null_count == len(column):
            continue
        encoded = column.dictionary_encode()
        n_values = len(encoded.dictionary) + 1
        if n_values == 2 and not column.null_count:  # one value, which all have
            continue
        code = code * n_values + encoded.indices.fill_null(n_values - 1).to_numpy()
        n_codes *= n_values
        if n_codes > _LARGEST_CODE:
            unique, code = np.unique(code, return_inverse=True)
            n_codes = len(unique)
    _, first, shared_index = np.unique(code, return_index=True, return_inverse=True)
    version = catalogue_in_effect().sha256
    fields = [parse_shared(version, *_key(columns, row)) for row in first.tolist()]
    _require(None not in fields)
    return [item for item in fields if item is not None], shared_index


def _key(columns: Sequence[tuple[str, pa.Array]], row: int) -> tuple[Any, ...]:
    values = [column[row].as_py() for _, column in columns]
    levels = zip((name for name, _ in columns[4:]), values[4:], strict=True)
    return (*values[:4], tuple((name, level) for name, level in levels if level is not None))

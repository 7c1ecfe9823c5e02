"""Bounds on everything that comes in, each a setting ``TWIN_MAX_...``, and the checks of values against them.

A refusal names the value, the bound and the setting. A value is checked as bytes, before any object is built from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.base import shorten

__all__ = [
    "DEFAULT_BOUNDS",
    "UNPARSED_HEADERS",
    "BoundSettings",
    "ExcessHeaders",
    "OutOfBounds",
    "bytes_beside_value",
    "check_array",
    "check_header_count",
    "check_headers",
    "check_json",
    "check_message",
    "check_size",
    "require_bounded",
]

_MEBIBYTE = 1024 * 1024


class BoundSettings(BaseSettings):
    """The bounds with their defaults.

    Attributes:
        max_decompressed_bytes: of the records of one Kafka batch.
        max_batch_records: records of one Kafka batch.
        max_record_bytes: of the value of a record of outcomes, which may be an array, or of their sums.
        max_message_bytes: of the value of any other record.
        max_key_bytes: of the key of one record.
        max_headers, max_header_bytes: headers of one record, and the bytes of their names and values.
        max_array_elements: elements of any array, fields of any object.
        max_json_depth: objects and arrays inside each other.
        max_string_length: characters of any text.
        max_name_length: characters of the name or the text of a feature.
        max_features: features of one outcome.
        max_number_length: characters of a number.
    """

    model_config = SettingsConfigDict(env_prefix="TWIN_", extra="ignore", frozen=True)

    max_decompressed_bytes: int = Field(default=64 * _MEBIBYTE, ge=_MEBIBYTE, le=2**31 - 1)
    max_batch_records: int = Field(default=200_000, ge=1)
    max_record_bytes: int = Field(default=16 * _MEBIBYTE, ge=1024)
    max_message_bytes: int = Field(default=_MEBIBYTE, ge=1024)
    max_key_bytes: int = Field(default=64 * 1024, ge=64)
    max_headers: int = Field(default=10_000, ge=50)
    max_header_bytes: int = Field(default=_MEBIBYTE, ge=1024)
    max_array_elements: int = Field(default=50_000, ge=1)
    max_json_depth: int = Field(default=32, ge=4, le=100)
    max_string_length: int = Field(default=10_000, ge=200)
    max_name_length: int = Field(default=200, ge=1)
    max_features: int = Field(default=200, ge=1)
    max_number_length: int = Field(default=400, ge=32, le=4000)


DEFAULT_BOUNDS = BoundSettings.model_construct()
"""The defaults, without the variables of the environment."""


class OutOfBounds(ValueError):
    """A value exceeds its bound, a setting."""

    def __init__(self, what: str, bound: int, setting: str) -> None:
        super().__init__(f"{what} exceeds {bound}, TWIN_{setting.upper()}")


UNPARSED_HEADERS = "twin_unparsed_headers"
"""Name of the header that stands for all headers of a record that exceed a bound; its value is their bytes in the record."""


class ExcessHeaders(tuple[tuple[str, bytes | None], ...]):  # noqa: SLOT001  # a tuple of any length has no slots
    """Headers of a record that exceed a bound: one, with their bytes as they are on the topic. They could fill the memory.

    Attributes:
        error: which bound they exceed.
    """

    error: OutOfBounds

    @classmethod
    def of(cls, raw: bytes, error: OutOfBounds) -> ExcessHeaders:
        """The headers of a record in these bytes, which begin with their number."""
        headers = cls(((UNPARSED_HEADERS, raw),))
        headers.error = error
        return headers


def require_bounded(headers: object) -> None:
    """Check that the headers of a record that was read are within their bounds.

    Raises:
        OutOfBounds: when they are not.
    """
    if isinstance(headers, ExcessHeaders):
        raise headers.error


def check_size(key: bytes | None, value: bytes | None, bounds: BoundSettings) -> None:
    """Check the sizes of a record of outcomes or of their sums.

    Raises:
        OutOfBounds: when the key or the value is too large.
    """
    _check_length("a value", value or b"", bounds.max_record_bytes, "max_record_bytes")
    _check_length("a key", key or b"", bounds.max_key_bytes, "max_key_bytes")


def bytes_beside_value(key: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> int:
    """Bytes of the key and the headers of a record, which each of its elements has in a row of its own where it is refused."""
    return len(key or b"") + sum(len(name) + len(value or b"") for name, value in headers)


def check_headers(headers: Sequence[tuple[str, bytes | None]], bounds: BoundSettings) -> None:
    """Check the headers of a record.

    Raises:
        OutOfBounds: when there are too many, or they are too large together.
    """
    check_header_count(len(headers), bounds)
    if headers and (n_bytes := sum(len(name) + len(value or b"") for name, value in headers)) > bounds.max_header_bytes:
        raise OutOfBounds(f"headers of {n_bytes} bytes", bounds.max_header_bytes, "max_header_bytes")


def check_header_count(n_headers: int, bounds: BoundSettings) -> None:
    """Check the number of headers of a record.

    Raises:
        OutOfBounds: when there are too many.
    """
    if n_headers > bounds.max_headers:
        raise OutOfBounds(f"a record with {n_headers} headers", bounds.max_headers, "max_headers")


def check_message(key: bytes | None, value: bytes | None, bounds: BoundSettings) -> None:
    """Check a record of any other topic: its sizes, and what its value consists of.

    Raises:
        OutOfBounds: when the record or a part of its value is too large.
    """
    check_size(key, value, bounds)
    _check_length("a value", value or b"", bounds.max_message_bytes, "max_message_bytes")
    check_json(value or b"", bounds)


def _check_length(name: str, content: bytes, bound: int, setting: str) -> None:
    if len(content) > bound:
        raise OutOfBounds(f"{name} of {len(content)} bytes, {shorten(content[:80])},", bound, setting)


def check_features(features: Mapping[str, object] | None, bounds: BoundSettings) -> None:
    """Check the number of features, and the length of their names and texts.

    Raises:
        OutOfBounds: when any of them is too large.
    """
    if features is None:
        return
    if len(features) > bounds.max_features:
        raise OutOfBounds(f"an outcome with {len(features)} features", bounds.max_features, "max_features")
    for pair in features.items():
        for text in pair:
            if isinstance(text, str) and len(text) > bounds.max_name_length:
                raise OutOfBounds(
                    f"a feature of {len(text)} characters, {shorten(text)},", bounds.max_name_length, "max_name_length"
                )


def fits(features: Mapping[str, object] | None, bounds: BoundSettings) -> bool:
    """Whether features are within the bounds."""
    try:
        check_features(features, bounds)
    except OutOfBounds:
        return False
    return True


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive and with an optional end: no text is read twice
_INNERMOST = re.compile(rb"\{[^{}\[\]]*\}|\[[^{}\[\]]*\]")
_NO_STRUCTURE = bytes(set(range(256)) - set(b"{}[],"))
_NUMBER_OR_BLANK = bytes(octet if octet in b"-+.0123456789eE" else ord(" ") for octet in range(256))
_STEPS = np.zeros(256, dtype=np.int8)  # that each octet of the structure goes down or up
_STEPS[np.frombuffer(b"{[", dtype=np.uint8)], _STEPS[np.frombuffer(b"}]", dtype=np.uint8)] = 1, -1


def check_json(value: bytes, bounds: BoundSettings) -> None:
    """Check the strings, numbers, arrays and the depth of a JSON text; what is no JSON is not noticed here.

    Raises:
        OutOfBounds: when any of them is too large.
    """
    text = _longest_string(value, bounds.max_string_length)
    if len(text) > bounds.max_string_length:
        raise OutOfBounds(f"a text of {len(text)} bytes, {shorten(text[:80])},", bounds.max_string_length, "max_string_length")
    rest = _without_strings(value)
    number = max(rest.translate(_NUMBER_OR_BLANK).split(), key=len, default=b"")
    if len(number) > bounds.max_number_length:
        name = f"a number of {len(number)} characters, {shorten(number[:80])},"
        raise OutOfBounds(name, bounds.max_number_length, "max_number_length")
    _check_structure(rest.translate(None, _NO_STRUCTURE), bounds)


def _longest_string(value: bytes, bound: int) -> bytes:
    """The longest string of a JSON text without its quotes, where it is longer than the bound; else any shorter text."""
    if b"\\" not in value and max(map(len, value.split(b'"'))) <= bound:
        return b""
    return max((match.group()[1:].removesuffix(b'"') for match in _STRING.finditer(value)), key=len, default=b"")


def _without_strings(value: bytes) -> bytes:
    return _STRING.sub(b"", value) if b"\\" in value else b"".join(value.split(b'"')[::2])


def _check_structure(structure: bytes, bounds: BoundSettings) -> None:
    """Check brackets and commas: first the depth, whether all brackets are closed or not, then the elements from inside out.

    The depth counts from the outermost level so far, as nothing has to be open before a bracket is closed. It bounds the passes
    over the elements, so that the time is in proportion to the text.
    """
    if not structure:
        return
    levels = np.cumsum(_STEPS[np.frombuffer(structure, dtype=np.uint8)], dtype=np.int64)
    depth = (levels - np.minimum(np.minimum.accumulate(levels), 0)).max(initial=0)
    if depth > bounds.max_json_depth:
        raise OutOfBounds(f"a depth of {depth} objects and arrays inside each other", bounds.max_json_depth, "max_json_depth")
    for _ in range(bounds.max_json_depth + 1):
        if structure.count(b",") < bounds.max_array_elements:
            return
        for part in _INNERMOST.findall(structure):
            _check_elements(part, bounds)
        structure, n_removed = _INNERMOST.subn(b"", structure)
        if not n_removed:
            return


def check_array(value: bytes, bounds: BoundSettings) -> None:
    """Check the number of elements of the JSON array or object that a value is, whatever they are.

    Raises:
        OutOfBounds: when it is too large.
    """
    if value.count(b",") < bounds.max_array_elements:
        return
    structure = _without_strings(value).translate(None, _NO_STRUCTURE)
    inside = structure[1:-1]
    for _ in range(bounds.max_json_depth):
        inside = _INNERMOST.sub(b"", inside)
    _check_elements(structure[:1] + inside, bounds)


def _check_elements(part: bytes, bounds: BoundSettings) -> None:
    """Check the number of elements of an array, or of fields of an object, of which the first bracket and the commas are left."""
    n = part.count(b",") + 1
    if n > bounds.max_array_elements:
        name = f"an object with {n} fields" if part.startswith(b"{") else f"an array of {n} elements"
        raise OutOfBounds(name, bounds.max_array_elements, "max_array_elements")

"""Base classes and field types of all models: strict validation, finite numbers, times in UTC."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "EARLIEST",
    "AwareTime",
    "Finite",
    "Frozen",
    "Moment",
    "Name",
    "Number",
    "Probability",
    "Record",
    "Whole",
    "count_of",
    "require_between",
    "require_one_of",
    "shorten",
    "utc_time",
]

_MAX_VALUE_CHARACTERS = 80


def refuse_flags(value: Any) -> Any:
    """Return what may be a number; a flag is none.

    Raises:
        ValueError: for true and false.
    """
    if value is True or value is False:
        raise ValueError(f"{str(value).lower()} is no number: write 1 or 0 where that is meant")
    return value


Number = Annotated[float, BeforeValidator(refuse_flags)]
"""A number; never a flag."""
Finite = Annotated[Number, Field(allow_inf_nan=False), AfterValidator(lambda x: x + 0.0)]
"""A finite number, never a flag; minus zero becomes zero, so that equal values have equal text."""
Whole = Annotated[int, BeforeValidator(refuse_flags)]
"""A whole number; never a flag."""
Probability = Annotated[float, Field(gt=0.0, lt=1.0), BeforeValidator(refuse_flags)]


def refuse_blanks(value: Any) -> Any:
    """Return what may be a name or an id; a text of nothing but blanks is none.

    Raises:
        ValueError: for such a text.
    """
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"{shorten(value)} has nothing but blanks: write a name, or leave the field out")
    return value


Name = Annotated[str, Field(min_length=1, max_length=200), BeforeValidator(refuse_blanks)]
"""A name or an id that someone has given: 1 to 200 characters, not only blanks."""


def _to_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{at.isoformat()} converted to UTC is outside of the years 1 to 9999") from None


def refuse_numbers(value: Any) -> Any:
    """Return what may be a time; a number, also one in quotes, is none: seconds, milliseconds, days or a date cannot be told apart.

    Raises:
        ValueError: for a number.
    """
    if isinstance(value, str):
        if value[4:5] == "-":  # as every time in ISO 8601 that pydantic reads
            return value
        try:
            float(value)
        except ValueError:
            return value
    elif not isinstance(value, int | float | Decimal):
        return value
    raise ValueError("a number is not a time: write it with its zone, such as 2026-01-31T12:00:00Z")


AwareTime = Annotated[AwareDatetime, BeforeValidator(refuse_numbers)]
"""A time with a zone, which is kept; never a number."""
Moment = Annotated[AwareTime, AfterValidator(_to_utc)]
"""A time with a zone, converted to UTC, so that equal moments have equal values."""


EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
"""The earliest time at which anything can have been observed."""
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def utc_time(seconds: float) -> datetime:
    """The time of some seconds since the epoch; before the year 1 and after the year 9999 the nearest time that can be written.

    >>> utc_time(0.5).isoformat(), utc_time(1e300).year
    ('1970-01-01T00:00:00.500000+00:00', 9999)
    """
    if seconds <= _EARLIEST.timestamp():
        return _EARLIEST
    if seconds >= _LATEST.timestamp():
        return _LATEST
    return datetime.fromtimestamp(seconds, UTC)


class Record(BaseModel):
    """A model that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=())


class Frozen(Record):
    """An immutable record."""

    model_config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=(), frozen=True)


def require_one_of(kind: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value`` when it is allowed.

    Raises:
        ValueError: when it is not; the message names the value and all allowed ones.
    """
    choices = sorted(allowed)
    if value not in choices:
        raise ValueError(f"unknown {kind} {shorten(value)}: use one of {', '.join(choices)}")
    return value


def require_between(name: str, value: float, low: float, high: float) -> None:
    """Check that ``value`` lies between two others and equals neither.

    Raises:
        ValueError: when it does not; the message names the value and both ends.
    """
    if not low < value < high:
        raise ValueError(f"{name} {value} must lie between {low:g} and {high:g}")


def count_of(count: int, noun: str) -> str:
    """A number of things.

    >>> count_of(1, "row"), count_of(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shorten(value: Any) -> str:
    """The representation of a value in a message, of at most 80 characters and three dots.

    >>> shorten("one")
    "'one'"
    """
    try:
        text = repr(value).removeprefix("b") if isinstance(value, bytes) else repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = "a number of more than 4300 digits"
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[:_MAX_VALUE_CHARACTERS]}..."

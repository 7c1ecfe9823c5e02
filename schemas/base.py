"""Base classes and field types of all models: strict validation, finite numbers, times in UTC."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

__all__ = ["Finite", "Frozen", "Moment", "Probability", "Record", "require_one_of"]

Finite = Annotated[float, Field(allow_inf_nan=False), AfterValidator(lambda x: x + 0.0)]
"""A finite number; minus zero becomes zero, so that equal values have equal text."""
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]


def _to_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{at.isoformat()} converted to UTC is outside of the years 1 to 9999") from None


Moment = Annotated[AwareDatetime, AfterValidator(_to_utc)]
"""A time with a zone, converted to UTC, so that equal moments have equal values."""


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
        raise ValueError(f"unknown {kind} {value!r}: use one of {', '.join(choices)}")
    return value

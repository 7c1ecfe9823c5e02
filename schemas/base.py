"""What every model of this package shares: strictness, and words for refusals."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

__all__ = ["Finite", "Frozen", "Moment", "Probability", "Record", "require_one_of"]

Finite = Annotated[float, Field(allow_inf_nan=False), AfterValidator(lambda x: x + 0.0)]
"""A real number; minus zero is zero, so that equal values are written alike."""
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{at.isoformat()} is in UTC no moment of the years 1 to 9999") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time with its zone, kept in UTC: the same moment is the same value, however it was spelled."""


class Record(BaseModel):
    """A value that refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=())


class Frozen(Record):
    """A record that never changes once it is made."""

    model_config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=(), frozen=True)


def require_one_of(kind: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value`` when it is allowed.

    Raises:
        ValueError: naming the value and everything that would be allowed.
    """
    known = sorted(allowed)
    if value not in known:
        raise ValueError(f"unknown {kind} {value!r}: use one of {', '.join(known)}")
    return value

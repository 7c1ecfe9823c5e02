"""Checks retrain events before they are stored: pages, commands and the trainer read what is in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid5

from pydantic import BaseModel, Field

from schemas import RetrainEvent, Verdict
from schemas.base import Finite, Moment, shorten

__all__ = ["ForgedRetrain", "check_retrain"]

_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_CLOCK_TOLERANCE = timedelta(days=1)
_MAX_REASON_CHARACTERS = 4000


class ForgedRetrain(ValueError):
    """The event states what no fidelity worker can have sent."""


class _Metrics(BaseModel):
    """Metrics that reports show, if they are there."""

    n: int = Field(default=0, ge=0)
    mae: Finite | None = None
    rmse: Finite | None = None
    correlation: Finite | None = None
    coverage_95pct: Finite | None = None
    standard_errors: dict[str, Finite | None] = {}


class _Evidence(BaseModel):
    """Evidence that reports show, if it is there; anything else in it is stored only."""

    segment: str = Field(default="all", max_length=1000)
    window_start: Moment | None = None
    window_end: Moment | None = None
    metrics: _Metrics | None = None
    verdicts: tuple[Verdict, ...] = ()
    evidence_ratio: Finite | None = None
    comparison: str = ""
    estimated: dict[str, Any] | None = None


def check_retrain(event: RetrainEvent, arrived_at: datetime) -> None:
    """Check the id, the time, the reason and the evidence of a retrain event that arrived at a time.

    Raises:
        ForgedRetrain: when the id does not follow from model and attempt, the time is impossible, or the reason is too long.
        pydantic.ValidationError: when the evidence is not of the form that reports show.
    """
    expected = uuid5(event.model_id, str(event.attempt))
    if event.retrain_id != expected:
        name = f"retrain_id {event.retrain_id} is not {expected}"
        raise ForgedRetrain(f"{name}, which follows from model {event.model_id} and attempt {event.attempt}")
    if not _EARLIEST <= event.requested_at <= arrived_at + _CLOCK_TOLERANCE:
        allowed = f"from {_EARLIEST:%Y-%m-%d} to a day after the record arrived at {arrived_at.isoformat()}"
        raise ForgedRetrain(f"requested_at {event.requested_at.isoformat()} must be {allowed}")
    if len(event.reason) > _MAX_REASON_CHARACTERS:
        stated = f"a reason of {len(event.reason)} characters, {shorten(event.reason)}"
        raise ForgedRetrain(f"{stated}, is longer than {_MAX_REASON_CHARACTERS}")
    _Evidence.model_validate(event.evidence)

"""The events that the service writes for itself and for its readers: sums, windows, drift, retrains, models and effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field, field_validator

from schemas.base import Finite, Frozen, Moment, Whole
from schemas.event_base import Event
from schemas.fidelity_models import DriftState, FidelityMetrics, Verdict
from schemas.simulation_models import EffectPrior

__all__ = [
    "EVERY_LINE",
    "MAX_MESSAGE_ROWS",
    "N_BETS",
    "SUM_FIELDS",
    "CatalogueEvent",
    "DriftEvent",
    "EffectsChoice",
    "EffectsEvent",
    "FidelityErrors",
    "FidelityWindow",
    "ModelEvent",
    "PaneRow",
    "RetrainEvent",
    "SourceId",
    "padded_sums",
]

N_BETS = 5
SUM_FIELDS: tuple[str, ...] = (
    "n",
    "n_interval",
    "n_inside",
    "predicted",
    "actual",
    "predicted_squared",
    "actual_squared",
    "product",
    "absolute_error",
    "n_outliers",
    *(f"log_bet_{bet}" for bet in range(N_BETS)),
    *("excess_error", "excess_error_spread", "slope", "slope_spread", "excess_misses", "excess_misses_spread"),
)
"""The integer sums of a pane, in the order of ``PaneRow.sums``; ``engine.fidelity.error_sums`` has the quantum of each.

Later versions append fields: what an earlier one has stored or sent counts 0 in them.
"""


_FIRST_N_SUMS = SUM_FIELDS.index("excess_error")


def padded_sums(sums: Sequence[int]) -> tuple[int, ...]:
    """Sums of an earlier version with 0 in each field that it did not have."""
    return (*sums, *(0 for _ in range(len(SUM_FIELDS) - len(sums))))


class SourceId(Frozen):
    """The partition that outcomes were read from; the incarnation rises when the topic is created again."""

    topic: str
    partition: Whole = Field(ge=0)
    incarnation: Whole = Field(default=0, ge=0)

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.incarnation}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The source of a text that ``str`` has written.

        >>> str(SourceId.parse("outcome-events:3:0"))
        'outcome-events:3:0'
        """
        topic, partition, incarnation = text.rsplit(":", 2)
        return cls(topic=topic, partition=int(partition), incarnation=int(incarnation))


class PaneRow(Frozen):
    """Cumulative sums of one series, pane and source; the row with the highest ``version`` is the valid one.

    Attributes:
        segment: ``all``, ``dimension=value``, or ``dimension:other`` for all values without a series of their own.
        pane: start of the pane, seconds since the epoch; ``width_s`` is its length.
        sums: in the order of ``SUM_FIELDS``.
        last_offset: source offset of the last change.
    """

    model_id: UUID
    segment: str
    pane: Finite
    width_s: Finite = Field(gt=0)
    version: Whole = Field(ge=1)
    last_offset: Whole = Field(ge=0)
    sums: tuple[int, ...] = Field(min_length=len(SUM_FIELDS), max_length=len(SUM_FIELDS))

    @field_validator("sums", mode="before")
    @classmethod
    def _of_earlier_version(cls, sums: Any) -> Any:
        if not isinstance(sums, (list, tuple)):
            return sums
        if bool in set(map(type, sums)):  # cheaper than a validator of each
            raise ValueError("sums are numbers, and true and false are none")
        return padded_sums(sums) if len(sums) == _FIRST_N_SUMS else sums


MAX_MESSAGE_ROWS = 500
"""Rows of one message with sums."""
EVERY_LINE = "*"
"""Line and key of a message that concerns all lines: the progress of a source."""


class FidelityErrors(Event):
    """The pane rows that a batch changed for one model line, or (without rows, for every line) the progress of a source.

    ``watermark`` is the event time that the source has reached, null before its first outcome.
    """

    line: str
    source: SourceId
    watermark: Moment | None
    rows: tuple[PaneRow, ...] = Field(default=(), max_length=MAX_MESSAGE_ROWS)


class FidelityWindow(Event):
    """Fidelity of one window of a series; ``version`` is the sum of its rows' versions, the highest is the valid one."""

    line: str
    model_id: UUID
    metric_type: str
    segment: str
    window_start: Moment
    window_end: Moment
    status: Literal["open", "final", "restated"]
    version: Whole = Field(ge=0)
    metrics: FidelityMetrics
    state: DriftState
    evidence_ratio: Finite | None = None


class DriftEvent(Event):
    """A change of the drift state of a series, or a verdict that requests retraining.

    Attributes:
        evidence_by_loss: evidence of each loss taken alone, over the same limit; empty for a segment without a baseline.
        carried_by: the segment that nearly all of these outcomes belong to, unlike the training rows: the change is its own.
    """

    line: str
    model_id: UUID
    segment: str
    window_start: Moment
    window_end: Moment
    state: DriftState
    previous: DriftState
    metrics: FidelityMetrics
    verdicts: tuple[Verdict, ...]
    evidence: Finite | None = None
    evidence_limit: Finite | None = None
    evidence_by_loss: dict[str, Finite] = Field(default_factory=dict)
    carried_by: str | None = None
    reason: str


class RetrainEvent(Event):
    """A request to retrain a model, with cause and evidence; ``retrain_id`` is uuid5(model_id, finished trainings)."""

    retrain_id: UUID
    line: str
    model_id: UUID
    attempt: Whole = Field(ge=0, lt=2**31)
    requested_at: Moment
    cause: Literal["drift", "request"]
    reason: str
    evidence: dict[str, Any] = Field(default_factory=dict)


class ModelEvent(Event):
    """The complete state of a model line after a change; the highest ``generation`` is the valid one.

    Attributes:
        decided_by: the person or the program whose decision it was; empty for what the service does by itself.
    """

    line: str
    generation: Whole = Field(ge=0)
    happened: Literal[
        "trained", "promoted", "suggested", "rejected", "rolled_back", "failed", "policy", "stopped", "approved", "refused"
    ]
    at: Moment
    model_id: UUID
    champion: UUID | None
    effective_from: Moment | None = None
    retrain_id: UUID | None = None
    reason: str = ""
    comparison: dict[str, Any] = Field(default_factory=dict)
    decided_by: str = ""


class EffectsChoice(Frozen):
    """A person's choice of the effects version that simulations of a line take; null for the newest."""

    version: Whole | None = Field(ge=0)
    chosen_at: Moment
    chosen_by: str
    reason: str = ""


class EffectsEvent(Event):
    """The effect prior of an intervention on one line: a new version, calibrated by these experiments, or one that a person chose.

    The newest record of a key is the prior that simulations take.

    Attributes:
        in_effect: whether simulations take it; while a person has chosen an earlier version, a new one is followed by that.
        choice: of a person, by which it is in effect; null for a new version.
        predictive_z: distance of the newest experiment from the prediction of all others, in its standard deviations; null for a
            withdrawal.
        warnings: what to doubt about that experiment.
    """

    line: str
    prior: EffectPrior
    experiments: tuple[str, ...]
    in_effect: bool = True
    choice: EffectsChoice | None = None
    predictive_z: Finite | None = None
    warnings: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Key of its record."""
        return f"{self.line}:{self.prior.intervention_type}"


class CatalogueEvent(Event):
    """A version of the catalogue was applied; every process of the service follows it, and what is pinned to another one stays so.

    Attributes:
        sha256: digest of its content, which is in Postgres.
        changes: what differs from the version before, an entry or a field each.
    """

    version: Whole = Field(ge=1)
    sha256: str
    applied_at: Moment
    applied_by: str
    reason: str = ""
    changes: tuple[str, ...] = ()

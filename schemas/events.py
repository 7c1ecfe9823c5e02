"""The events of all topics, one model each: JSON, unknown fields refused, times with their zone."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import compress
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from schemas.base import Finite, Moment, Name, Probability, Whole, refuse_flags
from schemas.canonical import NUMBERS, encode_own_fields, encode_shared_fields
from schemas.event_base import Event
from schemas.filters import PopulationFilter, canonical_filters
from schemas.interventions import Channel
from schemas.service_events import (
    EVERY_LINE,
    MAX_MESSAGE_ROWS,
    N_BETS,
    SUM_FIELDS,
    CatalogueEvent,
    DriftEvent,
    EffectsChoice,
    EffectsEvent,
    FidelityErrors,
    FidelityWindow,
    ModelEvent,
    PaneRow,
    RetrainEvent,
    SourceId,
    padded_sums,
)
from schemas.simulation_models import InterventionConfig, SimulationResult, require_meant_for
from schemas.subgroup_results import MAX_PARTICIPANTS, MAX_SUBGROUPS, SubgroupResult, require_parts_of
from schemas.thresholds import ConfidenceThreshold, EffectThreshold
from schemas.training_requests import TrainingRequest
from schemas.twin_types import TWIN_TYPES, KnownBrand, TwinType, model_line

__all__ = [
    "EVENTS",
    "EVERY_LINE",
    "MAX_ALTERNATIVES",
    "MAX_MESSAGE_ROWS",
    "MAX_TWINS",
    "MAX_TWINS_AT_ONCE",
    "MIN_TWINS",
    "N_BETS",
    "SUM_FIELDS",
    "AnswerStatus",
    "CatalogueEvent",
    "DriftEvent",
    "EffectsChoice",
    "EffectsEvent",
    "Event",
    "ExperimentResult",
    "FidelityErrors",
    "FidelityWindow",
    "ModelEvent",
    "OutcomeEvent",
    "PaneRow",
    "RetrainEvent",
    "SimulationAnswer",
    "SimulationProgress",
    "SimulationRequest",
    "SourceId",
    "TrainingRequest",
    "canonical_digest",
    "padded_sums",
]


_Real = Annotated[float, Field(allow_inf_nan=False), AfterValidator(lambda x: x + 0.0)]  # beside flags, which are features too
Feature = str | bool | int | _Real | None


def _canonical_features(features: dict[str, Feature]) -> dict[str, Feature]:
    """Sorted by name, whole numbers without a fraction, so that equal features have equal text."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value for name, value in sorted(features.items())
    }


Features = Annotated[dict[str, Feature], AfterValidator(_canonical_features)]
Segment = Annotated[dict[str, str], AfterValidator(lambda segment: dict(sorted(segment.items())))]


MIN_TWINS, MAX_TWINS, MAX_ALTERNATIVES = 100, 1_000_000_000, 10
"""Bounds of a simulation request."""

MAX_TWINS_AT_ONCE = 1_000_000
"""Twins of the largest population that is one table; a larger one is generated, and simulated on, in blocks."""


class SimulationRequest(Event):
    """A request to simulate an intervention on a population of twins.

    Thresholds that it does not name are those of its line. The population that it makes is deleted after ``expires_at``.
    """

    simulation_id: UUID
    requested_at: Moment
    twin_type: TwinType
    brand: KnownBrand
    intervention: InterventionConfig
    filters: PopulationFilter = PopulationFilter()
    population_id: UUID | None = None
    twin_count: Whole | None = Field(default=None, ge=MIN_TWINS, le=MAX_TWINS)
    seed: Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(refuse_flags)] | None = None  # in this order the bound is exact
    confidence_level: Probability = 0.95
    requested_by: str = Field(default="unknown", max_length=200)
    target: str | None = None
    alternatives: tuple[InterventionConfig, ...] = Field(default=(), max_length=MAX_ALTERNATIVES)
    min_effect_threshold: EffectThreshold | None = None
    confidence_threshold: ConfidenceThreshold | None = None
    expires_at: Moment | None = None
    experiment_id: Name | None = None

    @model_validator(mode="after")
    def _target_and_filters_exist(self) -> Self:
        TWIN_TYPES[self.twin_type].target(self.target)
        canonical_filters(self.twin_type, self.filters)
        for campaign in (self.intervention, *self.alternatives):
            require_meant_for(campaign, self.twin_type)
        if self.population_id is not None and self.twin_count is not None:
            raise ValueError("population_id and twin_count exclude each other")
        if self.expires_at is not None and self.population_id is not None:
            raise ValueError("population_id and expires_at exclude each other: a stored population keeps the end that it has")
        if self.expires_at is not None and self.expires_at <= self.requested_at:
            raise ValueError(f"expires_at {self.expires_at.isoformat()} is not after requested_at {self.requested_at.isoformat()}")
        return self

    @property
    def line(self) -> str:
        """Name of the model line."""
        return model_line(self.twin_type, self.brand, self.target)

    @property
    def effective_seed(self) -> int:
        """The seed in [0, 2**63). A pinned request has one, unless it was pinned before those without one shared their twins."""
        return self.seed if self.seed is not None else self.simulation_id.int % 2**63


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PREDICTION_SOURCES = ("predicted_value", "simulation_id and twin_id", "entity_id and features")


class OutcomeEvent(Event):
    """The observed outcome of an entity; a null ``actual_value`` is missing, a higher ``revision`` corrects a lower one."""

    event_id: UUID
    observed_at: Moment
    twin_type: TwinType
    brand: KnownBrand
    metric_type: str
    actual_value: Finite | None
    revision: Whole = Field(default=0, ge=0, lt=2**31)
    predicted_value: Finite | None = None
    predicted_lower: Finite | None = None
    predicted_upper: Finite | None = None
    model_id: UUID | None = None
    simulation_id: UUID | None = None
    twin_id: UUID | None = None
    entity_id: Name | None = None
    features: Features | None = None
    treated: bool | None = None
    segment: Segment = Field(default_factory=dict)

    @model_validator(mode="after")
    def _exactly_one_prediction_source(self) -> Self:
        present = (self.predicted_value is not None, bool(self.simulation_id or self.twin_id), self.features is not None)
        if sum(present) != 1:
            sources = list(compress(_PREDICTION_SOURCES, present))
            raise ValueError(
                f"exactly one source of the prediction is needed ({', '.join(_PREDICTION_SOURCES)}), not {sources or 'none'}"
            )
        if (self.simulation_id is None) != (self.twin_id is None):
            raise ValueError("simulation_id and twin_id belong together")
        if self.features is not None and self.entity_id is None:
            raise ValueError("features need an entity_id")
        if self.model_id is not None and self.predicted_value is None:
            raise ValueError("model_id is the model of predicted_value: provide predicted_value too, or leave both out")
        return self

    @model_validator(mode="after")
    def _interval_holds_prediction(self) -> Self:
        low, high = self.predicted_lower, self.predicted_upper
        if (low is None) != (high is None):
            raise ValueError("predicted_lower and predicted_upper belong together")
        if low is not None and high is not None:
            if self.predicted_value is None:
                raise ValueError("an interval needs its predicted_value")
            if not low <= self.predicted_value <= high:
                raise ValueError(f"predicted_value {self.predicted_value} lies outside of its interval [{low}, {high}]")
        return self

    @model_validator(mode="after")
    def _target_and_segments_exist(self) -> Self:
        entry = TWIN_TYPES[self.twin_type]
        entry.target(self.metric_type)
        unknown = [name for name in self.segment if name not in entry.segments]
        if unknown:
            raise ValueError(f"segment dimensions {unknown} are not declared: use {', '.join(entry.segments)}")
        return self

    @property
    def line(self) -> str:
        """Name of the model line."""
        return model_line(self.twin_type, self.brand, self.metric_type)

    def canonical(self) -> bytes:
        """The content in canonical form; ``schemas.canonical`` computes the same bytes for a batch of outcomes."""
        values = (self.actual_value, self.predicted_value, self.predicted_lower, self.predicted_upper)
        numbers = np.array(
            (
                self.event_id.bytes,
                (self.observed_at - _EPOCH) // timedelta(microseconds=1),
                self.revision,
                *(math.nan if value is None else value for value in values),
                -1 if self.treated is None else self.treated,
            ),
            dtype=NUMBERS,
        )
        segment = self.segment.items()
        shared = encode_shared_fields(self.schema_version, self.twin_type, self.brand, self.metric_type, self.model_id, segment)
        return numbers.tobytes() + shared + encode_own_fields(self.simulation_id, self.twin_id, self.entity_id, self.features)


_LATER_FIELDS = frozenset({"outcome", "unit", "population", "variant", "channels", "subgroups", "revision", "decided_by", "reason"})


class ExperimentResult(Event):
    """The result of a real experiment; ``effect`` is a fraction on the target's scale, positive = desired.

    Attributes:
        control_ratio: planned people in the control arm for each treated one; without it the sizes of the arms are not checked.
        withdrawn: removes the same result: calibration no longer uses it, until a higher ``revision`` that is not withdrawn.
        revision: of several states of one result the highest counts; of two with the same one the withdrawal.
        confirmed: the numbers are meant as they are: a result beyond the plausible scale of its target is set aside without it.
        outcome: what it has measured, if that is not the target; such a result is stored, and calibrates nothing.
        unit: of the effect, if not that of the target: ``points`` of the outcome, or ``relative`` to its level.
        population: kind of people, if not that of the line, such as "customers"; such a result is stored, and calibrates nothing.
        variant: name of the message or creative, as in ``intervention``, which has it too then.
        channels: all channels, where there were several; ``intervention`` has the main one.
        subgroups: effects in levels of a feature, by each feature at most once for each person.
        decided_by, reason: who has withdrawn it or taken that back, and why; no part of the result.
    """

    experiment_id: Name
    observed_at: Moment
    twin_type: TwinType
    brand: KnownBrand
    target: str | None = None
    intervention: InterventionConfig
    filters: PopulationFilter = PopulationFilter()
    effect: Finite
    standard_error: Finite = Field(gt=0)
    n_treated: Whole = Field(ge=2, le=MAX_PARTICIPANTS)
    n_control: Whole = Field(ge=2, le=MAX_PARTICIPANTS)
    control_ratio: Finite | None = Field(default=None, ge=0.001, le=1000)
    withdrawn: bool = False
    revision: Whole = Field(default=0, ge=0, lt=2**31)
    confirmed: bool = False
    outcome: Name | None = None
    unit: Literal["points", "relative"] | None = None
    population: Name | None = None
    variant: Name | None = None
    channels: tuple[Channel, ...] = Field(default=(), max_length=len(Channel))
    subgroups: tuple[SubgroupResult, ...] = Field(default=(), max_length=MAX_SUBGROUPS)
    decided_by: str | None = Field(default=None, min_length=1, max_length=200)
    reason: str | None = Field(default=None, min_length=1, max_length=2000)

    @model_validator(mode="before")
    @classmethod
    def _one_variant(cls, fields: Any) -> Any:
        """Copy the variant to or from the intervention, whichever has it."""
        if not isinstance(fields, dict):
            return fields
        campaign = fields.get("intervention")
        of_campaign = campaign.get("variant") if isinstance(campaign, dict) else getattr(campaign, "variant", None)
        variant = fields.get("variant")
        if variant is not None and of_campaign is not None and variant != of_campaign:
            raise ValueError(f"variant {variant!r} and that of the intervention, {of_campaign!r}, differ")
        if variant is None and of_campaign is not None:
            return fields | {"variant": of_campaign}
        if of_campaign is None and isinstance(variant, str):
            own = campaign | {"variant": variant} if isinstance(campaign, dict) else campaign
            if isinstance(own, InterventionConfig):
                own = own.model_copy(update={"variant": variant})
            return fields | {"intervention": own}
        return fields

    @model_validator(mode="after")
    def _target_and_filters_exist(self) -> Self:
        TWIN_TYPES[self.twin_type].target(self.target)
        canonical_filters(self.twin_type, self.filters)
        require_meant_for(self.intervention, self.twin_type)
        if self.channels and self.intervention.channel not in self.channels:
            raise ValueError(f"channels {[*self.channels]} lack the main one, {self.intervention.channel}")
        require_parts_of(self.n_treated, self.n_control, self.subgroups)
        return self

    @model_serializer(mode="wrap")
    def _without_absent_fields(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that came later are absent where they are not given: digests of what was stored before stay valid."""
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if name not in _LATER_FIELDS or value}

    @property
    def measures_target(self) -> bool:
        """Whether it has measured the line's target, in its unit, on people of its kind; else it calibrates nothing."""
        target = TWIN_TYPES[self.twin_type].target(self.target)
        unit = "points" if target.scale == "additive" else "relative"
        return self.outcome in (None, target.name) and self.unit in (None, unit) and self.population in (None, self.twin_type.value)

    @property
    def line(self) -> str:
        """Name of the model line."""
        return model_line(self.twin_type, self.brand, self.target)


class AnswerStatus(StrEnum):
    """Final status of a request."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class SimulationAnswer(Event):
    """The answer to one request: a ``result`` when it is completed, otherwise a ``reason``."""

    simulation_id: UUID
    status: AnswerStatus
    result: SimulationResult | None = None
    reason: str | None = None
    model_id: UUID | None = None
    effects_version: Whole | None = None
    catalogue_version: Whole | None = None

    @model_validator(mode="after")
    def _result_or_reason(self) -> Self:
        if (self.status is AnswerStatus.COMPLETED) != (self.result is not None):
            raise ValueError(f"a {self.status} answer {'needs a' if self.result is None else 'has no'} result")
        if (self.status is AnswerStatus.COMPLETED) == (self.reason is not None):
            raise ValueError("a completed answer has no reason, any other needs one")
        return self


class SimulationProgress(Event):
    """How far a simulation in parts is. Events may come twice or out of order: the largest ``twins_done`` counts."""

    simulation_id: UUID
    twins_done: Whole = Field(ge=0)
    twin_count: Whole = Field(ge=1)


EVENTS: dict[str, type[Event]] = {
    "simulation-requests": SimulationRequest,
    "simulation-results": SimulationAnswer,
    "simulation-progress": SimulationProgress,
    "experiment-results": ExperimentResult,
    "outcome-events": OutcomeEvent,
    "fidelity-errors": FidelityErrors,
    "fidelity-windows": FidelityWindow,
    "drift-events": DriftEvent,
    "retrain-events": RetrainEvent,
    "training-requests": TrainingRequest,
    "model-events": ModelEvent,
    "effect-priors": EffectsEvent,
    "catalogue-versions": CatalogueEvent,
}
"""Topic to event; ``dead-letters`` carries the original bytes of refused records."""


def canonical_digest(event: Event) -> bytes:
    """SHA-256 of an event's canonical content: equal events have equal digests, whatever their JSON."""
    return hashlib.sha256(event.canonical()).digest()

"""Inputs and results of simulations, effect priors, and experiment plans."""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import Field, SerializerFunctionWrapHandler, ValidationInfo, field_validator, model_serializer

from schemas.base import Finite, Frozen, Moment, Name, Number, Probability, Record, Whole, require_one_of
from schemas.effect_priors import EffectPrior
from schemas.filters import PopulationFilter
from schemas.interventions import INTERVENTIONS, Channel, Frequency
from schemas.twin_types import TwinType

__all__ = [
    "ANSWERED",
    "NO_MODERATOR",
    "Alternative",
    "Arm",
    "BestChoice",
    "EffectHeterogeneity",
    "EffectPrior",
    "ExperimentPlan",
    "GroupReach",
    "InterventionConfig",
    "OutcomeChange",
    "PopulationFilter",
    "Reach",
    "SimulationRecommendation",
    "SimulationResult",
    "SubgroupEffect",
    "TrackRecord",
    "require_meant_for",
]


ANSWERED = "is_answered"
"""Key of the validation context of an answer: its intervention is of the service's catalogue, which its reader may not have."""


class InterventionConfig(Frozen):
    """An intervention to simulate.

    Attributes:
        intensity: strength of one contact, in (0, 3]; 1 (or none) is the usual one.
        variant: name of its message or creative, where campaigns of this type are told apart by it.
    """

    intervention_type: str
    channel: str
    frequency: str
    duration_weeks: Whole = Field(ge=1, le=104)
    intensity: Number | None = Field(default=None, gt=0, le=3)
    variant: Name | None = None

    @model_serializer(mode="wrap")
    def _without_absent_variant(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A field that came later is absent where it is not given: digests and ids of what was stored before stay valid."""
        fields: dict[str, Any] = serialize(self)
        if self.variant is None:
            fields.pop("variant", None)
        return fields

    @field_validator("intervention_type")
    @classmethod
    def _intervention_exists(cls, value: str, info: ValidationInfo) -> str:
        if info.context is not None and info.context.get(ANSWERED):
            return value
        return require_one_of("intervention_type", value, INTERVENTIONS)

    @field_validator("channel")
    @classmethod
    def _channel_exists(cls, value: str) -> str:
        return require_one_of("channel", value, Channel)

    @field_validator("frequency")
    @classmethod
    def _frequency_exists(cls, value: str) -> str:
        return require_one_of("frequency", value, Frequency)


def require_meant_for(config: InterventionConfig, twin_type: TwinType) -> None:
    """Check that the catalogue has an intervention for twins of a type.

    Raises:
        ValueError: when it is for others; the message names the interventions for this type.
    """
    meant_for = INTERVENTIONS[config.intervention_type].twin_types
    if meant_for and twin_type not in meant_for:
        names = ", ".join(name for name, entry in INTERVENTIONS.items() if not entry.twin_types or twin_type in entry.twin_types)
        raise ValueError(
            f"intervention {config.intervention_type!r} is for {', '.join(sorted(meant_for))} twins, not for {twin_type}:"
            f" use {names}"
        )


class SimulationRecommendation(StrEnum):
    """Recommended decision about an intervention."""

    DEPLOY = "deploy"
    DO_NOT_DEPLOY = "do_not_deploy"
    TEST_FURTHER = "test_further"


class GroupReach(Frozen):
    """How the people of one level of a feature moderate effects, beside all people of an experiment.

    Attributes:
        dimension, level: the feature and its level.
        mean: their average factor over that of all.
        slopes: growth of the logarithm of their average factor by each coefficient of a moderator (``feature``, ``feature=level``).
    """

    dimension: str
    level: str
    mean: Finite = Field(gt=0)
    slopes: dict[str, Finite] = Field(default_factory=dict)


class Reach(Frozen):
    """Share of an intervention's base effect that a campaign reaches: its dose times the average factor of its population.

    Attributes:
        mean, sd: of the share.
        slopes: growth of the logarithm of the average factor by each coefficient of a moderator.
        groups: the same in the experiment's subgroups.
    """

    mean: Finite = Field(gt=0)
    sd: Finite = Field(default=0.0, ge=0)
    slopes: dict[str, Finite] = Field(default_factory=dict)
    groups: tuple[GroupReach, ...] = ()


class TrackRecord(Frozen):
    """Agreement of past simulations of this intervention on this line with the real experiments made after them.

    Attributes:
        n: simulations with a real experiment, of the newest 200 experiments.
        n_inside: simulations whose interval holds the observed effect.
        n_agreeing: simulations whose interval, widened by the experiment's standard error, holds the observed effect.
        mean_error: mean of observed minus simulated effect: above 0 the simulations are too low; null without any.
    """

    n: Whole = Field(ge=0)
    n_inside: Whole = Field(ge=0)
    n_agreeing: Whole = Field(ge=0)
    mean_error: Finite | None = None

    def __str__(self) -> str:
        if not self.n:
            return "no experiment has followed a simulation of this intervention with its dose and filters: none is compared yet"
        return (
            f"of {self.n} past simulations of this intervention tested by a real experiment, the interval of {self.n_inside} held"
            f" the observed effect, {self.n_agreeing} when the experiment's standard error is included"
        )


NO_MODERATOR = "no moderator: same effect by assumption"
"""What is said of subgroups that no moderator is about."""


class SubgroupEffect(Frozen):
    """The effect in one subgroup of ``n`` twins, shrunk toward the overall effect.

    Where it is not ``moderated``, no moderator is about this group: its effect is the same as elsewhere by assumption, and only the
    mix of its other features tells it apart.
    """

    group: str
    estimate: Finite
    ci_lower: Finite
    ci_upper: Finite
    n: Whole
    moderated: bool = True


class EffectHeterogeneity(Frozen):
    """Effects by subgroup of each dimension.

    Attributes:
        n_groups: subgroups of all dimensions; ``warning`` is about the comparisons among those with a moderator.
        skipped: dimensions without effects, with the reason.
        unmoderated: dimensions none of whose subgroups has a moderator, with what follows from it.
    """

    by_dimension: dict[str, tuple[SubgroupEffect, ...]] = Field(default_factory=dict)
    n_groups: Whole = 0
    warning: str = ""
    skipped: dict[str, str] = Field(default_factory=dict)
    unmoderated: dict[str, str] = Field(default_factory=dict)


class OutcomeChange(Frozen):
    """An average effect as a change of the outcome, with the sign of the outcome.

    Attributes:
        estimate, ci_lower, ci_upper: average change and its interval, in ``unit``.
        outcome_sd: standard deviation of outcomes between twins, in ``unit``; null where these twins have no drawn outcome.
    """

    estimate: Finite
    ci_lower: Finite
    ci_upper: Finite
    unit: str
    outcome_sd: Finite | None = None

    @property
    def deviations(self) -> float | None:
        """The average change in standard deviations of the outcome, without its sign; None where they are unknown."""
        return abs(self.estimate) / self.outcome_sd if self.outcome_sd else None


class Alternative(Frozen):
    """Another intervention on the same twins and the same draws; ``difference`` is its effect minus that of the first."""

    intervention: InterventionConfig
    ate: Finite
    ate_ci_lower: Finite
    ate_ci_upper: Finite
    difference: Finite
    difference_ci_lower: Finite
    difference_ci_upper: Finite
    probability_best: Finite


class BestChoice(Frozen):
    """The best of several interventions, with an interval that accounts for the selection.

    The intervals of all candidates hold simultaneously, so that of the selected one is valid whichever it is; ``margin`` is its
    distance from the runner-up, with an interval of the same kind.
    """

    intervention: InterventionConfig
    ate: Finite
    ate_ci_lower: Finite
    ate_ci_upper: Finite
    probability_best: Finite
    margin: Finite
    margin_ci_lower: Finite
    margin_ci_upper: Finite


class SimulationResult(Record):
    """The result of a simulation.

    Attributes:
        ate: average treatment effect, a fraction on the target's scale, positive = desired.
        ate_ci_lower, ate_ci_upper: interval of that average at ``confidence_level``.
        effect_unit: what effects are a fraction of.
        change: the same as a change of the outcome, in its own unit; null where it is unknown, with the reason in ``warnings``.
        probability_worthwhile: probability that the effect reaches ``min_effect_threshold``.
        thresholds_version: version of the line's thresholds, which those of the request precede; 0 where nobody changed them.
        affected_twin_count: twins that satisfy the filters.
        best_alternative: text of the alternative with the largest effect above that of the intervention; null where none is.
        best: the best of the intervention and its alternatives; null without alternatives.
        effects_version: version of the effect prior that was used.
        rests_on_assumption: it recommends to deploy what no real experiment has tested.
        track_record: agreement of earlier simulations of this intervention with experiments; null where it is not recorded.
    """

    simulation_id: UUID
    ate: Finite
    ate_ci_lower: Finite
    ate_ci_upper: Finite
    effect_unit: str = ""
    change: OutcomeChange | None = None
    heterogeneity: EffectHeterogeneity = Field(default_factory=EffectHeterogeneity)
    recommendation: SimulationRecommendation
    recommendation_reason: str
    rests_on_assumption: bool = False
    affected_twin_count: Whole
    confidence_level: Probability = 0.95
    probability_worthwhile: Finite = Field(default=0.0, ge=0, le=1)
    min_effect_threshold: Finite = 0.05
    confidence_threshold: Probability = 0.90
    thresholds_version: Whole = 0
    intervention: InterventionConfig | None = None
    prior: EffectPrior | None = None
    effects_version: Whole = 0
    n_draws: Whole = 0
    alternatives: tuple[Alternative, ...] = ()
    best_alternative: str | None = None
    best: BestChoice | None = None
    required_sample_size: dict[str, Any] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    track_record: TrackRecord | None = None
    simulated_at: Moment | None = None


class Arm(Frozen):
    """One arm of a planned experiment: its intervention, people, and units of assignment."""

    name: str
    intervention: InterventionConfig | None
    n: Whole = Field(ge=1)
    clusters: Whole = Field(ge=1)


class ExperimentPlan(Frozen):
    """A plan of a real experiment that tests a simulated effect.

    Attributes:
        arms: the treated arm, then the control arm.
        effect: the effect to detect, a fraction on the target's scale.
        detectable_effect: smallest effect detected with probability ``power`` at ``alpha`` two-sided, on the same scale.
        power: probability of detecting ``effect``.
        power_at_simulated: probability of detecting the simulated effect.
        design_effect: factor by which assignment of whole clusters inflates the variance; 1 without clusters.
        correlation: of outcome and prediction, measured, if the analysis adjusts for the prediction, else 0.
        saved: share of the people that this adjustment saves.
        simulation: the simulation that the plan is based on.
    """

    arms: tuple[Arm, ...]
    effect: Finite
    detectable_effect: Finite
    alpha: Probability
    power: Finite = Field(ge=0, le=1)
    power_at_simulated: Finite = Field(ge=0, le=1)
    design_effect: Finite = Field(default=1.0, ge=1)
    correlation: Finite = 0.0
    saved: Finite = 0.0
    simulation: SimulationResult
    warnings: tuple[str, ...] = ()

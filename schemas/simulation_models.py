"""What is asked of a simulation and what it answers."""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import Field, field_validator

from schemas.base import Finite, Frozen, Moment, Probability, Record, require_one_of
from schemas.filters import PopulationFilter
from schemas.interventions import INTERVENTIONS, Channel, Frequency

__all__ = [
    "Alternative",
    "Arm",
    "BestChoice",
    "EffectHeterogeneity",
    "EffectPrior",
    "ExperimentPlan",
    "InterventionConfig",
    "PopulationFilter",
    "Reach",
    "SimulationRecommendation",
    "SimulationResult",
    "SubgroupEffect",
    "TrackRecord",
]


class InterventionConfig(Frozen):
    """What would be done. ``intensity`` 1 (or none) is the usual strength of one contact, in (0, 3]."""

    intervention_type: str
    channel: str
    frequency: str
    duration_weeks: int = Field(ge=1, le=104)
    intensity: float | None = Field(default=None, gt=0, le=3)

    @field_validator("intervention_type")
    @classmethod
    def _known_intervention(cls, value: str) -> str:
        return require_one_of("intervention_type", value, INTERVENTIONS)

    @field_validator("channel")
    @classmethod
    def _known_channel(cls, value: str) -> str:
        return require_one_of("channel", value, Channel)

    @field_validator("frequency")
    @classmethod
    def _known_frequency(cls, value: str) -> str:
        return require_one_of("frequency", value, Frequency)


class SimulationRecommendation(StrEnum):
    """What the numbers say should be done."""

    DEPLOY = "deploy"
    DO_NOT_DEPLOY = "do_not_deploy"
    TEST_FURTHER = "test_further"


class EffectPrior(Frozen):
    """What is believed of an intervention's base effect, and on what ground.

    Attributes:
        mean, sd: of the effect at the reference dose, a fraction on the target's scale.
        between_sd: standard deviation of true effects from one experiment to the next.
        version: 0 for the catalogue, else the number of the calibrated version.
        n_experiments: real experiments behind it.
    """

    intervention_type: str
    mean: Finite
    sd: Finite = Field(ge=0)
    between_sd: Finite = Field(default=0.0, ge=0)
    version: int = Field(default=0, ge=0)
    n_experiments: int = Field(default=0, ge=0)
    source: str = ""


class Reach(Frozen):
    """Share of an intervention's base effect that a campaign reaches: its dose times the average factor of whom it is made on."""

    mean: Finite = Field(gt=0)
    sd: Finite = Field(default=0.0, ge=0)


class TrackRecord(Frozen):
    """Of past simulations of this intervention on this line that a real experiment has answered, how many were right.

    Attributes:
        n: simulations with a real answer.
        n_inside: whose interval holds the effect that was found.
        n_agreeing: whose interval holds it once the experiment's own error is allowed for.
        mean_error: average of found minus simulated effect: above 0 the simulations promise too little; null without any.
    """

    n: int = Field(ge=0)
    n_inside: int = Field(ge=0)
    n_agreeing: int = Field(ge=0)
    mean_error: Finite | None = None

    def __str__(self) -> str:
        if not self.n:
            return "no simulation of this kind has a real answer yet"
        return (
            f"of {self.n} past simulations of this kind with a real answer, {self.n_inside} had it inside their interval,"
            f" {self.n_agreeing} when the experiment's own error is allowed for"
        )


class SubgroupEffect(Frozen):
    """The effect in one subgroup, shrunk toward the whole; ``n`` twins stand in it."""

    group: str
    estimate: Finite
    ci_lower: Finite
    ci_upper: Finite
    n: int


class EffectHeterogeneity(Frozen):
    """Effects by subgroup, by dimension; ``n_groups`` of them were looked at, and ``warning`` says what follows from that."""

    by_dimension: dict[str, tuple[SubgroupEffect, ...]] = Field(default_factory=dict)
    n_groups: int = 0
    warning: str = ""
    skipped: dict[str, str] = Field(default_factory=dict)


class Alternative(Frozen):
    """Another intervention on the same twins and the same draws; ``difference`` is its effect minus the first one's."""

    intervention: InterventionConfig
    ate: Finite
    ate_ci_lower: Finite
    ate_ci_upper: Finite
    difference: Finite
    difference_ci_lower: Finite
    difference_ci_upper: Finite
    probability_best: Finite


class BestChoice(Frozen):
    """The best of several interventions, with an interval that allows for its having been chosen.

    All candidates' intervals hold at once, so that of the chosen one holds whichever it is; ``margin`` is how far it is above the
    runner-up, with an interval of the same kind.
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
    """The answer to "what would it do".

    Attributes:
        ate: average treatment effect, a fraction on the target's scale, positive = desired.
        ate_ci_lower, ate_ci_upper: interval of that average at ``confidence_level``.
        probability_worthwhile: probability that the effect reaches ``min_effect_threshold``.
        affected_twin_count: twins that the filters left.
        best_alternative: the alternative that is expected to do more, in words; null where none is.
        best: of the intervention and its alternatives; null without alternatives.
        effects_version: version of the effect prior that was used.
        track_record: of earlier simulations of this kind; null where nobody has kept any.
    """

    simulation_id: UUID
    ate: Finite
    ate_ci_lower: Finite
    ate_ci_upper: Finite
    heterogeneity: EffectHeterogeneity = Field(default_factory=EffectHeterogeneity)
    recommendation: SimulationRecommendation
    recommendation_reason: str
    affected_twin_count: int
    confidence_level: Probability = 0.95
    probability_worthwhile: Finite = Field(default=0.0, ge=0, le=1)
    min_effect_threshold: Finite = 0.05
    confidence_threshold: Probability = 0.90
    intervention: InterventionConfig | None = None
    prior: EffectPrior | None = None
    effects_version: int = 0
    n_draws: int = 0
    alternatives: tuple[Alternative, ...] = ()
    best_alternative: str | None = None
    best: BestChoice | None = None
    required_sample_size: dict[str, Any] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    track_record: TrackRecord | None = None
    simulated_at: Moment | None = None


class Arm(Frozen):
    """One arm of a planned experiment: who gets what, in how many units of assignment."""

    name: str
    intervention: InterventionConfig | None
    n: int = Field(ge=1)
    clusters: int = Field(ge=1)


class ExperimentPlan(Frozen):
    """A real experiment that would settle a simulated question.

    Attributes:
        arms: the treated first, then the control.
        detectable_effect: smallest effect found with probability ``power`` at ``alpha`` two-sided, on the effect's own scale.
        power: of finding ``effect``, the effect that was planned for.
        power_at_simulated: of finding the effect that the simulation expects.
        design_effect: factor on the variance that assigning whole clusters costs; 1 without clusters.
        correlation: of outcome and prediction, measured; the plan counts on adjusting for it.
        saved: share of the people that this adjustment saves.
        simulation: the answer it was made from.
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

"""Plan a real experiment: generate twins, simulate the intervention on them, and compute the size of each arm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from engine.effects import (
    SampleSize,
    achieved_power,
    adjustable_correlation,
    design_effect,
    minimum_detectable_effect,
    two_sample,
)
from engine.simulation_engine import SimulationEngine
from schemas.filters import Filters
from schemas.simulation_models import Arm, EffectPrior, ExperimentPlan, InterventionConfig, SimulationResult
from schemas.twin_models import FEWEST_FOR_CORRELATION, TwinPopulation

__all__ = ["Assignment", "ExperimentDesigner", "plan_experiment"]


class TwinSource(Protocol):
    """A trained ``TwinGenerator`` or ``TwinModel``."""

    def generate(self, n: int, filters: Filters, seed: int, /) -> TwinPopulation:
        """Twins that satisfy the filters."""
        ...


@dataclass(frozen=True)
class Assignment:
    """Assignment of people to arms.

    Attributes:
        control_ratio: people in the control arm per treated one.
        cluster_size: people per unit of assignment; 1 assigns individuals.
        intraclass_correlation: share of the outcome's variance between units of assignment.
        size_variation: coefficient of variation of the units' sizes.
        adjusted: whether the analysis adjusts for the twin's prediction.
    """

    control_ratio: float = 1.0
    cluster_size: float = 1.0
    intraclass_correlation: float = 0.0
    size_variation: float = 0.0
    adjusted: bool = True

    @property
    def design_effect(self) -> float:
        """Factor by which assignment of whole clusters inflates the variance."""
        return design_effect(self.cluster_size, self.intraclass_correlation, self.size_variation)


class ExperimentDesigner:
    """Designs experiments by simulation on twins.

    Args:
        twins: generates the twins.
        priors: prior effect of interventions by type; for the others the catalogue's prior is used.
        n_twins: twins generated for each design.
        seed: of twins and draws.

    Example:
        >>> from engine.sample_tables import sample_hcps
        >>> from engine.twin_generator import TwinGenerator
        >>> import numpy as np
        >>> generator = TwinGenerator("hcp", "kisqali", model_type="RandomForest", n_jobs=1)
        >>> _ = generator.train(sample_hcps(1000, np.random.default_rng(0)), "prescribing_change")
        >>> speakers = InterventionConfig(
        ...     intervention_type="speaker_program_invitation", channel="in_person", frequency="monthly", duration_weeks=12
        ... )
        >>> plan = ExperimentDesigner(generator, n_twins=2000).design(speakers, {"min_decile": 6})
        >>> [arm.name for arm in plan.arms], plan.power >= 0.8
        (['speaker_program_invitation', 'control'], True)
    """

    def __init__(
        self, twins: TwinSource, *, priors: Mapping[str, EffectPrior] | None = None, n_twins: int = 10_000, seed: int = 0
    ) -> None:
        self.twins = twins
        self.priors = priors
        self.n_twins = n_twins
        self.seed = seed

    def design(
        self,
        intervention: InterventionConfig,
        filters: Filters = None,
        *,
        effect: float = 0.05,
        power: float = 0.80,
        assignment: Assignment = Assignment(),
        n_available: int | None = None,
    ) -> ExperimentPlan:
        """Generate twins, simulate the intervention, and plan the experiment.

        Args:
            intervention: the intervention of the treated arm.
            filters: the population of the experiment.
            effect: smallest effect to detect, a fraction on the target's scale.
            power: probability of detecting it.
            assignment: how people are assigned to arms.
            n_available: number of available people; the plan then uses all of them and reports its power.

        Raises:
            EmptyFilter, EmptyPopulation: when no row or twin satisfies the filters.
            ValueError: for an argument out of its range, or outcomes without any variance.
        """
        population = self.twins.generate(self.n_twins, filters, self.seed)
        engine = SimulationEngine(population, priors=self.priors, min_effect_threshold=effect)
        return plan_experiment(engine.simulate(intervention), power=power, assignment=assignment, n_available=n_available)


def plan_experiment(
    simulated: SimulationResult,
    *,
    power: float = 0.80,
    assignment: Assignment = Assignment(),
    n_available: int | None = None,
) -> ExperimentPlan:
    """Plan the experiment that detects the ``min_effect_threshold`` of a simulation, or one with ``n_available`` people.

    Raises:
        ValueError: for a result without a sample size (the message names the reason), or an argument out of its range.

    References:
        Schuler et al. (2022), Increasing the efficiency of randomized trial estimates via linear adjustment for a prognostic
        score. International Journal of Biostatistics 18 (PROCOVA: variance reduction by adjusting for the twin's prediction).

    Example:
        ``plan_experiment(engine.simulate(speakers), assignment=Assignment(cluster_size=20, intraclass_correlation=0.05))`` plans
        with whole clinics; ``n_available=600`` reports the power with 600 people.
    """
    sizing = simulated.required_sample_size
    if simulated.intervention is None or "missing" in sizing:
        raise ValueError(f"no experiment can be planned: {sizing.get('missing', 'the result does not name its intervention')}")
    effect, outcome_sd = sizing["minimum_detectable_effect"], sizing["outcome_sd"]
    per_effect = sizing["minimum_detectable_change"] / effect
    rho = adjustable_correlation(sizing["prediction_correlation"]) if assignment.adjusted else 0.0
    test = {"alpha": sizing["alpha"], "design_effect": assignment.design_effect, "correlation": rho}
    if n_available is None:
        required = two_sample(effect * per_effect, outcome_sd, power=power, control_ratio=assignment.control_ratio, **test)
        size = _round_to_clusters(required, assignment.cluster_size)
    else:
        size = _divide_available(n_available, assignment)
    return ExperimentPlan(
        arms=_arms(size, simulated.intervention, assignment),
        effect=effect,
        detectable_effect=minimum_detectable_effect(size, outcome_sd, power=power, **test) / per_effect,
        alpha=sizing["alpha"],
        power=achieved_power(size, effect * per_effect, outcome_sd, **test),
        power_at_simulated=achieved_power(size, simulated.ate * per_effect, outcome_sd, **test),
        design_effect=assignment.design_effect,
        correlation=rho,
        saved=rho**2,
        simulation=simulated,
        warnings=(*_outcome_warnings(sizing, assignment.adjusted), *_cluster_warnings(size, assignment)),
    )


def _round_to_clusters(size: SampleSize, cluster_size: float) -> SampleSize:
    """The size rounded up to whole clusters."""
    return SampleSize(*(math.ceil(math.ceil(n / cluster_size) * cluster_size) for n in size))


def _divide_available(n_available: int, assignment: Assignment) -> SampleSize:
    """All available people in whole clusters, divided by the control ratio."""
    clusters = int(n_available / assignment.cluster_size)
    treated = round(clusters / (1.0 + assignment.control_ratio))
    if not 2 <= treated <= clusters - 2:
        raise ValueError(f"{n_available} people form {clusters} units of assignment: at least 2 are needed in each arm")
    return SampleSize(*(int(n * assignment.cluster_size) for n in (treated, clusters - treated)))


def _arms(size: SampleSize, intervention: InterventionConfig, assignment: Assignment) -> tuple[Arm, Arm]:
    treated, control = (max(1, round(n / assignment.cluster_size)) for n in size)
    return (
        Arm(name=intervention.intervention_type, intervention=intervention, n=size.n_treated, clusters=treated),
        Arm(name="control", intervention=None, n=size.n_control, clusters=control),
    )


def _outcome_warnings(sizing: Mapping[str, Any], adjusted: bool) -> Iterator[str]:
    """Doubts about the variance of outcomes and the gain from the twin's prediction."""
    rows, n_extreme = sizing["real_rows"], sizing["n_extreme"]
    if n_extreme:
        yield f"{n_extreme} of {rows:,} real outcomes are extreme and count as less extreme: more people are needed if they recur"
    if adjusted and sizing["prediction_correlation"] is None:
        behind = "no real rows are at hand" if rows is None else f"{rows:,} real rows satisfy the filters"
        yield f"no gain from the twin's prediction is counted on: {behind}, and {FEWEST_FOR_CORRELATION} are needed to measure it"


def _cluster_warnings(size: SampleSize, assignment: Assignment) -> Iterator[str]:
    clusters = min(size) / assignment.cluster_size
    if assignment.cluster_size > 1 and clusters < 20:
        yield f"only {clusters:.0f} clusters in the smaller arm: cluster-robust standard errors need 20 or more"

"""The plan of a pilot from a stored simulation: its arms, and what it can find with other numbers of people."""

from __future__ import annotations

import numpy as np

from engine.experiments import Assignment, plan_experiment
from schemas import ExperimentPlan
from schemas.simulation_models import SimulationResult
from streams.operations.planning import PilotAim

__all__ = ["pilot_of", "pilots_by_size"]

_SIZES = 25
_FEWEST_UNITS = 4
_FROM, _TO = 0.1, 3.0


def pilot_of(result: SimulationResult, aim: PilotAim, assignment: Assignment) -> ExperimentPlan:
    """Plan the experiment that detects an effect on the people whose twins a simulation used.

    Raises:
        ValueError: for a result without a sample size, or an argument out of its range.
    """
    sizing = result.required_sample_size
    if "minimum_detectable_effect" in sizing:
        per_effect = sizing["minimum_detectable_change"] / sizing["minimum_detectable_effect"]
        own = {"minimum_detectable_effect": aim.effect, "minimum_detectable_change": aim.effect * per_effect}
        result = result.model_copy(update={"required_sample_size": {**sizing, **own}})
    return plan_experiment(result, power=aim.power, assignment=assignment, n_available=aim.n_available)


def pilots_by_size(
    plan: ExperimentPlan, result: SimulationResult, aim: PilotAim, assignment: Assignment
) -> list[tuple[int, ExperimentPlan]]:
    """Plans like this one with fewer and with more people, from a tenth of its people to three times as many, by their number."""
    people = sum(arm.n for arm in plan.arms)
    units = _FEWEST_UNITS * (1 + max(assignment.control_ratio, 1 / assignment.control_ratio))
    fewest = int(np.ceil(units * assignment.cluster_size))
    sizes = np.unique(np.geomspace(max(_FROM * people, fewest), max(_TO * people, _TO * fewest), _SIZES).round().astype(int))
    return [(int(size), pilot_of(result, aim._replace(n_available=int(size)), assignment)) for size in sizes]

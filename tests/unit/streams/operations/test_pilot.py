"""A pilot planned from a stored result is the one that a simulation with its effect proposes; people behind filters are counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.experiments import Assignment, plan_experiment
from engine.sample_tables import sample_hcps
from engine.simulation_engine import SimulationEngine
from schemas import InterventionConfig, PopulationFilter, SimulationResult
from streams.operations.pilot import pilot_of, pilots_by_size
from streams.operations.planning import PilotAim, RealPeople, count_people
from tests.models import hcp_model

EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="weekly", duration_weeks=12)


def simulated(min_effect: float) -> SimulationResult:
    return SimulationEngine(hcp_model().generate(1000, {"region": "south"}, 1), min_effect_threshold=min_effect).simulate(EMAIL)


@pytest.mark.parametrize("assignment", [Assignment(), Assignment(2.0, 10.0, 0.02)])
def test_a_pilot_for_another_effect_is_that_of_a_simulation_with_this_threshold(assignment: Assignment):
    plan = pilot_of(simulated(0.05), PilotAim(0.02, 0.9), assignment)
    expected = plan_experiment(simulated(0.02), power=0.9, assignment=assignment)
    assert [arm.n for arm in plan.arms] == [arm.n for arm in expected.arms]
    assert (plan.effect, plan.power, plan.detectable_effect) == pytest.approx(
        (0.02, expected.power, expected.detectable_effect), rel=1e-9
    )


def test_power_rises_with_the_number_of_people_and_passes_the_planned_one_at_the_plan():
    result, aim, assignment = simulated(0.05), PilotAim(0.01, 0.8), Assignment()
    plan = pilot_of(result, aim, assignment)
    by_size = pilots_by_size(plan, result, aim, assignment)
    sizes, powers = [size for size, _ in by_size], [other.power for _, other in by_size]
    assert powers == sorted(powers)
    assert all((power >= 0.8) == (size >= sum(arm.n for arm in plan.arms)) for size, power in zip(sizes, powers, strict=True))


def test_few_clusters_leave_enough_for_each_arm():
    result, aim, assignment = simulated(0.05), PilotAim(0.5, 0.8), Assignment(5.0, 20.0, 0.1)
    by_size = pilots_by_size(pilot_of(result, aim, assignment), result, aim, assignment)
    assert min(arm.clusters for _, other in by_size for arm in other.arms) >= 2


def test_the_real_people_behind_a_filter_are_counted_by_their_entities():
    model, table = hcp_model(), sample_hcps(1500, np.random.default_rng(0))
    south = int((table["region"] == "south").sum())
    filters = PopulationFilter.model_validate({"region": "South", "min_decile": 6})
    both = int(((table["region"] == "south") & (table["decile"] >= 6)).sum())
    assert count_people(model, PopulationFilter(region=["south"])) == RealPeople(south, 1500)
    assert count_people(model, filters) == RealPeople(both, 1500)
    pairs = replace(model, entities=np.arange(1500) // 2)
    in_pairs = len(np.unique(np.arange(1500)[(table["region"] == "south").to_numpy()] // 2))
    assert count_people(pairs, PopulationFilter(region=["south"])) == RealPeople(in_pairs, 750)

"""The experiment designer's walk: learn, generate, simulate, plan; and the plan keeps its word when the experiment is run."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from engine import ExperimentDesigner, TwinGenerator
from engine.experiments import Assignment, plan_experiment, treated_counterfactuals
from engine.sample_tables import sample_hcps
from schemas import Brand, ExperimentPlan, TwinPopulation, TwinType
from tests.populations import intervention

SPEAKERS = intervention("speaker_program_invitation")
ELIGIBLE = {"min_decile": 6}
EFFECT = 0.03


@pytest.fixture(scope="module")
def generator() -> TwinGenerator:
    learned = TwinGenerator(TwinType.HCP, Brand.KISQALI, model_type="RandomForest", n_jobs=1)
    learned.train(sample_hcps(1500, np.random.default_rng(0)), "prescribing_change")
    return learned


@pytest.fixture(scope="module")
def designer(generator) -> ExperimentDesigner:
    return ExperimentDesigner(generator, n_twins=5000)


def found(plan: ExperimentPlan, people: TwinPopulation, effect: float, rng: np.random.Generator, *, adjusted: bool) -> bool:
    """Whether one run of the planned experiment finds the effect."""
    treated = np.repeat([True, False], [arm.n for arm in plan.arms])
    rows = people.frame.iloc[rng.integers(0, people.twin_count, len(treated))]
    outcome = rows["prescribing_change"].to_numpy() + effect * treated
    if not adjusted:
        return stats.ttest_ind(outcome[treated], outcome[~treated]).pvalue < plan.alpha
    told = treated_counterfactuals(rows["baseline_behavior"].to_numpy(), outcome, treated).average
    return told["difference_lower"] > 0 or told["difference_upper"] < 0


@pytest.mark.parametrize("adjusted", [False, True])
def test_the_planned_experiment_finds_the_effect_as_often_as_planned(generator, designer, adjusted):
    plan = designer.design(SPEAKERS, ELIGIBLE, effect=EFFECT, assignment=Assignment(control_ratio=2.0, adjusted=adjusted))
    treated, control = plan.arms
    assert (treated.intervention, control.intervention) == (SPEAKERS, None)
    assert control.n == pytest.approx(2 * treated.n, abs=2)
    assert 0.80 <= plan.power < 0.82
    assert plan.simulation.affected_twin_count == 5000
    people = generator.generate(10_000, ELIGIBLE, 9)
    rng = np.random.default_rng(1)
    power = np.mean([found(plan, people, EFFECT, rng, adjusted=adjusted) for _ in range(250)])
    assert power == pytest.approx(plan.power, abs=0.06)
    false = np.mean([found(plan, people, 0.0, rng, adjusted=adjusted) for _ in range(250)])
    assert false == pytest.approx(plan.alpha, abs=0.03)


def test_adjusting_for_a_prediction_saves_people_and_whole_clusters_cost_them(designer):
    alone = designer.design(SPEAKERS, effect=EFFECT, assignment=Assignment(adjusted=False))
    adjusted = designer.design(SPEAKERS, effect=EFFECT)
    assert adjusted.saved == pytest.approx(adjusted.correlation**2)
    assert adjusted.arms[0].n == pytest.approx((1 - adjusted.saved) * alone.arms[0].n, rel=0.02)
    whole = designer.design(SPEAKERS, effect=EFFECT, assignment=Assignment(cluster_size=20, intraclass_correlation=0.05))
    assert whole.design_effect == pytest.approx(1.95)
    assert whole.arms[0].n >= 1.95 * adjusted.arms[0].n
    assert whole.arms[0].n == 20 * whole.arms[0].clusters


def test_with_people_given_the_plan_tells_their_power_and_what_they_could_find(designer):
    plan = designer.design(SPEAKERS, effect=EFFECT, n_available=600)
    assert sum(arm.n for arm in plan.arms) == 600
    smaller = designer.design(SPEAKERS, effect=EFFECT, n_available=150)
    assert smaller.power < plan.power < plan.power_at_simulated
    assert smaller.detectable_effect == pytest.approx(2 * plan.detectable_effect, rel=0.03)
    exact = designer.design(SPEAKERS, effect=plan.detectable_effect, n_available=600)
    assert exact.power == pytest.approx(0.80, abs=0.005)
    with pytest.raises(ValueError, match="60 people form 3 units of assignment"):
        designer.design(SPEAKERS, n_available=60, assignment=Assignment(cluster_size=20, intraclass_correlation=0.05))


def test_few_clusters_are_warned_of_and_a_result_without_outcomes_has_no_plan(designer):
    plan = designer.design(SPEAKERS, n_available=400, assignment=Assignment(cluster_size=20, intraclass_correlation=0.05))
    assert plan.warnings == ("only 10 clusters in the smaller arm: cluster-robust standard errors need 20 or more",)
    bare = plan.simulation.model_copy(update={"required_sample_size": {"missing": "these twins have no drawn outcome"}})
    with pytest.raises(ValueError, match="no experiment can be planned: these twins have no drawn outcome"):
        plan_experiment(bare)

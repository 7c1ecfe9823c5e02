"""The experiment designer trains, generates, simulates and plans; simulated experiments have the planned power."""

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
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, model_type="RandomForest", n_jobs=1)
    generator.train(sample_hcps(1500, np.random.default_rng(0)), "prescribing_change")
    return generator


@pytest.fixture(scope="module")
def designer(generator) -> ExperimentDesigner:
    return ExperimentDesigner(generator, n_twins=5000)


def is_significant(
    plan: ExperimentPlan, people: TwinPopulation, effect: float, rng: np.random.Generator, *, adjusted: bool
) -> bool:
    """Whether one run of the planned experiment has a significant result."""
    treated = np.repeat([True, False], [arm.n for arm in plan.arms])
    rows = people.frame.iloc[rng.integers(0, people.twin_count, len(treated))]
    outcome = rows["prescribing_change"].to_numpy() + effect * treated
    if not adjusted:
        return stats.ttest_ind(outcome[treated], outcome[~treated]).pvalue < plan.alpha
    average = treated_counterfactuals(rows["baseline_behavior"].to_numpy(), outcome, treated).average
    return average["difference_lower"] > 0 or average["difference_upper"] < 0


@pytest.mark.parametrize("adjusted", [False, True])
def test_the_planned_experiment_has_the_planned_power_and_error_rate(generator, designer, adjusted):
    plan = designer.design(SPEAKERS, ELIGIBLE, effect=EFFECT, assignment=Assignment(control_ratio=2.0, adjusted=adjusted))
    treated, control = plan.arms
    assert (treated.intervention, control.intervention) == (SPEAKERS, None)
    assert control.n == pytest.approx(2 * treated.n, abs=2)
    assert 0.80 <= plan.power < 0.82
    assert plan.simulation.affected_twin_count == 5000
    people = generator.generate(10_000, ELIGIBLE, 9)
    rng = np.random.default_rng(1)
    power = np.mean([is_significant(plan, people, EFFECT, rng, adjusted=adjusted) for _ in range(250)])
    assert power == pytest.approx(plan.power, abs=0.06)
    false = np.mean([is_significant(plan, people, 0.0, rng, adjusted=adjusted) for _ in range(250)])
    assert false == pytest.approx(plan.alpha, abs=0.03)


def test_adjusting_for_a_prediction_reduces_the_sample_and_clusters_increase_it(designer):
    alone = designer.design(SPEAKERS, effect=EFFECT, assignment=Assignment(adjusted=False))
    adjusted = designer.design(SPEAKERS, effect=EFFECT)
    assert adjusted.saved == pytest.approx(adjusted.correlation**2)
    assert adjusted.arms[0].n == pytest.approx((1 - adjusted.saved) * alone.arms[0].n, rel=0.02)
    whole = designer.design(SPEAKERS, effect=EFFECT, assignment=Assignment(cluster_size=20, intraclass_correlation=0.05))
    assert whole.design_effect == pytest.approx(1.95)
    assert whole.arms[0].n >= 1.95 * adjusted.arms[0].n
    assert whole.arms[0].n == 20 * whole.arms[0].clusters


def test_with_available_people_the_plan_reports_power_and_detectable_effect(designer):
    plan = designer.design(SPEAKERS, effect=EFFECT, n_available=600)
    assert sum(arm.n for arm in plan.arms) == 600
    smaller = designer.design(SPEAKERS, effect=EFFECT, n_available=150)
    assert smaller.power < plan.power < plan.power_at_simulated
    assert smaller.detectable_effect == pytest.approx(2 * plan.detectable_effect, rel=0.03)
    exact = designer.design(SPEAKERS, effect=plan.detectable_effect, n_available=600)
    assert exact.power == pytest.approx(0.80, abs=0.005)
    with pytest.raises(ValueError, match="60 people form 3 units of assignment"):
        designer.design(SPEAKERS, n_available=60, assignment=Assignment(cluster_size=20, intraclass_correlation=0.05))


def test_few_clusters_cause_a_warning_and_a_result_without_outcomes_has_no_plan(designer):
    plan = designer.design(SPEAKERS, n_available=400, assignment=Assignment(cluster_size=20, intraclass_correlation=0.05))
    assert plan.warnings == ("only 10 clusters in the smaller arm: cluster-robust standard errors need 20 or more",)
    bare = plan.simulation.model_copy(update={"required_sample_size": {"missing": "these twins have no drawn outcome"}})
    with pytest.raises(ValueError, match="no experiment can be planned: these twins have no drawn outcome"):
        plan_experiment(bare)

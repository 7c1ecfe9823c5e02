from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.effects.sample_size import SampleSize, achieved_power, design_effect, minimum_detectable_effect, two_sample


def exact_power(size: SampleSize, effect: float, alpha: float = 0.05) -> float:
    """Power of the two-sided t-test from the noncentral t distribution."""
    degrees = size.total - 2
    distance = effect * np.sqrt(size.n_treated * size.n_control / size.total)
    critical = stats.t.ppf(1 - alpha / 2, degrees)
    return stats.nct.sf(critical, degrees, distance) + stats.nct.cdf(-critical, degrees, distance)


@pytest.mark.parametrize(("effect", "n"), [(0.2, 394), (0.5, 64), (0.8, 26)])
def test_sizes_equal_those_of_cohens_tables(effect, n):
    assert two_sample(effect, 1.0) == SampleSize(n, n)


@settings(max_examples=60)
@given(st.floats(0.05, 0.8), st.sampled_from([0.01, 0.05, 0.10]), st.floats(0.6, 0.95), st.sampled_from([0.5, 1.0, 2.0, 3.0]))
def test_the_size_reaches_the_power_and_hardly_exceeds_it(effect, alpha, power, ratio):
    size = two_sample(effect, 1.0, alpha=alpha, power=power, control_ratio=ratio)
    fewer = SampleSize(size.n_treated - 3, round((size.n_treated - 3) * ratio))
    assert exact_power(size, effect, alpha) >= power
    assert exact_power(fewer, effect, alpha) < power + 0.01


@pytest.mark.parametrize("effect", [0.7, 1.32, 3.0, 9.0, 1e6])
@pytest.mark.parametrize("inflation", [1.0, 2.5])
def test_a_large_effect_has_the_requested_power(effect, inflation):
    size = two_sample(effect, 1.0, design_effect=inflation)
    assert achieved_power(size, effect, 1.0, design_effect=inflation) >= 0.8
    assert size.total > 2 * inflation


def test_the_size_depends_on_the_ratio_of_effect_and_standard_deviation_only():
    assert two_sample(5.0, 20.0) == two_sample(-0.25, 1.0) == two_sample(0.25, 1.0)


def test_unequal_arms_need_more_people():
    equal, unequal = two_sample(0.3, 1.0), two_sample(0.3, 1.0, control_ratio=3.0)
    assert unequal.n_control == pytest.approx(3 * unequal.n_treated, abs=3)
    assert unequal.total == pytest.approx(equal.total * 4 / 3, rel=0.01)


def test_a_covariate_saves_its_share_of_the_variance():
    plain, adjusted = two_sample(0.1, 1.0), two_sample(0.1, 1.0, correlation=0.6)
    assert adjusted.n_treated == pytest.approx(plain.n_treated * (1 - 0.36), rel=0.01)
    assert two_sample(0.1, 1.0, correlation=-0.6) == adjusted


def test_adjusting_for_a_prediction_reaches_the_power_with_the_smaller_sample():
    rho, effect = 0.7, 0.3
    size = two_sample(effect, 1.0, correlation=rho)
    rng = np.random.default_rng(0)
    n_significant = 0
    for _ in range(1500):
        prediction = rng.normal(size=size.total)
        treated = np.arange(size.total) < size.n_treated
        outcome = rho * prediction + np.sqrt(1 - rho**2) * rng.normal(size=size.total) + effect * treated
        design = np.column_stack([np.ones(size.total), treated, prediction])
        solved, residual, *_ = np.linalg.lstsq(design, outcome, rcond=None)
        error = np.sqrt(residual[0] / (size.total - 3) * np.linalg.inv(design.T @ design)[1, 1])
        n_significant += abs(solved[1] / error) > stats.t.ppf(0.975, size.total - 3)
    assert n_significant / 1500 == pytest.approx(0.80, abs=0.03)


def test_clusters_inflate_the_sample_by_their_design_effect():
    assert design_effect(1, 0.3) == 1.0
    assert design_effect(20, 0.05) == pytest.approx(1 + 19 * 0.05)
    assert design_effect(20, 0.05, size_variation=0.5) == pytest.approx(1 + (1.25 * 20 - 1) * 0.05)
    plain, clustered = two_sample(0.2, 1.0), two_sample(0.2, 1.0, design_effect=design_effect(20, 0.05))
    assert clustered.n_treated == pytest.approx(1.95 * plain.n_treated, rel=0.01)


@settings(max_examples=60)
@given(st.floats(0.05, 1.0), st.sampled_from([0.5, 1.0, 3.0]), st.floats(0, 0.9), st.floats(1, 3))
def test_the_minimum_detectable_effect_is_the_inverse_of_the_size(effect, ratio, correlation, inflation):
    size = two_sample(effect, 2.0, control_ratio=ratio, correlation=correlation, design_effect=inflation)
    mde = minimum_detectable_effect(size, 2.0, correlation=correlation, design_effect=inflation)
    assert mde <= effect * 1.02
    assert two_sample(mde, 2.0, control_ratio=ratio, correlation=correlation, design_effect=inflation).n_treated == pytest.approx(
        size.n_treated, abs=2
    )


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        ({"effect": 0.0}, "effect 0.0"),
        ({"outcome_sd": 0.0}, "outcome_sd 0.0"),
        ({"outcome_sd": float("nan")}, "outcome_sd nan"),
        ({"outcome_sd": float("inf")}, "outcome_sd inf"),
        ({"effect": float("inf")}, "effect inf"),
        ({"control_ratio": float("inf")}, "control_ratio inf"),
        ({"alpha": 0.0}, "alpha 0.0"),
        ({"power": 1.0}, "power 1.0"),
        ({"control_ratio": 0.0}, "control_ratio 0.0"),
        ({"design_effect": 0.9}, "design_effect 0.9"),
        ({"correlation": 1.0}, "correlation 1.0"),
    ],
)
def test_an_impossible_plan_is_refused_by_name(refused, named):
    with pytest.raises(ValueError, match=named):
        two_sample(**{"effect": 0.1, "outcome_sd": 1.0} | refused)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_power_and_detectable_effect_of_no_number_are_refused_by_name(value):
    with pytest.raises(ValueError, match=f"effect {value} must be a finite number"):
        achieved_power(SampleSize(64, 64), value, 1.0)
    with pytest.raises(ValueError, match=f"outcome_sd {value} must be a finite number"):
        minimum_detectable_effect(SampleSize(64, 64), value)
    with pytest.raises(ValueError, match=f"design_effect {value} must be a finite number"):
        minimum_detectable_effect(SampleSize(64, 64), 1.0, design_effect=value)


def test_too_few_people_for_a_test_are_refused():
    with pytest.raises(ValueError, match="1 treated and 1 controls are too few"):
        minimum_detectable_effect(SampleSize(1, 1), 1.0, design_effect=2.0)


@pytest.mark.parametrize("refused", [(0, 0.1, 0), (10, 1.1, 0), (10, 0.1, -1)])
def test_an_impossible_cluster_is_refused(refused):
    with pytest.raises(ValueError, match="cluster_size"):
        design_effect(*refused)


@pytest.mark.parametrize(("treated", "control", "effect"), [(64, 64, 0.5), (30, 90, 0.4), (400, 400, 0.05), (12, 12, -1.2)])
def test_the_power_of_a_size_is_that_of_the_noncentral_t(treated, control, effect):
    size = SampleSize(treated, control)
    assert achieved_power(size, effect, 1.0) == pytest.approx(exact_power(size, abs(effect)), abs=1e-6)


def test_a_planned_size_has_the_planned_power_and_one_person_less_does_not():
    size = two_sample(0.3, 1.0, power=0.9, control_ratio=2.0, correlation=0.5)
    assert achieved_power(size, 0.3, 1.0, correlation=0.5) >= 0.9 - 1e-3
    assert achieved_power(SampleSize(size.n_treated - 1, size.n_control - 2), 0.3, 1.0, correlation=0.5) < 0.9
    assert achieved_power(size, 0.3, 1.0, correlation=0.5, design_effect=2.0) < 0.7


def test_a_size_without_a_variance_is_refused():
    with pytest.raises(ValueError, match="1 treated and 1 controls"):
        achieved_power(SampleSize(1, 1), 0.3, 1.0)

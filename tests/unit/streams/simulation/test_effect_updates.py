"""Results of experiments: those that no experiment can have are refused, all others calibrate an effect."""

from __future__ import annotations

import itertools
import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.effects import catalogue_prior, surprise
from schemas import ExperimentResult, Reach
from streams.errors import describe_error
from streams.simulation import ImplausibleExperiment, SetAsideExperiment, calibrated_prior, check_result
from streams.simulation.effect_updates import require_observed, require_plausible

BODY = {
    "experiment_id": "spring",
    "observed_at": "2026-03-01T00:00:00Z",
    "twin_type": "hcp",
    "brand": "kisqali",
    "intervention": {"intervention_type": "email_campaign", "channel": "email", "frequency": "monthly", "duration_weeks": 12},
    "effect": 0.02,
    "standard_error": 0.01,
    "n_treated": 400,
    "n_control": 400,
}


def result(**fields: Any) -> ExperimentResult:
    return ExperimentResult.model_validate(BODY | fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"effect": 1e50}, "effect: must be from -1000 to 1000, not 1e+50"),
        ({"effect": -1.7e308}, "effect: must be from -1000 to 1000, not -1.7e+308"),
        ({"standard_error": 5e-324}, "standard_error: must be from 1e-09 to 1000, not 4.94066e-324"),
        ({"standard_error": 1e160}, "standard_error: must be from 1e-09 to 1000, not 1e+160"),
        (
            {"intervention": BODY["intervention"] | {"intensity": 1e-300}},  # type: ignore[operator]  # a dictionary
            "intervention.intensity: must be at least 1e-06, not 1e-300",
        ),
    ],
)
def test_an_impossible_number_is_named_with_what_is_allowed(fields: dict[str, Any], reason: str):
    with pytest.raises(ImplausibleExperiment) as refused:
        require_plausible(result(**fields))
    assert str(refused.value) == reason


def test_subgroups_by_what_is_no_feature_are_refused_with_the_features():
    group = {"dimension": "speciality", "level": "surgery", "effect": 0.1, "standard_error": 0.1, "n_treated": 9, "n_control": 9}
    with pytest.raises(ImplausibleExperiment, match="'speciality' is no feature of hcp twins: use specialty, years_experience"):
        check_result(result(subgroups=[group]))
    check_result(result(subgroups=[group | {"dimension": "specialty"}]))


ARRIVED = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "observed_at",
    ["0001-01-01T00:00:00Z", "1899-12-31T23:59:59.999999Z", "2026-03-02T00:05:00.000001Z", "9999-12-31T23:59:59.999999Z"],
)
def test_a_result_from_before_1900_or_ahead_of_the_tolerated_skew_is_refused_unless_it_withdraws_one(observed_at: str):
    with pytest.raises(ImplausibleExperiment, match=r"observed_at: must be from 1900-01-01 to 300 s \(TWIN_SKEW_S\) after .* not "):
        require_observed(result(observed_at=observed_at), ARRIVED, 300.0)
    require_observed(result(observed_at=observed_at, withdrawn=True), ARRIVED, 300.0)


@pytest.mark.parametrize("observed_at", ["1900-01-01T00:00:00Z", "2026-03-02T00:05:00Z"])
def test_a_result_is_accepted_up_to_both_ends_of_the_allowed_time(observed_at: str):
    require_observed(result(observed_at=observed_at), ARRIVED, 300.0)


def test_a_record_time_at_the_end_of_all_times_bounds_nothing():
    require_observed(result(observed_at="2026-03-02T00:00:00Z"), datetime.max.replace(tzinfo=UTC), 300.0)


def test_any_two_plausible_results_calibrate_an_effect():
    numbers = itertools.product([-1000.0, -1.0, 0.0, 5e-324, 0.02, 1000.0], [1e-9, 0.01, 1000.0], [1e-6, 1.0, 3.0])
    results = [
        result(
            experiment_id=str(number),
            effect=effect,
            standard_error=error,
            intervention=BODY["intervention"] | {"intensity": intensity},  # type: ignore[operator]  # a dictionary
        )
        for number, (effect, error, intensity) in enumerate(numbers)
    ]
    for experiments in [results, *itertools.combinations(results[:: len(results) // 12], 2)]:
        for experiment in experiments:
            require_plausible(experiment)
        prior = calibrated_prior("email_campaign", experiments, {})
        assert math.isfinite(prior.mean)
        assert math.isfinite(prior.sd)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"effect": 5.0},
            r"effect: 5 is beyond the plausible effects on prescribing_change, -1 to 1 as a fraction: likely in percent \(0\.05\)",
        ),
        ({"effect": -12.0}, r"likely in percent \(-0\.12\)"),
        ({"effect": 1.5, "standard_error": 0.5}, r"likely in percent \(0\.015\)"),
        ({"effect": 0.9, "standard_error": 2.0}, r"standard_error: 2 is beyond .* likely in percent \(0\.02\)"),
        ({"effect": 400.0}, r"in no unit that is known"),
        ({"effect": 7.0, "twin_type": "patient"}, r"likely in percent \(0\.07\) or in days to the next stage"),
        ({"effect": 1.2, "twin_type": "territory"}, r"likely in percent \(0\.012\)"),
    ],
)
def test_a_result_beyond_the_scale_of_its_target_is_set_aside_with_its_likely_unit_until_it_is_confirmed(
    fields: dict[str, Any], reason: str
):
    with pytest.raises(SetAsideExperiment, match=reason) as refused:
        check_result(result(**fields))
    assert "twinstream dlq replay ID --accept" in str(refused.value)
    check_result(result(**fields, confirmed=True))
    check_result(result(**fields, withdrawn=True))


@pytest.mark.parametrize("effect", [-1.0, -0.3, 0.0, 0.75, 1.0])
def test_a_result_within_the_scale_is_taken_however_surprising(effect: float):
    check_result(result(effect=effect))


def test_a_confirmation_does_not_make_an_impossible_number_possible():
    with pytest.raises(ImplausibleExperiment):
        check_result(result(effect=1e50, confirmed=True))


def test_a_surprise_is_the_distance_from_the_predictive_distribution():
    prior = catalogue_prior("email_campaign")
    reach = Reach(mean=0.8, sd=0.1)
    sd = math.sqrt(0.01**2 + (0.8 * 0.02) ** 2 + 0.1**2 * (0.05**2 + 0.02**2))
    assert surprise(prior, result(effect=0.02), reach) == pytest.approx((0.02 - 0.04) / sd)
    assert surprise(prior, result(effect=0.04), reach) == pytest.approx(0.0)


def test_results_drawn_from_the_prior_are_seldom_surprising():
    prior, rng = catalogue_prior("email_campaign"), np.random.default_rng(0)
    effects = rng.normal(rng.normal(prior.mean, prior.sd, 2000), 0.01)
    distances = [surprise(prior, result(effect=float(effect)), Reach(mean=1.0)) for effect in effects]
    assert np.std(distances) == pytest.approx(1.0, abs=0.05)
    assert np.mean(np.abs(distances) > 3) < 0.01


NUMBERS = st.integers() | st.sampled_from([2**31, 2**63, 2**64, 10**400]) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda values: (
        st.lists(values, max_size=2) | st.dictionaries(st.sampled_from(["decile", "min_decile", "x"]), values, max_size=2)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(ExperimentResult.model_fields)), VALUES, max_size=2))
def test_whatever_json_is_in_a_result_it_calibrates_an_effect_or_has_a_reason(fields: dict[str, Any]):
    experiment = read(json.dumps(BODY | fields))
    if isinstance(experiment, str):
        assert 0 < len(experiment) <= 2000
    else:
        assert math.isfinite(calibrated_prior(experiment.intervention.intervention_type, [experiment], {}).mean)


def read(value: str) -> ExperimentResult | str:
    """The result, or the reason why it is refused."""
    try:
        experiment = ExperimentResult.model_validate_json(value)
        check_result(experiment)
    except (ValidationError, ImplausibleExperiment, SetAsideExperiment) as error:
        return describe_error(error)
    return experiment

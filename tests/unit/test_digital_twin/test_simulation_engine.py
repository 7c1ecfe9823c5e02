from __future__ import annotations

import math
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from engine.effects import calibrate, catalogue_prior, catalogue_priors, dose_response, prior_interval, two_sample, typical_dose
from engine.effects.recommendation import effect_text
from engine.simulation_engine import EmptyPopulation, SimulationEngine
from schemas import (
    INTERVENTIONS,
    Brand,
    DigitalTwin,
    EffectPrior,
    ExperimentResult,
    InterventionConfig,
    PopulationFilter,
    SimulationRecommendation,
    TwinType,
)
from schemas.twin_models import OutcomeSpread
from tests.effect_worlds import COEFFICIENT_PRIORS, World, draw_campaigns, matters, moderator_terms
from tests.populations import hcps, intervention, population, territories

SPEAKERS = intervention("speaker_program_invitation")


def engine_with_prior(mean: float, sd: float, **kwargs):
    """An engine with this prior of speaker programs."""
    prior = EffectPrior(intervention_type="speaker_program_invitation", mean=mean, sd=sd, n_experiments=3, version=3)
    twins = kwargs.pop("twins", None) or population(500, TwinType.PATIENT)
    return SimulationEngine(twins, priors={prior.intervention_type: prior}, **kwargs)


def expected_factors(frame: pd.DataFrame, channel: str) -> np.ndarray:
    """Factor of each twin at the mean coefficients, shape (n,)."""
    return np.exp(
        sum(COEFFICIENT_PRIORS[term].mean * values for term, values in moderator_terms(frame).items() if matters(term, channel))
    )


def true_effects(kinds: list[str], n: int) -> np.ndarray:
    """True base effects in n worlds, shape (kinds, n)."""
    rng = np.random.default_rng(3)
    return np.array([[rng.normal(*draw_campaigns(rng, INTERVENTIONS[kind].effect)) for _ in range(n)] for kind in kinds])


# Average effect


def test_at_the_reference_dose_without_moderators_the_result_equals_the_prior():
    result = SimulationEngine(population(1000, TwinType.PATIENT)).simulate(SPEAKERS)
    prior = catalogue_prior("speaker_program_invitation")
    assert result.ate == pytest.approx(0.12, rel=1e-9)
    assert (result.ate_ci_lower, result.ate_ci_upper) == pytest.approx(prior_interval(prior), abs=0.004)
    assert result.ate_ci_lower < 0 < 2 * 0.12 < result.ate_ci_upper
    assert result.affected_twin_count == 1000


@pytest.mark.parametrize("channel", ["in_person", "email"])
def test_the_average_effect_is_the_average_over_twins_of_base_times_factor(channel):
    twins = population(3000)
    entry = INTERVENTIONS["speaker_program_invitation"]
    expected = expected_factors(twins.frame, channel).mean()
    channel_factor = math.exp(entry.channels[channel].mean + entry.channels[channel].sd ** 2 / 2)
    result = SimulationEngine(twins).simulate(intervention(channel=channel))
    assert result.ate == pytest.approx(entry.effect.mean * channel_factor * expected, rel=0.03)


def test_the_average_of_the_twins_effects_is_the_average_effect():
    engine = SimulationEngine(population(1500))
    effects = engine.twin_effects(SPEAKERS)
    assert effects.shape == (1500,)
    assert effects.mean() == pytest.approx(engine.simulate(SPEAKERS).ate, rel=1e-12)


def test_one_twin_has_the_effect_of_its_row_in_the_population():
    twins = population(20)
    engine = SimulationEngine(twins)
    assert engine.estimate_treatment_effect(twins.twins[7], SPEAKERS) == pytest.approx(engine.twin_effects(SPEAKERS)[7], rel=1e-12)


def test_a_twin_has_the_same_effect_in_every_population():
    twin = DigitalTwin(
        twin_id=UUID(int=9), model_id=UUID(int=1), twin_type=TwinType.HCP, features={"decile": 10}, baseline_behavior=0.0
    )
    small, large = (SimulationEngine(population(n, seed=n)) for n in (100, 1000))
    assert small.estimate_treatment_effect(twin, SPEAKERS) == large.estimate_treatment_effect(twin, SPEAKERS)


def test_oncologists_early_adopters_and_high_tiers_gain_more():
    by_dimension = SimulationEngine(population(4000)).simulate(SPEAKERS).heterogeneity.by_dimension
    effect = {(dimension, group.group): group.estimate for dimension, groups in by_dimension.items() for group in groups}
    assert effect["specialty", "oncology"] > effect["specialty", "dermatology"] > effect["specialty", "primary_care"]
    assert effect["priority_tier", "1"] > effect["priority_tier", "3"] > effect["priority_tier", "5"]
    assert effect["adoption_stage", "innovator"] > effect["adoption_stage", "early_majority"] > effect["adoption_stage", "laggard"]


def test_missing_and_unknown_feature_values_do_not_change_the_effect():
    bare = pd.DataFrame({"specialty": ["unheard_of", None], "decile": [np.nan, 5.5], "priority_tier": [3.0, np.nan]})
    engine = SimulationEngine(population(features=bare))
    assert engine.twin_effects(SPEAKERS).tolist() == pytest.approx([0.12, 0.12], rel=1e-9)


def test_the_influence_of_an_extreme_feature_value_is_capped():
    odd = pd.DataFrame({"decile": [10.0, 1e12]})
    effects = SimulationEngine(population(features=odd)).twin_effects(SPEAKERS)
    assert effects[1] < 1.5 * effects[0]


# Interval


def test_the_interval_does_not_shrink_with_the_number_of_twins():
    results = [SimulationEngine(population(n, seed=n)).simulate(SPEAKERS) for n in (1_000, 10_000, 100_000)]
    widths = [result.ate_ci_upper - result.ate_ci_lower for result in results]
    assert max(widths) <= 1.05 * min(widths)


@pytest.mark.parametrize("dose", [{}, {"channel": "video", "frequency": "weekly", "duration_weeks": 26, "intensity": 1.5}])
def test_the_interval_covers_the_true_effect_in_95_percent_of_worlds_drawn_from_the_prior(dose):
    config = intervention(**dose)
    twins = population(1000)
    result = SimulationEngine(twins).simulate(config)
    rng, people = np.random.default_rng(11), moderator_terms(twins.frame)
    truths = np.array([World(rng).average_effect(config, people) for _ in range(2000)])
    assert 0.93 <= np.mean((result.ate_ci_lower <= truths) & (truths <= result.ate_ci_upper)) <= 0.97


def test_a_calibrated_prior_narrows_the_interval_and_is_named():
    prior = EffectPrior(
        intervention_type="speaker_program_invitation", mean=0.10, sd=0.01, between_sd=0.01, version=4, n_experiments=4
    )
    result = SimulationEngine(population(500, TwinType.PATIENT), priors={prior.intervention_type: prior}).simulate(SPEAKERS)
    half = (result.ate_ci_upper - result.ate_ci_lower) / 2
    assert half == pytest.approx(stats.norm.ppf(0.975) * math.hypot(0.01, 0.01), rel=0.01)
    assert (result.effects_version, result.prior) == (4, prior)
    assert not any("assumption" in warning for warning in result.warnings)


def test_a_lower_confidence_level_gives_a_narrower_interval():
    wide, narrow = (SimulationEngine(population(500), confidence_level=level).simulate(SPEAKERS) for level in (0.95, 0.5))
    assert wide.ate == narrow.ate
    assert wide.ate_ci_lower < narrow.ate_ci_lower < narrow.ate_ci_upper < wide.ate_ci_upper


def test_equal_arguments_give_equal_results_bit_for_bit():
    first, again = (
        SimulationEngine(population(800), seed=3).simulate(SPEAKERS, alternatives=[intervention("email_campaign")]) for _ in "ab"
    )
    assert first.model_dump_json() == again.model_dump_json()
    reseeded = SimulationEngine(population(800), seed=4).simulate(SPEAKERS)
    assert reseeded.simulation_id != first.simulation_id
    assert reseeded.ate == pytest.approx(first.ate, rel=0.01)
    assert reseeded.ate_ci_lower == pytest.approx(first.ate_ci_lower, rel=0.1)


def test_the_order_of_alternatives_changes_no_number():
    engine = SimulationEngine(population(500))
    mail, call = intervention("email_campaign"), intervention("call_frequency_increase")
    forward = engine.simulate(SPEAKERS, alternatives=[mail, call]).alternatives
    backward = engine.simulate(SPEAKERS, alternatives=[call, mail]).alternatives
    assert forward == backward[::-1]


# Recommendation


@pytest.mark.parametrize(
    ("mean", "sd", "expected"),
    [
        (0.10, 0.02, SimulationRecommendation.DEPLOY),
        (0.02, 0.01, SimulationRecommendation.DO_NOT_DEPLOY),
        (0.06, 0.03, SimulationRecommendation.TEST_FURTHER),
        (0.04, 0.03, SimulationRecommendation.TEST_FURTHER),
        (-0.10, 0.02, SimulationRecommendation.DO_NOT_DEPLOY),
        (-0.10, 1.00, SimulationRecommendation.TEST_FURTHER),
    ],
)
def test_the_recommendation_follows_the_probability_that_the_effect_reaches_the_threshold(mean, sd, expected):
    result = engine_with_prior(mean, sd).simulate(SPEAKERS)
    assert result.recommendation is expected
    assert result.probability_worthwhile == pytest.approx(stats.norm.sf(0.05, mean, sd), abs=0.001)
    assert "5.0%" in result.recommendation_reason
    assert f"{result.probability_worthwhile:.0%}" in result.recommendation_reason


def test_a_deployment_that_no_experiment_supports_is_marked_as_resting_on_an_assumption():
    assumed = SimulationEngine(population(500, TwinType.PATIENT), confidence_threshold=0.8).simulate(SPEAKERS)
    assert (assumed.recommendation, assumed.rests_on_assumption) == (SimulationRecommendation.DEPLOY, True)
    assert "rests on an assumption of the catalogue that no experiment has tested" in assumed.recommendation_reason
    tested = calibrated_engine([0.12, 0.13, 0.11]).simulate(SPEAKERS)
    assert (tested.recommendation, tested.rests_on_assumption) == (SimulationRecommendation.DEPLOY, False)
    assert "assumption" not in tested.recommendation_reason


def test_a_line_may_demand_a_test_before_a_deployment():
    twins = population(500, TwinType.PATIENT)
    untested = SimulationEngine(twins, confidence_threshold=0.8, require_test=True).simulate(SPEAKERS)
    assert (untested.recommendation, untested.rests_on_assumption) == (SimulationRecommendation.TEST_FURTHER, False)
    assert "demands a real experiment before a deployment" in untested.recommendation_reason
    assert calibrated_engine([0.12], require_test=True).simulate(SPEAKERS).recommendation is SimulationRecommendation.DEPLOY


def calibrated_engine(effects: list[float], twins=None, **kwargs) -> SimulationEngine:
    """An engine with the prior of speaker programs that experiments with these effects, at the reference dose, leave."""
    results = [
        ExperimentResult(
            experiment_id=str(number),
            observed_at=datetime(2026, 1, 1, tzinfo=UTC),
            twin_type="hcp",
            brand="kisqali",
            intervention=SPEAKERS,
            effect=effect,
            standard_error=0.005,
            n_treated=500,
            n_control=500,
        )
        for number, effect in enumerate(effects)
    ]
    prior = calibrate(catalogue_prior(SPEAKERS.intervention_type), results)
    return SimulationEngine(twins or population(500, TwinType.PATIENT), priors={prior.intervention_type: prior}, **kwargs)


@pytest.mark.parametrize(("n", "expected"), [(1, "test_further"), (2, "test_further"), (3, "deploy")])
def test_found_effects_that_contradict_the_catalogue_need_three_experiments_for_a_deployment(n, expected):
    result = calibrated_engine([0.60, 0.65, 0.62][:n]).simulate(SPEAKERS)
    assert result.probability_worthwhile > 0.95
    assert result.recommendation == expected
    assert ("contradicts the catalogue" in result.recommendation_reason) is (n < 3)


@pytest.mark.parametrize(
    ("dose", "distance"),
    [({"duration_weeks": 48}, 4.0), ({"duration_weeks": 49}, 4.1), ({"intensity": 0.2}, 5.0), ({"frequency": "weekly"}, 4.3)],
)
def test_no_decision_is_made_beyond_a_factor_of_4_in_dose_from_anything_tested(dose, distance):
    result = calibrated_engine([0.12, 0.13, 0.11], min_effect_threshold=0.0001).simulate(intervention(**dose))
    assert result.probability_worthwhile > 0.9
    assert (result.recommendation == "test_further") is (distance > 4)
    assert (f"a factor of {distance:.1f} from any tested one" in result.recommendation_reason) is (distance > 4)


def test_a_prior_of_the_first_method_is_drawn_and_judged_as_it_was():
    prior = catalogue_priors(1)[SPEAKERS.intervention_type]
    result = SimulationEngine(population(500, TwinType.PATIENT), priors={prior.intervention_type: prior}).simulate(SPEAKERS)
    assert (result.ate, result.ate_ci_lower) == pytest.approx((0.12, 0.12 + stats.norm.ppf(0.025) * 0.048), rel=1e-3)
    assert (result.recommendation, result.rests_on_assumption) == (SimulationRecommendation.DEPLOY, False)
    assert "a base effect of 12.0% ± 4.8% (not yet tested by an experiment)" in result.recommendation_reason


def test_the_reason_names_the_factors_of_the_effect():
    engine = SimulationEngine(population(1000))
    config = intervention(channel="email", frequency="weekly", duration_weeks=26)
    reason = engine.simulate(config).recommendation_reason
    factor = expected_factors(engine.population.frame, "email").mean()
    dose = float(dose_response(config, typical_dose(config)))
    low, high = prior_interval(catalogue_prior("speaker_program_invitation"))
    assert f"a base effect of 12.0% ({low:.1%} to {high:.1%}) (not yet tested by an experiment)" in reason
    assert f"reach {dose:.0%}, and these twins {factor:.0%} of that" in reason
    assert "learned from 3 experiments" in engine_with_prior(0.1, 0.02).simulate(SPEAKERS).recommendation_reason


@pytest.mark.parametrize(
    ("source", "told"), [("", "1 experiment"), ("calibrated by 1 real experiments on a prior", "1 experiments")]
)
def test_one_experiment_is_named_in_the_singular_except_in_answers_that_had_the_plural(source, told):
    name = SPEAKERS.intervention_type
    prior = EffectPrior(intervention_type=name, mean=0.1, sd=0.02, n_experiments=1, source=source)
    reason = effect_text(prior, SPEAKERS, 1.0)
    assert f"(learned from {told})" in reason


def test_the_recommendation_uses_the_thresholds_of_the_engine():
    assert (
        engine_with_prior(0.06, 0.03, confidence_threshold=0.6).simulate(SPEAKERS).recommendation is SimulationRecommendation.DEPLOY
    )
    strict = engine_with_prior(0.06, 0.01, min_effect_threshold=0.10).simulate(SPEAKERS)
    assert strict.recommendation is SimulationRecommendation.DO_NOT_DEPLOY
    assert (strict.min_effect_threshold, strict.confidence_threshold) == (0.10, 0.90)


@pytest.mark.parametrize(
    ("name", "value"),
    [("min_effect_threshold", -0.01), ("confidence_threshold", 0.5), ("confidence_level", 1.0), ("n_draws", 99)],
)
def test_an_argument_out_of_its_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} {value}"):
        SimulationEngine(population(100), **{name: value})


@pytest.mark.parametrize("level", [0.001, 0.999999])
@pytest.mark.parametrize("intensity", [5e-324, 1e-100, 3.0])
def test_the_ends_of_the_allowed_range_are_computed(level, intensity):
    config = SPEAKERS.model_copy(update={"intensity": intensity})
    result = SimulationEngine(population(200), confidence_level=level).simulate(config, alternatives=[SPEAKERS])
    assert math.isfinite(result.ate)
    assert result.ate_ci_lower <= result.ate_ci_upper


def test_priors_of_unknown_or_other_interventions_are_refused():
    prior = EffectPrior(intervention_type="email_campaign", mean=0.05, sd=0.01)
    with pytest.raises(ValueError, match="unknown intervention_type 'leaflets'"):
        SimulationEngine(population(100), priors={"leaflets": prior})
    with pytest.raises(ValueError, match="the prior of peer_to_peer_referral is about email_campaign"):
        SimulationEngine(population(100), priors={"peer_to_peer_referral": prior})


# Filters


def test_filters_select_the_twins():
    twins = population(3000)
    engine = SimulationEngine(twins)
    filters = PopulationFilter(specialty=["oncology"], tier=[1, 2], region=["south"], min_decile=5)
    mask = twins.frame.eval("specialty == 'oncology' and priority_tier <= 2 and region == 'south' and decile >= 5")
    result = engine.simulate(SPEAKERS, filters)
    assert result.affected_twin_count == mask.sum()
    assert result.ate == pytest.approx(engine.twin_effects(SPEAKERS)[mask].mean(), rel=1e-12)
    assert [group.group for group in result.heterogeneity.by_dimension["specialty"]] == ["oncology"]
    assert engine.simulate(SPEAKERS, {"specialty": "oncology", "max_tier": 2, "region": "south", "min_decile": 5}).ate == result.ate


def test_a_filter_without_any_twin_is_refused_with_the_available_values():
    with pytest.raises(EmptyPopulation, match=r"none of 500 twins matches specialty in \[cardiology\].*primary_care \(\d+\)"):
        SimulationEngine(population(500)).simulate(SPEAKERS, {"specialty": ["cardiology"]})
    with pytest.raises(EmptyPopulation, match="decile ranges from 1 to 10"):
        SimulationEngine(population(500)).simulate(SPEAKERS, {"min_decile": 11})


def test_a_filter_that_does_not_exist_for_the_twin_type_is_refused():
    with pytest.raises(ValueError, match="patient twins cannot be filtered by 'specialty'"):
        SimulationEngine(population(100, TwinType.PATIENT)).simulate(SPEAKERS, PopulationFilter(specialty=["oncology"]))


def test_simulating_does_not_change_the_population():
    twins = population(300)
    before = twins.frame.copy(deep=True)
    SimulationEngine(twins).simulate(SPEAKERS, {"min_decile": 5})
    pd.testing.assert_frame_equal(twins.frame, before)


# Subgroups


def test_effects_are_reported_by_the_dimensions_of_the_catalogue_and_the_groups_are_counted():
    heterogeneity = SimulationEngine(population(3000)).simulate(SPEAKERS).heterogeneity
    assert list(heterogeneity.by_dimension) == ["specialty", "priority_tier", "region", "adoption_stage"]
    assert heterogeneity.n_groups == 4 + 5 + 4 + 4
    assert heterogeneity.warning.startswith("12 subgroups were compared: about 0.6 of their 95% intervals miss by chance")
    for groups in heterogeneity.by_dimension.values():
        assert sum(group.n for group in groups) == 3000
        assert all(group.ci_lower < group.estimate < group.ci_upper for group in groups)
    assert [group.group for group in heterogeneity.by_dimension["priority_tier"]] == ["1", "2", "3", "4", "5"]


def test_groups_that_no_moderator_is_about_are_marked_and_a_dimension_of_them_has_a_word_instead():
    heterogeneity = SimulationEngine(population(3000)).simulate(SPEAKERS).heterogeneity
    moderated = {name: [group.group for group in groups if group.moderated] for name, groups in heterogeneity.by_dimension.items()}
    assert moderated["specialty"] == ["hematology", "oncology", "primary_care"]
    assert moderated["region"] == []
    assert len(moderated["priority_tier"]) == 5
    assert heterogeneity.unmoderated == {"region": "no moderator: same effect by assumption"}


def test_patients_have_no_moderator_at_all_and_nothing_is_compared():
    heterogeneity = SimulationEngine(population(500, TwinType.PATIENT)).simulate(SPEAKERS).heterogeneity
    assert set(heterogeneity.unmoderated) == {"journey_stage", "geographic_region", "age_group"}
    assert heterogeneity.warning == ""
    assert {group.moderated for groups in heterogeneity.by_dimension.values() for group in groups} == {False}


@pytest.mark.parametrize(
    ("spelling", "moderated"),
    [
        ("Oncology", True),
        (" oncology ", True),
        ("Hematology/Oncology", True),
        ("hematology & oncology", True),
        ("FAMILY-MEDICINE", True),
        ("Primary Care", True),
        ("onc", False),
        ("GP", False),
        ("Cardiology", False),
    ],
)
def test_a_specialty_in_another_spelling_matches_its_moderator_by_the_stated_rule_or_is_marked(spelling, moderated):
    frame = hcps(500).assign(specialty=["primary_care", spelling] * 250)
    groups = SimulationEngine(population(features=frame)).simulate(SPEAKERS).heterogeneity.by_dimension["specialty"]
    assert {group.group: group.moderated for group in groups} == {"primary_care": True, spelling.strip(): moderated}


def test_a_dimension_that_the_twins_lack_is_reported_as_skipped():
    frame = hcps(500).drop(columns="adoption_stage")
    heterogeneity = SimulationEngine(population(features=frame)).simulate(SPEAKERS).heterogeneity
    assert heterogeneity.skipped == {"adoption_stage": "these twins do not have this column"}
    assert "adoption_stage" not in heterogeneity.by_dimension


def test_a_large_group_keeps_its_own_average_and_a_tiny_one_is_shrunk_toward_the_overall_effect():
    frame = hcps(4000)
    frame.loc[frame.specialty == "dermatology", "specialty"] = "primary_care"
    frame.loc[:1, "specialty"], frame.loc[:1, "decile"], frame.loc[:1, "priority_tier"] = "dermatology", 10, 1
    engine = SimulationEngine(population(features=frame))
    effects, result = engine.twin_effects(SPEAKERS), engine.simulate(SPEAKERS)
    shrunk = {group.group: group for group in result.heterogeneity.by_dimension["specialty"]}
    own = {name: effects[frame.specialty == name].mean() for name in shrunk}
    assert shrunk["primary_care"].estimate == pytest.approx(own["primary_care"], rel=0.01)
    assert result.ate < shrunk["dermatology"].estimate < own["dermatology"] - 0.2 * (own["dermatology"] - result.ate)
    assert shrunk["dermatology"].n == 2


@pytest.mark.parametrize(("method", "deviation"), [(2, 0.0), (3, 0.15)])
def test_groups_with_equal_moderators_have_the_overall_effect_and_since_the_third_method_the_doubt_of_an_unreported_level(
    method, deviation
):
    prior = EffectPrior(intervention_type=SPEAKERS.intervention_type, mean=0.12, sd=0.04, method=method)
    result = SimulationEngine(population(2000, TwinType.PATIENT), priors={prior.intervention_type: prior}).simulate(SPEAKERS)
    sd = np.hypot(0.04, deviation * 0.12)
    for groups in result.heterogeneity.by_dimension.values():
        for group in groups:
            assert group.estimate == pytest.approx(result.ate, rel=1e-9)
            assert group.ci_lower == pytest.approx(0.12 + stats.norm.ppf(0.025) * sd, rel=0.05)


def test_heterogeneity_is_calculated_from_a_list_of_effects_and_their_groups():
    rng = np.random.default_rng(0)
    groups = ["b"] * 400 + ["a"] * 600
    results = [*rng.normal(0.10, 0.01, 400), *rng.normal(0.05, 0.01, 600)]
    heterogeneity = SimulationEngine(population(100)).calculate_heterogeneity(results, groups)
    effects = heterogeneity.by_dimension["group"]
    assert [(group.group, group.n) for group in effects] == [("a", 600), ("b", 400)]
    assert effects[0].estimate == pytest.approx(np.mean(results[400:]), rel=0.01)
    assert effects[1].estimate == pytest.approx(np.mean(results[:400]), rel=0.01)
    assert effects[0].ci_upper == pytest.approx(effects[0].estimate * (1 + 1.96 * 0.4), rel=0.02)
    assert heterogeneity.n_groups == 2
    with pytest.raises(ValueError, match="2 results and 1 groups"):
        SimulationEngine(population(100)).calculate_heterogeneity([0.1, 0.2], ["a"])


def test_the_effect_on_the_only_level_of_a_dimension_is_of_its_own_twins_and_not_of_those_without_a_level():
    engine = SimulationEngine(population(100))
    (group,) = engine.calculate_heterogeneity([0.1, 0.1, 0.9, 0.9], ["a", "a", None, None]).by_dimension["group"]
    assert (group.group, group.n) == ("a", 2)
    assert group.estimate == pytest.approx(0.10, abs=0.01)  # its interval is multiplicative, so that its draws have sampling error


def test_a_dimension_in_which_most_twins_have_no_level_reports_the_others_by_their_own_effects():
    frame = hcps(2000)
    frame["specialty"] = frame["specialty"].where(frame["specialty"] == "oncology")
    engine = SimulationEngine(population(features=frame))
    (group,) = engine.simulate(SPEAKERS).heterogeneity.by_dimension["specialty"]
    assert group.estimate == pytest.approx(engine.twin_effects(SPEAKERS)[frame["specialty"] == "oncology"].mean(), rel=0.01)


def test_spellings_of_one_level_are_one_group_with_the_usual_name():
    groups = ["South", "south ", "South", None, " ", "10", 9, 9.0]
    effects = SimulationEngine(population(100)).calculate_heterogeneity([0.1] * 8, groups).by_dimension["group"]
    assert [(group.group, group.n) for group in effects] == [("9", 2), ("10", 1), ("South", 3)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_results_by_group_that_are_no_numbers_are_refused_with_their_position(value):
    with pytest.raises(ValueError, match=f"results holds {value:g} at position 1: 1 of 3 values is not a finite number"):
        SimulationEngine(population(100)).calculate_heterogeneity([0.1, value, 0.2], ["a", "a", "b"])


def test_a_population_without_a_baseline_for_a_twin_is_refused_with_its_position():
    twins = population(100)
    frame = twins.frame.copy()
    frame.loc[7, "baseline_behavior"] = np.nan
    with pytest.raises(ValueError, match="'baseline_behavior' holds nan at position 7"):
        type(twins)(**dict(twins) | {"frame": frame})


# Alternatives


def test_alternatives_are_compared_on_the_same_draws():
    engine = SimulationEngine(population(1000))
    stronger = intervention(intensity=1.5)
    (alternative,) = engine.simulate(SPEAKERS, alternatives=[stronger]).alternatives
    alone = engine.simulate(stronger)
    assert (alternative.ate, alternative.ate_ci_lower, alternative.ate_ci_upper) == (
        alone.ate,
        alone.ate_ci_lower,
        alone.ate_ci_upper,
    )
    assert alternative.difference == pytest.approx(alone.ate - engine.simulate(SPEAKERS).ate, rel=1e-9)
    unpaired = math.hypot(alone.ate_ci_upper - alone.ate_ci_lower, alone.ate_ci_upper - alone.ate_ci_lower)
    assert alternative.difference_ci_upper - alternative.difference_ci_lower < 0.3 * unpaired


def test_an_alternative_equal_to_the_intervention_has_a_difference_of_zero():
    (alternative,) = SimulationEngine(population(300)).simulate(SPEAKERS, alternatives=[SPEAKERS]).alternatives
    assert (alternative.difference, alternative.difference_ci_lower, alternative.difference_ci_upper) == (0.0, 0.0, 0.0)
    assert alternative.probability_best == 0.0


def test_the_best_is_named_with_its_probability_and_only_when_it_is_better():
    engine = SimulationEngine(population(500, TwinType.PATIENT))
    kinds = ["email_campaign", "peer_to_peer_referral"]
    result = engine.simulate(intervention("call_frequency_increase"), alternatives=[intervention(kind) for kind in kinds])
    assert result.best_alternative == "peer_to_peer_referral by in_person, monthly, 12 weeks"
    chances = [alternative.probability_best for alternative in result.alternatives]
    assert sum(chances) < 1
    drawn = true_effects(["call_frequency_increase", *kinds], 5000)
    assert chances == pytest.approx(np.bincount(np.argmax(drawn, axis=0), minlength=3)[1:] / 5000, abs=0.04)
    assert engine.simulate(SPEAKERS, alternatives=[intervention("email_campaign")]).best_alternative is None


def test_the_interval_of_the_best_of_several_accounts_for_the_selection():
    engine = SimulationEngine(population(500, TwinType.PATIENT))
    kinds = ["call_frequency_increase", "peer_to_peer_referral", "speaker_program_invitation"]
    best = engine.simulate(intervention(kinds[0]), alternatives=[intervention(kind) for kind in kinds[1:]]).best
    assert best.intervention == intervention("speaker_program_invitation")
    assert best.ate == pytest.approx(0.12)
    alone = engine.simulate(SPEAKERS)
    assert best.ate_ci_upper - best.ate_ci_lower > alone.ate_ci_upper - alone.ate_ci_lower
    worlds = true_effects(kinds, 5000)
    assert np.mean((best.ate_ci_lower <= worlds[2]) & (worlds[2] <= best.ate_ci_upper)) >= 0.95
    assert best.probability_best == pytest.approx((worlds.argmax(axis=0) == 2).mean(), abs=0.03)
    assert best.margin == pytest.approx(0.02)
    assert best.margin_ci_lower < 0 < best.margin_ci_upper
    assert engine.simulate(SPEAKERS).best is None


def test_intervals_of_several_differences_hold_simultaneously():
    engine = SimulationEngine(population(500, TwinType.PATIENT))
    kinds = ["email_campaign", "call_frequency_increase", "educational_content_share", "peer_to_peer_referral"]
    alternatives = engine.simulate(SPEAKERS, alternatives=[intervention(kind) for kind in kinds]).alternatives
    first, *others = true_effects([SPEAKERS.intervention_type, *kinds], 2000)
    inside = [
        (other.difference_ci_lower <= truth - first) & (truth - first <= other.difference_ci_upper)
        for other, truth in zip(alternatives, others, strict=True)
    ]
    assert 0.93 <= np.all(inside, axis=0).mean() <= 0.97


# Sample size


def test_the_sample_size_comes_from_the_variance_of_outcomes():
    twins = population(5000)
    plan = SimulationEngine(twins).simulate(SPEAKERS).required_sample_size
    outcome_sd = twins.frame["prescribing_change"].std()
    assert plan["outcome_sd"] == pytest.approx(outcome_sd)
    assert (plan["n_treated"], plan["n_control"]) == two_sample(0.05, outcome_sd, alpha=0.05, power=0.8)
    assert (plan["prediction_correlation"], plan["n_treated_adjusted"]) == (None, plan["n_treated"])
    certain = engine_with_prior(0.1, 0.0001, twins=twins).simulate(SPEAKERS).required_sample_size
    assert certain == plan


def test_the_sample_size_rests_on_the_real_rows_behind_the_twins_where_they_were_measured():
    twins = population(5000, spread=OutcomeSpread(n=4000, sd=0.2, correlation=0.5))
    plan = SimulationEngine(twins).simulate(SPEAKERS).required_sample_size
    assert (plan["real_rows"], plan["outcome_sd"], plan["prediction_correlation"]) == (4000, 0.2, 0.5)
    assert plan["n_treated"] == two_sample(0.05, 0.2).n_treated
    assert plan["n_treated_adjusted"] == two_sample(0.05, 0.2, correlation=0.5).n_treated
    further = SimulationEngine(twins).simulate(SPEAKERS, {"min_decile": 6}).required_sample_size
    assert (further["real_rows"], further["prediction_correlation"]) == (None, None)


def test_a_relative_target_is_planned_in_its_own_unit():
    twins = population(4000, TwinType.PATIENT)
    plan = SimulationEngine(twins).simulate(SPEAKERS).required_sample_size
    assert plan["minimum_detectable_change"] == pytest.approx(0.05 * twins.frame.baseline_behavior.abs().mean())


def test_twins_without_outcomes_have_the_reason_in_place_of_a_sample_size():
    twins = population(500)
    bare = twins.model_copy(update={"frame": twins.frame.drop(columns="prescribing_change")})
    plan = SimulationEngine(bare).simulate(SPEAKERS).required_sample_size
    assert plan == {"missing": "these twins have no drawn prescribing_change, so its variance is unknown"}


# Warnings


def test_an_uncalibrated_prior_causes_a_warning():
    assert "no real experiment has calibrated it" in SimulationEngine(population(500)).simulate(SPEAKERS).warnings[0]


def test_an_effect_above_a_half_causes_a_warning():
    assert any("unrealistic" in warning for warning in engine_with_prior(0.7, 0.1).simulate(SPEAKERS).warnings)
    assert not engine_with_prior(0.3, 0.1).simulate(SPEAKERS).warnings


def test_few_twins_and_few_real_rows_cause_warnings():
    engine = SimulationEngine(population(1000, real_rows=900))
    few = engine.simulate(SPEAKERS, {"specialty": "oncology", "tier": 1, "min_decile": 6})
    assert any("the filters leave only" in warning for warning in few.warnings)
    assert any("are based on about" in warning for warning in few.warnings)
    assert len(engine.simulate(SPEAKERS).warnings) == 1


def test_results_that_rest_on_few_real_rows_are_wider_and_others_stay_the_same():
    def simulated(real_rows: int | None):
        return engine_with_prior(0.1, 1e-4, twins=population(1000, real_rows=real_rows), n_draws=4000).simulate(SPEAKERS)

    many, few, unknown = simulated(2000), simulated(5), simulated(None)
    assert few.ate_ci_upper - few.ate_ci_lower > 1.1 * (many.ate_ci_upper - many.ate_ci_lower)
    assert few.change.ci_upper - few.change.ci_lower > 1.1 * (many.change.ci_upper - many.change.ci_lower)
    assert few.ate == pytest.approx(many.ate, rel=0.02)
    assert (unknown.ate, unknown.ate_ci_lower, unknown.ate_ci_upper) == (many.ate, many.ate_ci_lower, many.ate_ci_upper)
    assert "these twins are based on about 5 real rows, fewer than 200: intervals are widened for it" in few.warnings


def test_draws_that_are_not_finite_give_a_robust_result_with_a_warning():
    extreme = intervention(intensity=3, frequency="weekly", duration_weeks=104)
    result = engine_with_prior(0.0, 2e307).simulate(extreme, alternatives=[SPEAKERS])
    plain = engine_with_prior(0.0, 2.0).simulate(extreme)
    assert any("quartiles" in warning for warning in result.warnings)
    assert result.ate == pytest.approx(0.0, abs=1e306)
    assert result.ate_ci_upper == pytest.approx(plain.ate_ci_upper * 1e307, rel=0.25)
    assert (result.heterogeneity.n_groups, result.alternatives) == (0, ())


def test_the_sample_size_for_outcomes_that_are_not_finite_comes_from_their_quartiles():
    twins = population(4000)
    outcomes = twins.frame["prescribing_change"].copy()
    outcomes[:3] = [np.inf, -np.inf, np.nan]
    odd = twins.model_copy(update={"frame": twins.frame.assign(prescribing_change=outcomes)})
    plan = SimulationEngine(odd).simulate(SPEAKERS).required_sample_size
    assert plan["outcome_sd"] == pytest.approx(twins.frame["prescribing_change"].std(), rel=0.05)


# Units


def test_effects_are_positive_when_desired_and_changes_have_the_sign_of_the_target():
    patients = SimulationEngine(population(500, TwinType.PATIENT))
    days = patients.twin_changes(SPEAKERS)
    assert days == pytest.approx(-patients.twin_effects(SPEAKERS) * patients.population.frame.baseline_behavior.abs())
    assert days.max() < 0
    hcp = SimulationEngine(population(500))
    assert hcp.twin_changes(SPEAKERS) == pytest.approx(hcp.twin_effects(SPEAKERS))


def shares(n, level, spread, **fields):
    """Territories with a market share of ``level`` and changes of it with a deviation of ``spread``."""
    frame = territories(n).assign(market_share=level, **fields)
    twins = population(features=frame, twin_type=TwinType.TERRITORY)
    change = np.random.default_rng(5).normal(0, spread, n)
    return twins.model_copy(update={"frame": twins.frame.assign(market_share_change=change)})


def test_a_market_share_of_20_percent_gains_a_share_of_itself_and_not_of_the_market():
    result = SimulationEngine(shares(1000, 0.20, 0.01)).simulate(SPEAKERS)
    assert result.effect_unit == "of the present market share"
    assert result.change.unit == "share of the market"
    assert result.change.estimate == pytest.approx(0.20 * result.ate)
    assert (result.change.ci_lower, result.change.ci_upper) == pytest.approx((0.2 * result.ate_ci_lower, 0.2 * result.ate_ci_upper))
    assert result.change.estimate < 0.03
    assert result.change.deviations == pytest.approx(result.change.estimate / result.change.outcome_sd)
    assert result.required_sample_size["minimum_detectable_change"] == pytest.approx(0.05 * 0.20)


def test_changes_of_the_market_share_follow_the_share_of_each_territory():
    level = np.linspace(0.05, 0.6, 400)
    engine = SimulationEngine(shares(400, level, 0.02))
    assert engine.twin_changes(SPEAKERS) == pytest.approx(engine.twin_effects(SPEAKERS) * level)
    assert engine.simulate(SPEAKERS).change.estimate == pytest.approx(engine.twin_changes(SPEAKERS).mean(), rel=1e-9)


def test_without_a_market_share_the_effect_is_a_share_and_the_change_is_unknown_with_a_word():
    engine = SimulationEngine(population(500, TwinType.TERRITORY))
    result = engine.simulate(SPEAKERS)
    assert result.change is None
    assert any("are a share of market_share, which these rows do not have" in warning for warning in result.warnings)
    assert "share of market_share" in result.required_sample_size["missing"]
    assert np.isnan(engine.twin_changes(SPEAKERS)).all()
    assert result.ate == pytest.approx(0.12, rel=0.05)


def test_a_territory_with_a_missing_share_is_left_out_of_the_average_change():
    level = np.array([0.1, np.nan] * 200)
    engine = SimulationEngine(shares(400, level, 0.02, urban_rural_mix=0.6))
    assert engine.simulate(SPEAKERS).change.estimate == pytest.approx(0.1 * engine.simulate(SPEAKERS).ate)


def test_an_effect_beyond_three_standard_deviations_of_the_outcome_is_warned_of():
    doubtful, plausible = SimulationEngine(shares(1000, 0.60, 0.01)), SimulationEngine(shares(1000, 0.20, 0.01))
    (warning,) = [text for text in doubtful.simulate(SPEAKERS).warnings if "standard deviations of the outcome" in text]
    assert "more than 3: check the unit of market_share_change and the base effect" in warning
    assert not [text for text in plausible.simulate(SPEAKERS).warnings if "standard deviations of the outcome" in text]


def test_effects_of_providers_are_points_of_the_outcome_and_days_of_patients_are_saved():
    hcp, patient = (SimulationEngine(population(500, kind)).simulate(SPEAKERS) for kind in (TwinType.HCP, TwinType.PATIENT))
    assert hcp.change.estimate == pytest.approx(hcp.ate, rel=1e-12)
    assert hcp.effect_unit in hcp.recommendation_reason
    assert patient.change.unit == "days to the next stage"
    assert patient.change.ci_lower < patient.change.estimate < 0 < patient.change.ci_upper  # it may do nothing


@pytest.mark.parametrize("twin_type", TwinType)
def test_every_twin_type_can_be_simulated(twin_type):
    result = SimulationEngine(population(500, twin_type)).simulate(SPEAKERS)
    assert result.ate_ci_lower < result.ate < result.ate_ci_upper
    assert result.heterogeneity.n_groups > 0


def test_the_base_effects_of_the_catalogue_are_public():
    assert dict(SimulationEngine.INTERVENTION_EFFECTS) == {
        "email_campaign": 0.05,
        "call_frequency_increase": 0.08,
        "speaker_program_invitation": 0.12,
        "educational_content_share": 0.06,
        "peer_to_peer_referral": 0.10,
    }


def test_simulating_runs_as_in_the_brief():
    loaded = population(10_000)
    assert loaded.model.brand is Brand.KISQALI
    config = InterventionConfig(
        intervention_type="speaker_program_invitation", channel="email", frequency="monthly", duration_weeks=12
    )
    engine = SimulationEngine(loaded)
    result = engine.simulate(config)
    text = f"Expected ATE: {result.ate:.2%}"
    assert result.recommendation in set(SimulationRecommendation)
    assert text.endswith("%")

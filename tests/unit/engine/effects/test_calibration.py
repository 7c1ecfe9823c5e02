from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.effects.base_effect import prior_interval
from engine.effects.calibration import calibrate
from engine.effects.effect_model import catalogue_prior, dose_response, typical_dose
from engine.effects.effect_posterior import BETWEEN_SCALE, MEAN_SCALE, given_past, prior_components
from engine.simulation_engine import SimulationEngine
from schemas import BUILT_IN, INTERVENTIONS, ExperimentResult, Reach, TwinType, in_effect
from tests.effect_worlds import draw_campaigns
from tests.populations import intervention, population

PRIOR = catalogue_prior("email_campaign")
BETWEEN = BETWEEN_SCALE * PRIOR.sd
MEAN_SD = MEAN_SCALE * PRIOR.sd


def experiment(name, effect: float, standard_error: float, kind: str = "email_campaign", **dose) -> ExperimentResult:
    return ExperimentResult(
        experiment_id=str(name),
        observed_at=datetime(2026, 1, 1, tzinfo=UTC),
        twin_type="hcp",
        brand="kisqali",
        intervention=intervention(kind, **dose),
        effect=effect,
        standard_error=standard_error,
        n_treated=500,
        n_control=500,
    )


def experiments(effects, errors) -> list[ExperimentResult]:
    return [experiment(i, effect, error) for i, (effect, error) in enumerate(zip(effects, errors, strict=True))]


def total_sd(prior) -> float:
    return float(np.hypot(prior.sd, prior.between_sd))


def test_without_experiments_the_prior_stays_as_it_is():
    assert calibrate(PRIOR, []) == PRIOR


def test_the_interval_of_the_next_campaign_covers_its_true_effect_in_95_percent_of_histories():
    rng = np.random.default_rng(2)
    covered, histories = 0, 400
    for _ in range(histories):
        mean, between = rng.normal(PRIOR.mean, MEAN_SD), BETWEEN * np.sqrt(2 * rng.f(2, 6))
        k = int(rng.integers(1, 13))
        errors = PRIOR.sd * rng.uniform(0.2, 0.8, k)
        posterior = calibrate(PRIOR, experiments(rng.normal(rng.normal(mean, between, k), errors), errors))
        covered += abs(rng.normal(mean, between) - posterior.mean) <= stats.norm.ppf(0.975) * total_sd(posterior)
    assert 0.93 <= covered / histories <= 0.98  # campaigns have longer tails than in these worlds


def test_the_interval_covers_when_experiments_differ_by_half_the_standard_deviation_of_the_prior():
    rng = np.random.default_rng(3)
    covered, between = 0, 0.5 * PRIOR.sd
    for _ in range(400):
        mean = rng.normal(PRIOR.mean, MEAN_SD)
        errors = np.full(8, 0.3 * PRIOR.sd)
        posterior = calibrate(PRIOR, experiments(rng.normal(rng.normal(mean, between, 8), errors), errors))
        covered += abs(rng.normal(mean, between) - posterior.mean) <= stats.norm.ppf(0.975) * total_sd(posterior)
    assert covered / 400 >= 0.93


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(-0.2, 0.3), st.floats(0.002, 0.1)), min_size=1, max_size=8), st.randoms())
def test_the_order_of_experiments_and_repeated_results_do_not_change_the_posterior(pairs, random):
    results = experiments(*zip(*pairs, strict=True))
    shuffled = [*results, results[0]]
    random.shuffle(shuffled)
    assert calibrate(PRIOR, shuffled) == calibrate(PRIOR, results)


def test_a_withdrawn_experiment_leaves_no_trace_in_the_posterior():
    results = experiments([0.02, 0.09, 0.03], [0.01, 0.01, 0.01])
    assert calibrate(PRIOR, [results[0], results[2]]) == calibrate(PRIOR, results[:1] + results[2:])
    assert calibrate(PRIOR, results).version == 3
    assert calibrate(PRIOR, results[:1]).version == 1


def test_more_experiments_narrow_the_posterior_and_noisy_ones_hardly_change_it():
    widths = [total_sd(calibrate(PRIOR, experiments([0.04] * k, [0.01] * k))) for k in (1, 4, 16, 64)]
    assert widths == sorted(widths, reverse=True)
    noisy = calibrate(PRIOR, experiments([0.5], [5.0]))
    assert prior_interval(noisy) == pytest.approx(prior_interval(PRIOR), abs=0.02)


def test_disagreeing_experiments_widen_the_variance_between_campaigns():
    agreeing = calibrate(PRIOR, experiments([0.04] * 6, [0.004] * 6))
    disagreeing = calibrate(PRIOR, experiments([0.01, 0.07] * 3, [0.004] * 6))
    assert disagreeing.mean == pytest.approx(agreeing.mean, rel=0.1)
    assert disagreeing.between_sd > 2 * agreeing.between_sd


def test_shrinkage_corrects_the_winners_curse():
    rng = np.random.default_rng(4)
    raw, shrunk = [], []
    for _ in range(300):
        means, between = np.transpose([draw_campaigns(rng, INTERVENTIONS["email_campaign"].effect) for _ in range(10)])
        errors = np.full(10, PRIOR.sd)
        observed = rng.normal(rng.normal(means, between), errors)
        best = int(np.argmax(observed))
        raw.append(observed[best] - means[best])
        shrunk.append(calibrate(PRIOR, [experiment("best", observed[best], errors[best])]).mean - means[best])
    assert np.mean(raw) > 0.6 * PRIOR.sd
    assert abs(np.mean(shrunk)) < 0.3 * PRIOR.sd


STRONG = {"frequency": "weekly", "duration_weeks": 26, "intensity": 2.0}
SMALL = {"channel": "mail", "frequency": "once", "duration_weeks": 2}


def test_an_effect_at_another_dose_is_converted_to_the_reference_dose_with_more_uncertainty():
    config = intervention("email_campaign", **STRONG)
    factor = float(dose_response(config, typical_dose(config)))
    assert factor > 1.5
    same = calibrate(PRIOR, [experiment(1, PRIOR.mean * factor, 0.001, **STRONG)])
    exact = calibrate(PRIOR, [experiment(1, PRIOR.mean, 0.001)])
    assert same.mean == pytest.approx(PRIOR.mean, rel=0.15)
    assert total_sd(same) > 1.3 * total_sd(exact)


def weights(prior, **response) -> float:
    """Posterior probability of the shapes of the response with these factors."""
    return sum(s.weight for s in prior.scenarios if all(getattr(s, name) == value for name, value in response.items()))


def test_experiments_at_different_doses_teach_the_response_to_dose():
    weeks = (2, 6, 12, 24, 48)
    flat = [experiment(n, 0.05, 0.004, duration_weeks=n, frequency="monthly") for n in weeks]
    steep = [experiment(n, 0.05 * n / 12, 0.004, duration_weeks=n, frequency="monthly") for n in weeks]
    prior_flat, prior_steep = weights(PRIOR, contacts=0.1, weeks=0.1), weights(PRIOR, contacts=40.0)
    assert weights(calibrate(PRIOR, flat), contacts=0.1, weeks=0.1) > 3 * prior_flat
    assert weights(calibrate(PRIOR, steep), contacts=40.0) > 2 * prior_steep
    assert weights(calibrate(PRIOR, steep), contacts=0.1, weeks=0.1) < 0.01


def test_an_effect_at_a_small_dose_is_not_blown_up_at_larger_ones_and_the_interval_widens_with_the_distance():
    prior = calibrate(PRIOR, [experiment(1, 0.75, 0.04, frequency="once", duration_weeks=2)])
    engine = SimulationEngine(population(200, TwinType.PATIENT), priors={PRIOR.intervention_type: prior})
    doses = [{"frequency": "once", "duration_weeks": 2}, {"duration_weeks": 6}, {}, {"duration_weeks": 15}]
    results = [engine.simulate(intervention("email_campaign", **dose)) for dose in doses]
    assert results[0].ate == pytest.approx(0.75, rel=0.15)
    assert results[2].ate < 2 * 0.75  # 3.3 by the catalogue's response
    assert all(result.ate_ci_lower < 0.75 < result.ate_ci_upper for result in results)
    widths = [result.ate_ci_upper - result.ate_ci_lower for result in results]
    assert widths == sorted(widths)
    assert [str(result.recommendation) for result in results] == ["test_further"] * 4
    assert "factor of 6.0 from any tested one" in results[2].recommendation_reason


def test_a_surprising_effect_at_a_small_dose_moves_the_next_prediction_at_that_dose_to_it():
    config = intervention("email_campaign", **SMALL)
    twins = population(200, TwinType.PATIENT)
    before = SimulationEngine(twins).simulate(config)
    assert before.ate < 0.05
    prior = calibrate(PRIOR, [experiment(1, 0.15, 0.015, **SMALL)])
    after = SimulationEngine(twins, priors={PRIOR.intervention_type: prior}).simulate(config)
    assert after.ate == pytest.approx(0.15, abs=0.025)
    assert after.ate_ci_lower < 0.15 < after.ate_ci_upper


def test_experiments_that_contradict_the_catalogue_outweigh_it():
    once = calibrate(PRIOR, [experiment(1, 1.5, 0.05)])
    twice = calibrate(PRIOR, experiments([1.5, 1.6], [0.05, 0.05]))
    assert once.mean == pytest.approx(1.5, abs=0.15)
    assert twice.mean == pytest.approx(1.55, abs=0.1)
    assert prior_interval(twice)[0] > 0.5


def test_an_effect_in_a_selected_population_is_converted_to_the_average_population():
    responsive = experiment("responsive", 1.5 * PRIOR.mean, 0.001)
    calibrated = calibrate(PRIOR, [responsive], {"responsive": Reach(mean=1.5, sd=0.0)})
    plain = calibrate(PRIOR, [experiment("responsive", PRIOR.mean, 0.001 / 1.5)])
    assert calibrated.mean == pytest.approx(plain.mean, rel=1e-6)
    assert total_sd(calibrated) == pytest.approx(total_sd(plain), rel=1e-6)
    doubted = calibrate(PRIOR, [responsive], {"responsive": Reach(mean=1.5, sd=0.3)})
    assert total_sd(doubted) > total_sd(calibrated)


def test_the_spread_between_campaigns_is_proportional_to_their_mean():
    small = calibrate(PRIOR, experiments([0.05, 0.05], [0.002, 0.002]))
    large = calibrate(PRIOR, experiments([0.75, 0.75], [0.002, 0.002]))
    assert large.between_sd > 5 * small.between_sd


def test_results_on_other_outcomes_units_or_people_calibrate_nothing():
    own = experiments([0.04, 0.05], [0.01, 0.01])
    others = [
        experiment("visits", 0.4, 0.02).model_copy(update=fields)
        for fields in ({"outcome": "visit"}, {"unit": "relative"}, {"population": "customers"})
    ]
    for other in others:
        assert calibrate(PRIOR, [*own, other]) == calibrate(PRIOR, own)
    assert calibrate(PRIOR, others[:1]) == PRIOR


def test_the_better_of_two_variants_is_told_from_the_other_and_a_third_is_unknown():
    results = [experiment(n, (0.03, 0.08)[n % 2], 0.004).model_copy(update={"variant": "AB"[n % 2]}) for n in range(6)]
    prior = calibrate(PRIOR, results)
    engine = SimulationEngine(population(200, TwinType.PATIENT), priors={PRIOR.intervention_type: prior})
    first, second, third = (intervention("email_campaign", variant=name) for name in "ABC")
    compared = engine.simulate(first, alternatives=[second, third])
    assert compared.ate == pytest.approx(0.03, abs=0.006)
    assert compared.alternatives[0].ate == pytest.approx(0.08, abs=0.008)
    assert compared.alternatives[0].difference_ci_lower > 0
    assert compared.alternatives[1].difference_ci_lower < 0 < compared.alternatives[1].difference_ci_upper
    pooled = calibrate(PRIOR, [result.model_copy(update={"variant": None}) for result in results])
    assert not pooled.variants
    assert (
        engine.simulate(first).ate
        < SimulationEngine(engine.population, priors={PRIOR.intervention_type: pooled}).simulate(first).ate
    )


def test_several_channels_leave_more_doubt_than_one():
    one = experiment(1, 0.05, 0.001)
    both = one.model_copy(update={"channels": ("email", "phone")})
    assert total_sd(calibrate(PRIOR, [both])) > total_sd(calibrate(PRIOR, [one]))


def test_results_told_for_their_success_are_not_taken_at_their_word():
    rng, successes = np.random.default_rng(6), []
    while len(successes) < 8:
        observed = rng.normal(0.02, 0.02)
        if observed > 1.96 * 0.02:
            successes.append(observed)
    calibrated = calibrate(PRIOR, experiments(successes, [0.02] * 8))
    low, high = prior_interval(calibrated)
    assert np.mean(successes) > 0.045
    assert calibrated.mean < 0.035
    assert low < 0.02 < high


@pytest.mark.parametrize(("effect", "contradicts"), [(0.05, False), (0.08, False), (0.30, True), (-0.05, True)])
def test_an_experiment_far_from_the_catalogue_contradicts_it(effect, contradicts):
    assert calibrate(PRIOR, [experiment(1, effect, 0.01)]).contradicted is contradicts


def test_inconsistent_experiments_and_priors_are_refused_by_name():
    with pytest.raises(ValueError, match="experiment 7 is about peer_to_peer_referral, not email_campaign"):
        calibrate(PRIOR, [experiment(7, 0.1, 0.01, kind="peer_to_peer_referral")])
    with pytest.raises(ValueError, match="experiment 7 has two different results"):
        calibrate(PRIOR, [experiment(7, 0.1, 0.01), experiment(7, 0.2, 0.01)])
    with pytest.raises(ValueError, match="prior version 1 is already calibrated by experiments"):
        calibrate(calibrate(PRIOR, experiments([0.1], [0.01])), experiments([0.1], [0.01]))


def test_a_prior_without_uncertainty_does_not_change():
    certain = PRIOR.model_copy(update={"sd": 0.0})
    assert calibrate(certain, experiments([0.5], [0.01])) == certain


@pytest.mark.parametrize("errors", [(0.02, 0.015), (0.01, 0.01, 0.01, 0.01)])
def test_a_pilot_that_agrees_with_past_experiments_narrows_the_interval_and_leaves_the_mean(errors):
    past = [{"effect": effect, "standard_error": error} for effect, error in zip((0.06, 0.04, 0.05, 0.05), errors, strict=False)]
    with in_effect(BUILT_IN.with_entries({"campaigns": {"webinar": {"channel": "video", "past_experiments": past}}})):
        prior = catalogue_prior("webinar")
        pilot = ExperimentResult(
            experiment_id="pilot",
            observed_at=datetime(2026, 1, 1, tzinfo=UTC),
            twin_type="hcp",
            brand="kisqali",
            intervention=intervention("webinar", channel="video"),
            effect=prior.mean,
            standard_error=0.006,
            n_treated=400,
            n_control=400,
        )
        after = calibrate(prior, [pilot])
    (low, high), (low_after, high_after) = prior_interval(prior), prior_interval(after)
    assert high_after - low_after < high - low
    assert after.mean == pytest.approx(prior.mean, abs=0.0005)
    surprised = calibrate_with(prior, pilot.model_copy(update={"effect": 0.15}), past)
    assert surprised[1] - surprised[0] > 2 * (high - low)


def calibrate_with(prior, pilot, past):
    with in_effect(BUILT_IN.with_entries({"campaigns": {"webinar": {"channel": "video", "past_experiments": past}}})):
        return prior_interval(calibrate(prior, [pilot]))


def test_past_experiments_that_say_little_leave_the_prior_its_tails():
    components = prior_components(0.05, 0.02)
    vague = given_past(components, np.array([0.05]), np.array([1e6]))
    assert np.exp(vague.log_weight) == pytest.approx(np.exp(components.log_weight), rel=1e-3, abs=1e-6)
    assert vague.center == pytest.approx(components.center, rel=1e-3)
    precise = given_past(components, np.array([0.05, 0.05]), np.array([0.005, 0.005]))
    assert np.exp(precise.log_weight[0]) > 0.99


@pytest.mark.parametrize("error", [0.005, 0.01, 0.02])
def test_an_experiment_that_confirms_the_catalogue_moves_its_mean_by_little(error: float):
    prior = PRIOR.model_copy(update={"mean": 0.05, "sd": 0.02})
    assert calibrate(prior, experiments([0.05], [error])).mean == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize(("effect", "error"), [(0.02, 0.01), (0.03, 0.01), (0.02, 0.002), (0.04, 0.01)])
def test_an_uncertain_prior_and_a_larger_result_meet_between_the_two(effect: float, error: float):
    prior = PRIOR.model_copy(update={"mean": 0.01, "sd": 0.02})
    assert 0.01 < calibrate(prior, experiments([effect], [error])).mean < effect

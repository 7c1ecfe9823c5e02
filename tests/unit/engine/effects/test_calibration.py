from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.effects.calibration import BETWEEN_SCALE, CATALOGUE_WRONG, MEAN_SCALE, calibrate
from engine.effects.effect_model import catalogue_prior, dose_response, draw_dose
from engine.simulation_engine import SimulationEngine
from schemas import ExperimentResult, Reach, TwinType
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


def test_the_posterior_equals_that_of_a_fine_grid_over_mean_and_between():
    effects, errors = np.array([0.02, 0.05, 0.01, 0.03]), np.array([0.01, 0.02, 0.006, 0.012])
    mean = np.linspace(PRIOR.mean - 8 * MEAN_SD, PRIOR.mean + 8 * MEAN_SD, 1201)[:, None]
    between = np.linspace(1e-5, 12 * BETWEEN, 2000)[None, :]
    wide = np.mean([stats.norm.pdf(mean, PRIOR.mean, MEAN_SD * wider) for wider in np.geomspace(2, 1000, 20)], axis=0)
    right = stats.norm.pdf(mean, PRIOR.mean, MEAN_SD)
    log = (
        np.log((1 - CATALOGUE_WRONG) * right + CATALOGUE_WRONG * wide)
        + stats.f.logpdf((between / BETWEEN) ** 2 / 2, 2, 6)
        + np.log(between)
    )
    for effect, error in zip(effects, errors, strict=True):
        log = log + stats.norm.logpdf(effect, mean, np.hypot(error, between))
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    expected = (weight * mean).sum()
    posterior = calibrate(PRIOR, experiments(effects, errors))
    assert posterior.mean == pytest.approx(expected, rel=1e-3)
    assert posterior.sd == pytest.approx(np.sqrt((weight * (mean - expected) ** 2).sum()), rel=1e-2)
    inside = [
        (weight * (stats.norm.cdf(end, mean, between))).sum()
        for end in (posterior.mean - 1.959964 * total_sd(posterior), posterior.mean + 1.959964 * total_sd(posterior))
    ]
    assert inside[1] - inside[0] == pytest.approx(0.95, abs=0.002)


def test_the_interval_of_the_next_campaign_covers_its_true_effect_in_95_percent_of_histories():
    rng = np.random.default_rng(2)
    covered, histories = 0, 400
    for _ in range(histories):
        mean, between = rng.normal(PRIOR.mean, MEAN_SD), BETWEEN * np.sqrt(2 * rng.f(2, 6))
        k = int(rng.integers(1, 13))
        errors = PRIOR.sd * rng.uniform(0.2, 0.8, k)
        posterior = calibrate(PRIOR, experiments(rng.normal(rng.normal(mean, between, k), errors), errors))
        covered += abs(rng.normal(mean, between) - posterior.mean) <= stats.norm.ppf(0.975) * total_sd(posterior)
    assert 0.93 <= covered / histories <= 0.97


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
    assert widths[0] < total_sd(PRIOR)
    noisy = calibrate(PRIOR, experiments([0.5], [5.0]))
    assert noisy.mean == pytest.approx(PRIOR.mean, abs=0.001)
    assert total_sd(noisy) == pytest.approx(PRIOR.sd, rel=0.02)


def test_disagreeing_experiments_widen_the_variance_between_campaigns():
    agreeing = calibrate(PRIOR, experiments([0.04] * 6, [0.004] * 6))
    disagreeing = calibrate(PRIOR, experiments([0.01, 0.07] * 3, [0.004] * 6))
    assert disagreeing.mean == pytest.approx(agreeing.mean, rel=0.1)
    assert disagreeing.between_sd > 2 * agreeing.between_sd


def test_shrinkage_corrects_the_winners_curse():
    rng = np.random.default_rng(4)
    raw, shrunk = [], []
    for _ in range(300):
        means = rng.normal(PRIOR.mean, MEAN_SD, 10)
        errors = np.full(10, PRIOR.sd)
        observed = rng.normal(rng.normal(means, BETWEEN * np.sqrt(2 * rng.f(2, 6, 10))), errors)
        best = int(np.argmax(observed))
        raw.append(observed[best] - means[best])
        shrunk.append(calibrate(PRIOR, [experiment("best", observed[best], errors[best])]).mean - means[best])
    assert np.mean(raw) > 0.6 * PRIOR.sd
    assert abs(np.mean(shrunk)) < 0.15 * PRIOR.sd


def test_an_effect_at_another_dose_is_converted_to_the_reference_dose():
    strong = {"frequency": "weekly", "duration_weeks": 26, "intensity": 2.0}
    config = intervention("email_campaign", **strong)
    factor = float(dose_response(config, draw_dose(config, 1000, 0)).mean())
    assert factor > 1.5
    same = calibrate(PRIOR, [experiment(1, PRIOR.mean * factor, 0.001, **strong)])
    assert same.mean == pytest.approx(PRIOR.mean, rel=1e-6)
    exact = calibrate(PRIOR, [experiment(1, PRIOR.mean, 0.001)])
    assert total_sd(same) > total_sd(exact)


def test_a_surprising_effect_at_a_small_dose_moves_the_next_prediction_at_that_dose_to_it():
    small = {"channel": "mail", "frequency": "once", "duration_weeks": 2}
    config = intervention("email_campaign", **small)
    twins = population(200, TwinType.PATIENT)
    before = SimulationEngine(twins).simulate(config)
    assert before.ate_ci_upper < 0.03
    prior = calibrate(PRIOR, [experiment(1, 0.15, 0.015, **small)])
    after = SimulationEngine(twins, priors={PRIOR.intervention_type: prior}).simulate(config)
    assert after.ate == pytest.approx(0.15, abs=0.015)
    assert after.ate_ci_lower < 0.15 < after.ate_ci_upper


def test_experiments_that_contradict_the_catalogue_outweigh_it():
    once = calibrate(PRIOR, [experiment(1, 1.5, 0.05)])
    twice = calibrate(PRIOR, experiments([1.5, 1.6], [0.05, 0.05]))
    assert once.mean == pytest.approx(1.5, abs=0.05)
    assert twice.mean == pytest.approx(1.55, abs=0.02)
    assert total_sd(twice) < 0.2


def test_an_effect_in_a_selected_population_is_converted_to_the_average_population():
    responsive = experiment("responsive", 1.5 * PRIOR.mean, 0.001)
    calibrated = calibrate(PRIOR, [responsive], {"responsive": Reach(mean=1.5, sd=0.0)})
    assert calibrated.mean == pytest.approx(PRIOR.mean, rel=1e-6)
    assert total_sd(calibrated) == pytest.approx(total_sd(calibrate(PRIOR, [experiment("responsive", PRIOR.mean, 0.001 / 1.5)])))
    doubted = calibrate(PRIOR, [responsive], {"responsive": Reach(mean=1.5, sd=0.3)})
    assert total_sd(doubted) > total_sd(calibrated)


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

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.effects.calibration import calibrate
from engine.effects.effect_model import catalogue_prior
from engine.effects.parameter_learning import (
    LEVEL_SDS,
    OWN_SHARE,
    Beliefs,
    OwnEffects,
    learn_from_subgroups,
    parameters_of,
)
from engine.simulation_engine import SimulationEngine
from schemas import EffectPrior, ExperimentResult, SubgroupResult
from tests.populations import intervention, population

PRIOR = catalogue_prior("email_campaign")
EXACT = OwnEffects(np.array([0.05]), np.array([0.0]))


def group(level: str, effect: float, standard_error: float, n: int = 200, dimension: str = "specialty") -> SubgroupResult:
    return SubgroupResult(dimension=dimension, level=level, effect=effect, standard_error=standard_error, n_treated=n, n_control=n)


def experiment(name, effect: float, standard_error: float, *groups: SubgroupResult, **dose) -> ExperimentResult:
    return ExperimentResult(
        experiment_id=str(name),
        observed_at=datetime(2026, 1, 1, tzinfo=UTC),
        twin_type="hcp",
        brand="kisqali",
        intervention=intervention("email_campaign", **dose),
        effect=effect,
        standard_error=standard_error,
        n_treated=600,
        n_control=600,
        subgroups=groups,
    )


def halves(first: float, second: float, error: float = 0.01, levels=("cardiology", "urology")) -> ExperimentResult:
    """Two levels that are all people of an experiment."""
    return experiment(
        "halves", (first + second) / 2, error / np.sqrt(2), group(levels[0], first, error), group(levels[1], second, error)
    )


def learned(*results: ExperimentResult) -> tuple[Beliefs, dict]:
    parameters = parameters_of(PRIOR.intervention_type, results, [], {})
    own = OwnEffects(np.full(len(results), 0.05), np.zeros(len(results)))
    beliefs = learn_from_subgroups(parameters, results, {}, own)
    names = [*parameters.names, *parameters.levels]
    return beliefs, dict(zip(names, zip(beliefs.mean, np.diagonal(beliefs.covariance), strict=True), strict=True))


def test_the_difference_of_two_levels_has_its_normal_posterior_summed_over_the_sizes_of_deviations():
    error, observed, own_effect = 0.01, 0.04, 0.05
    expected, weights = [], []
    for sd, prior in LEVEL_SDS.items():
        between = 2 * (1 - OWN_SHARE) * sd**2 * own_effect**2
        noise = 2 * error**2 + 2 * OWN_SHARE * sd**2 * own_effect**2
        weights.append(prior * stats.norm.pdf(observed, 0.0, np.sqrt(between + noise)))
        expected.append(observed * between / (between + noise) / own_effect)
    _, posterior = learned(halves(0.07, 0.03, error))
    difference = posterior["specialty", "cardiology"][0] - posterior["specialty", "urology"][0]
    assert difference == pytest.approx(np.average(expected, weights=weights), rel=1e-9)


def test_without_noise_and_with_one_size_the_coefficient_of_a_moderator_is_the_precision_weighted_mean(monkeypatch):
    monkeypatch.setattr("engine.effects.parameter_learning.LEVEL_SDS", {1e-9: 1.0})
    error, own_effect = 0.01, 0.05
    result = halves(0.09, 0.03, error, levels=("oncology", "urology"))
    _, posterior = learned(result)
    # catalogue: log factor of oncology 0.10 +- 0.10, to first order around exp(0.10); urology has the factor 1
    slope = own_effect * np.exp(0.10)
    observed = 0.06 - own_effect * (np.exp(0.10) - 1.0)
    precision = 1 / 0.10**2 + slope**2 / (2 * error**2)
    mean, variance = posterior["specialty=oncology"]
    assert mean == pytest.approx(slope * observed / (2 * error**2) / precision, rel=1e-6)
    assert variance == pytest.approx(1 / precision, rel=1e-6)


def test_a_level_beside_all_others_is_compared_with_the_rest_of_the_experiment():
    """The rest of the people has the effect and the error that make the whole."""
    whole, part, rest = 0.05, group("cardiology", 0.08, 0.02), group("urology", 0.04, 0.02 / np.sqrt(3))
    error = (1 / 0.02**2 + 3 / 0.02**2) ** -0.5
    assert (part.effect + 3 * rest.effect) / 4 == pytest.approx(whole)
    _, alone = learned(experiment("alone", whole, error, part))
    _, both = learned(experiment("both", whole, error, part, rest))
    assert alone["specialty", "cardiology"][0] > 0.5 * both["specialty", "cardiology"][0] > 0


def test_an_experiment_without_an_effect_teaches_nothing_about_who_responds():
    parameters = parameters_of(PRIOR.intervention_type, [result := halves(0.02, -0.02)], [], {})
    beliefs = learn_from_subgroups(parameters, [result], {}, OwnEffects(np.zeros(1), np.zeros(1)))
    assert beliefs.mean == pytest.approx(0.0)
    assert np.diagonal(beliefs.covariance) == pytest.approx(np.diagonal(Beliefs.of_catalogue(parameters).covariance))


def test_more_experiments_narrow_the_difference_of_two_levels_and_shrink_it_less():
    means, variances = [], []
    for k in (1, 4, 16):
        results = [halves(0.06, 0.04).model_copy(update={"experiment_id": str(i)}) for i in range(k)]
        beliefs, _ = learned(*results)
        contrast = np.array([0.0] * (len(beliefs.mean) - 2) + [1.0, -1.0])
        means.append(float(contrast @ beliefs.mean))
        variances.append(float(contrast @ beliefs.covariance @ contrast))
    assert means == sorted(means)
    assert 0.3 < means[-1] < 0.4
    assert variances == sorted(variances, reverse=True)


RESULTS = [
    experiment(
        i,
        0.05 + 0.01 * i,
        0.006,
        group("oncology", 0.08 + 0.01 * i, 0.012),
        group("cardiology", 0.04, 0.01 + 0.001 * i),
        group("1", 0.06, 0.012, dimension="priority_tier"),
        group("4", 0.03, 0.012, dimension="priority_tier"),
        channel=("mail", "email", "phone")[i % 3],
        duration_weeks=4 + 8 * i,
    )
    for i in range(4)
]


@settings(max_examples=10)
@given(st.permutations(RESULTS), st.randoms())
def test_the_order_of_experiments_and_of_their_subgroups_does_not_change_what_is_learned(results, random):
    shuffled = []
    for result in [*results, results[0]]:
        groups = [*result.subgroups] if result.experiment_id != results[0].experiment_id else [*results[0].subgroups]
        shuffled.append(result.model_copy(update={"subgroups": tuple(groups)}))
    random.shuffle(shuffled)
    assert calibrate(PRIOR, shuffled) == calibrate(PRIOR, RESULTS)


def test_the_order_of_subgroups_does_not_matter():
    turned = [result.model_copy(update={"subgroups": result.subgroups[::-1]}) for result in RESULTS]
    assert calibrate(PRIOR, turned) == calibrate(PRIOR, RESULTS)


def test_a_withdrawn_experiment_was_never_added():
    with_it, without = calibrate(PRIOR, RESULTS), calibrate(PRIOR, RESULTS[:3])
    assert with_it.learned != without.learned
    assert calibrate(PRIOR, [*RESULTS[:3]]) == without


def test_what_is_learned_is_stored_and_read_back_as_it_is():
    calibrated = calibrate(PRIOR, RESULTS)
    assert EffectPrior.model_validate_json(calibrated.model_dump_json()) == calibrated
    assert {"specialty=oncology", "channel:mail", "channel:phone", "weeks"} <= set(calibrated.learned.names)
    assert set(calibrated.learned.levels) == {("specialty", "cardiology"), ("priority_tier", "1"), ("priority_tier", "4")}


PEOPLE = pd.DataFrame({"specialty": ["oncology", "cardiology", "urology", "Cardiology"] * 500, "decile": [1, 4, 7, 10] * 500})


def simulated(prior: EffectPrior, filters=None, **dose):
    engine = SimulationEngine(population(features=PEOPLE), priors={PRIOR.intervention_type: prior})
    return engine.simulate(intervention("email_campaign", **dose), filters)


def test_subgroups_and_filters_of_a_simulation_follow_what_was_learned():
    results = [experiment(i, 0.05, 0.003, group("cardiology", 0.09, 0.004), group("urology", 0.01, 0.004)) for i in range(4)]
    answer = simulated(calibrate(PRIOR, results))
    by_group = {effect.group: effect for effect in answer.heterogeneity.by_dimension["specialty"]}
    assert by_group["cardiology"].estimate == pytest.approx(0.09, abs=0.02)
    assert by_group["urology"].estimate == pytest.approx(0.01, abs=0.02)
    assert by_group["cardiology"].ci_lower < 0.09 < by_group["cardiology"].ci_upper
    assert by_group["cardiology"].moderated
    selected = simulated(calibrate(PRIOR, results), {"specialty": ["Cardiology"]})
    assert selected.ate == pytest.approx(by_group["cardiology"].estimate, rel=0.02)
    assert simulated(calibrate(PRIOR, [r.model_copy(update={"subgroups": ()}) for r in results])).ate == pytest.approx(
        0.05, abs=0.006
    )


def test_an_effect_by_mail_teaches_the_factor_of_mail_and_leaves_other_channels_in_doubt():
    results = [experiment(i, 0.05, 0.002, channel="mail") for i in range(8)]
    prior = calibrate(PRIOR, results)
    by_mail, by_email = simulated(prior, channel="mail"), simulated(prior, channel="email")
    width = lambda result: (result.ate_ci_upper - result.ate_ci_lower) / result.ate  # noqa: E731
    assert by_mail.ate == pytest.approx(0.05, abs=0.004)
    assert width(by_mail) < width(by_email)


def test_a_level_of_a_reported_feature_that_no_experiment_saw_is_wider():
    results = [experiment(i, 0.05, 0.003, group("oncology", 0.09, 0.004), group("urology", 0.01, 0.004)) for i in range(4)]
    by_group = {e.group: e for e in simulated(calibrate(PRIOR, results)).heterogeneity.by_dimension["specialty"]}
    width = {name: effect.ci_upper - effect.ci_lower for name, effect in by_group.items()}
    assert width["cardiology"] > 1.2 * width["urology"]


def test_reach_tells_how_a_subgroup_moderates_beside_all_people():
    people = pd.DataFrame({"specialty": ["oncology", "urology"] * 500, "decile": [8.4, 5.5] * 500})
    engine = SimulationEngine(population(features=people))
    reach = engine.reach(
        intervention("email_campaign"), subgroups=[("specialty", "Oncology"), ("specialty", "absent"), ("none", "x")]
    )
    (oncology,) = reach.groups
    factor = np.exp(0.10 + 0.05)  # the level and one spread of the decile
    assert oncology.mean == pytest.approx(factor / ((factor + 1) / 2))
    assert oncology.slopes == pytest.approx({"specialty=oncology": 1.0, "decile": 1.0})
    share = factor / (factor + 1)
    assert reach.slopes == pytest.approx({"specialty=oncology": share, "decile": share})

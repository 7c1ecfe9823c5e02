from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from engine import SimulationEngine
from engine.experiments.counterfactuals import entities_as_population, predict_counterfactuals, treated_counterfactuals
from engine.sample_tables import sample_hcps
from engine.twins import TwinModel
from schemas import INTERVENTIONS
from tests.effect_worlds import draw_campaigns
from tests.models import hcp_model
from tests.populations import intervention

SPEAKERS = intervention("speaker_program_invitation")


@pytest.fixture(scope="module")
def model() -> TwinModel:
    return hcp_model()


@pytest.fixture(scope="module")
def entities() -> pd.DataFrame:
    return sample_hcps(2500, np.random.default_rng(1)).set_index(np.arange(2500) + 7)


# Before an intervention


def test_each_entity_has_two_outcomes_whose_difference_is_the_effect_on_entities_like_it(model, entities):
    outcomes = predict_counterfactuals(model, entities, SPEAKERS).entities
    engine = SimulationEngine(entities_as_population(model, entities, model.predict(entities)))
    assert outcomes.index.equals(entities.index)
    assert outcomes["without"].to_numpy() == pytest.approx(model.predict(entities))
    assert outcomes["difference"].to_numpy() == pytest.approx(engine.twin_effects(SPEAKERS))
    assert (outcomes["with"] - outcomes["without"]).to_numpy() == pytest.approx(outcomes["difference"].to_numpy())
    for name in ("without", "with", "difference"):
        assert (outcomes[f"{name}_lower"] < outcomes[name]).all()
        assert (outcomes[name] < outcomes[f"{name}_upper"]).all()
    assert ((outcomes["with_upper"] - outcomes["with"]) > (outcomes["without_upper"] - outcomes["without"])).all()


def test_the_average_difference_is_that_of_a_simulation_on_these_entities(model, entities):
    average = predict_counterfactuals(model, entities, SPEAKERS).average
    result = SimulationEngine(entities_as_population(model, entities, model.predict(entities))).simulate(SPEAKERS)
    assert average["difference"] == pytest.approx(result.ate)
    assert (average["difference_lower"], average["difference_upper"]) == pytest.approx((result.ate_ci_lower, result.ate_ci_upper))
    assert average["with"] == pytest.approx(average["without"] + average["difference"])


def test_the_interval_of_one_entity_covers_the_effect_on_entities_like_it_in_95_percent_of_worlds(model, entities):
    entity = entities.iloc[[3]]
    outcomes = predict_counterfactuals(model, entity, SPEAKERS).entities.iloc[0]
    factor = outcomes["difference"] / 0.12
    rng = np.random.default_rng(0)
    effect = np.array([rng.normal(*draw_campaigns(rng, INTERVENTIONS["speaker_program_invitation"].effect)) for _ in range(5000)])
    effect *= factor
    covered = np.mean((outcomes["difference_lower"] <= effect) & (effect <= outcomes["difference_upper"]))
    assert 0.95 <= covered < 0.99  # the coefficients of the moderators are uncertain too


def test_a_table_without_entities_is_refused(model, entities):
    with pytest.raises(ValueError, match="the table has no entities"):
        predict_counterfactuals(model, entities.iloc[:0], SPEAKERS)


# After an experiment


def simulate_trial(rng, n=2000, effect=0.2, clusters=None, noise=0.5):
    expected = rng.normal(0, 1, n)
    units = np.arange(n) if clusters is None else np.repeat(np.arange(clusters), n // clusters)
    arms = rng.permutation(units.max() + 1) < (units.max() + 1) // 2
    shared = 0.0 if clusters is None else rng.normal(0, 0.3, clusters)[units]
    treated = arms[units]
    untreated = 0.5 + 0.8 * expected + shared + rng.normal(0, noise, n)
    return expected, untreated, untreated + effect * treated, treated, units


@pytest.mark.parametrize("clusters", [None, 50])
def test_outcomes_without_treatment_are_covered_in_95_percent_of_experiments(clusters):
    rng = np.random.default_rng(1)
    on_average, shares_covered = [], []
    for _ in range(300):
        expected, untreated, outcome, treated, units = simulate_trial(rng, n=400, clusters=clusters)
        result = treated_counterfactuals(expected, outcome, treated, clusters=units)
        on_average.append(result.average["difference_lower"] <= 0.2 <= result.average["difference_upper"])
        truth = untreated[treated]
        shares_covered.append(np.mean((result.entities["without_lower"] <= truth) & (truth <= result.entities["without_upper"])))
    assert 0.92 <= np.mean(on_average) <= 0.98
    assert np.mean(shares_covered) == pytest.approx(0.95, abs=0.01)


def test_an_informative_expectation_narrows_the_interval_and_a_useless_one_does_not_widen_it():
    rng = np.random.default_rng(2)
    expected, _, outcome, treated, _ = simulate_trial(rng, n=4000)
    good = treated_counterfactuals(expected, outcome, treated).average
    bad = treated_counterfactuals(rng.permutation(expected), outcome, treated).average
    plain = stats.ttest_ind(outcome[treated], outcome[~treated]).confidence_interval()
    width = lambda average: average["difference_upper"] - average["difference_lower"]  # noqa: E731
    assert width(bad) == pytest.approx(plain.high - plain.low, rel=0.05)
    assert width(good) < 0.6 * width(bad)


def test_with_a_constant_expectation_the_effect_is_the_difference_of_the_arms():
    rng = np.random.default_rng(3)
    _, _, outcome, treated, _ = simulate_trial(rng)
    result = treated_counterfactuals(np.zeros(2000), outcome, treated).average
    assert result["difference"] == pytest.approx(outcome[treated].mean() - outcome[~treated].mean())
    welch = np.sqrt(outcome[treated].var(ddof=1) / treated.sum() + outcome[~treated].var(ddof=1) / (~treated).sum())
    assert result["standard_error"] == pytest.approx(welch, rel=0.01)


def test_arms_too_small_and_missing_outcomes_are_refused():
    with pytest.raises(ValueError, match="the control arm has 2 units of assignment"):
        treated_counterfactuals([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [True, True, True, False, False])
    with pytest.raises(ValueError, match="leave out entities whose outcome is missing"):
        treated_counterfactuals([1, 2, 3], [1, np.nan, 3], [True, True, False])

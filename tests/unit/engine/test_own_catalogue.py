"""A catalogue that is given to an object of the engine, which no other object sees."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine import FidelityTracker, SimulationEngine, TwinGenerator
from engine.sample_tables import sample_hcps
from schemas import BUILT_IN, Catalogue, InterventionConfig, TwinPopulation, catalogue_in_effect


def catalogue(mean: float) -> Catalogue:
    return BUILT_IN.with_entries(
        {
            "brands": {"acmezumab": {}},
            "campaigns": {"sample_drop": {"channel": "in_person", "effect": {"mean": mean, "sd": mean / 10}}},
            "moderators": {"tenure": {"slope": {"mean": 0.05, "sd": 0.02}, "center": 20, "spread": 5}},
            "twin_types": {
                "hcp": {
                    "features": {"tenure": {"kind": "integer", "low": 0, "high": 60}},
                    "filters": {"since": "tenure"},
                    "dimensions": ["tenure"],
                    "segments": ["specialty"],
                }
            },
            "levels": {"specialty": {"cardiology": ["CARD"]}},
            "drift_rules": {"mae_increase": {"limit": 0.5}},
        }
    )


OWN = catalogue(0.07)


@pytest.fixture(scope="module")
def generator() -> TwinGenerator:
    rng = np.random.default_rng(0)
    table = sample_hcps(1000, rng).assign(tenure=rng.integers(0, 40, 1000))
    table["specialty"] = table["specialty"].where(table.index % 3 > 0, "CARD")
    trained = TwinGenerator("hcp", "acmezumab", model_type="RandomForest", n_jobs=1, catalogue=OWN)
    trained.train(table)
    return trained


@pytest.fixture(scope="module")
def population(generator: TwinGenerator) -> TwinPopulation:
    return generator.generate(600, {"min_since": 5}, seed=1)


def test_an_own_brand_feature_filter_and_level_work_without_a_catalogue_in_effect(generator, population):
    assert generator.model.card.brand == "acmezumab"
    assert population.frame["tenure"].min() >= 5
    assert "cardiology" in set(population.frame["specialty"])
    assert catalogue_in_effect() is BUILT_IN
    assert len(generator.predict(population.frame)) == 600
    with pytest.raises(ValueError, match="unknown brand 'acmezumab'"):
        TwinGenerator("hcp", "acmezumab")


def test_an_own_campaign_has_its_effect_and_is_unknown_elsewhere(population):
    engine = SimulationEngine(population, catalogue=OWN)
    result = engine.simulate(OWN.intervention("sample_drop"), {"specialty": "CARD"})
    assert 0.035 < result.ate < 0.14
    assert set(result.heterogeneity.by_dimension) == {"tenure"}
    assert engine.INTERVENTION_EFFECTS["sample_drop"] == 0.07
    assert "sample_drop" not in SimulationEngine.INTERVENTION_EFFECTS
    with pytest.raises(ValueError, match="unknown intervention_type 'sample_drop'"):
        InterventionConfig(intervention_type="sample_drop", channel="email", frequency="weekly", duration_weeks=4)
    with pytest.raises(ValueError, match="unknown intervention_type 'other'"):
        OWN.intervention("other")


def test_engines_of_two_catalogues_answer_each_by_its_own_in_turn_and_on_threads(population):
    engines = {mean: SimulationEngine(population, catalogue=catalogue(mean)) for mean in (0.02, 0.08)}
    drop = OWN.intervention("sample_drop")
    alone = {mean: engine.simulate(drop) for mean, engine in engines.items()}
    assert alone[0.08].ate == pytest.approx(4 * alone[0.02].ate, rel=0.01)
    with ThreadPoolExecutor(4) as threads:
        for mean, result in zip(
            [0.02, 0.08] * 8, threads.map(lambda mean: engines[mean].simulate(drop), [0.02, 0.08] * 8), strict=True
        ):
            assert result == alone[mean]
    assert catalogue_in_effect() is BUILT_IN


def test_an_error_inside_leaves_the_catalogue_in_effect_as_it_was(population):
    with pytest.raises(ValueError, match="cannot be filtered by 'nope'"):
        SimulationEngine(population, catalogue=OWN).simulate(OWN.intervention("sample_drop"), {"nope": 1})
    assert catalogue_in_effect() is BUILT_IN


def test_a_tracker_has_the_rules_of_its_catalogue_and_limits_over_them():
    def limits(**arguments: object) -> dict[str, float]:
        return {rule.name: rule.limit for rule in FidelityTracker(**arguments).rules}

    assert limits()["mae_increase"] == 0.2
    assert limits(catalogue=OWN)["mae_increase"] == 0.5
    assert limits(catalogue=OWN, mae_increase=0.4)["mae_increase"] == 0.4


def test_entries_that_no_catalogue_can_have_are_refused_with_their_place():
    with pytest.raises(ValueError, match=r"^campaigns\.fax\.channel: Input should be 'email'.*'web'$"):
        BUILT_IN.with_entries({"campaigns": {"fax": {"channel": "fax", "effect": {"mean": 0.1, "sd": 0.1}}}})
    with pytest.raises(ValueError, match=r"^thresholds\.brands\.nope: unknown brand 'nope'"):
        BUILT_IN.with_entries({"thresholds": {"brands": {"nope": {"min_effect_threshold": 0.1}}}})

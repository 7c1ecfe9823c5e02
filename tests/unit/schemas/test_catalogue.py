"""The catalogue: built-in and own entries, what is laid over what, and which one is in effect."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from pydantic import ValidationError

from engine.effects import catalogue_prior
from engine.twins.training_table import feature_frame
from schemas import (
    BUILT_IN,
    DRIFT_RULES,
    INTERVENTIONS,
    MODERATORS,
    TWIN_TYPES,
    Brand,
    Catalogue,
    InterventionConfig,
    SimulationRequest,
    TwinType,
    catalogue_in_effect,
    conditions,
    in_effect,
    line_parts,
    model_line,
)
from schemas.brands import catalogue_brand
from schemas.catalogue import laid_over
from schemas.causal_graphs import CAUSAL_GRAPHS
from schemas.clinical_terms import clinical_term
from schemas.interventions import PastExperiment
from schemas.levels import KnownLevels
from schemas.past_experiments import LEAST_BETWEEN, pooled_effect
from schemas.simulation_models import ANSWERED
from schemas.twin_types import segment_name

OWN = {
    "brands": {"acmezumab": {"label": "Acmezumab"}},
    "campaigns": {"sample_drop": {"channel": "in_person", "effect": {"mean": 0.07, "sd": 0.03}, "twin_types": ["hcp"]}},
    "moderators": {"tenure": {"slope": {"mean": 0.05, "sd": 0.05}, "center": 10, "spread": 8}},
    "twin_types": {"hcp": {"features": {"tenure": {"kind": "integer", "low": 0}}, "filters": {"seniority": "tenure"}}},
    "clinical_terms": ["oncotype"],
    "drift_rules": {"mae_increase": {"limit": 0.3}},
    "thresholds": {
        "all": {"confidence_threshold": 0.8, "drift_limits": {"coverage_drop": 0.85}},
        "brands": {"acmezumab": {"min_effect_threshold": 0.02, "drift_limits": {"correlation_drop": 0.5}}},
        "lines": {"hcp:acmezumab:prescribing_change": {"min_effect_threshold": 0.01}},
    },
}


def make(fields) -> Catalogue:
    return Catalogue.model_validate(laid_over(fields))


@pytest.fixture(scope="module")
def own() -> Catalogue:
    return make(OWN)


def test_the_built_in_catalogue_is_in_effect_until_another_is():
    assert catalogue_in_effect() is BUILT_IN
    assert model_line(TwinType.HCP, Brand.KISQALI) == "hcp:kisqali:prescribing_change"
    assert [brand.value for brand in Brand] == list(BUILT_IN.brands)


def test_nothing_laid_over_the_built_in_catalogue_is_the_built_in_catalogue():
    assert make({}) == BUILT_IN
    assert make({"brands": None}) == BUILT_IN


def test_an_entry_of_ones_own_is_valid_wherever_a_built_in_one_is(own):
    with in_effect(own):
        line = model_line(TwinType.HCP, "acmezumab")
        assert line == "hcp:acmezumab:prescribing_change"
        assert line_parts(line) == (TwinType.HCP, "acmezumab", "prescribing_change")
        assert INTERVENTIONS["sample_drop"].label == "Sample drop"
        assert catalogue_prior("sample_drop").mean == 0.07
        assert MODERATORS[-1].column == "tenure"
        assert TWIN_TYPES[TwinType.HCP].by_name["tenure"].low == 0
        assert conditions(TwinType.HCP, {"min_seniority": 3})[0].column == "tenure"
        assert clinical_term(TwinType.HCP, "oncotype_score") == "oncotype"
        assert DRIFT_RULES[0].limit == 0.3
        assert clinical_term(TwinType.HCP, "overall_survival") == "survival"


def test_an_entry_of_ones_own_is_refused_outside_of_its_catalogue():
    with pytest.raises(ValueError, match="unknown brand 'acmezumab': use one of fabhalta, kisqali, remibrutinib"):
        model_line(TwinType.HCP, "acmezumab")
    with pytest.raises(ValidationError, match="unknown intervention_type 'sample_drop'"):
        InterventionConfig(intervention_type="sample_drop", channel="mail", frequency="monthly", duration_weeks=4)


def test_a_built_in_brand_is_a_member_of_brand_and_an_own_one_a_text(own):
    drop = {"intervention_type": "sample_drop", "channel": "in_person", "frequency": "monthly", "duration_weeks": 12}
    request = {
        "simulation_id": "00000000-0000-4000-8000-000000000001",
        "requested_at": "2026-01-01T00:00:00Z",
        "twin_type": "hcp",
        "intervention": drop,
    }
    with in_effect(own):
        built_in, acme = (SimulationRequest(**request, brand=brand) for brand in ("kisqali", "acmezumab"))
        assert built_in.brand is Brand.KISQALI
        assert type(acme.brand) is str
        assert SimulationRequest.model_validate_json(acme.model_dump_json()) == acme


def test_a_campaign_for_other_twins_is_refused(own):
    drop = {"intervention_type": "sample_drop", "channel": "in_person", "frequency": "monthly", "duration_weeks": 12}
    fields = {"simulation_id": "00000000-0000-4000-8000-000000000001", "requested_at": "2026-01-01T00:00:00Z", "brand": "kisqali"}
    message = "intervention 'sample_drop' is for hcp twins, not for patient: use email_campaign"
    with in_effect(own), pytest.raises(ValidationError, match=message):
        SimulationRequest(**fields, twin_type="patient", intervention=drop)


def test_what_is_pinned_to_a_version_sees_it_also_on_threads_and_in_no_other_task(own):
    async def pinned() -> list[int]:
        with in_effect(own):
            await asyncio.sleep(0.01)
            return [len(INTERVENTIONS), await asyncio.to_thread(lambda: len(INTERVENTIONS))]

    async def unpinned() -> list[int]:
        counts = []
        for _ in range(4):
            await asyncio.sleep(0.005)
            counts.append(len(INTERVENTIONS))
        return counts

    async def both():
        return await asyncio.gather(pinned(), unpinned())

    assert asyncio.run(both()) == [[6, 6], [5, 5, 5, 5]]


def test_a_thread_of_a_pool_sees_the_catalogue_of_the_process(own):
    with in_effect(own), ThreadPoolExecutor(1) as threads:
        assert threads.submit(lambda: len(INTERVENTIONS)).result() == 5


def test_text_and_digest_are_the_same_in_every_process(own):
    code = "from schemas import BUILT_IN; print(BUILT_IN.sha256)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert digests == {f"{BUILT_IN.sha256}\n".encode()}
    again = Catalogue.model_validate_json(own.to_text())
    assert again == own
    assert again.sha256 == own.sha256


def test_the_version_is_no_content(own):
    applied = own.model_copy(update={"version": 3})
    assert applied.sha256 == own.sha256
    assert "version" not in applied.model_dump()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hcp:kisqali:prescribing_change", (0.05, 0.8, {})),
        ("hcp:acmezumab:prescribing_change", (0.01, 0.8, {"correlation_drop": 0.5})),
        ("patient:acmezumab:journey_progression_days", (0.02, 0.8, {"correlation_drop": 0.5})),
    ],
)
def test_the_narrower_threshold_decides(own, line, expected):
    thresholds = own.thresholds_of(line)
    assert (thresholds.min_effect_threshold, thresholds.confidence_threshold, thresholds.catalogue_limits) == expected
    with in_effect(own):
        limits = {rule.name: rule.limit for rule in thresholds.rules}
    assert limits == {"mae_increase": 0.3, "correlation_drop": 0.7, "coverage_drop": 0.85} | expected[2]


def test_the_built_in_thresholds_are_those_of_the_brief():
    thresholds = BUILT_IN.thresholds_of("hcp:kisqali:prescribing_change")
    assert (thresholds.min_effect_threshold, thresholds.confidence_threshold) == (0.05, 0.90)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"brands": {"Acme": {}}}, "brands.Acme"),
        ({"brands": {"kisqali": None, "fabhalta": None, "remibrutinib": None}}, "at least one brand is needed"),
        ({"brands": {"a_b": {}, "a": {}}, "twin_types": {"hcp": {"targets": {"b_c": {}, "c": {}}}}}, "Field required"),
        ({"campaigns": {"x": {"channel": "mail", "effect": {"mean": 5, "sd": 0.1}}}}, "5 is no fraction of the target"),
        ({"campaigns": {"x": {"channel": "mail", "effect": {"mean": 0.1, "sd": 0}}}}, "must be above 0"),
        ({"campaigns": {"cure_drop": {"channel": "mail", "effect": {"mean": 0.1, "sd": 0.1}}}}, "'cure_drop' is clinical"),
        ({"moderators": {"shoe_size": {"slope": {"mean": 0, "sd": 0.1}}}}, "no twin type has the feature 'shoe_size'"),
        ({"moderators": {"decile": {"slope": None}}}, "either a slope, for a number, or levels"),
        ({"moderators": {"specialty": {"levels": {"Heart Surgeons": {"mean": 0.1, "sd": 0.1}}}}}, "write 'heart_surgeon'"),
        (
            {
                "levels": {"region": {"mazowieckie": ["MAZ"]}},
                "moderators": {"region": {"levels": {"mazowiekie": {"mean": 0, "sd": 0.1}}}},
            },
            "'mazowiekie' is no declared level of region: did you mean 'mazowieckie'?",
        ),
        ({"twin_types": {"hcp": {"dimensions": ["tier"]}}}, "'tier' is no feature: it is a filter on 'priority_tier': use one of"),
        ({"moderators": {"practice_type": {"slope": {"mean": 0, "sd": 0.1}}}}, "is a category"),
        ({"twin_types": {"hcp": None}}, "hcp cannot be taken out"),
        ({"twin_types": {"hcp": {"features": {"decile": None}}}}, "'decile' is no feature: use one of adoption_stage"),
        ({"twin_types": {"hcp": {"features": {"tumor_size": {"kind": "number"}}}}}, "'tumor_size' is clinical"),
        ({"twin_types": {"hcp": {"features": {"min_age": {"kind": "number"}}}}}, "has a meaning of its own"),
        ({"twin_types": {"hcp": {"features": {"a": {"kind": "flag", "low": 0}}}}}, "a flag has no bounds"),
        ({"twin_types": {"hcp": {"features": {"a": {"kind": "number", "low": 2, "high": 2}}}}}, "2 is not below 2"),
        ({"twin_types": {"hcp": {"features": {"a": {"kind": "integer", "low": 0.2, "high": 0.7}}}}}, "0.2 is no whole number"),
        ({"twin_types": {"hcp": {"segments": ["peer_influence_score"]}}}, "too many values for a segment"),
        (
            {"twin_types": {"territory": {"targets": {"market_share_change": {"share_of": "region"}}}}},
            "'region' is no feature that",
        ),
        ({"drift_rules": {"mae_increase": None}}, "mae_increase cannot be taken out"),
        ({"drift_rules": {"mae_increase": {"direction": "below"}}}, "only limit and action of a built-in rule"),
        ({"drift_rules": {"coverage_drop": {"limit": 1.5}}}, "1.5 must lie between 0 and 1"),
        ({"thresholds": {"brands": {"acme": {}}}}, "unknown brand 'acme'"),
        ({"thresholds": {"lines": {"hcp:kisqali:x": {}}}}, "unknown target 'x'"),
        ({"thresholds": {"all": {"drift_limits": {"psi": 1}}}}, "unknown drift rule 'psi': use one of correlation_drop"),
    ],
)
def test_a_catalogue_that_contradicts_itself_is_refused_with_what_is_allowed(fields, message):
    with pytest.raises(ValidationError, match=message):
        make(fields)


def test_brands_whose_models_would_have_equal_names_in_the_registry_are_refused():
    target = BUILT_IN.twin_types[TwinType.HCP].targets["prescribing_change"]
    short = {
        "unit": "x",
        "scale": "additive",
        "direction": 1,
        "effect_unit": "x",
        "plausible": {"low": 0, "high": 1, "other_units": {}},
    }
    fields = {"brands": {"kisqali_new": {}}, "twin_types": {"hcp": {"targets": {"new_prescribing_change": short}}}}
    assert target.name == "prescribing_change"
    with pytest.raises(ValidationError, match="its models would be named like those of"):
        make(fields)


def a_target(scale: str, low: float, high: float) -> dict:
    target = {
        "unit": "patients",
        "direction": 1,
        "effect_unit": "patients",
        "scale": scale,
        "plausible": {"low": low, "high": high},
    }
    return {"twin_types": {"hcp": {"targets": {"new_patients": target}}}}


def test_an_additive_target_in_natural_units_is_refused_since_effects_are_fractions():
    with pytest.raises(ValidationError, match=r"-100 to 500 \(patients\) are none.* make it relative"):
        make(a_target("additive", -100, 500))
    assert make(a_target("relative", -100, 500)).twin_types[TwinType.HCP].targets["new_patients"].scale == "relative"
    assert make(a_target("additive", -1, 3))


def test_a_stored_catalogue_with_an_additive_target_in_natural_units_still_loads():
    stored = (
        make(a_target("additive", -1, 3))
        .to_text()
        .replace('"low":-1.0,"high":3.0,"other_units":{},', '"low":-100,"high":500,"other_units":{},')
    )
    target = Catalogue.from_text(stored, 7).twin_types[TwinType.HCP].targets["new_patients"]
    assert (target.scale, target.plausible.high) == ("additive", 500)


def test_a_level_of_a_moderator_may_be_another_spelling_or_unlike_any_declared_level():
    levels = {"region": {"mazowieckie": ["MAZ"]}}
    for level in ("maz", "mazowieckie", "podlaskie"):
        assert make({"levels": levels, "moderators": {"region": {"levels": {level: {"mean": 0, "sd": 0.1}}}}})


def test_clinical_terms_add_up_and_none_can_be_taken_out(own):
    assert set(own.clinical_terms) == {*BUILT_IN.clinical_terms, "oncotype"}
    fields = laid_over({}) | {"clinical_terms": ["oncotype"]}
    with pytest.raises(ValidationError, match="built-in terms cannot be taken out: adverse"):
        Catalogue.model_validate(fields)


def test_a_campaign_with_another_effect_has_another_source():
    campaign = make({"campaigns": {"email_campaign": {"effect": {"mean": 0.02, "sd": 0.01}}}}).campaigns["email_campaign"]
    assert (campaign.effect.mean, campaign.source) == (0.02, "stated in the catalogue")
    assert campaign.channels == BUILT_IN.campaigns["email_campaign"].channels


def test_its_own_channel_has_the_factor_1_and_other_channels_a_far_one_unless_stated():
    fields = {"channel": "mail", "effect": {"mean": 0.1, "sd": 0.1}, "channels": {"web": {"mean": -0.1, "sd": 0.1}}}
    factors = make({"campaigns": {"x": fields}}).campaigns["x"].channels
    assert {channel.value: factor.mean for channel, factor in factors.items()} == {
        "email": -0.5,
        "phone": -0.5,
        "in_person": -0.5,
        "video": -0.5,
        "mail": 0.0,
        "web": -0.1,
    }


def test_one_past_experiment_and_the_next_campaign_each_differ_by_the_least_spread():
    effect = pooled_effect([PastExperiment(0.10, 0.02)])
    assert (effect.mean, effect.sd) == (0.10, pytest.approx(math.sqrt(0.02**2 + 2 * (LEAST_BETWEEN * 0.10) ** 2)))


def test_past_experiments_are_pooled_by_a_random_effects_model():
    # DerSimonian and Laird by hand: weights 1/0.0001 each, mean 0.06, Q = 32, between = (32 - 1) / 10000 = 0.0031
    effect = pooled_effect([PastExperiment(0.10, 0.01), PastExperiment(0.02, 0.01)])
    assert effect.mean == pytest.approx(0.06)
    assert effect.sd == pytest.approx(math.sqrt((0.0001 + 0.0031) / 2 + 0.0031))


def test_an_own_target_has_the_causes_of_the_default_one_unless_a_graph_says_otherwise():
    graph = CAUSAL_GRAPHS[TwinType.HCP]
    own_target = graph.about("new_patient_starts", "prescribing_change")
    causes = {cause for cause, effect in graph.edges if effect == "prescribing_change"}
    assert {cause for cause, effect in own_target.edges if effect == "new_patient_starts"} == causes
    assert "prescribing_change" not in own_target.nodes
    assert graph.about("prescribing_change", "prescribing_change") is graph
    assert own_target.about("new_patient_starts", "prescribing_change") is own_target


SPELLINGS = {"levels": {"region": {"Northeast": ["NE", "north-east"], "south": []}}}


def test_every_declared_spelling_of_a_level_is_that_level_in_segments_and_filters():
    with in_effect(make(SPELLINGS)):
        assert {segment_name("region", text) for text in ("Northeast", "NE", "ne ", "North-East")} == {"region=northeast"}
        assert segment_name("region", "West") == "region=west"
        assert segment_name("specialty", "NE") == "specialty=ne"
        (condition,) = conditions(TwinType.HCP, {"region": ["ne", "West"]})
        assert condition.values == ("Northeast", "West")
        column = pd.Series(["NE", "northeast", "west", "south", None], name="region")
        assert condition.mask(column).tolist() == [True, True, True, False, False]
    assert segment_name("region", "NE") == "region=ne"


def test_features_are_written_as_declared_and_a_model_keeps_the_spelling_that_it_knows():
    frame = pd.DataFrame({"region": ["NE", "north-east", "SOUTH", "West", "west", "west"]})
    with in_effect(make(SPELLINGS)):
        trained = feature_frame(frame, {"region": "category"}, TwinType.HCP)
        older = feature_frame(frame, {"region": "category"}, TwinType.HCP, {"region": KnownLevels(["NE", "south"])})
    assert trained["region"].tolist() == ["Northeast", "Northeast", "south", "west", "west", "west"]
    assert older["region"].tolist()[:3] == ["NE", "NE", "south"]


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"decile": {"a": []}}, "'decile' is no category"),
        ({"nowhere": {"a": []}}, "no twin type has the feature 'nowhere'"),
        ({"region": {"north": ["N"], "northeast": ["n"]}}, "'n' is a spelling of 'north' already"),
    ],
)
def test_spellings_that_cannot_be_meant_are_refused(levels, message):
    with pytest.raises(ValidationError, match=message):
        make({"levels": levels})


def test_who_reads_an_answer_needs_no_catalogue_of_its_campaign():
    drop = {"intervention_type": "sample_drop", "channel": "mail", "frequency": "monthly", "duration_weeks": 4}
    assert InterventionConfig.model_validate(drop, context={ANSWERED: True}).intervention_type == "sample_drop"
    with pytest.raises(ValidationError, match="unknown channel 'fax'"):
        InterventionConfig.model_validate({**drop, "channel": "fax"}, context={ANSWERED: True})


def test_the_label_of_a_brand_is_refused_with_its_name():
    own = BUILT_IN.with_entries({"brands": {"acme": {"label": "\u00c4chme \u00ae 5 mg"}}})
    with in_effect(own), pytest.raises(ValueError, match="is the label of the brand acme: give its name"):
        catalogue_brand("\u00e4chme \u00ae 5 MG")
    with in_effect(own), pytest.raises(ValueError, match="unknown brand '': use one of acme"):
        catalogue_brand("")

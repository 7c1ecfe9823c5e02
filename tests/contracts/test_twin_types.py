"""Requirements on every entry of the catalogue of twin types; a new feature, filter or segment is tested without further work."""

from __future__ import annotations

import numpy as np
import pytest

from engine.sample_tables import sample_table
from schemas import TWIN_TYPES, Brand, TwinType, conditions, line_parts, model_line
from schemas.clinical_terms import CLINICAL_TERMS, clinical_term
from schemas.filters import canonical_filters, rows_matching
from tests.populations import TABLES

FILTER_FIELDS = {"specialty", "tier", "region", "decile"}
for_each_type = pytest.mark.parametrize("twin_type", TwinType)
FEATURES = [pytest.param(kind, feature, id=f"{kind}-{feature.name}") for kind in TwinType for feature in TWIN_TYPES[kind].features]

SPECIFIED_FEATURES = {
    TwinType.HCP: (
        "specialty years_experience practice_type practice_size region decile priority_tier total_patient_volume"
        " target_patient_volume digital_engagement_score preferred_channel last_interaction_days interaction_frequency"
        " adoption_stage peer_influence_score"
    ),
    TwinType.PATIENT: (
        "age_group gender geographic_region socioeconomic_index primary_diagnosis_code comorbidity_count risk_score"
        " journey_complexity_score insurance_type insurance_coverage_flag journey_stage journey_duration_days treatment_line"
    ),
    TwinType.TERRITORY: (
        "region state_count zip_count total_hcps covered_hcps coverage_rate total_patient_volume market_share"
        " competitor_presence_score average_hcp_decile urban_rural_mix population_density"
    ),
}
SPECIFIED_TARGETS = {
    TwinType.HCP: "prescribing_change",
    TwinType.PATIENT: "journey_progression_days",
    TwinType.TERRITORY: "market_share_change",
}


def test_there_is_an_entry_for_every_twin_type():
    assert set(TWIN_TYPES) == set(TwinType)


@for_each_type
def test_it_has_the_specified_features_and_target(twin_type):
    entry = TWIN_TYPES[twin_type]
    assert set(entry.by_name) >= set(SPECIFIED_FEATURES[twin_type].split())
    assert entry.default_target.name == SPECIFIED_TARGETS[twin_type]
    assert entry.twin_type is twin_type


@for_each_type
def test_names_are_unique(twin_type):
    entry = TWIN_TYPES[twin_type]
    names = [feature.name for feature in entry.features] + [target.name for target in entry.targets]
    assert len(names) == len(set(names))


@for_each_type
def test_every_name_in_the_entry_is_one_of_its_features(twin_type):
    entry = TWIN_TYPES[twin_type]
    names = {*entry.filters.values(), *entry.dimensions, *entry.segments}
    names |= {name for pair in entry.not_above for name in pair}
    names |= {name for ratio in entry.ratios for name in (ratio.name, ratio.numerator, ratio.denominator)}
    assert names <= set(entry.by_name)
    assert set(entry.filters) <= FILTER_FIELDS


@for_each_type
def test_bounds_between_features_are_between_numbers(twin_type):
    entry = TWIN_TYPES[twin_type]
    assert all(entry.by_name[name].kind in ("integer", "number") for pair in entry.not_above for name in pair)


@pytest.mark.parametrize(("twin_type", "feature"), FEATURES)
def test_only_numbers_have_bounds_and_the_lower_is_smaller(twin_type, feature):
    if feature.kind in ("category", "flag"):
        assert (feature.low, feature.high) == (None, None)
    elif feature.low is not None and feature.high is not None:
        assert feature.low < feature.high


@pytest.mark.parametrize(("twin_type", "feature"), FEATURES)
def test_twins_can_be_filtered_by_every_feature(twin_type, feature):
    value = {"category": "some", "flag": True, "integer": 3, "number": 0.5}[feature.kind]
    (member,) = conditions(twin_type, {feature.name: value})
    assert (member.column, member.operator, member.values) == (feature.name, "in", (value,))
    if feature.kind in ("integer", "number"):
        (bound,) = conditions(twin_type, {f"min_{feature.name}": value})
        assert (bound.column, bound.operator) == (feature.name, "min")
    else:
        with pytest.raises(ValueError, match=f"{feature.name!r} is a {feature.kind}"):
            conditions(twin_type, {f"min_{feature.name}": 1})


@for_each_type
@pytest.mark.parametrize("field", sorted(FILTER_FIELDS))
def test_a_field_of_the_population_filter_selects_or_is_refused_with_the_allowed_ones(twin_type, field):
    entry = TWIN_TYPES[twin_type]
    value = "some" if field in ("specialty", "region") else 1
    if field in entry.filters:
        assert conditions(twin_type, {field: value})[0].column == entry.filters[field]
    elif field not in entry.by_name:
        with pytest.raises(ValueError, match=f"{twin_type} twins cannot be filtered by {field!r}: use .*{entry.features[0].name}"):
            conditions(twin_type, {field: value})


@for_each_type
def test_an_empty_filter_selects_all_twins(twin_type):
    assert rows_matching(TABLES[twin_type](50), conditions(twin_type, None)).all()
    assert canonical_filters(twin_type, {}) == {}


@for_each_type
def test_its_targets_have_a_unit_a_scale_and_a_direction(twin_type):
    for target in TWIN_TYPES[twin_type].targets:
        assert target.unit
        assert TWIN_TYPES[twin_type].target(target.name) is target
        assert target.desired_change(10.0) == target.direction * (10.0 if target.scale == "relative" else 1.0)
        assert target.desired_change(-10.0) == target.desired_change(10.0)


@for_each_type
def test_outcomes_of_its_sample_table_are_plausible_and_in_another_unit_they_are_not(twin_type):
    target = TWIN_TYPES[twin_type].default_target
    outcomes = sample_table(twin_type, 500, np.random.default_rng(0))[target.name]
    assert all(map(target.plausible.holds, outcomes))
    for unit, factor in target.plausible.other_units.items():
        largest = float(outcomes.abs().max() / factor)
        assert not target.plausible.holds(largest)
        assert target.plausible.likely_unit(largest) in target.plausible.other_units, unit
    assert target.plausible.likely_unit(float("inf")) is None


@for_each_type
def test_an_effect_of_its_target_beyond_the_plausible_scale_is_named_with_its_likely_units(twin_type):
    target = TWIN_TYPES[twin_type].default_target
    assert [target.implausible_effect(effect) for effect in (-1.0, 0.75, 1.0)] == [None] * 3
    assert "likely in percent (0.05)" in target.implausible_effect(5.0)
    assert "likely in percent (-0.05)" in target.implausible_effect(-5.0)
    assert "in no unit that is known" in target.implausible_effect(1e5)
    assert ("days" in target.implausible_effect(5.0)) == (twin_type is TwinType.PATIENT)
    assert target.effect_unit


@for_each_type
def test_an_effect_is_a_share_of_a_feature_of_the_twins_or_of_their_expected_outcome(twin_type):
    entry = TWIN_TYPES[twin_type]
    shares = [target.share_of for target in entry.targets if target.share_of is not None]
    assert all(entry.by_name[name].kind == "number" for name in shares)
    assert all(target.scale == "relative" for target in entry.targets if target.share_of)


@for_each_type
def test_an_unknown_target_is_refused_with_the_declared_ones(twin_type):
    entry = TWIN_TYPES[twin_type]
    assert entry.target(None) is entry.default_target
    with pytest.raises(
        ValueError, match=f"unknown target of {twin_type} twins 'fortune': use one of .*{entry.default_target.name}"
    ):
        entry.target("fortune")


@for_each_type
@pytest.mark.parametrize("brand", Brand)
def test_a_line_name_is_parsed_to_its_parts(twin_type, brand):
    line = model_line(twin_type, brand)
    assert line_parts(line) == (twin_type, brand, TWIN_TYPES[twin_type].default_target.name)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hcp", "not twin_type:brand:target"),
        ("nurse:kisqali:x", "'nurse'"),
        ("hcp:aspirin:x", "'aspirin'"),
        ("hcp:kisqali:x", "'x'"),
    ],
)
def test_an_invalid_line_name_is_refused(line, message):
    with pytest.raises(ValueError, match=message):
        line_parts(line)


@for_each_type
def test_its_own_features_and_targets_are_never_clinical(twin_type):
    entry = TWIN_TYPES[twin_type]
    assert [name for name in (*entry.by_name, *(t.name for t in entry.targets)) if clinical_term(twin_type, name)] == []


@for_each_type
@pytest.mark.parametrize("term", CLINICAL_TERMS)
def test_a_clinical_term_is_detected_anywhere_in_a_name(twin_type, term):
    for column in (term, f"{term}_score", f"last_{term}", f"Mean {term.title()} (2025)"):
        assert clinical_term(twin_type, column) is not None


@for_each_type
@pytest.mark.parametrize("column", ["label", "laboratory_visits_booked", "incurred_cost", "city", "slabs"])
def test_a_word_that_only_contains_a_clinical_term_is_allowed(twin_type, column):
    assert clinical_term(twin_type, column) is None

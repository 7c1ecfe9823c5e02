from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Condition, PopulationFilter, TwinType, conditions
from schemas.filters import canonical_filters, rows_matching
from tests.populations import hcps

FRAME = hcps(400)


def matching(filters, twin_type=TwinType.HCP, frame=FRAME) -> np.ndarray:
    return rows_matching(frame, conditions(twin_type, filters))


def test_the_fields_of_a_population_filter_select_as_a_pandas_query():
    mask = matching(PopulationFilter(specialty=["oncology", "hematology"], tier=[1, 2], region=["south"], min_decile=4))
    expected = FRAME.eval(
        "specialty in ['oncology', 'hematology'] and priority_tier in [1, 2] and region == 'south' and decile >= 4"
    )
    assert mask.dtype == bool
    assert (mask == expected).all()
    assert 0 < mask.sum() < len(FRAME)


def test_a_value_and_a_list_of_one_are_equal():
    assert conditions(TwinType.HCP, {"tier": 1}) == conditions(TwinType.HCP, {"tier": [1]})
    assert (matching({"tier": 1}) == (FRAME.priority_tier == 1)).all()


def test_a_filter_name_and_its_feature_are_equal():
    assert canonical_filters(TwinType.HCP, {"tier": 1}) == canonical_filters(TwinType.HCP, {"priority_tier": 1})
    assert canonical_filters(TwinType.PATIENT, {"region": "north"}) == {"geographic_region": ["north"]}
    assert canonical_filters(TwinType.TERRITORY, {"min_decile": 5}) == {"min_average_hcp_decile": 5}


@pytest.mark.parametrize("column", ["decile", "priority_tier", "digital_engagement_score"])
@pytest.mark.parametrize("bound", [2**53 + 1, 2**63 - 1, 2**63])
def test_the_largest_numbers_are_compared_exactly(column, bound):
    assert not matching({f"min_{column}": bound}).any()
    assert matching({f"max_{column}": bound}).all()
    assert matching({f"min_{column}": -bound}).all()
    assert not matching({column: [bound, -bound]}).any()


def test_bounds_are_inclusive():
    mask = matching({"min_decile": 3, "max_decile": 5})
    assert sorted(FRAME.decile[mask].unique()) == [3, 4, 5]


def test_a_missing_value_satisfies_nothing():
    frame = pd.DataFrame({"specialty": ["oncology", None], "decile": pd.array([5, None], dtype="Int64")})
    assert matching({"specialty": "oncology"}, frame=frame).tolist() == [True, False]
    assert matching({"min_decile": 1}, frame=frame).tolist() == [True, False]
    assert matching({"max_decile": 10}, frame=frame).tolist() == [True, False]


def test_fields_without_a_value_select_all_twins():
    assert matching(PopulationFilter()).all()
    assert matching({"specialty": None, "min_decile": None}).all()
    assert matching(None).all()


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"shoe_size": 43}, "hcp twins cannot be filtered by 'shoe_size': use adoption_stage, decile, digital"),
        ({"min_shoe_size": 43}, "cannot be filtered by 'min_shoe_size'"),
        ({"specialty": []}, "filter 'specialty' is an empty list"),
        ({"min_specialty": "oncology"}, "filter 'min_specialty' is a bound, but 'specialty' is a category"),
        ({"specialty": {"is": 3}}, "filter 'specialty' got {'is': 3}: 'specialty' is a category"),
        ({"specialty": " "}, "filter 'specialty' got ' ': 'specialty' is a category"),
        ({"min_decile": "x"}, "filter 'min_decile' got 'x'"),
        ({"trx_growth": "high"}, "filter 'trx_growth' got 'high': 'trx_growth' is a number between .*, or a flag"),
        ({"min_formulary": 1}, "filter 'min_formulary' is a bound, but 'formulary' is a category"),
        (
            {"tier": "one"},
            "filter 'tier' got 'one': 'priority_tier' is an integer between -9223372036854775808 and 9223372036854775808",
        ),
        ({"tier": [1, True]}, "filter 'tier' got True"),
        ({"min_decile": float("nan")}, "filter 'min_decile' got nan"),
        ({"min_decile": [1, 2]}, r"filter 'min_decile' got \[1, 2\]"),
        ({"min_decile": 2**64}, "filter 'min_decile' got 18446744073709551616: 'decile' is an integer between"),
        ({"decile": [3, -(10**400)]}, "filter 'decile' got -1000"),
        ({"max_digital_engagement_score": 1e300}, "got 1e\\+300: 'digital_engagement_score' is a number between"),
        ({"decile": {"min": 3}}, "filter 'decile' got {'min': 3}"),
        ({"decile": [[3]]}, r"filter 'decile' got \[3\]"),
        ({"decile": 10**5000}, "filter 'decile' got a number of more than 4300 digits"),
        ({"shoe" * 1000: 3}, r"cannot be filtered by 'shoe\w{75}\.\.\.: use"),
    ],
)
def test_an_invalid_filter_is_refused_by_name(filters, message):
    with pytest.raises(ValueError, match=message):
        conditions(TwinType.HCP, filters, {"trx_growth": "number", "formulary": "category"})


def test_a_condition_on_a_missing_column_is_refused_with_the_available_ones():
    with pytest.raises(ValueError, match="cannot filter on 'practice_size': these twins have specialty, region"):
        matching({"min_practice_size": 3})


def test_a_flag_is_filtered_by_true_or_false_only():
    frame = pd.DataFrame({"insurance_coverage_flag": [True, False]})
    assert matching({"insurance_coverage_flag": False}, TwinType.PATIENT, frame).tolist() == [False, True]
    with pytest.raises(ValueError, match="got 'yes'"):
        conditions(TwinType.PATIENT, {"insurance_coverage_flag": "yes"})


def test_a_code_is_a_level_and_any_spelling_of_a_level_selects_it():
    codes = pd.DataFrame({"region": ["1", "01", "2", None], "specialty": ["Oncology", "oncology", "Urology", None]})
    assert matching({"region": 1}, frame=codes).tolist() == [True, False, False, False]
    assert matching({"region": "01"}, frame=codes).tolist() == [False, True, False, False]
    assert matching({"region": [1.0, "2"]}, frame=codes).tolist() == [True, False, True, False]
    assert matching({"specialty": "ONCOLOGY "}, frame=codes).tolist() == [True, True, False, False]
    assert matching(PopulationFilter(region=1, specialty="oncology"), frame=codes).tolist() == [True, False, False, False]


def test_a_bound_on_a_fractional_feature_is_a_fraction_also_as_text():
    expected = FRAME.digital_engagement_score >= 0.5
    for bound in (0.5, "0.5", " 5e-1"):
        assert (matching({"min_digital_engagement_score": bound}) == expected).all()
    assert PopulationFilter(min_decile=7.0).model_dump(exclude_none=True) == {"min_decile": 7}
    assert PopulationFilter(min_decile=7.5).min_decile == 7.5


OWN = {"trx_growth": "number", "formulary": "category"}


def test_a_column_of_the_models_own_whose_name_begins_like_a_bound_is_filtered_by_its_levels():
    frame = pd.DataFrame({"min_reach": ["low", "high", "mid"], "max_calls": [1, 2, 3]})
    for own in (None, {"min_reach": "category", "max_calls": "number"}):
        assert rows_matching(frame, conditions(TwinType.HCP, {"min_reach": ["low", "HIGH"]}, own)).tolist() == [True, True, False]
        assert rows_matching(frame, conditions(TwinType.HCP, {"min_reach": "low"}, own)).tolist() == [True, False, False]
        assert rows_matching(frame, conditions(TwinType.HCP, {"max_calls": [1, 3]}, own)).tolist() == [True, False, True]


@pytest.mark.parametrize("own", [None, {}])
def test_a_bound_of_several_values_is_refused(own):
    with pytest.raises(ValueError, match="filter 'min_total_patient_volume' got"):
        conditions(TwinType.HCP, {"min_total_patient_volume": [1, 2]}, own)


def test_a_column_of_the_models_own_is_filtered_like_a_feature():
    frame = pd.DataFrame({"trx_growth": [0.1, 0.5, np.nan], "formulary": ["Tier 1", "tier 1", "2"]})
    for own in (None, OWN):  # before the model is known, and after
        for filters, expected in [
            ({"min_trx_growth": 0.2}, [False, True, False]),
            ({"trx_growth": [0.1, "0.5"]}, [True, True, False]),
            ({"formulary": "TIER 1"}, [True, True, False]),
            ({"formulary": 2}, [False, False, True]),
        ]:
            assert rows_matching(frame, conditions(TwinType.HCP, filters, own)).tolist() == expected
    flags = pd.DataFrame({"covered": [1.0, 0.0, np.nan]})
    for value in (True, "TRUE", 1, "1"):
        for own in (None, {"covered": "number"}):
            assert rows_matching(flags, conditions(TwinType.HCP, {"covered": value}, own)).tolist() == [True, False, False]
    with pytest.raises(ValueError, match=r"use adoption_stage, .*, formulary, .*, trx_growth"):
        conditions(TwinType.HCP, {"shoe_size": 3}, OWN)
    with pytest.raises(ValueError, match="hcp twins cannot be filtered by 'market_share'"):
        conditions(TwinType.HCP, {"market_share": 0.1})


tiers = st.lists(st.integers(1, 5), min_size=1, max_size=5)
regions = st.lists(st.sampled_from(["north", "south", "west"]), min_size=1, max_size=3)


@given(tiers, regions, st.integers(1, 10), st.randoms())
def test_equal_selections_have_one_canonical_form(tier, region, decile, random):
    filters = {"tier": tier, "region": region, "min_decile": decile}
    shuffled = list(filters.items())
    random.shuffle(shuffled)
    reordered = {key: random.sample(value, len(value)) if isinstance(value, list) else float(value) for key, value in shuffled}
    assert canonical_filters(TwinType.HCP, reordered) == canonical_filters(TwinType.HCP, filters)
    assert canonical_filters(TwinType.HCP, PopulationFilter(**filters)) == canonical_filters(TwinType.HCP, filters)


@given(tiers, st.integers(1, 10))
def test_the_canonical_form_selects_the_same_twins(tier, decile):
    filters = {"tier": tier, "min_decile": decile}
    assert (matching(canonical_filters(TwinType.HCP, filters)) == matching(filters)).all()


def test_conditions_do_not_depend_on_the_dtype_of_text():
    stored = FRAME.astype({"specialty": "category", "region": "object"})
    filters = {"specialty": "oncology", "region": ["south", "west"]}
    assert (matching(filters, frame=stored) == matching(filters)).all()


def test_equal_conditions_are_equal_values():
    assert Condition(column="decile", operator="min", values=(3,)) == conditions(TwinType.HCP, {"min_decile": 3})[0]

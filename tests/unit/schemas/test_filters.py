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


def test_the_words_of_the_brief_select_as_pandas_would():
    chosen = matching(PopulationFilter(specialty=["oncology", "hematology"], tier=[1, 2], region=["south"], min_decile=4))
    expected = FRAME.eval(
        "specialty in ['oncology', 'hematology'] and priority_tier in [1, 2] and region == 'south' and decile >= 4"
    )
    assert chosen.dtype == bool
    assert (chosen == expected).all()
    assert 0 < chosen.sum() < len(FRAME)


def test_a_value_and_a_list_of_it_mean_the_same():
    assert conditions(TwinType.HCP, {"tier": 1}) == conditions(TwinType.HCP, {"tier": [1]})
    assert (matching({"tier": 1}) == (FRAME.priority_tier == 1)).all()


def test_a_word_and_the_feature_it_stands_for_mean_the_same():
    assert canonical_filters(TwinType.HCP, {"tier": 1}) == canonical_filters(TwinType.HCP, {"priority_tier": 1})
    assert canonical_filters(TwinType.PATIENT, {"region": "north"}) == {"geographic_region": ["north"]}
    assert canonical_filters(TwinType.TERRITORY, {"min_decile": 5}) == {"min_average_hcp_decile": 5}


def test_bounds_hold_their_ends():
    chosen = matching({"min_decile": 3, "max_decile": 5})
    assert sorted(FRAME.decile[chosen].unique()) == [3, 4, 5]


def test_a_missing_value_satisfies_nothing():
    frame = pd.DataFrame({"specialty": ["oncology", None], "decile": pd.array([5, None], dtype="Int64")})
    assert matching({"specialty": "oncology"}, frame=frame).tolist() == [True, False]
    assert matching({"min_decile": 1}, frame=frame).tolist() == [True, False]
    assert matching({"max_decile": 10}, frame=frame).tolist() == [True, False]


def test_words_left_open_select_nothing_away():
    assert matching(PopulationFilter()).all()
    assert matching({"specialty": None, "min_decile": None}).all()
    assert matching(None).all()


@pytest.mark.parametrize(
    ("filters", "named"),
    [
        ({"shoe_size": 43}, "hcp twins cannot be filtered by 'shoe_size': use adoption_stage, decile"),
        ({"min_shoe_size": 43}, "cannot be filtered by 'min_shoe_size'"),
        ({"specialty": []}, "filter 'specialty' is an empty list"),
        ({"min_specialty": "oncology"}, "filter 'min_specialty' is a bound, but 'specialty' is a category"),
        ({"specialty": 3}, "filter 'specialty' got 3: 'specialty' is a category"),
        ({"tier": "one"}, "filter 'tier' got 'one': 'priority_tier' is a integer"),
        ({"tier": [1, True]}, "filter 'tier' got True"),
        ({"min_decile": float("nan")}, "filter 'min_decile' got nan"),
        ({"min_decile": [1, 2]}, r"filter 'min_decile' got \[1, 2\]"),
    ],
)
def test_what_means_nothing_is_refused_by_name(filters, named):
    with pytest.raises(ValueError, match=named):
        conditions(TwinType.HCP, filters)


def test_a_condition_on_a_column_that_the_twins_lack_is_refused_with_those_they_have():
    with pytest.raises(ValueError, match="cannot filter on 'practice_size': these twins have specialty, region"):
        matching({"min_practice_size": 3})


def test_a_flag_is_filtered_by_its_truth_and_by_nothing_else():
    frame = pd.DataFrame({"insurance_coverage_flag": [True, False]})
    assert matching({"insurance_coverage_flag": False}, TwinType.PATIENT, frame).tolist() == [False, True]
    with pytest.raises(ValueError, match="got 'yes'"):
        conditions(TwinType.PATIENT, {"insurance_coverage_flag": "yes"})


tiers = st.lists(st.integers(1, 5), min_size=1, max_size=5)
places = st.lists(st.sampled_from(["north", "south", "west"]), min_size=1, max_size=3)


@given(tiers, places, st.integers(1, 10), st.randoms())
def test_equal_selections_have_one_canonical_spelling(tier, region, decile, random):
    said = {"tier": tier, "region": region, "min_decile": decile}
    shuffled = list(said.items())
    random.shuffle(shuffled)
    other = {word: random.sample(value, len(value)) if isinstance(value, list) else float(value) for word, value in shuffled}
    assert canonical_filters(TwinType.HCP, other) == canonical_filters(TwinType.HCP, said)
    assert canonical_filters(TwinType.HCP, PopulationFilter(**said)) == canonical_filters(TwinType.HCP, said)


@given(tiers, st.integers(1, 10))
def test_the_canonical_spelling_selects_the_same_twins(tier, decile):
    said = {"tier": tier, "min_decile": decile}
    assert (matching(canonical_filters(TwinType.HCP, said)) == matching(said)).all()


def test_conditions_do_not_depend_on_how_words_are_stored():
    stored = FRAME.astype({"specialty": "category", "region": "object"})
    wanted = {"specialty": "oncology", "region": ["south", "west"]}
    assert (matching(wanted, frame=stored) == matching(wanted)).all()


def test_a_condition_is_a_value():
    assert Condition(column="decile", operator="min", values=(3,)) == conditions(TwinType.HCP, {"min_decile": 3})[0]

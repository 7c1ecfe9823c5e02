"""Regions by a column of states or of regions."""

from __future__ import annotations

import pandas as pd
import pytest

from schemas import BUILT_IN, in_effect
from streams.tables.regions import (
    other_regions_notes,
    regions_as_declared,
    regions_of_states,
    undeclared_regions_notes,
)

POLISH = BUILT_IN.with_entries({"levels": {"region": {"mazowieckie": ["Mazowsze", "MAZ"], "slaskie": ["Śląsk"]}}})


@pytest.fixture
def _polish():
    with in_effect(POLISH):
        yield


@pytest.mark.usefixtures("_polish")
def test_a_declared_spelling_is_its_region_and_a_state_that_of_the_census():
    states = pd.Series(["MAZ", "śląsk", "NY", None, "Kujawy"])
    assert regions_of_states(states).tolist()[:3] == ["mazowieckie", "slaskie", "northeast"]
    assert regions_of_states(states).isna().tolist() == [False, False, False, True, False]
    (note,) = other_regions_notes(states)
    assert "1 row of 5" in note
    assert "'Kujawy' 1" in note


@pytest.mark.usefixtures("_polish")
def test_regions_are_read_as_declared_and_others_are_told():
    regions = pd.Series(["Mazowsze", "Kujawy", "Kujawy"])
    assert regions_as_declared(regions).tolist() == ["mazowieckie", "Kujawy", "Kujawy"]
    (note,) = undeclared_regions_notes(regions)
    assert "2 rows of 3" in note
    assert "'Kujawy' 2" in note


def test_without_declared_levels_states_have_census_regions_alone():
    assert regions_of_states(pd.Series(["MAZ", "tx"])).tolist() == ["other", "south"]
    assert other_regions_notes(pd.Series(["tx"])) == []
    assert undeclared_regions_notes(pd.Series(["MAZ"])) == []

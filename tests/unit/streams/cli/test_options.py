"""Filters and shortened IDs of the command line."""

from __future__ import annotations

from uuid import UUID

import pytest

from schemas import INTERVENTIONS, Frequency, InterventionConfig
from streams.cli.campaigns import make_campaign
from streams.cli.options import examples, parse_filter, parse_filters
from streams.cli.prefixes import match_prefix

FIRST, SECOND = UUID("1a2b3c4d-0000-4000-8000-000000000001"), UUID("1a2b9999-0000-4000-8000-000000000002")


def test_a_filter_is_a_list_of_values_or_a_bound() -> None:
    assert parse_filter("region=south,west") == ("region", ["south", "west"])
    assert parse_filter("min_decile=8") == ("min_decile", 8)
    assert parse_filter("tier=1") == ("tier", [1])
    assert parse_filter("min_digital_engagement_score=0.5") == ("min_digital_engagement_score", 0.5)
    assert parse_filter("region=1,01,1.50,-2") == ("region", [1, "01", "1.50", -2])
    assert parse_filter("region=1e3,inf,nan,1_0") == ("region", ["1e3", "inf", "nan", "1_0"])


@pytest.mark.parametrize("text", ["decile", "=8", "decile="])
def test_a_filter_without_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is not NAME=VALUE"):
        parse_filter(text)


@pytest.mark.parametrize("bound", ["1,000", "0,5", "1,000,000", "50%", "50 %", "$1000", "1'000", "1 000"])
def test_a_bound_that_is_written_with_signs_is_refused_with_the_form_that_is_read(bound: str) -> None:
    with pytest.raises(ValueError, match=r"write min_total_patient_volume=1000 .* min_total_patient_volume=0\.5"):
        parse_filter(f"min_total_patient_volume={bound}")


def test_no_value_of_a_column_whose_name_begins_like_a_bound_is_lost() -> None:
    assert parse_filter("min_reach=low,high") == ("min_reach", ["low", "high"])
    assert parse_filter("max_reach=high") == ("max_reach", "high")


def test_filters_are_combined_into_a_population() -> None:
    assert parse_filters(None) == parse_filters([])
    assert parse_filters(["region=south", "min_decile=8"]).min_decile == 8
    assert parse_filters(["region=1,01"]).region == ["1", "01"]


def test_the_first_characters_of_an_id_are_enough_when_they_are_unique() -> None:
    assert match_prefix("1A2B3", [FIRST, SECOND, FIRST], "model") == FIRST
    assert match_prefix(str(SECOND), [FIRST, SECOND], "model") == SECOND


def test_an_id_that_matches_none_or_several_is_refused() -> None:
    with pytest.raises(LookupError, match="no model begins with 'ff'"):
        match_prefix("ff", [FIRST, SECOND], "model")
    with pytest.raises(LookupError, match=f"2 IDs of a model begin with '1a2b': {FIRST}, {SECOND}"):
        match_prefix("1a2b", [FIRST, SECOND], "model")


@pytest.mark.parametrize("prefix", ["", "  "])
def test_an_empty_id_is_refused_although_every_id_begins_with_it(prefix: str) -> None:
    with pytest.raises(ValueError, match="the ID of a model is empty: give at least its first characters"):
        match_prefix(prefix, [FIRST], "model")


@pytest.mark.parametrize("intervention", INTERVENTIONS)
def test_a_campaign_uses_the_usual_channel_of_its_intervention(intervention: str) -> None:
    expected = InterventionConfig(
        intervention_type=intervention,
        channel=INTERVENTIONS[intervention].channel,
        frequency="monthly",
        duration_weeks=12,
    )
    campaign = make_campaign(intervention, None, Frequency.MONTHLY, 12, None)
    assert campaign.model_dump_json() == expected.model_dump_json()


def test_examples_stand_on_a_line_each() -> None:
    assert examples("twinstream up", "twinstream demo") == "\b\nExamples:\n  twinstream up\n  twinstream demo"

"""Formats of numbers, shares and times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from streams.reporting import formatting
from streams.web.rendering import differences, facts

NOW = datetime(2025, 3, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formatting.number(0.0512345), "0.05123"),
        (formatting.number(0.0512345, 2), "0.051"),
        (formatting.number(-0.5), "-0.5"),
        (formatting.number(999.96), "1,000"),
        (formatting.number(1768.35, 3), "1,768"),
        (formatting.number(-1768.35, 2), "-1,768"),
        (formatting.number(12_345.6), "12,346"),
        (formatting.signed_number(0.125), "+0.125"),
        (formatting.signed_number(-12_345.6), "-12,346"),
        (formatting.count(21_600), "21,600"),
        (formatting.standard_error(0.001234), "0.0012"),
        (formatting.share(0.951), "95.1%"),
        (formatting.signed_share(-0.012), "-1.2%"),
        (formatting.standard_error_share(0.001234), "0.12%"),
        (formatting.change(0.06, 0.05), "+20.0%"),
        (formatting.span(3600.0), "1 h"),
        (formatting.span(15.0), "15 s"),
        (formatting.plain_words("do_not_deploy"), "do not deploy"),
        (formatting.line_title("hcp:kisqali:prescribing_change"), "HCP · Kisqali"),
    ],
)
def test_a_value_has_one_format(text, expected):
    assert text == expected


@pytest.mark.parametrize("format_value", [formatting.number, formatting.count, formatting.share, formatting.standard_error])
def test_a_missing_value_is_a_dash(format_value):
    assert format_value(None) == "-"


def test_every_text_is_ascii():
    texts = [formatting.number(-0.5), formatting.signed_number(-1.0), formatting.share(-0.1), formatting.signed_share(-0.1)]
    assert all(text.isascii() for text in [*texts, formatting.change(1.0, 2.0), formatting.number(None)])


def test_the_page_has_a_minus_sign_and_a_dash():
    assert [formatting.typographic(text) for text in ("-0.5", "-", "12,346")] == ["\N{MINUS SIGN}0.5", "\N{EN DASH}", "12,346"]


def test_a_change_needs_both_values_and_a_base_other_than_zero():
    assert [formatting.change(0.06, None), formatting.change(None, 0.05), formatting.change(0.06, 0.0)] == ["", "", ""]


def test_times_are_in_utc_whatever_their_zone():
    elsewhere = datetime.fromisoformat("2025-03-04T14:30:00+02:00")
    assert (formatting.moment(elsewhere), formatting.clock(elsewhere)) == ("2025-03-04 12:30:00", "12:30:00")


@pytest.mark.parametrize(
    ("passed", "expected"),
    [(0, "0 s ago"), (59, "59 s ago"), (3599, "59 min ago"), (5000, "1 h ago"), (200_000, "2 d ago"), (-5, "0 s ago")],
)
def test_a_time_ago_is_in_the_largest_unit_that_fits(passed, expected):
    assert formatting.ago(NOW - timedelta(seconds=passed), NOW) == expected


MAE = {"champion": 0.1, "challenger": 0.08, "difference": -0.02, "standard_error": 0.005, "entities": 500}


def test_facts_of_a_json_object_are_flat_pairs_without_long_lists_and_objects_in_lists():
    values = {
        "challenger_mae": 0.05,
        "metrics": {"n": 4000, "is_final": True},
        "few": ["a", 0.123456],
        "empty": [],
        "many": [0] * 7,
    }
    assert facts(values | {"verdicts": [{"rule": "mae"}], "mae": MAE, "nothing": None}) == [
        ("challenger MAE", "0.05"),
        ("metrics, n", "4,000"),
        ("metrics, is final", "yes"),
        ("few", "a, 0.1235"),
        ("empty", "none"),
    ]


def test_differences_of_a_comparison_are_those_of_all_rows_and_of_segments():
    comparison = {"n": 500, "mae": MAE, "segments": {"region=south": MAE}}
    assert differences(comparison) == [("MAE", MAE), ("MAE of region=south", MAE)]
    assert differences({"challenger_mae": 0.05}) == []

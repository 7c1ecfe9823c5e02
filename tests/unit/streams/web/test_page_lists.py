"""What lists show, from the parameters of their addresses."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from multidict import MultiDict

from streams.reporting.overview import LineChoice
from streams.web.page_lists import BadParameter, ListChoice, line_choice, list_choice

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_without_parameters_a_list_shows_the_first_page_of_everything():
    choice = list_choice(MultiDict(), ["deploy"], ranged=True)
    assert choice == ListChoice()
    assert choice.query(AT) == ("", "", None, 50, 0)
    assert not choice.is_filtered


def test_the_parameters_of_a_list_become_its_query():
    choice = list_choice(MultiDict(q=" south ", state="deploy", hours="24", page="3"), ["deploy"], ranged=True)
    assert choice.query(AT) == ("south", "deploy", datetime(2026, 2, 28, 12, tzinfo=UTC), 50, 100)
    assert choice.address(4) == "q=south&state=deploy&hours=24&page=4"


@pytest.mark.parametrize(("n", "pages"), [(0, 1), (50, 1), (51, 2), (1_004, 21)])
def test_the_last_page_may_be_short(n: int, pages: int):
    assert ListChoice().pages(n) == pages


def test_text_that_is_searched_for_is_no_pattern():
    assert ListChoice("50%_\\").query(AT).arguments[0] == "%50\\%\\_\\\\%"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("state", "odd", "there is no state 'odd' in this list: use deploy, or none"),
        ("page", "0", "the parameter page is '0': it has to be a whole number, from 1 to 100000"),
        ("page", "1e3", "the parameter page is '1e3'"),
        ("page", "9" * 30, "the parameter page is '9999"),
        ("hours", "-1", "the parameter hours is '-1': it has to be a whole number, one of 0, 1, 24, 168, 720"),
    ],
)
def test_a_parameter_that_is_refused_is_named_with_what_is_allowed(name: str, value: str, sentence: str):
    with pytest.raises(BadParameter) as refusal:
        list_choice(MultiDict({name: value}), ["deploy"], ranged=True)
    assert str(refusal.value).startswith(sentence)


def test_a_line_shows_all_outcomes_of_the_last_windows_unless_told_otherwise():
    assert line_choice(MultiDict()) == LineChoice()
    chosen = line_choice(MultiDict([("segment", "all"), ("segment", "region=south"), ("segment", "all"), ("hours", "24")]))
    assert chosen == LineChoice(("all", "region=south"), 24)


def test_more_segments_than_a_chart_shows_are_refused():
    with pytest.raises(BadParameter, match="7 segments are more than the 6 that a chart shows"):
        line_choice(MultiDict([("segment", f"s={number}") for number in range(7)]))

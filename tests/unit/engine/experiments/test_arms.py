"""Arms are read from words that name them; everything else is refused with its rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from engine.experiments import (
    parse_arms,
    relative_effect,
    require_filled,
    sample_ratio_p,
    sample_ratio_warning,
    treated_counterfactuals,
)


@pytest.mark.parametrize(
    "column",
    [
        ["treated", "control", "treated"],
        [" Treated ", "CONTROL", "treated\t"],
        [1, 0, 1],
        [1.0, 0.0, 1.0],
        ["1", "0", "1.0"],
        [True, False, True],
        np.array([True, False, True]),
        ["TRUE", "false", "True"],
        ["yes", "No", "YES"],
        pd.Series([True, False, True], dtype=object, index=[7, 7, 9]),
        pd.Series(["yes", "no", "yes"], dtype="category"),
    ],
)
def test_plain_words_are_read_in_any_case_and_type(column: Any):
    assert parse_arms(column).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["treated", None, "control", " "], r"column 'arm' is empty in rows 2, 4 \(the first row of values is 1\)"),
        ([1.0, 0.0, math.nan], r"column 'arm' is empty in row 3 "),
        (
            ["treated", "control", "hold-out"],
            r"neither 'treated' nor 'control' in row 3 .*'hold-out'; name the values .*--treated-value",
        ),
        ([1, 0, 2, 0, -1], r"neither '1' nor '0' in rows 3, 5 .*: 2, -1;"),
        (["A", "B"], r"holds 'a', 'b', which are none of treated/control, 1/0, true/false, yes/no"),
        (["yes", "0"], r"holds '0', 'yes', which are of several pairs of"),
        ([0.5, 1.0], r"neither '1' nor '0' in row 1"),
        (["t", "c"], r"which are none of"),
        (["y"] * 9, r"which are none of"),
    ],
)
def test_empty_and_unlisted_values_are_refused_with_their_rows(column: Any, message: str):
    with pytest.raises(ValueError, match=message):
        parse_arms(column, name="arm")


def test_other_words_are_read_when_both_arms_are_named():
    column = ["Mailed", "hold out", " mailed"]
    assert parse_arms(column, treated_value="mailed", control_value="Hold out").tolist() == [True, False, True]
    assert parse_arms([2, 1, 2.0], treated_value="2", control_value="1").tolist() == [True, False, True]
    assert parse_arms(["control", "treated"], treated_value="control", control_value="treated").tolist() == [True, False]
    with pytest.raises(ValueError, match="belong together"):
        parse_arms(column, treated_value="mailed")
    with pytest.raises(ValueError, match="are the same value, 'mailed'"):
        parse_arms(column, treated_value="mailed", control_value="MAILED ")
    with pytest.raises(ValueError, match=r"neither 'mailed' nor 'none' in row 2 .*'hold out'"):
        parse_arms(column, treated_value="mailed", control_value="none")


def test_a_text_is_never_taken_for_truth_by_the_analyses():
    outcome, arms = [1.0, 3.0, 2.0, 6.0] * 50, ["control", "treated"] * 100
    expected = relative_effect(outcome, [False, True] * 100)
    assert relative_effect(outcome, arms) == expected
    assert expected.effect == pytest.approx(4.5 / 1.5 - 1)
    rng = np.random.default_rng(0)
    prediction = rng.normal(size=200)
    with_words, with_flags = (
        treated_counterfactuals(prediction, outcome, arm).average for arm in (arms, np.array([False, True] * 100))
    )
    assert with_words == with_flags
    with pytest.raises(ValueError, match="which are none of"):
        treated_counterfactuals(prediction, outcome, ["a", "b"] * 100)


def test_one_arm_or_a_missing_outcome_has_no_effect():
    with pytest.raises(ValueError, match="all 4 people are treated: an effect needs both arms"):
        relative_effect([1.0, 2.0, 3.0, 4.0], ["yes"] * 4)
    with pytest.raises(ValueError, match="1 outcomes are missing"):
        relative_effect([1.0, math.nan, 3.0, 4.0], ["yes", "no"] * 2)


@pytest.mark.parametrize("clusters", [["a", None] * 4, ["a", ""] * 4, ["a", "  "] * 4, [1.0, math.nan] * 4])
def test_an_empty_cluster_is_refused_with_its_rows_and_is_no_cluster(clusters: Any):
    with pytest.raises(ValueError, match=r"column 'clusters' is empty in rows 2, 4, 6, 8 "):
        relative_effect([1.0, 2.0] * 4, [True, False] * 4, clusters)
    with pytest.raises(ValueError, match=r"column 'clinic' is empty in rows 2, 4, 6, 8 "):
        require_filled(clusters, "clinic")


def test_many_rows_are_counted_beyond_the_first_five():
    with pytest.raises(ValueError, match=r"in rows 1, 2, 3, 4, 5 and 995 more"):
        require_filled([None] * 1000, "clinic")


@pytest.mark.parametrize(("treated", "control", "ratio"), [(510, 490, 1.0), (100, 321, 3.0), (5000, 5300, 1.0), (1, 9, 1.0)])
def test_the_sample_ratio_has_the_p_value_of_the_chi_square_test(treated: int, control: int, ratio: float):
    n = treated + control
    p = stats.chisquare([treated, control], [n / (1 + ratio), n * ratio / (1 + ratio)]).pvalue
    assert sample_ratio_p(treated, control, ratio) == pytest.approx(p)


def test_a_sample_ratio_mismatch_is_warned_of_below_one_in_a_thousand():
    assert sample_ratio_warning(500, 560) is None
    warning = sample_ratio_warning(500, 650)
    assert warning is not None
    assert "500 treated and 650 control people contradict the planned ratio of 1 to 1" in warning
    assert "below 0.001" in warning
    assert sample_ratio_warning(500, 1000, 2.0) is None
    assert "1 to 2" in str(sample_ratio_warning(500, 500, 2.0, "clusters"))
    assert stats.chisquare([500, 609]).pvalue > 0.001 > stats.chisquare([500, 610]).pvalue
    assert [sample_ratio_warning(500, n) is None for n in (609, 610)] == [True, False]

"""Thresholds of a line: the limits that they allow, and the rules that follow from them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas import DRIFT_RULES
from schemas.thresholds import DEFAULT_THRESHOLDS, LineThresholds


def test_a_line_that_nobody_changed_has_the_thresholds_of_the_brief() -> None:
    thresholds = DEFAULT_THRESHOLDS
    assert (thresholds.version, thresholds.min_effect_threshold, thresholds.confidence_threshold) == (0, 0.05, 0.90)
    assert thresholds.rules == DRIFT_RULES


def test_a_limit_of_a_line_replaces_that_of_its_rule_alone() -> None:
    thresholds = LineThresholds(drift_limits={"correlation_drop": 0.5})
    assert thresholds.rule("correlation_drop").limit == 0.5
    assert [rule for rule in thresholds.rules if rule.name != "correlation_drop"] == [
        rule for rule in DRIFT_RULES if rule.name != "correlation_drop"
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_effect_threshold": 5e-324}, "greater than or equal to 0.0001"),
        ({"min_effect_threshold": 1.0}, "less than 1"),
        ({"confidence_threshold": 0.5}, "greater than 0.5"),
        ({"confidence_threshold": float("nan")}, "less than 1"),
        (
            {"drift_limits": {"mae_rise": 0.2}},
            "unknown drift rule 'mae_rise': use one of correlation_drop, coverage_drop",
        ),
        ({"drift_limits": {"mae_increase": 20.0}}, "the limit 20 of mae_increase must lie between 0 and 10"),
        ({"drift_limits": {"coverage_drop": 90.0}}, "the limit 90 of coverage_drop must lie between 0 and 1"),
        ({"drift_limits": {"correlation_drop": -1.0}}, "the limit -1 of correlation_drop must lie between -1 and 1"),
    ],
)
def test_an_impossible_threshold_is_refused_with_what_is_possible(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        LineThresholds(**fields)
    assert message in str(refused.value)

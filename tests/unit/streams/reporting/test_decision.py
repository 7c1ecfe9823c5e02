"""What would change a decision follows from what a result stores: compared with a normal effect, whose quantiles are known."""

from __future__ import annotations

import csv
import io

import pytest
from scipy.stats import norm

from streams.reporting.answer_table import answer_csv
from streams.reporting.decision import decision_changes, distribution_chart, effect_distribution

MEAN, SD = 0.06, 0.02
EFFECT = norm(MEAN, SD)


def result(threshold: float, needed: float = 0.9) -> dict[str, object]:
    """A result whose effect is normal."""
    low, high = EFFECT.interval(0.95)
    return {
        "ate": MEAN,
        "ate_ci_lower": low,
        "ate_ci_upper": high,
        "confidence_level": 0.95,
        "min_effect_threshold": threshold,
        "probability_worthwhile": EFFECT.sf(threshold),
        "confidence_threshold": needed,
        "required_sample_size": {
            "minimum_detectable_effect": threshold,
            "power": 0.8,
            "n_treated_adjusted": 600,
            "n_control_adjusted": 650,
        },
    }


@pytest.mark.parametrize("value", [-0.02, 0.03, 0.05, 0.06, 0.2])
def test_a_normal_effect_is_found_again_within_and_beyond_its_interval(value: float):
    distribution = effect_distribution(result(0.05))
    assert distribution is not None
    assert distribution.reaches(value) == pytest.approx(EFFECT.sf(value), abs=1e-9)
    assert distribution.reached_with(0.9) == pytest.approx(EFFECT.ppf(0.1))


def test_the_stored_probability_is_kept_where_the_effect_is_skewed():
    skewed = {**result(0.05), "probability_worthwhile": 0.8}
    distribution = effect_distribution(skewed)
    assert distribution is not None
    assert distribution.reaches(0.05) == pytest.approx(0.8)
    assert distribution.reaches(EFFECT.interval(0.95)[0]) == pytest.approx(0.975)


def test_a_probability_that_contradicts_the_interval_is_left_out():
    distribution = effect_distribution({**result(0.05), "probability_worthwhile": 0.001})
    assert distribution is not None
    assert distribution.reaches(0.05) == pytest.approx(EFFECT.sf(0.05))


@pytest.mark.parametrize(
    ("threshold", "recommendation", "sentences"),
    [
        (
            0.05,
            "test_further",
            [
                "The recommendation would be to deploy if an effect of 3.4% were worth it (now 5.0%).",
                "The recommendation would be not to deploy if only an effect above 8.6% were worth it.",
                "The recommendation would be to deploy if a probability of 69% were enough (now 90%).",
            ],
        ),
        (
            0.02,
            "deploy",
            [
                "A test would be recommended if only an effect above 3.4% were worth it (now 2.0%).",
                "A test would be recommended if a decision needed a probability above 97.7% (now 90%).",
            ],
        ),
        (
            0.1,
            "do_not_deploy",
            [
                "A test would be recommended if an effect of less than 8.6% were worth it (now 10.0%).",
                "A test would be recommended if a decision needed a probability above 97.7% (now 90%).",
            ],
        ),
        (0.02, "test_further", ["The probability alone would be enough to deploy: what the reason names asks for a test."]),
        (0.1, "test_further", ["The probability alone would be enough not to deploy: what the reason names asks for a test."]),
    ],
)
def test_what_would_change_a_decision_is_told_with_the_value_from_which_on_it_would(
    threshold: float, recommendation: str, sentences: list[str]
):
    *changes, experiment = decision_changes(result(threshold), recommendation)
    assert changes == sentences
    assert experiment.startswith(f"A real experiment with 1,250 people detects an effect of {threshold:.1%} with probability 80%")


def test_nothing_is_told_of_an_answer_without_an_effect():
    assert decision_changes({}, None) == []
    assert distribution_chart({}, "") is None
    assert distribution_chart({**result(0.05), "ate_ci_upper": EFFECT.interval(0.95)[0]}, "") is None


def test_the_chart_marks_the_threshold_and_what_a_decision_needs():
    chart = distribution_chart(result(0.05), "of sales")
    assert chart is not None
    (curve,) = chart.curves
    assert [point.value for point in curve.points] == pytest.approx([EFFECT.sf(point.x / 100) for point in curve.points], abs=1e-9)
    assert [line.value for line in chart.lines] == pytest.approx([0.9, 0.1])
    assert [marker.x for marker in chart.markers] == pytest.approx([5.0])


def test_the_table_has_the_campaign_its_alternatives_and_its_subgroups():
    alternative = {
        "intervention": {"intervention_type": "peer_to_peer_referral"},
        "ate": 0.08,
        "ate_ci_lower": 0.05,
        "ate_ci_upper": 0.11,
        "probability_best": 0.7,
        "difference": 0.02,
        "difference_ci_lower": -0.01,
        "difference_ci_upper": 0.05,
    }
    groups = {"region": [{"group": "south", "estimate": 0.07, "ci_lower": 0.03, "ci_upper": 0.1, "n": 400}]}
    results = {**result(0.05), "affected_twin_count": 900, "alternatives": [alternative], "heterogeneity": {"by_dimension": groups}}
    rows = list(csv.DictReader(io.StringIO(answer_csv({"intervention_type": "email_campaign"}, results))))
    assert [(row["part"], row["name"], row["effect"], row["twins"]) for row in rows] == [
        ("campaign", "email_campaign", "0.06", "900"),
        ("alternative", "peer_to_peer_referral", "0.08", ""),
        ("region", "south", "0.07", "400"),
    ]
    assert (rows[1]["difference"], rows[1]["difference_lower"], rows[1]["probability_best"]) == ("0.02", "-0.01", "0.7")
    assert list(csv.DictReader(io.StringIO(answer_csv({}, {})))) == []

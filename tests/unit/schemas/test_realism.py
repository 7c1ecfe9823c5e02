"""The verdict on twins follows from their figures by limits that allow for what as many real rows would show by chance."""

from __future__ import annotations

import math

import pytest

from schemas.realism import RealismReport, RealismVerdict, not_assessed


def report(**figures: float) -> RealismReport:
    """Of twins like other real rows, 2,000 against 2,000, except for these figures."""
    like_real_rows = {"auc": 0.5, "marginal_score": 0.99, "association_error": 0.01, "exact_copies": 0.0, "near_copies": 0.05}
    counts = {"closer_to_training": 0.5, "n_synthetic": 2000, "n_held_out": 2000}
    return RealismReport(**like_real_rows | counts | figures)  # type: ignore[arg-type]  # the counts are whole numbers


def test_twins_like_other_real_rows_are_realistic_and_safe_without_any_reason() -> None:
    assert report().verdict == RealismVerdict(similarity="realistic", privacy="safe")
    assert report().verdict.warnings == ()


@pytest.mark.parametrize(
    ("figure", "within", "care", "unrealistic"),
    [
        # beyond 0.56 and 0.80 by two standard errors of an AUC, sqrt(4001 / (12 * 2000 ** 2)) = 0.0091 each
        ("auc", 0.578, 0.579, 0.819),
        # beyond 5 and 10 points by the mean Kolmogorov-Smirnov distance of two samples, 0.8687 * sqrt(1 / 1000) = 0.0275
        ("marginal_score", 0.923, 0.922, 0.872),
        # beyond 0.03 and 0.10 by the mean absolute difference of two correlations near zero, sqrt(2 / pi / 1000) = 0.0252
        ("association_error", 0.055, 0.056, 0.126),
    ],
)
def test_each_figure_has_two_limits_beyond_chance(figure: str, within: float, care: float, unrealistic: float) -> None:
    words = [report(**{figure: value}).verdict.similarity for value in (within, care, unrealistic)]
    assert words == ["realistic", "usable with care", "not realistic"]


def test_a_verdict_names_the_figure_and_the_limit_that_it_is_above() -> None:
    verdict = report(auc=0.913, association_error=0.07).verdict
    assert verdict.reasons == ("an AUC of 0.913 is above 0.818",)
    assert verdict.warnings == ("these twins are not realistic: an AUC of 0.913 is above 0.818",)
    both = report(auc=0.6, association_error=0.07).verdict
    assert both.reasons == ("an AUC of 0.600 is above 0.578", "a mean association error of 0.070 is above 0.055")


def test_each_classifier_has_limits_of_its_own_and_the_strongest_is_named() -> None:
    aucs = {"boosting": 0.57, "forest": 0.64, "boosting with ratios": 0.63}
    strong = report(auc=0.64).model_copy(update={"aucs": aucs})
    assert strong.classifier == "forest"
    assert strong.verdict.reasons == ("an AUC (boosting with ratios) of 0.630 is above 0.618",)


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        # 0.07 and two standard errors of a share of 5 %, sqrt(0.05 * 0.95 / 1000) = 0.0069 each
        ({"near_copies": 0.084}, "8.40% near copies, above 8.38%"),
        # 0.55 and two standard errors of a half, sqrt(0.25 / 2000) = 0.0112 each
        ({"closer_to_training": 0.573}, "57.30% twins nearer to training rows, above 57.24%"),
        ({"exact_copies": 0.011}, "1.10% exact copies, above 1.00%"),
    ],
)
def test_twins_nearer_to_training_rows_than_real_rows_are_near_copies(figures: dict[str, float], reason: str) -> None:
    verdict = report(**figures).verdict
    assert (verdict.similarity, verdict.privacy, verdict.privacy_reasons) == ("realistic", "near copies", (reason,))
    assert verdict.warnings == (f"some of these twins are near copies of real rows: {reason}",)
    less = {name: value - 0.002 for name, value in figures.items()}
    assert report(**less).verdict.privacy == "safe"


def test_exact_copies_are_no_excess_where_real_rows_equal_each_other_as_often() -> None:
    assert report(exact_copies=0.4, real_copies=0.4).verdict.privacy == "safe"
    assert report(exact_copies=0.4).verdict.privacy == "near copies"


def test_few_held_out_rows_are_never_called_realistic_and_widen_every_limit() -> None:
    few = report(n_held_out=80, n_synthetic=80).verdict
    assert (few.similarity, few.privacy) == ("usable with care", "safe")
    assert few.reasons == ("only 80 held-out rows were compared: 200 are needed to tell",)
    standard_error = math.sqrt(161 / (12 * 80 * 80))
    assert report(n_held_out=80, n_synthetic=80, auc=0.56 + 2 * standard_error - 0.001).verdict == few
    assert len(report(n_held_out=80, n_synthetic=80, auc=0.56 + 2 * standard_error + 0.001).verdict.reasons) == 2


def test_what_was_not_assessed_has_no_other_word_and_no_warning() -> None:
    verdict = not_assessed("only 12 real rows satisfy the filters")
    assert (verdict.similarity, verdict.privacy, verdict.warnings) == ("not assessed", "not assessed", ())

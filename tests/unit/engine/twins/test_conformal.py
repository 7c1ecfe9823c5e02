from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from engine.twin_generator import TwinGenerator
from engine.twins.conformal import Conformal, _edges, conformal_quantile, fit_conformal
from engine.twins.segment_factors import SegmentFactors, fit_factors
from schemas.twin_types import Brand, TwinType

PRESCRIBERS = Path(__file__).resolve().parents[5] / "shared" / "data" / "hcp_partd_2013_2014.csv.gz"


def simulate_residuals(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and residuals whose size grows twentyfold along the first of them."""
    rng = np.random.default_rng(seed)
    features = rng.uniform(size=(n, 3))
    return features, np.exp(3 * features[:, 0] - 2) * rng.standard_t(5, n)


def ends(conformal: Conformal, rows: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of intervals around a prediction of 0."""
    widths = conformal.widths(rows, pd.DataFrame(index=range(len(rows))), level)
    return -widths.below, widths.above


def inside(conformal: Conformal, rows: np.ndarray, actual: np.ndarray) -> np.ndarray:
    lower, upper = ends(conformal, rows)
    return (lower <= actual) & (actual <= upper)


@pytest.fixture(scope="module")
def fitted() -> tuple[Conformal, np.ndarray, np.ndarray]:
    features, residuals = simulate_residuals(6000, 1)
    unseen, actual = simulate_residuals(20_000, 2)
    conformal, _ = fit_conformal(features, residuals, seed=0)
    return conformal, unseen, actual


@settings(max_examples=100)
@given(n=st.integers(1, 400), level=st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]))
def test_the_quantile_is_the_smallest_score_with_the_required_rank(n: int, level: float) -> None:
    quantile = conformal_quantile(np.arange(1, n + 1), level)
    assert quantile == np.inf or quantile / (n + 1) >= level - 1e-9
    assert quantile == np.inf or (quantile - 1) / (n + 1) < level
    assert (quantile == np.inf) == (n / (n + 1) < level - 1e-9)


def test_coverage_of_exchangeable_scores_has_a_beta_binomial_distribution() -> None:
    """With n scores, hits among m new ones follow a beta-binomial: mean k / (n + 1), k the rank of the quantile (Vovk 2012)."""
    n, m, level = 199, 500, 0.9
    rng = np.random.default_rng(0)
    hits = [(rng.exponential(size=m) <= conformal_quantile(rng.exponential(size=n), level)).sum() for _ in range(400)]
    k = 180
    law = betabinom(m, k, n + 1 - k)
    assert np.mean(hits) == pytest.approx(law.mean(), abs=4 * law.std() / 20)
    assert np.std(hits) == pytest.approx(law.std(), rel=0.2)


def test_intervals_cover_95_percent_of_unseen_outcomes(fitted: tuple[Conformal, np.ndarray, np.ndarray]) -> None:
    conformal, unseen, actual = fitted
    assert inside(conformal, unseen, actual).mean() == pytest.approx(0.95, abs=0.015)
    assert conformal.coverage(0.95) == pytest.approx(0.95, abs=2e-3)


def test_easy_and_hard_rows_have_the_same_coverage(fitted: tuple[Conformal, np.ndarray, np.ndarray]) -> None:
    conformal, unseen, actual = fitted
    tenth = np.floor(unseen[:, 0] * 10).astype(int)
    assert (np.bincount(tenth, inside(conformal, unseen, actual)) / np.bincount(tenth)).min() > 0.92
    constant = conformal_quantile(np.abs(simulate_residuals(6000, 1)[1]), 0.95)
    assert (np.bincount(tenth, np.abs(actual) <= constant) / np.bincount(tenth)).min() < 0.85


def test_rows_whose_tails_differ_with_their_difficulty_have_the_same_coverage() -> None:
    """Hard rows have rare large residuals: one common quantile covers too few of them and too many of the others."""

    def table(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        features = rng.uniform(size=(n, 3))
        tails = np.where(features[:, 0] < 0.8, rng.normal(size=n), 2 * rng.standard_t(2, n))
        return features, tails

    training, residuals = table(10_000, 1)
    unseen, actual = table(100_000, 2)
    conformal, _ = fit_conformal(training, residuals, seed=0)
    lower, upper = ends(conformal, unseen)
    tenth = pd.qcut(upper - lower, 10, labels=False)
    assert len(conformal.scores) == 5
    assert pd.Series((lower <= actual) & (actual <= upper)).groupby(tenth).mean().between(0.93, 0.97).all()
    pooled = Conformal(conformal.difficulty, conformal.floor, np.empty(0), [np.concatenate(conformal.scores)])
    assert pd.Series(inside(pooled, unseen, actual)).groupby(tenth).mean().min() < 0.93


def test_groups_have_enough_rows_and_equal_difficulty_is_never_split() -> None:
    rng = np.random.default_rng(0)
    assert len(fit_conformal(rng.uniform(size=(500, 2)), rng.normal(size=500), seed=0).conformal.scores) == 1
    assert len(fit_conformal(rng.uniform(size=(1100, 2)), rng.normal(size=1100), seed=0).conformal.scores) == 3
    assert _edges(np.full(3000, 1.0)).tolist() == []
    assert _edges(np.repeat([1.0, 2.0, 3.0], [100, 1900, 1000])).tolist() == [3.0]
    assert _edges(np.arange(3000.0)).tolist() == [600.0, 1200.0, 1800.0, 2400.0]


def test_intervals_are_on_average_no_wider_than_constant_ones(fitted: tuple[Conformal, np.ndarray, np.ndarray]) -> None:
    conformal, unseen, _ = fitted
    constant = conformal_quantile(np.abs(simulate_residuals(6000, 1)[1]), 0.95)
    lower, upper = ends(conformal, unseen)
    assert (upper - lower).mean() <= 2 * constant


def test_a_higher_level_gives_a_wider_interval(fitted: tuple[Conformal, np.ndarray, np.ndarray]) -> None:
    conformal, unseen, _ = fitted
    widths = np.stack([ends(conformal, unseen[:50], level) for level in (0.5, 0.8, 0.95, 0.99)])
    assert (np.diff(np.abs(widths), axis=0) > 0).all()


def test_zero_residuals_give_intervals_of_almost_no_width() -> None:
    features = np.random.default_rng(0).uniform(size=(500, 2))
    assert np.abs(ends(fit_conformal(features, np.zeros(500), seed=0).conformal, features)).max() < 1e-9


def test_a_level_that_needs_more_scores_is_refused(fitted: tuple[Conformal, np.ndarray, np.ndarray]) -> None:
    few = Conformal(fitted[0].difficulty, 0.1, np.empty(0), [np.arange(1.0, 11.0)])
    with pytest.raises(ValueError, match=r"10 scores are too few for an interval at level 0.95"):
        ends(few, fitted[1])


def skewed_table(n: int, seed: int) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Features that tell nothing of a segment whose residuals are skewed, and of one that has few rows."""
    rng = np.random.default_rng(seed)
    segment = rng.choice(["plain", "skewed", "narrow", "rare"], n, p=[0.5, 0.3, 0.19, 0.01])
    skewed = rng.exponential(size=n) - 1
    residuals = np.select([segment == "skewed", segment == "narrow"], [3 * skewed, 0.3 * rng.normal(size=n)], rng.normal(size=n))
    return rng.uniform(size=(n, 2)), pd.DataFrame({"segment": segment}), residuals


def test_each_segment_has_the_same_coverage_in_both_tails() -> None:
    """The exponential law less 1 has tails at -1 and ln 40 - 1; a segment of few rows borrows from the others."""
    training, segments, residuals = skewed_table(10_000, 1)
    unseen, levels, actual = skewed_table(100_000, 2)
    conformal, _ = fit_conformal(training, residuals, 0, segments=segments)
    widths = conformal.widths(unseen, levels, 0.95)
    misses = pd.DataFrame({"below": actual < -widths.below, "above": actual > widths.above}).groupby(levels["segment"]).mean()
    assert misses.loc[["plain", "skewed", "narrow"]].to_numpy() == pytest.approx(0.025, abs=0.015)
    assert misses.loc["rare"].sum() < 0.09
    skewed = (levels["segment"] == "skewed").to_numpy()
    assert widths.above[skewed].mean() == pytest.approx(3 * (np.log(40) - 1), rel=0.15)
    assert widths.below[skewed].mean() == pytest.approx(3 * (1 - np.log(40 / 39)), rel=0.15)
    without, _ = fit_conformal(training, residuals, 0)
    lower, upper = ends(without, unseen)
    outside = pd.Series((actual < lower) | (actual > upper)).groupby(levels["segment"]).mean()
    assert outside["skewed"] > 0.08
    assert outside["narrow"] < 0.001


def test_a_level_without_factors_of_its_own_has_those_of_the_whole() -> None:
    training, segments, residuals = skewed_table(4000, 1)
    conformal, _ = fit_conformal(training, residuals, 0, segments=segments)
    unknown = pd.DataFrame({"segment": ["elsewhere", None]})
    plain = Conformal(conformal.difficulty, conformal.floor, conformal.edges, conformal.scores)
    for of_unknown, of_whole in zip(
        conformal.widths(training[:2], unknown, 0.95), plain.widths(training[:2], unknown, 0.95), strict=True
    ):
        assert of_unknown.tolist() == of_whole.tolist()


def test_widths_of_the_calibration_rows_are_those_of_unseen_rows() -> None:
    """Factors of small segments have learned the largest residuals of their rows, and cover too many of them."""
    rng = np.random.default_rng(0)
    training, residuals = rng.uniform(size=(1000, 3)), rng.standard_t(4, 1000)
    segments = pd.DataFrame({"segment": rng.integers(0, 50, 1000)})
    conformal, own = fit_conformal(training, residuals, 0, segments=segments)
    learned = conformal.widths(training, segments, 0.95)
    of_own, of_learned = (((-widths.below <= residuals) & (residuals <= widths.above)).mean() for widths in (own, learned))
    assert of_own == pytest.approx(0.95, abs=0.01)
    assert of_learned > of_own


def test_factors_of_segments_survive_storage() -> None:
    segments = pd.DataFrame({"tier": np.repeat([1, 2], 500), "region": ["north", "south"] * 500})
    sides = np.abs(np.random.default_rng(0).normal(size=(2, 1000)))
    for factors in fit_factors(sides, segments, np.ones(1000), lambda scores, weights: conformal_quantile(scores, 0.95, weights)):
        restored = SegmentFactors.from_meta(json.loads(json.dumps(factors.to_meta())))
        assert restored == factors
        assert set(restored.of_rows(segments[factors.name])[0]) == set(factors.below.values())


@pytest.mark.skipif(not PRESCRIBERS.exists(), reason="the table of real prescribers is not available")
def test_on_real_prescribers_intervals_cover_unseen_rows_evenly_and_are_narrower_than_constant_ones() -> None:
    table = pd.read_csv(PRESCRIBERS)
    columns = ["specialty", "grad_year", "bene_count", "total_claims", "total_drug_cost", "total_day_supply", "brand_claims"]
    frame = table[[f"{name}_2013" for name in columns]].set_axis(columns, axis=1)
    frame["prescribing_change"] = table["total_claims_2014"] / table["total_claims_2013"] - 1
    order = np.random.default_rng(7).permutation(len(frame))
    training, unseen = frame.iloc[order[:8000]], frame.iloc[order[8000:20_000]]
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, model_type="RandomForest")
    generator.train(training)
    lower, upper = generator.predict_interval(unseen)
    inside = (unseen["prescribing_change"] >= lower) & (unseen["prescribing_change"] <= upper)
    tenth = pd.qcut(upper - lower, 10, labels=False)
    assert 0.93 <= inside.mean() <= 0.97
    assert inside.groupby(tenth).mean().min() >= 0.92
    residual = unseen["prescribing_change"] - generator.predict(unseen)
    assert (upper - lower).mean() <= 2 * conformal_quantile(residual.abs(), 0.95)

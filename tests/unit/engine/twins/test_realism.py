from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp, spearmanr

from engine.twins.detection import BOOSTING, CLASSIFIERS, QUICK, detection_aucs
from engine.twins.realism import association, closeness, column_score, exact_copies, measure_realism


def people(n: int, seed: int, *, tied: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    group = rng.choice(["a", "b", "c"], n)
    volume = rng.lognormal(3, 1, n)
    spend = volume * rng.lognormal(0, 0.3, n) if tied else rng.permutation(volume * rng.lognormal(0, 0.3, n))
    return pd.DataFrame(
        {"group": group, "volume": volume, "spend": spend, "age": rng.normal(50, 10, n).round() + 5 * (group == "a")}
    )


def test_identical_samples_score_one_and_disjoint_ones_zero() -> None:
    low, high = pd.Series([1.0, 2.0, 3.0]), pd.Series([7.0, 8.0, 9.0])
    assert column_score(low, low, categorical=False) == 1
    assert column_score(low, high, categorical=False) == 0
    assert column_score(pd.Series(["a"]), pd.Series(["b"]), categorical=True) == 0


def test_numbers_are_scored_by_the_kolmogorov_smirnov_distance_of_scipy() -> None:
    rng = np.random.default_rng(0)
    synthetic, real = rng.normal(size=400), rng.normal(0.4, 1, 300)
    score = column_score(pd.Series(synthetic), pd.Series(real), categorical=False)
    assert score == pytest.approx(1 - ks_2samp(synthetic, real).statistic)


def test_a_wrong_share_of_gaps_lowers_the_score_by_its_size() -> None:
    full, gappy = pd.Series(np.arange(100.0)), pd.Series(np.arange(100.0)).where(lambda x: x >= 30)
    assert column_score(gappy, full, categorical=False) == pytest.approx(0.7)
    levels = pd.Series(["a"] * 100)
    assert column_score(levels.where(np.arange(100) >= 30, None), levels, categorical=True) == pytest.approx(0.7)


def test_associations_equal_their_closed_forms() -> None:
    frame = people(4000, 1)
    strength = association(frame, ["group"])
    assert strength["volume", "spend"] == pytest.approx(spearmanr(frame["volume"], frame["spend"]).statistic)
    assert strength["group", "age"] == pytest.approx(np.sqrt(50 / 9 / (100 + 50 / 9)), abs=0.04)  # eta^2 = between / total variance
    same = association(frame.assign(twin=frame["group"]), ["group", "twin"])
    assert same["group", "twin"] == pytest.approx(1.0, abs=1e-3)


def test_bias_corrected_measures_are_near_zero_without_association() -> None:
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(
        {"a": rng.integers(0, 40, 500).astype(str), "b": rng.integers(0, 40, 500).astype(str), "x": rng.normal(size=500)}
    )
    strength = association(frame, ["a", "b"])
    assert strength["a", "b"] < 0.08
    assert strength["a", "x"] < 0.15


def test_a_classifier_does_not_separate_two_real_samples_but_detects_broken_dependence() -> None:
    rng = np.random.default_rng(3)
    assert detection_aucs([people(2000, 1)], people(2000, 2), ["group"], rng, names=[BOOSTING])[BOOSTING] == pytest.approx(
        0.5, abs=0.04
    )
    assert detection_aucs([people(2000, 1, tied=False)], people(2000, 2), ["group"], rng, names=[BOOSTING])[BOOSTING] > 0.8


def parts(n: int, seed: int, *, noise: float) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    total = rng.lognormal(3, 1, n)
    return pd.DataFrame(
        {"total": total, "part": 0.5 * total * rng.lognormal(0, noise, n), "cost": total * rng.lognormal(2, 0.5, n)}
    )


def test_a_blurred_ratio_is_seen_by_the_classifier_that_is_given_ratios() -> None:
    rng = np.random.default_rng(5)
    aucs = detection_aucs([parts(800, 1, noise=0.05)], parts(800, 2, noise=0.02), [], rng, names=QUICK)
    assert aucs["boosting with ratios"] > aucs["boosting"] + 0.1
    alike = detection_aucs([parts(800, 1, noise=0.02)], parts(800, 2, noise=0.02), [], rng, names=QUICK)
    assert alike["boosting with ratios"] == pytest.approx(0.5, abs=0.06)


def test_every_classifier_accepts_levels_and_gaps() -> None:
    rng = np.random.default_rng(6)
    twins, real = (people(60, seed).assign(spend=lambda x: x["spend"].where(x["age"] > 40)) for seed in (1, 2))
    aucs = detection_aucs([twins], real, ["group"], rng)
    assert set(aucs) == set(CLASSIFIERS)
    assert list(aucs.values()) == pytest.approx([0.5] * 4, abs=0.25)


def test_the_report_tells_the_strongest_classifier() -> None:
    report = measure_realism(
        [parts(800, 3, noise=0.05)],
        held_out=parts(800, 2, noise=0.02),
        training=parts(800, 1, noise=0.02),
        categorical=[],
        rng=np.random.default_rng(0),
    )
    assert report.classifier == "boosting with ratios"
    assert report.auc == max(report.aucs.values())
    assert "the strongest of 2 classifiers (boosting with ratios)" in str(report)


def test_rows_spread_too_evenly_bias_the_auc_with_folds_of_one_draw_but_not_with_separate_draws() -> None:
    rng = np.random.default_rng(4)
    levels = pd.DataFrame({"level": np.arange(50).astype(str)})
    even = [pd.concat([levels] * 8, ignore_index=True) for _ in range(5)]
    real = pd.DataFrame({"level": rng.integers(0, 50, 2000).astype(str)})
    single = pd.concat(even, ignore_index=True).sample(frac=1, random_state=0)
    assert detection_aucs([single], real, ["level"], rng, names=[BOOSTING])[BOOSTING] < 0.47
    assert detection_aucs(even, real, ["level"], rng, names=[BOOSTING])[BOOSTING] == pytest.approx(0.5, abs=0.02)


def test_copies_are_detected_and_fresh_rows_are_not_reported_as_copies() -> None:
    training, held_out, fresh = people(1500, 1), people(1500, 2), people(1500, 3)
    copied = training.sample(800, random_state=0)
    near, closer = closeness(copied, training, held_out, ["group"])
    assert (near, exact_copies(copied, training)) == (1.0, 1.0)
    assert closer > 0.99
    near, closer = closeness(fresh, training, held_out, ["group"])
    assert exact_copies(fresh, training) == 0
    assert near == pytest.approx(0.05, abs=0.025)
    assert closer == pytest.approx(0.5, abs=0.05)


def test_a_copy_with_small_noise_is_a_near_copy() -> None:
    training, held_out = people(1500, 1), people(1500, 2)
    blurred = training.assign(volume=training["volume"] * 1.0001)
    near, _ = closeness(blurred, training, held_out, ["group"])
    assert exact_copies(blurred, training) == 0
    assert near > 0.9


def test_the_report_of_real_rows_against_real_rows_shows_no_difference() -> None:
    report = measure_realism(
        [people(1500, 3)], held_out=people(1500, 2), training=people(3000, 1), categorical=["group"], rng=np.random.default_rng(0)
    )
    assert report.auc == pytest.approx(0.5, abs=0.05)
    assert report.marginal_score > 0.95
    assert report.association_error < 0.03
    assert report.exact_copies == 0
    assert (report.n_synthetic, report.n_held_out) == (1500, 1500)
    assert set(report.columns) == {"group", "volume", "spend", "age"}


def test_broken_dependence_raises_the_association_error_though_every_marginal_is_right() -> None:
    report = measure_realism(
        [people(1500, 3, tied=False)],
        held_out=people(1500, 2),
        training=people(1500, 1),
        categorical=["group"],
        rng=np.random.default_rng(0),
    )
    assert report.marginal_score > 0.95
    assert report.association_error > 0.1


def test_the_mean_outcome_of_twins_is_told_beside_the_real_one() -> None:
    real, twins = people(400, 2), people(400, 3).assign(spend=10.0)
    rng = np.random.default_rng(0)
    report = measure_realism([twins], held_out=real, training=people(400, 1), categorical=["group"], rng=rng, outcome="spend")
    assert report.mean_outcome == 10
    assert report.real_mean_outcome == pytest.approx(real["spend"].mean())
    assert report.real_mean_error == pytest.approx(real["spend"].std() / 20)
    assert "mean outcome 10, of held-out rows" in str(report)

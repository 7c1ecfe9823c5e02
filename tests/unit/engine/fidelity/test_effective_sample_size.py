from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.fidelity.baseline import HoldoutRows, compute_baseline
from engine.fidelity.e_detector import upper_mean
from engine.fidelity.effective_sample_size import effective_n
from engine.fidelity.error_sums import add_sums, contributions

LEVELS = 20
SIZES = np.linspace(0.7, 1.5, LEVELS)


def draw(seed: int, n: int, shared_sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw errors and their levels: each level has its own typical size, and a factor that its outcomes of this draw share."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, LEVELS, n)
    factor = 1 + shared_sd * rng.normal(size=LEVELS)
    return rng.normal(size=n) * (SIZES * factor)[level], level


def baseline():
    errors, level = draw(0, 40_000, 0.0)
    features = pd.DataFrame({"region": level.astype(str)})
    return compute_baseline(
        HoldoutRows(errors, np.zeros(len(errors)), -np.ones(len(errors)), np.ones(len(errors))), features, ["region"]
    )


BASELINE = baseline()


def segments(errors: np.ndarray, level: np.ndarray) -> dict[str, tuple[int, ...]]:
    no_interval = np.full(len(errors), np.nan)
    rows = contributions(np.zeros(len(errors)), errors, no_interval, no_interval, BASELINE)
    return {f"region={k}": add_sums(rows[level == k].tolist()) for k in range(LEVELS)}


def test_independent_outcomes_count_in_full_although_the_error_sizes_of_segments_differ():
    effective = [effective_n(segments(*draw(seed, 4000, 0.0)), BASELINE) for seed in range(1, 21)]
    assert np.median(effective) > 3000
    assert max(effective) <= 4000


def test_the_effective_number_predicts_the_variance_of_a_mean_with_correlated_segments():
    samples = [draw(seed, 4000, 0.2) for seed in range(1, 201)]
    variance = np.var([np.abs(errors).mean() for errors, _ in samples], ddof=1)
    variance_of_one = np.mean([np.abs(errors).var() for errors, _ in samples])
    effective = np.median([effective_n(segments(*sample), BASELINE) for sample in samples[:40]])
    assert effective == pytest.approx(variance_of_one / variance, rel=0.35)
    assert effective < 1500


def test_the_effective_number_is_undefined_without_two_levels_that_have_a_baseline():
    errors, level = draw(1, 1000, 0.0)
    single = {name: sums for name, sums in segments(errors, level).items() if name == "region=3"}
    assert effective_n(single, BASELINE) is None
    assert effective_n({"region=mars": single["region=3"]}, BASELINE) is None


def test_the_detector_bets_against_the_bound_of_the_independent_rows() -> None:
    clustered = BASELINE.model_copy(update={"n_effective": BASELINE.n / 4})
    fewer = BASELINE.model_copy(update={"n": BASELINE.n // 4})
    assert upper_mean(clustered) == upper_mean(fewer) > upper_mean(BASELINE)

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.fidelity.baseline import HoldoutRows, compute_baseline
from engine.fidelity.effective_sample_size import effective_n
from engine.fidelity.error_sums import add_sums, contributions

LEVELS = 20
SIZES = np.linspace(0.7, 1.5, LEVELS)


def draw(seed: int, n: int, shared: float) -> tuple[np.ndarray, np.ndarray]:
    """Errors of outcomes and the level of each: each level has a size of its own, and a fortune of this time."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, LEVELS, n)
    fortune = 1 + shared * rng.normal(size=LEVELS)
    return rng.normal(size=n) * (SIZES * fortune)[level], level


def baseline():
    errors, level = draw(0, 40_000, 0.0)
    features = pd.DataFrame({"region": level.astype(str)})
    return compute_baseline(HoldoutRows(errors, np.zeros(len(errors)), np.ones(len(errors))), features, ["region"])


BASELINE = baseline()


def segments(errors: np.ndarray, level: np.ndarray) -> dict[str, tuple[int, ...]]:
    nothing = np.full(len(errors), np.nan)
    rows = contributions(np.zeros(len(errors)), errors, nothing, nothing, BASELINE)
    return {f"region={k}": add_sums(rows[level == k].tolist()) for k in range(LEVELS)}


def test_outcomes_that_share_nothing_count_in_full_however_different_segments_are_by_nature():
    found = [effective_n(segments(*draw(seed, 4000, 0.0)), BASELINE) for seed in range(1, 21)]
    assert np.median(found) > 3000
    assert max(found) <= 4000


def test_the_effective_number_predicts_how_a_mean_scatters_when_segments_share_their_fortune():
    drawn = [draw(seed, 4000, 0.2) for seed in range(1, 201)]
    variance = np.var([np.abs(errors).mean() for errors, _ in drawn], ddof=1)
    alone = np.mean([np.abs(errors).var() for errors, _ in drawn])
    told = np.median([effective_n(segments(*each), BASELINE) for each in drawn[:40]])
    assert told == pytest.approx(alone / variance, rel=0.35)
    assert told < 1500


def test_nothing_is_said_without_two_levels_that_have_a_baseline():
    errors, level = draw(1, 1000, 0.0)
    one = {name: sums for name, sums in segments(errors, level).items() if name == "region=3"}
    assert effective_n(one, BASELINE) is None
    assert effective_n({"region=mars": one["region=3"]}, BASELINE) is None

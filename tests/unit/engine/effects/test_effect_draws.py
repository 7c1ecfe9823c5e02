from __future__ import annotations

import numpy as np
import pytest

from engine.effects import EffectDraws, TwinFactors
from engine.effects.effect_draws import FEW_REAL_ROWS

DRAWS = 4000


def draws_of(factors: np.ndarray, real_rows: float | None, seed: int = 0, effect: float = 0.1) -> EffectDraws:
    """Draws of an effect that is known exactly: only the twins' factors vary."""
    twins = TwinFactors(factors, np.zeros((0, len(factors))))
    return EffectDraws(twins, np.full(DRAWS, effect), np.zeros((0, DRAWS)), real_rows=real_rows, seed=seed)


def test_the_average_over_few_real_rows_has_the_standard_error_of_their_mean() -> None:
    factors = np.random.default_rng(1).gamma(4.0, 0.25, 2000)
    average = draws_of(factors, 50).average
    assert average.std() == pytest.approx(0.1 * factors.std() / np.sqrt(50), rel=0.04)
    assert average.mean() == pytest.approx(0.1 * factors.mean(), rel=0.002)


@pytest.mark.parametrize("real_rows", [None, FEW_REAL_ROWS, 10_000])
def test_enough_or_unknown_real_rows_widen_nothing(real_rows: float | None) -> None:
    factors = np.random.default_rng(1).gamma(4.0, 0.25, 2000)
    assert draws_of(factors, real_rows).average.std() == pytest.approx(0.0, abs=1e-12)


def test_twins_of_thirty_rows_cover_the_average_of_the_group_that_the_rows_are_from() -> None:
    rng, covered = np.random.default_rng(2), []
    for seed in range(300):
        rows = rng.normal(1.0, 0.3, 30)
        low, high = np.quantile(draws_of(rng.choice(rows, 1000), 30, seed).average, [0.025, 0.975])
        covered.append(low <= 0.1 <= high)
    assert 0.90 <= np.mean(covered) <= 0.98


def test_a_group_of_few_real_rows_is_wider_by_their_standard_error_and_a_large_one_is_not() -> None:
    rng = np.random.default_rng(3)
    factors = np.concatenate([rng.normal(1.0, 0.3, 9_800), rng.normal(3.0, 0.3, 200)])
    is_small = np.arange(10_000) >= 9_800
    sums = [np.array([[0.0, row[~is_small].sum(), row[is_small].sum()] for row in draws_of(factors, None).twins.moments()])]
    plain, widened = (draws_of(factors, rows).over_twins.by_group(sums, 0)[1].var(axis=1) for rows in (None, 2000))
    added = widened - plain
    assert added[1] == pytest.approx(0.01 * factors[is_small].var() / (2000 * 0.02), rel=0.06)
    assert added[0] == 0.0


def test_interventions_on_the_same_twins_share_the_error_of_the_rows() -> None:
    factors = np.random.default_rng(1).gamma(4.0, 0.25, 2000)
    weak, strong = (draws_of(factors, 50, effect=effect).average for effect in (0.1, 0.2))
    assert np.corrcoef(weak, strong)[0, 1] == pytest.approx(1.0)

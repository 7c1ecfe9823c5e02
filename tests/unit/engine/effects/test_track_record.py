from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from engine.effects.track_record import ComparedSimulation, compute_track_record


def test_without_experiments_the_track_record_is_empty():
    record = compute_track_record([])
    assert (record.n, record.mean_error) == (0, None)
    assert str(record) == (
        "no experiment has followed a simulation of this intervention with its dose and filters: none is compared yet"
    )


def test_an_effect_is_inside_the_interval_or_agrees_within_its_standard_error():
    simulated = (0.05, 0.01, 0.09, 0.95)
    record = compute_track_record(
        [
            ComparedSimulation(*simulated, 0.08, 0.01),
            ComparedSimulation(*simulated, 0.095, 0.02),
            ComparedSimulation(*simulated, 0.2, 0.01),
        ]
    )
    assert (record.n, record.n_inside, record.n_agreeing) == (3, 1, 2)
    assert record.mean_error == pytest.approx((0.03 + 0.045 + 0.15) / 3)
    assert "of 3 past simulations" in str(record)


def test_effects_drawn_as_simulated_agree_in_95_percent():
    rng = np.random.default_rng(0)
    half = stats.norm.ppf(0.975) * 0.02
    effects = rng.normal(0.05, np.hypot(0.02, 0.015), 4000)
    record = compute_track_record([ComparedSimulation(0.05, 0.05 - half, 0.05 + half, 0.95, effect, 0.015) for effect in effects])
    assert record.n_agreeing / record.n == pytest.approx(0.95, abs=0.01)
    assert record.n_inside / record.n == pytest.approx(2 * stats.norm.cdf(half / np.hypot(0.02, 0.015)) - 1, abs=0.02)

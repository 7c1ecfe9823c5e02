from __future__ import annotations

import numpy as np
import pytest

from engine.experiments.experiment_analysis import relative_effect, robust_fit


def test_a_relative_effect_has_the_error_of_the_delta_method():
    treated = np.repeat([True, False], [3000, 2000])
    outcome = np.concatenate([np.repeat([1, 0], [900, 2100]), np.repeat([1, 0], [400, 1600])])
    estimate = relative_effect(outcome, treated)
    p, q = 0.3, 0.2
    closed = np.sqrt(p * (1 - p) / 3000 / q**2 + p**2 / q**4 * q * (1 - q) / 2000)
    assert estimate.effect == pytest.approx(0.5)
    assert estimate.standard_error == pytest.approx(closed, rel=1e-3)
    assert (estimate.n_treated, estimate.n_control) == (3000, 2000)


def test_the_standard_error_is_that_of_repeated_experiments_also_with_clustered_households():
    rng = np.random.default_rng(0)
    household = np.repeat(np.arange(300), 5)
    estimates = []
    for _ in range(400):
        arms = rng.permutation(300) < 150
        shared = rng.beta(2, 4, 300)[household]
        voted = rng.random(1500) < np.minimum(shared * np.where(arms[household], 1.1, 1.0), 1.0)
        estimates.append(relative_effect(voted, arms[household], household))
    effects, errors = np.array([(estimate.effect, estimate.standard_error) for estimate in estimates]).T
    assert errors.mean() == pytest.approx(effects.std(), rel=0.1)
    naive = relative_effect(voted, arms[household]).standard_error
    assert errors.mean() > 1.2 * naive


def test_a_relative_effect_without_positive_controls_is_refused():
    with pytest.raises(ValueError, match="the mean outcome of the controls is 0"):
        relative_effect([1, 1, 0, 0], [True, True, False, False])


def test_a_fitted_line_has_the_robust_errors_of_the_closed_form():
    rng = np.random.default_rng(1)
    x = rng.normal(3, 1, 500)
    y = 1 + 2 * x + rng.normal(0, 0.1 + np.abs(x), 500)
    line = robust_fit(x, y, np.arange(500))
    design = np.column_stack([np.ones(500), x - x.mean()])
    residuals = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    bread = np.linalg.inv(design.T @ design)
    meat = design.T @ (design * residuals[:, None] ** 2)
    assert line.covariance == pytest.approx(500 / 498 * bread @ meat @ bread, rel=1e-9)
    assert line.slope == pytest.approx(np.polyfit(x, y, 1)[0])

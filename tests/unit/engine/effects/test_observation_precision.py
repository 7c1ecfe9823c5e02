"""The structured precision equals the inverse of the whole covariance, whatever variants and common parameters there are."""

from __future__ import annotations

import numpy as np
import pytest

from engine.effects import catalogue_prior
from engine.effects.effect_posterior import BETWEEN_VARIANTS, Observations, fit, prior_components
from engine.effects.observation_precision import ObservationPrecision

VARIANTS = np.array([0, 0, 0, 1, 2, 2, 3])
ALIKE = BETWEEN_VARIANTS * (VARIANTS[:, None] == VARIANTS) + (1 - BETWEEN_VARIANTS) * np.eye(len(VARIANTS))


def precision_and_covariance(q: int) -> tuple[ObservationPrecision, np.ndarray, np.ndarray]:
    """The precision at 4 points, the covariances as matrices ``(4, 7, 7)``, and the loading."""
    rng = np.random.default_rng(3)
    noise, own, loading = rng.uniform(0.1, 2, (4, 7)), rng.uniform(0, 3, 4), rng.normal(size=(7, q))
    covariance = noise[:, :, None] * np.eye(7) + own[:, None, None] * (VARIANTS[:, None] == VARIANTS) + loading @ loading.T
    return ObservationPrecision(1 / noise, own, np.array([0, 3, 4, 6]), loading), covariance, loading


@pytest.mark.parametrize("q", [0, 1, 9])
def test_it_equals_the_inverse_of_the_covariance(q: int):
    precision, covariance, loading = precision_and_covariance(q)
    inverse = np.linalg.inv(covariance)
    each, common = np.random.default_rng(4).normal(size=(4, 7)), np.arange(7.0)

    assert precision.times(each) == pytest.approx(np.einsum("pij,pj->pi", inverse, each), rel=1e-9)
    assert precision.times(common) == pytest.approx(inverse @ common, rel=1e-9)
    assert precision.loaded(each) == pytest.approx(np.einsum("iq,pij,pj->pq", loading, inverse, each), rel=1e-9)
    assert precision.log_determinant == pytest.approx(np.linalg.slogdet(covariance)[1], rel=1e-9)
    assert precision.remaining == pytest.approx(np.eye(q) - loading.T @ inverse @ loading, abs=1e-9)
    outer = loading @ loading.T
    unexplained = np.diagonal(outer - outer @ inverse @ outer, axis1=1, axis2=2)
    assert precision.unexplained() == pytest.approx(unexplained, abs=1e-9)
    assert precision.quadratic(BETWEEN_VARIANTS, 1 - BETWEEN_VARIANTS) == pytest.approx(
        np.diagonal(ALIKE @ inverse @ ALIKE, axis1=1, axis2=2), rel=1e-9
    )
    assert precision.alike_times(each, BETWEEN_VARIANTS, 1 - BETWEEN_VARIANTS) == pytest.approx(each @ ALIKE, rel=1e-9)
    few = precision.select(np.array([True, False, False, True]))
    assert few.times(common) == pytest.approx(inverse[[0, 3]] @ common, rel=1e-9)


def test_experiments_of_any_precision_have_a_posterior_that_is_a_distribution():
    prior = catalogue_prior("email_campaign")
    effect, error = np.tile([3.0, -3.0, 0.03, 0.9, 0.05], 20), np.tile([1e-9, 1000.0, 0.01, 1e-4, 10.0], 20)
    loading = np.random.default_rng(1).normal(0, 0.01, (100, 8))
    posterior = fit(prior_components(prior.mean, prior.sd), Observations(effect, error, error, np.arange(100), loading))
    assert posterior.weight.sum() == pytest.approx(1.0)
    assert (posterior.variance > 0).all()
    own, square = posterior.campaigns()
    assert (square >= own**2).all()
    assert np.linalg.eigvalsh(posterior.shared().covariance).min() > 0

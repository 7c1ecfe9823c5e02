from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from engine.effects.effect_posterior import (
    BETWEEN_SCALE,
    BETWEEN_VARIANTS,
    UNUSUAL,
    Components,
    Observations,
    fit,
    mixture_quantiles,
    prior_components,
    without_experiments,
)

MEAN, SD = 0.05, 0.02
COMPONENTS = prior_components(MEAN, SD)
GRID = BETWEEN_SCALE * np.geomspace(0.04, 80.0, 30)


def observations(effects, errors, variants=None) -> Observations:
    effects, errors = np.array(effects, dtype=float), np.array(errors, dtype=float)
    variants = np.arange(len(effects)) if variants is None else np.array(variants)
    return Observations(effects, errors, errors, variants)


def brute_force(observed: Observations) -> tuple[float, float, float]:
    """Mean of the mean effect, and 2.5 and 97.5 % quantiles of the next campaign, by sums over a fine grid of means."""
    means = np.linspace(-0.8, 1.6, 4801)
    between_prior = stats.f.pdf((GRID / BETWEEN_SCALE) ** 2 / 2, 2, 6) * GRID**2  # of the logarithm of between
    weight, all_means, spreads = [], [], []
    for share, center, sd, unit in zip(np.exp(COMPONENTS.log_weight), *COMPONENTS[1:], strict=True):
        for between, prior in zip(unit * GRID, between_prior / between_prior.sum(), strict=True):
            total = np.hypot(observed.error, between)
            density = stats.norm.pdf(observed.effect, means[:, None], total).prod(axis=1)
            success = stats.norm.cdf((means[:, None] - stats.norm.ppf(0.975) * observed.sampling) / total)
            selection = sum(
                p
                * (np.where(observed.effect > stats.norm.ppf(0.975) * observed.sampling, 1, q) / (q + (1 - q) * success)).prod(
                    axis=1
                )
                for p, q in [(0.7, 1.0), (0.1, 0.3), (0.1, 0.1), (0.1, 0.02)]
            )
            weight.append(share * prior * stats.norm.pdf(means, center, sd) * density * selection)
            all_means.append(means)
            spreads.append(np.full(len(means), between))
    weight = [(1 - UNUSUAL) * part for part in weight] + [UNUSUAL * part for part in weight]
    all_means, spreads = 2 * all_means, spreads + [3 * spread for spread in spreads]
    weight, mean, spread = (np.concatenate(rows) for rows in (weight, all_means, spreads))
    weight /= weight.sum()
    low, high = mixture_quantiles(weight, mean, spread, stats.norm.ppf([0.025, 0.975]))
    return float(weight @ mean), float(low), float(high)


@pytest.mark.parametrize(
    ("effects", "errors"),
    [
        ([0.02, 0.05, 0.01, 0.03], [0.01, 0.02, 0.006, 0.012]),
        ([0.06, 0.05, 0.09], [0.025, 0.02, 0.03]),  # just significant, all of them
        ([0.30], [0.03]),
    ],
)
def test_the_posterior_equals_sums_over_a_fine_grid_of_means(effects, errors):
    observed = observations(effects, errors)
    posterior, (mean, low, high) = fit(COMPONENTS, observed), brute_force(observed)
    ends = mixture_quantiles(*posterior.next_campaign(), stats.norm.ppf([0.025, 0.975]))
    assert float(posterior.weight @ posterior.mean) == pytest.approx(mean, rel=0.01)
    assert ends.tolist() == pytest.approx([low, high], abs=0.02 * (high - low))


def test_experiments_with_one_variant_have_the_posterior_of_their_joint_normal_distribution():
    observed, between = observations([0.02, 0.03, 0.08], [0.01, 0.02, 0.01], [0, 0, 1]), 0.02
    posterior = fit(COMPONENTS, observed)
    point = int(np.argmax(posterior.weight))
    between, center, sd = posterior.between[point], COMPONENTS.center[0], COMPONENTS.sd[0]
    same = observed.variant[:, None] == observed.variant
    covariance = np.diag(observed.error**2) + between**2 * (BETWEEN_VARIANTS * same + (1 - BETWEEN_VARIANTS) * np.eye(3))
    own = between**2 * BETWEEN_VARIANTS * np.array([1, 1, 0])
    gain = np.linalg.solve(covariance + sd**2, own + sd**2)
    expected = center + gain @ (observed.effect - center)
    variance = sd**2 + between**2 * BETWEEN_VARIANTS - gain @ (own + sd**2) + (1 - BETWEEN_VARIANTS) * between**2
    following, correlation = posterior.next_of_variant(0)
    assert following.mean[point] == pytest.approx(expected, abs=0.002)  # the term of selection moves it a little
    assert following.sd[point] == pytest.approx(np.sqrt(variance), rel=0.05)
    assert 0 < correlation < 1


def test_without_experiments_the_mean_is_that_of_the_catalogue_and_a_share_does_nothing_or_several_times_as_much():
    prior = without_experiments(MEAN, SD)
    assert float(prior.weight @ prior.mean) == pytest.approx(MEAN, rel=1e-9)
    weight, mean, spread = prior.next_campaign()
    below = lambda effect: float(weight @ stats.norm.cdf(effect, mean, spread))  # noqa: E731
    assert 0.03 < below(0.0) < 0.08
    assert 0.02 < 1 - below(3 * MEAN) < 0.04
    assert 1 - below(15 * MEAN) > 1e-4


def test_a_significant_result_weighs_less_than_one_that_would_have_been_told_anyway():
    just = fit(COMPONENTS, observations([0.10], [0.05]))
    clear = fit(COMPONENTS, observations([0.10], [0.001]))
    assert float(just.weight @ just.mean) < 0.06
    assert float(clear.weight @ clear.mean) > 0.08


def test_quantiles_of_a_mixture_are_those_of_its_distribution_function():
    weight, mean, sd = np.array([0.3, 0.7]), np.array([-1.0, 2.0]), np.array([0.5, 1.5])
    levels = np.array([0.001, 0.25, 0.5, 0.9, 0.999])
    quantiles = mixture_quantiles(weight, mean, sd, stats.norm.ppf(levels))
    assert (weight * stats.norm.cdf(quantiles[:, None], mean, sd)).sum(axis=1) == pytest.approx(levels, abs=1e-3)


def test_what_experiments_share_is_learned_as_in_sums_over_a_fine_grid():
    """One kind of worlds; both experiments owe a part of their effects to one parameter, one of them twice as much.

    They are told in any case, so that the term of selection is without influence.
    """
    alone = Components(np.zeros(1), np.array([MEAN]), np.array([SD]), np.array([SD]))
    effects, error, loading = np.array([0.03, 0.09]), np.array([0.004, 0.004]), np.array([[0.02], [0.04]])
    observed = Observations(effects, error, np.full(2, -np.inf), np.arange(2), loading)
    shared = fit(alone, observed).shared()
    means, parameters = np.linspace(-0.1, 0.2, 301), np.linspace(-5, 5, 401)
    between_prior = stats.f.pdf((GRID / BETWEEN_SCALE) ** 2 / 2, 2, 6) * GRID**2
    weight = np.zeros((len(means), len(parameters)))
    for between, prior in zip(SD * GRID, between_prior, strict=True):
        density = stats.norm.pdf(effects, means[:, None, None] + parameters[:, None] * loading[:, 0], np.hypot(error, between))
        weight += prior * density.prod(axis=-1)
    weight *= stats.norm.pdf(means, MEAN, SD)[:, None] * stats.norm.pdf(parameters)
    weight /= weight.sum()
    mean, mean_effect = float(weight.sum(axis=0) @ parameters), float(weight.sum(axis=1) @ means)
    assert shared.mean[0] == pytest.approx(mean, rel=0.01)
    assert shared.covariance[0, 0] == pytest.approx(float(weight.sum(axis=0) @ parameters**2) - mean**2, rel=0.01)
    assert shared.with_effect[0] == pytest.approx(float(means @ weight @ parameters) - mean * mean_effect, rel=0.01)


def test_successes_that_experiments_owe_to_what_they_share_are_no_sign_of_harm():
    """Sixteen clear successes with a common uncertain part: were each told by chance alone, a harmful mean would explain them."""
    effects, error = np.linspace(0.03, 0.09, 16), np.full(16, 0.006)
    observed = Observations(effects, error, error, np.arange(16), np.full((16, 1), 0.015))
    posterior = fit(COMPONENTS, observed)
    low, _ = mixture_quantiles(posterior.weight, posterior.mean, np.sqrt(posterior.variance), stats.norm.ppf([0.025, 0.975]))
    assert float(posterior.weight @ posterior.mean) == pytest.approx(0.058, abs=0.01)
    assert low > 0.0


def test_true_effects_of_experiments_shrink_toward_their_mean_by_their_noise():
    alone = Components(np.zeros(1), np.array([MEAN]), np.array([SD]), np.array([SD]))
    effects, error = np.array([0.03, 0.09]), np.array([1e-5, 0.05])
    mean, square = fit(alone, Observations(effects, error, 1e-9 * error, np.arange(2))).campaigns()
    assert mean[0] == pytest.approx(0.03, abs=1e-4)
    assert square[0] - mean[0] ** 2 == pytest.approx(1e-10, rel=0.05)
    assert 0.03 < mean[1] < 0.06
    assert 0.0 < square[1] - mean[1] ** 2 < 0.05**2

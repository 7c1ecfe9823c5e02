"""What error to expect of an outcome, given its prediction and the half width of its interval, and the losses beyond that.

Errors differ between rows: some are harder to predict, and a model may be too high at one end of its predictions. A detector that
compares all of them with one mean takes the order of rows for a change. So each outcome is compared with the held-out rows whose
prediction and half width are alike, which an outcome always brings along, whatever its features are.

The expectations have two factors each, by bins of the prediction and of the half width, which are fitted as a Poisson regression on
the cells of both, shrunk toward their mean. They are fixed with the model and use only sums, products and comparisons, so that all
machines compute the same losses.

References:
    McCullagh, Nelder (1989), Generalized Linear Models, chapter 6: log-linear models of rates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import PoissonRegressor

from schemas.arrays import Flags, Floats, Integers
from schemas.twin_models import Effects, ExpectedErrors, LossMoments

__all__ = ["OutcomeLosses", "fit_expected_errors", "loss_moments", "outcome_losses"]

_QUANTILES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99)
_LOG_SPREAD = 0.3  # prior standard deviation of the log of a factor
_SPREAD = 0.05  # prior standard deviation of a term of the expected error, in half widths
_FARTHEST = 3.0  # standard deviations at which a prediction's distance from the mean is clipped
_RULE_OF_THREE = 3.0  # n rows without an event leave a rate of at most 3/n


class OutcomeLosses(NamedTuple):
    """Losses of outcomes, each with the square that is expected of it (none for ``size``); shape ``(n,)``.

    Attributes:
        size: absolute error over its expectation, clipped and divided by the clip: 0 to 1.
        error: error in half widths, predicted - actual, counted up to one half width, less its expectation.
        slope: the same times the distance of the prediction from its mean, in standard deviations: positive where contrasts are
            predicted that outcomes do not have.
        misses: 1 outside the interval and 0 inside, less the probability; 0 without an interval.
    """

    size: Floats
    error: Floats
    error_square: Floats
    slope: Floats
    slope_square: Floats
    misses: Floats
    misses_square: Floats


class _Bins(NamedTuple):
    """Bin of the prediction and of the half width of each row, shape ``(n,)``."""

    prediction: npt.NDArray[np.intp]
    width: npt.NDArray[np.intp]

    def product(self, effects: Effects) -> Floats:
        by_prediction, by_width = self._parts(effects)
        return by_prediction * by_width

    def total(self, effects: Effects) -> Floats:
        by_prediction, by_width = self._parts(effects)
        return by_prediction + by_width

    def _parts(self, effects: Effects) -> tuple[Floats, Floats]:
        by_prediction, by_width = np.array(effects.by_prediction), np.array(effects.by_width)
        return by_prediction[self.prediction], by_width[self.width]


def outcome_losses(
    error: Floats, predicted: Floats, half_width: Floats, inside: Flags | Integers, expected: ExpectedErrors, typical_width: float
) -> OutcomeLosses:
    """Compute the losses of outcomes.

    Args:
        error: predicted - actual, units of the target, shape ``(n,)``.
        predicted: units of the target.
        half_width: of the prediction intervals; NaN or 0 where there is none.
        inside: whether the actual value lies in the interval.
        expected: of the model.
        typical_width: half width that stands for a missing one.
    """
    has_interval = half_width > 0
    n_predictions, n_widths = len(expected.prediction_edges) + 1, len(expected.width_edges) + 1
    prediction = np.searchsorted(np.asarray(expected.prediction_edges), predicted)
    width = np.searchsorted(np.asarray(expected.width_edges), half_width)
    bins = _Bins(np.where(has_interval, prediction, prediction + n_predictions), np.where(has_interval, width, n_widths))
    scaled = error / np.where(has_interval, half_width, typical_width)
    size = np.minimum(np.abs(scaled) / bins.product(expected.size) / expected.clip, 1.0)
    excess = np.clip(scaled, -1.0, 1.0) - bins.total(expected.error)
    square = bins.product(expected.square)
    distance = np.clip((predicted - expected.prediction_mean) / expected.prediction_sd, -_FARTHEST, _FARTHEST)
    rate = np.minimum(bins.product(expected.misses), 1.0)
    misses = np.where(has_interval, 1.0 - inside - rate, 0.0)
    rate_square = np.where(has_interval, rate * (1.0 - rate), 0.0)
    return OutcomeLosses(size, excess, square, excess * distance, square * distance**2, misses, rate_square)


def loss_moments(losses: OutcomeLosses) -> dict[str, LossMoments]:
    """Moments of each loss, by its name."""
    squares = {"error": losses.error_square, "slope": losses.slope_square, "misses": losses.misses_square}
    return {
        name: LossMoments(
            mean=float(values.mean()),
            sd=float(values.std()),
            expected_square=float(squares[name].mean()) if name in squares else 0.0,
        )
        for name in ("size", "error", "slope", "misses")
        for values in (getattr(losses, name),)
    }


def fit_expected_errors(error: Floats, predicted: Floats, half_width: Floats, outside: Flags, clip_factor: float) -> ExpectedErrors:
    """Learn the expectations from held-out rows: errors, predictions, positive half widths and misses, each of shape ``(n,)``.

    Each row counts twice, once as an outcome without an interval.
    """
    n_rows = len(error)
    prediction_edges, width_edges = (np.unique(np.quantile(values, _QUANTILES)) for values in (predicted, half_width))
    bins = np.searchsorted(prediction_edges, predicted)
    grid = _Grid(
        np.append(bins, bins + len(prediction_edges) + 1),
        np.append(np.searchsorted(width_edges, half_width), np.full(n_rows, len(width_edges) + 1)),
        (2 * (len(prediction_edges) + 1), len(width_edges) + 2),
    )
    scaled = np.append(error / half_width, error / half_width.mean())
    size = np.abs(scaled)
    clip = clip_factor * max(float(np.quantile(size, 0.99)), np.finfo(float).tiny)
    factors = grid.fit_factors(np.minimum(size, clip))
    relative = size / grid.bins.product(factors)
    excess = np.clip(scaled, -1.0, 1.0)
    terms = grid.fit_terms(excess)
    left = excess - grid.bins.total(terms)
    return ExpectedErrors(
        prediction_edges=tuple(prediction_edges.tolist()),
        width_edges=tuple(width_edges.tolist()),
        prediction_mean=float(predicted.mean()),
        prediction_sd=float(predicted.std()) or 1.0,
        clip=clip_factor * max(float(np.quantile(relative[:n_rows], 0.99)), np.finfo(float).tiny),
        size=factors,
        error=terms,
        square=grid.fit_factors(left**2),
        misses=grid.fit_factors(np.tile(outside, 2).astype(float)),
    )


class _Grid:
    """Cells of predictions and half widths, with the rows in each."""

    def __init__(self, prediction: npt.NDArray[np.intp], width: npt.NDArray[np.intp], shape: tuple[int, int]) -> None:
        self.bins = _Bins(prediction, width)
        self._shape = shape
        self._cell = prediction * shape[1] + width
        counts = np.bincount(self._cell, minlength=shape[0] * shape[1]).astype(float)
        self._used = np.flatnonzero(counts)
        self._counts = counts[self._used]
        rows = np.arange(len(self._used))
        self._design = np.zeros((len(self._used), sum(shape)))
        self._design[rows, self._used // shape[1]] = 1.0
        self._design[rows, shape[0] + self._used % shape[1]] = 1.0

    def fit_factors(self, values: Floats) -> Effects:
        """Factors of the expectation of values that are never negative."""
        n, mean = len(values), float(values.mean())
        if mean <= 0:
            return self._effects(np.full(self._shape[0], _RULE_OF_THREE / n), np.ones(self._shape[1]))
        penalty = float(values.var()) / mean**2 / (n * _LOG_SPREAD**2)  # the dispersion times the prior precision, per row
        model = PoissonRegressor(alpha=penalty, max_iter=1000, tol=1e-8)
        model.fit(self._design, self._means(values) / mean, sample_weight=self._counts)
        by_prediction, by_width = np.split(np.exp(model.coef_), [self._shape[0]])
        return self._effects(mean * float(np.exp(model.intercept_)) * by_prediction, by_width)

    def fit_terms(self, values: Floats) -> Effects:
        """Terms of the expectation of values."""
        mean = float(values.mean())
        weighted = self._design * self._counts[:, None]
        penalty = float(values.var()) / _SPREAD**2 or 1.0
        system = self._design.T @ weighted + penalty * np.eye(self._design.shape[1])
        terms = np.linalg.solve(system, weighted.T @ (self._means(values) - mean))
        by_prediction, by_width = np.split(terms, [self._shape[0]])
        return self._effects(mean + by_prediction, by_width)

    def _means(self, values: Floats) -> Floats:
        sums = np.bincount(self._cell, values, self._shape[0] * self._shape[1])
        return np.asarray(sums[self._used] / self._counts, dtype=float)

    @staticmethod
    def _effects(by_prediction: Floats, by_width: Floats) -> Effects:
        return Effects(by_prediction=tuple(by_prediction.tolist()), by_width=tuple(by_width.tolist()))

"""Mean absolute error in which a single outlier hardly counts, from the sums that are stored anyway.

The detector's sums hold ``log(1 + bet * u)`` of each outcome, where ``u = x / m0 - 1`` and ``x`` is the loss, clipped at a multiple
of its 99 % quantile. The combination of the two smallest bets ``a < b`` in which the terms of second order cancel is::

    score(u) = (b / a * log(1 + a * u) - a / b * log(1 + b * u)) / (b - a) = u - a * b * u**3 / 3 + ...

It grows with ``u``, ever more slowly, and is bounded as the loss is clipped: a winsorised loss. Its sum is a plain sum over
outcomes, so that it can be added in any order and taken back like all others.

References:
    Huber, Ronchetti (2009), Robust Statistics, chapter 3: estimates by bounded scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from engine.fidelity.e_detector import BETS, LOG_QUANTUM, size_moments, upper_mean
from schemas.arrays import Floats
from schemas.events import SUM_FIELDS
from schemas.twin_models import Baseline

__all__ = ["robust_mae", "winsorised_mean"]

FEWEST_ERRORS = 10
"""Errors below which none can be told to be an outlier."""

_N = SUM_FIELDS.index("n")
_FIRST_BET = SUM_FIELDS.index("log_bet_0")
_A, _B = BETS[:2]
_DEVIATIONS_OF_MEDIAN = 1.4826022185056018  # standard deviations of a normal error in its median absolute size
_LIMIT = 3.0  # standard deviations


def robust_mae(sums: Sequence[int], baseline: Baseline) -> float | None:
    """Robust mean absolute error, in units of the target, of sums in the order of ``SUM_FIELDS``.

    It is scaled so that errors like those of the baseline have the baseline's MAE. Where the baseline knows what error to expect of
    an outcome, each is counted by its multiple of that, so that rows that are harder to predict do not raise it. None without
    outcomes, or where the baseline has no errors.
    """
    n, mean = sums[_N], size_moments(baseline, baseline).mean
    if n <= 0 or not mean > 0:
        return None
    growth = (_B / _A * sums[_FIRST_BET] - _A / _B * sums[_FIRST_BET + 1]) / (_B - _A)
    score = growth * LOG_QUANTUM / n
    return max(0.0, upper_mean(baseline) * (1.0 + score)) * (baseline.mae / mean)


def winsorised_mean(errors: Floats) -> float | None:
    """Mean absolute error with each error counted up to three standard deviations, which their median gives; shape ``(n,)``.

    None for fewer than ``FEWEST_ERRORS`` errors, or when half of them are 0.

    Example:
        >>> errors = np.append(np.tile([-0.1, 0.1], 50), 1000.0)
        >>> round(float(np.abs(errors).mean()), 2), round(winsorised_mean(errors), 2)
        (10.0, 0.1)
    """
    sizes = np.abs(errors)
    limit = _LIMIT * _DEVIATIONS_OF_MEDIAN * float(np.median(sizes)) if len(sizes) >= FEWEST_ERRORS else 0.0
    return math.fsum(np.minimum(sizes, limit)) / len(sizes) if limit > 0 else None

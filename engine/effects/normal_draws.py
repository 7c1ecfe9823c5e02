"""Standard normal draws that are spread evenly, and depend on a seed and a purpose only."""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

from schemas.arrays import Floats

__all__ = ["normal_draws", "strata"]


def normal_draws(rows: int, n_draws: int, seed: int, purpose: str) -> Floats:
    """Standard normal draws, shape ``(rows, n_draws)``, which depend on the seed and the purpose only.

    Each row holds the midpoints of ``n_draws`` equally likely strata in random order (a Latin hypercube): its mean is 0 and its
    quantiles are those of the normal distribution, so that 1,000 draws add hardly any noise to an interval.

    References:
        McKay, Beckman, Conover (1979), A comparison of three methods for selecting values of input variables. Technometrics 21.

    Example:
        >>> drawn = normal_draws(1, 1000, seed=0, purpose="an example")
        >>> drawn.shape, abs(round(float(drawn.mean()), 12))
        ((1, 1000), 0.0)
    """
    return _drawn(rows, n_draws, seed, purpose).copy()


@lru_cache(maxsize=128)  # simulations on the same twins have the same seed
def _drawn(rows: int, n_draws: int, seed: int, purpose: str) -> Floats:
    rng = np.random.default_rng([seed, zlib.crc32(purpose.encode())])
    drawn = np.tile(strata(n_draws), (rows, 1))
    rng.permuted(drawn, axis=1, out=drawn)
    return drawn


@lru_cache(maxsize=8)
def strata(n_draws: int) -> Floats:
    """Midpoints of equally likely strata of the normal distribution, ascending, ``(n_draws,)``."""
    midpoints = np.asarray(ndtri((np.arange(n_draws) + 0.5) / n_draws), dtype=float)
    midpoints.flags.writeable = False
    return midpoints

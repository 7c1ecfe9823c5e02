"""Inverse of the covariance of experiments' observed effects, applied without a matrix of experiments by experiments.

Given the mean effect and ``between``, the covariance of ``k`` observations is::

    diag(noise) + own * (1 where two have the same variant) + loading @ loading.T

The first two parts are inverted in closed form (Sherman, Morrison), the last by a matrix of the ``q`` common parameters (Woodbury).
So the cost grows with ``k * q**2`` for each value of ``between``, rather than with ``k**3``. ``noise`` is never small beside the
rest, as experiments with the same variant differ too, so that nothing cancels.

References:
    Golub, Van Loan (2013), Matrix Computations, 4th edition, section 2.1.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from schemas.arrays import Flags, Floats

__all__ = ["ObservationPrecision"]


@dataclass(frozen=True)
class ObservationPrecision:
    """Precision of ``k`` observations at ``p`` points.

    Attributes:
        weight: inverse of the variance that is each observation's alone, ``(p, k)``.
        own: variance between variants, ``(p,)``.
        first: index of the first observation of each variant, ascending from 0.
        loading: of the observations on the ``q`` common parameters, ``(k, q)``.

    Example:
        >>> one = ObservationPrecision(np.array([[0.25, 1.0]]), np.array([1.0]), np.array([0]), np.zeros((2, 0)))
        >>> one.times(np.ones(2)).round(6).tolist()  # the inverse of [[5, 1], [1, 2]], times (1, 1)
        [[0.111111, 0.444444]]
    """

    weight: Floats
    own: Floats
    first: npt.NDArray[np.intp]
    loading: Floats

    def select(self, points: Flags) -> ObservationPrecision:
        """The same at some of the points."""
        return ObservationPrecision(self.weight[points], self.own[points], self.first, self.loading)

    def times(self, values: Floats) -> Floats:
        """Product with a value of each observation, ``(k,)`` or ``(p, k)``; the result is ``(p, k)``."""
        apart = self._apart(self.weight * values)
        return np.asarray(apart - self._apart(self.weight * (self._inner(apart) @ self.loading.T)))

    def loaded(self, values: Floats) -> Floats:
        """Product of the transposed loading, the precision and a value of each observation, ``(p, q)``."""
        return self._inner(self._apart(self.weight * values))

    @cached_property
    def log_determinant(self) -> Floats:
        """Logarithm of the determinant of the covariance, ``(p,)``."""
        variants = np.log1p(self.own[:, None] * self._variant_weight).sum(axis=1)
        return np.asarray(variants - np.log(self.weight).sum(axis=1) - np.linalg.slogdet(self.remaining)[1])

    @cached_property
    def remaining(self) -> Floats:
        """Covariance of the common parameters given the observations, where each is standard normal before, ``(p, q, q)``."""
        n, q = len(self.own), self.loading.shape[1]
        if len(self.first) == len(self.loading):  # each variant has one observation: its variance is like noise
            alone = self.weight * (1.0 - self.weight * self._share)
            return np.asarray(np.linalg.inv(np.eye(q) + (alone @ self._squares).reshape(n, q, q)))
        sums = self._by_variant(self.weight[:, :, None] * self.loading)
        common = np.einsum("pvq,pvr->pqr", sums * self._share[:, :, None], sums)
        return np.asarray(np.linalg.inv(np.eye(q) + (self.weight @ self._squares).reshape(n, q, q) - common))

    def unexplained(self) -> Floats:
        """Variance of each observation that the common parameters have given all observations, ``(p, k)``."""
        return np.asarray(self.remaining.reshape(len(self.own), -1) @ self._squares.T)

    def quadratic(self, within: float, alone: float) -> Floats:
        """Diagonal of ``alike @ precision @ alike``, ``(p, k)``.

        Args:
            within: value of ``alike`` for two observations with the same variant.
            alone: what its diagonal has more.
        """
        total = self._spread(self._variant_weight)
        linear = alone * self.weight + within * total
        squares = alone * (alone + 2.0 * within) * self.weight + within**2 * total
        without_common = self._loaded()
        loaded = alone * without_common + within * self._spread(self._by_variant(without_common))
        common = np.einsum("pkq,pqr,pkr->pk", loaded, self.remaining, loaded, optimize=True)
        return np.asarray(squares - self._spread(self._share) * linear**2 - common)

    def alike_times(self, values: Floats, within: float, alone: float) -> Floats:
        """Product of ``alike``, as for :meth:`quadratic`, with values ``(p, k)``."""
        return np.asarray(alone * values + within * self._spread(self._by_variant(values)))

    @property
    def _squares(self) -> Floats:
        """Products of each observation's loadings, ``(k, q * q)``."""
        return np.asarray((self.loading[:, :, None] * self.loading[:, None, :]).reshape(len(self.loading), -1))

    def _loaded(self) -> Floats:
        """The precision without the common parameters, times the loading, ``(p, k, q)``."""
        weighted = self.weight[:, :, None] * self.loading
        common = self._spread(self._by_variant(weighted) * self._share[:, :, None])
        return np.asarray(weighted - self.weight[:, :, None] * common)

    @cached_property
    def _variant_weight(self) -> Floats:
        return self._by_variant(self.weight)

    @cached_property
    def _share(self) -> Floats:
        """What the variance of each variant takes from the precision, in units of its squared weights, ``(p, variants)``."""
        return np.asarray(self.own[:, None] / (1.0 + self.own[:, None] * self._variant_weight))

    def _apart(self, weighted: Floats) -> Floats:
        """The precision without the common parameters, times values that are weighted already, ``(p, k)``."""
        return np.asarray(weighted - self.weight * self._spread(self._share * self._by_variant(weighted)))

    def _inner(self, apart: Floats) -> Floats:
        return np.asarray(np.einsum("pqr,pr->pq", self.remaining, apart @ self.loading))

    def _by_variant(self, values: Floats) -> Floats:
        return np.asarray(np.add.reduceat(values, self.first, axis=1))

    def _spread(self, values: Floats) -> Floats:
        """Values of variants, ``(p, variants, ...)``, at each of their observations."""
        return np.asarray(np.repeat(values, np.diff(self.first, append=len(self.loading)), axis=1))

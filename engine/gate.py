"""Whether a challenger takes the champion's place: both judged on the same later rows that neither was trained on.

Every difference is paired row by row, so what both find hard cancels out, and comes with its standard error. The challenger has to
be better in what calls for a retrain, the absolute error, and must not be worse in correlation or coverage; better and worse mean
beyond noise at one-sided 95 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["GATE_ROWS", "Comparison", "Difference", "Judged", "compare"]

Array = npt.NDArray[np.float64]

GATE_ROWS = 500
"""Fewest later rows on which a challenger is judged."""

NOMINAL_COVERAGE = 0.95
_Z_95 = 1.6448536269514722  # one-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Judged:
    """What one model said of the rows of the gate, each of shape ``(n,)``, in units of the target."""

    predicted: Array
    lower: Array
    upper: Array


@dataclass(frozen=True)
class Difference:
    """Challenger minus champion in one figure; null where a side has none.

    Attributes:
        standard_error: of the difference, from the paired rows.
    """

    champion: float | None
    challenger: float | None
    difference: float | None
    standard_error: float | None

    @property
    def surely_lower(self) -> bool:
        """Whether the challenger's figure is the lower one beyond noise."""
        if self.difference is None or self.standard_error is None:
            return False
        return self.difference + _Z_95 * self.standard_error < 0.0


@dataclass(frozen=True)
class Comparison:
    """Verdict of the gate with the numbers it rests on.

    Attributes:
        n: rows that both were judged on.
        objections: why the challenger is refused, empty when it is promoted.
    """

    n: int
    mae: Difference
    correlation: Difference
    coverage: Difference
    objections: tuple[str, ...]

    @property
    def promote(self) -> bool:
        """Whether the challenger takes over."""
        return not self.objections

    @property
    def reason(self) -> str:
        """The verdict in one sentence."""
        if self.objections:
            return "; ".join(self.objections)
        return f"MAE {self.mae.challenger:.4g} instead of {self.mae.champion:.4g} on {self.n} later rows"

    def numbers(self) -> dict[str, Any]:
        """Everything above as plain values, for the ledger and for ``ModelEvent.comparison``."""
        figures = {name: vars(getattr(self, name)) for name in ("mae", "correlation", "coverage")}
        return {"n": self.n, "promote": self.promote, "reason": self.reason, **figures}


def compare(actual: npt.ArrayLike, champion: Judged, challenger: Judged, fewest: int = GATE_ROWS) -> Comparison:
    """Judge champion and challenger on the same rows; ``actual`` has shape ``(n,)``.

    Raises:
        ValueError: for an actual value or a prediction that is missing, or for sides of different lengths.

    Example:
        >>> import numpy as np
        >>> truth = np.random.default_rng(0).normal(size=600)
        >>> good, bad = (Judged(truth + off, truth + off - 2, truth + off + 2) for off in (0.1, 0.5))
        >>> compare(truth, champion=bad, challenger=good).promote
        True
    """
    truth = np.asarray(actual, dtype=float)
    for side, judged in (("champion", champion), ("challenger", challenger)):
        _check(truth, judged, side)
    mae = _mean_difference(np.abs(champion.predicted - truth), np.abs(challenger.predicted - truth))
    correlation = _correlation_difference(truth, champion.predicted, challenger.predicted)
    coverage = _mean_difference(_inside(truth, champion), _inside(truth, challenger))
    objections = _objections(len(truth), fewest, mae, correlation, coverage)
    return Comparison(len(truth), mae, correlation, coverage, objections)


def _check(truth: Array, judged: Judged, side: str) -> None:
    if not len(truth) == len(judged.predicted) == len(judged.lower) == len(judged.upper):
        raise ValueError(f"{len(truth)} actual values, but the {side} tells {len(judged.predicted)}")
    missing = int((~np.isfinite(truth + judged.predicted)).sum())
    if missing:
        raise ValueError(f"{missing} of {len(truth)} rows have no actual value or no prediction of the {side}")


def _inside(truth: Array, judged: Judged) -> Array:
    return ((judged.lower <= truth) & (truth <= judged.upper)).astype(float)


def _mean_difference(champion: Array, challenger: Array) -> Difference:
    """Difference of two means over the same rows."""
    if len(champion) < 2:
        return Difference(None, None, None, None)
    apart = challenger - champion
    return Difference(
        float(champion.mean()), float(challenger.mean()), float(apart.mean()), float(apart.std(ddof=1) / math.sqrt(len(apart)))
    )


def _correlation_difference(truth: Array, champion: Array, challenger: Array) -> Difference:
    """Difference of two correlations with the same truth; its error from their influence functions.

    References:
        Devlin, Gnanadesikan, Kettenring (1975), Robust estimation with correlation coefficients. Biometrika 62(3).
    """
    ours, theirs = _influence(truth, champion), _influence(truth, challenger)
    if ours is None or theirs is None:
        known = [None if side is None else side[0] for side in (ours, theirs)]
        return Difference(known[0], known[1], None, None)
    apart = theirs[1] - ours[1]
    return Difference(ours[0], theirs[0], theirs[0] - ours[0], float(apart.std(ddof=1) / math.sqrt(len(apart))))


def _influence(truth: Array, predicted: Array) -> tuple[float, Array] | None:
    """Pearson correlation and the influence of each row on it; None when either side is constant."""
    if len(truth) < 2 or not np.ptp(truth) or not np.ptp(predicted):
        return None
    a, b = ((side - side.mean()) / side.std() for side in (truth, predicted))
    r = float(np.clip(np.mean(a * b), -1.0, 1.0))
    return r, a * b - r * (a * a + b * b) / 2


def _objections(n: int, fewest: int, mae: Difference, correlation: Difference, coverage: Difference) -> tuple[str, ...]:
    if n < fewest:
        return (f"{n} later rows are too few to judge on, {fewest} are needed",)
    found = {
        f"MAE {_pair(mae)}: not better beyond noise": not mae.surely_lower,
        f"correlation {_pair(correlation)}: worse beyond noise": correlation.surely_lower or _lost(correlation),
        f"coverage {_pair(coverage)}: worse beyond noise": coverage.surely_lower and _undercovers(coverage.challenger, n),
    }
    return tuple(objection for objection, holds in found.items() if holds)


def _lost(correlation: Difference) -> bool:
    """Whether the challenger says the same of every row, where the champion told them apart."""
    return correlation.challenger is None and correlation.champion is not None


def _undercovers(coverage: float | None, n: int) -> bool:
    """Whether a coverage lies below what an interval promises, beyond noise: an interval that was too wide may shrink."""
    if coverage is None:
        return False
    return coverage < NOMINAL_COVERAGE - _Z_95 * math.sqrt(NOMINAL_COVERAGE * (1 - NOMINAL_COVERAGE) / n)


def _pair(figure: Difference) -> str:
    told = ["not defined" if value is None else f"{value:.4g}" for value in (figure.challenger, figure.champion)]
    error = "" if figure.standard_error is None else f" (standard error of the difference {figure.standard_error:.2g})"
    return f"{told[0]} against {told[1]}{error}"

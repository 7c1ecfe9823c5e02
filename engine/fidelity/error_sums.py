"""Everything a window needs, as integers that add up in any order and can be taken back.

Predicted and actual are standardised by the model's fixed reference and rounded once, to whole ``QUANTUM``; every other field is
made from these integers, so the figures of a window do not depend on order, slicing or corrections, and a constant is recognised
by an exact test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.fidelity.e_detector import rounded_log_bets
from schemas.events import SUM_FIELDS
from schemas.fidelity_models import FidelityMetrics
from schemas.twin_models import Baseline

__all__ = [
    "LIMIT",
    "QUANTUM",
    "add_sums",
    "contributions",
    "fidelity_metrics",
    "in_range",
    "metrics_from_moments",
    "moments",
    "negate",
    "sum_groups",
]

QUANTUM = 1e-5
LIMIT = 1e4
"""Largest distance from the reference, in its scale: squares of the integers stay below 2**63."""

OUTLIER_DEVIATIONS = 3.0
_Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
_LOW_BITS = 32


class Moments(NamedTuple):
    """The sums behind the figures, the first of ``SUM_FIELDS``."""

    n: int
    n_interval: int
    n_inside: int
    predicted: int
    actual: int
    predicted_squared: int
    actual_squared: int
    product: int
    absolute_error: int
    n_outliers: int

    @property
    def error(self) -> int:
        """Sum of predicted - actual."""
        return self.predicted - self.actual

    @property
    def error_squared(self) -> int:
        """Sum of (predicted - actual) squared."""
        return self.predicted_squared + self.actual_squared - 2 * self.product


N_MOMENTS = len(Moments._fields)


def in_range(predicted: npt.ArrayLike, actual: npt.ArrayLike, baseline: Baseline) -> npt.NDArray[np.bool_]:
    """Pairs that can be counted: both finite and within ``LIMIT`` scales of the reference, shape ``(n,)``."""
    return (np.abs(_standardised(predicted, baseline)) <= LIMIT) & (np.abs(_standardised(actual, baseline)) <= LIMIT)


def contributions(
    predicted: npt.ArrayLike, actual: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike, baseline: Baseline
) -> npt.NDArray[np.int64]:
    """What each pair adds to its pane, in the order of ``SUM_FIELDS``, shape ``(n, len(SUM_FIELDS))``.

    ``lower`` and ``upper`` are NaN where there is no interval.

    Raises:
        ValueError: when a pair is out of range.
    """
    allowed = in_range(predicted, actual, baseline)
    if not allowed.all():
        row = int(np.argmin(allowed))
        pair = float(np.asarray(predicted)[row]), float(np.asarray(actual)[row])
        raise ValueError(f"predicted and actual {pair} lie further than {LIMIT:g} x {baseline.scale:g} from {baseline.center:g}")
    k_predicted, k_actual = _quanta(predicted, baseline), _quanta(actual, baseline)
    error = np.abs(k_predicted - k_actual) * (QUANTUM * baseline.scale)
    outlier = error > OUTLIER_DEVIATIONS * baseline.rmse
    columns = moments(k_predicted, k_actual, interval_coverage(actual, lower, upper), outlier)
    return np.column_stack([columns, rounded_log_bets(error, baseline)])


def interval_coverage(actual: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Whether there is an interval, and whether the actual value lies inside it, as 0 and 1, shape ``(n, 2)``."""
    low, high, value = np.asarray(lower, dtype=float), np.asarray(upper, dtype=float), np.asarray(actual, dtype=float)
    return np.column_stack([~(np.isnan(low) | np.isnan(high)), (low <= value) & (value <= high)]).astype(np.int64)


def moments(
    predicted: npt.NDArray[Any], actual: npt.NDArray[Any], coverage: npt.NDArray[np.int64], outlier: npt.NDArray[np.bool_]
) -> npt.NDArray[Any]:
    """Fields of ``Moments`` for integers of any size (int64, or Python's own in an object array), shape ``(n, 10)``."""
    one = np.ones(len(predicted), dtype=np.int64)
    products = (predicted, actual, predicted * predicted, actual * actual, predicted * actual, abs(predicted - actual))
    return np.column_stack([one, coverage, *products, outlier])


def sum_groups(rows: npt.NDArray[np.int64], group: npt.NDArray[np.integer[Any]], n_groups: int) -> list[tuple[int, ...]]:
    """Exact sums of the rows of each group, as Python integers; zeros for a group without rows.

    Halves of 32 bits are added apart, so that not even 2**31 of the largest squares overflow.
    """
    order = np.argsort(group, kind="stable")
    present, first = np.unique(np.asarray(group)[order], return_index=True)
    sums = np.zeros((n_groups, rows.shape[1]), dtype=object)
    if len(present):
        ordered = rows[order]
        high = np.add.reduceat(ordered >> _LOW_BITS, first, axis=0).astype(object)
        low = np.add.reduceat(ordered & (2**_LOW_BITS - 1), first, axis=0).astype(object)
        sums[present] = high * 2**_LOW_BITS + low
    return [tuple(row) for row in sums.tolist()]


def add_sums(rows: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Sum of rows in the order of ``SUM_FIELDS``; zeros for none.

    Example:
        >>> total([]) == (0,) * len(SUM_FIELDS)
        True
    """
    return tuple(map(sum, zip(*rows, strict=True))) or (0,) * len(SUM_FIELDS)


def negate(row: Sequence[int]) -> tuple[int, ...]:
    """The row that takes ``row`` back."""
    return tuple(-value for value in row)


def fidelity_metrics(sums: Sequence[int], baseline: Baseline) -> FidelityMetrics:
    """MAE, RMSE, bias, correlation and coverage of sums in the order of ``SUM_FIELDS``, with standard errors."""
    return metrics_from_moments(sums[:N_MOMENTS], QUANTUM * baseline.scale)


def metrics_from_moments(sums: Sequence[int], unit: float, n_skipped: int = 0) -> FidelityMetrics:
    """Figures of the fields of ``Moments``, one integer step being ``unit`` of the target.

    Sums that hold only half of a correction, which no set of outcomes could have, give the nearest possible figures.

    The standard error of the RMSE is that of normal errors; that of a coverage is the half-width of Wilson's interval at one
    deviation, which stays positive at 0 and 1. Correlation and coverage, whose errors are not symmetric, have their 95 % intervals
    beside it, by Fisher's transformation and Wilson's.

    References:
        Fisher (1921), On the probable error of a coefficient of correlation. Wilson (1927), Probable inference. JASA 22.
    """
    m = Moments(*sums)
    if m.n <= 0:
        return FidelityMetrics(n=0, missing=dict.fromkeys(_FIGURES, "no outcomes yet"), n_skipped=n_skipped)
    found = {**_errors(m, unit), **_correlation(m), **_coverage(m)}
    return FidelityMetrics(
        n=m.n,
        **{name: figure.value for name, figure in found.items()},
        n_interval=max(m.n_interval, 0),
        standard_errors={name: figure.standard_error for name, figure in found.items() if figure.standard_error is not None},
        intervals={name: figure.interval for name, figure in found.items() if figure.interval is not None},
        missing={name: figure.missing for name, figure in found.items() if figure.missing},
        n_skipped=n_skipped,
        n_outliers=max(m.n_outliers, 0),
    )


_FIGURES = ("mae", "rmse", "bias", "correlation", "coverage_95pct")


class _Figure(NamedTuple):
    value: float | None
    standard_error: float | None = None
    missing: str = ""
    interval: tuple[float, float] | None = None


def _errors(m: Moments, unit: float) -> dict[str, _Figure]:
    rmse = unit * math.sqrt(max(m.error_squared, 0) / m.n)
    return {
        "mae": _Figure(unit * (max(m.absolute_error, 0) / m.n), _mean_error(m, m.absolute_error, unit)),
        "rmse": _Figure(rmse, rmse / math.sqrt(2 * m.n)),
        "bias": _Figure(unit * (m.error / m.n), _mean_error(m, m.error, unit)),
    }


def _mean_error(m: Moments, summed: int, unit: float) -> float | None:
    """Standard error of the mean of values with the sum ``summed``, whose squares are those of the errors."""
    squared_deviations = max(m.n * m.error_squared - summed**2, 0)
    return unit * math.sqrt(squared_deviations / (m.n - 1)) / m.n if m.n > 1 else None


def _correlation(m: Moments) -> dict[str, _Figure]:
    spread = {
        "predicted": m.n * m.predicted_squared - m.predicted**2,
        "actual": m.n * m.actual_squared - m.actual**2,
    }
    constant = [name for name, value in spread.items() if value <= 0]
    if m.n < 2 or constant:
        reason = "fewer than 2 outcomes" if m.n < 2 else f"constant: {' and '.join(constant)}"
        return {"correlation": _Figure(None, missing=reason)}
    covariance = m.n * m.product - m.predicted * m.actual
    r = covariance / (math.sqrt(spread["predicted"]) * math.sqrt(spread["actual"]))
    r = max(-1.0, min(1.0, r))
    if m.n <= 3:
        return {"correlation": _Figure(r)}
    error = 1 / math.sqrt(m.n - 3)
    return {"correlation": _Figure(r, (1 - r * r) * error, interval=_fisher(r, _Z_95 * error))}


def _fisher(r: float, half: float) -> tuple[float, float]:
    if abs(r) == 1.0:
        return r, r
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def _coverage(m: Moments) -> dict[str, _Figure]:
    k = m.n_interval
    if k <= 0:
        return {"coverage_95pct": _Figure(None, missing="no outcome came with an interval")}
    share = min(max(m.n_inside / k, 0.0), 1.0)
    low, high = _wilson(share, k, _Z_95)
    within_one = _wilson(share, k, 1.0)
    return {"coverage_95pct": _Figure(share, (within_one[1] - within_one[0]) / 2, interval=(low, high))}


def _wilson(share: float, n: int, z: float) -> tuple[float, float]:
    """Wilson's interval of a share of ``n`` at ``z`` deviations."""
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max((middle - half) / (1 + z * z / n), 0.0), min((middle + half) / (1 + z * z / n), 1.0)


def _standardised(values: npt.ArrayLike, baseline: Baseline) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return (np.asarray(values, dtype=float) - baseline.center) / baseline.scale


def _quanta(values: npt.ArrayLike, baseline: Baseline) -> npt.NDArray[np.int64]:
    return np.rint(_standardised(values, baseline) / QUANTUM).astype(np.int64)

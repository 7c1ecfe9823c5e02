"""Error sums of outcomes as integers, which can be added in any order and subtracted again, and the metrics they give.

Predicted and actual values are standardised by the model's fixed reference and rounded once, to integer multiples of ``QUANTUM``.
Every other field is computed from these integers. The metrics of a window therefore do not depend on the order of outcomes, on how
they were batched or on corrections, and a constant column is recognised by an exact test.
Streaming metrics of libraries such as River add up floating-point numbers, whose sums depend on the order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.fidelity.e_detector import LOSS_QUANTUM, rounded_log_bets
from engine.fidelity.expected_errors import outcome_losses
from engine.fidelity.robust_error import robust_mae
from schemas.arrays import Flags, Floats, Integers
from schemas.events import SUM_FIELDS
from schemas.fidelity_models import FidelityMetrics
from schemas.twin_models import Baseline

__all__ = [
    "LARGEST_CONTRIBUTION",
    "LIMIT",
    "N_MOMENTS",
    "OUTLIER_DEVIATIONS",
    "QUANTUM",
    "Moments",
    "add_sums",
    "contributions",
    "fidelity_metrics",
    "in_range",
    "interval_coverage",
    "metrics_from_moments",
    "moments",
    "moments_in",
    "negate",
    "sum_groups",
]

QUANTUM = 1e-5
LIMIT = 1e4
"""Largest distance of a value from the reference, in its scale, so that squares of the integers stay below 2**63."""

OUTLIER_DEVIATIONS = 3.0
"""Errors beyond this many standard deviations count as outliers."""

_Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
_LOW_BITS = 32


class Moments(NamedTuple):
    """The sums that metrics are computed from: the first fields of ``SUM_FIELDS``."""

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
_LARGEST = round(LIMIT / QUANTUM)
LARGEST_CONTRIBUTION = Moments(1, 1, 1, _LARGEST, _LARGEST, _LARGEST**2, _LARGEST**2, _LARGEST**2, 2 * _LARGEST, 1)
"""What one outcome adds to each of the moments at most, up or down."""


def moments_in(sums: Sequence[int]) -> Moments:
    """The moments in sums in the order of ``SUM_FIELDS``."""
    return Moments(*sums[:N_MOMENTS])


def in_range(predicted: npt.ArrayLike, actual: npt.ArrayLike, baseline: Baseline) -> Flags:
    """Whether both values of each pair are finite and within ``LIMIT`` scales of the reference, shape ``(n,)``."""
    return (np.abs(_standardised(predicted, baseline)) <= LIMIT) & (np.abs(_standardised(actual, baseline)) <= LIMIT)


def contributions(
    predicted: npt.ArrayLike, actual: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike, baseline: Baseline
) -> Integers:
    """Compute what each pair adds to the sums of its pane, in the order of ``SUM_FIELDS``, shape ``(n, len(SUM_FIELDS))``.

    ``lower`` and ``upper`` are NaN where there is no interval.

    Raises:
        ValueError: when a pair is out of range.
    """
    allowed = in_range(predicted, actual, baseline)
    if not allowed.all():
        row = int(np.argmin(allowed))
        pair = float(np.asarray(predicted)[row]), float(np.asarray(actual)[row])
        raise ValueError(f"predicted and actual {pair} lie further than {LIMIT:g} x {baseline.scale:g} from {baseline.center:g}")
    k_predicted, k_actual = _to_quanta(predicted, baseline), _to_quanta(actual, baseline)
    error = np.abs(k_predicted - k_actual) * (QUANTUM * baseline.scale)
    outlier = error > OUTLIER_DEVIATIONS * baseline.rmse
    coverage = interval_coverage(actual, lower, upper)
    columns = moments(k_predicted, k_actual, coverage, outlier)
    return np.column_stack([columns, *_losses(k_predicted - k_actual, predicted, lower, upper, coverage[:, 1], baseline)])


def _losses(
    k_error: Integers, predicted: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike, inside: Integers, baseline: Baseline
) -> tuple[Integers, Integers]:
    """The fields of the detector: the log bets on the size of errors, and the sums of the other losses and their squares."""
    error, expected = np.asarray(k_error * (QUANTUM * baseline.scale), dtype=float), baseline.expected
    if expected is None or baseline.half_width is None:
        size = np.minimum(np.abs(error) / baseline.clip, 1.0)
        return rounded_log_bets(size, baseline), np.zeros((len(error), 6), dtype=np.int64)
    with np.errstate(over="ignore"):
        half_width = (np.asarray(upper, dtype=float) - np.asarray(lower, dtype=float)) / 2
    losses = outcome_losses(error, np.asarray(predicted, dtype=float), half_width, inside, expected, baseline.half_width)
    # The half of Delyon's bound that follows from an outcome, and the one that is known before it.
    squares = (
        losses.error**2 / 6.0 + losses.error_square / 3.0,
        losses.slope**2 / 6.0 + losses.slope_square / 3.0,
        losses.misses**2 / 6.0 + losses.misses_square / 3.0,
    )
    sums = np.column_stack([losses.error, squares[0], losses.slope, squares[1], losses.misses, squares[2]])
    return rounded_log_bets(losses.size, baseline), np.rint(sums / LOSS_QUANTUM).astype(np.int64)


def interval_coverage(actual: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike) -> Integers:
    """Whether a pair has an interval, and whether the actual value lies inside it, as 0 and 1, shape ``(n, 2)``."""
    low, high, value = np.asarray(lower, dtype=float), np.asarray(upper, dtype=float), np.asarray(actual, dtype=float)
    return np.column_stack([~(np.isnan(low) | np.isnan(high)), (low <= value) & (value <= high)]).astype(np.int64)


def moments(predicted: npt.NDArray[Any], actual: npt.NDArray[Any], coverage: Integers, outlier: Flags) -> npt.NDArray[Any]:
    """Compute the fields of ``Moments`` of each pair, for int64 or for Python integers in an object array; shape ``(n, 10)``."""
    count = np.ones(len(predicted), dtype=np.int64)
    products = (predicted, actual, predicted * predicted, actual * actual, predicted * actual, abs(predicted - actual))
    return np.column_stack([count, coverage, *products, outlier])


def sum_groups(rows: Integers, group: npt.NDArray[np.integer[Any]], n_groups: int) -> list[tuple[int, ...]]:
    """Add up the rows of each group exactly, as Python integers; a group without rows has zeros.

    The upper and lower 32 bits are added separately, so that even 2**31 of the largest squares do not overflow.
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
    """Add up rows in the order of ``SUM_FIELDS``; zeros for no rows.

    Example:
        >>> add_sums([]) == (0,) * len(SUM_FIELDS)
        True
    """
    return tuple(map(sum, zip(*rows, strict=True))) or (0,) * len(SUM_FIELDS)


def negate(row: Sequence[int]) -> tuple[int, ...]:
    """Negate a row: adding the result removes the row from a sum."""
    return tuple(-value for value in row)


def fidelity_metrics(sums: Sequence[int], baseline: Baseline) -> FidelityMetrics:
    """Compute MAE, RMSE, bias, correlation and coverage from sums in the order of ``SUM_FIELDS``, with standard errors."""
    metrics = metrics_from_moments(sums[:N_MOMENTS], QUANTUM * baseline.scale)
    return metrics.model_copy(update={"mae_robust": robust_mae(sums, baseline)})


def metrics_from_moments(sums: Sequence[int], unit: float, n_skipped: int = 0) -> FidelityMetrics:
    """Compute metrics from the fields of ``Moments``, whose integers are multiples of ``unit`` of the target.

    Sums that contain only half of a correction, which no set of outcomes can have, give the nearest possible metrics.

    The standard error of the RMSE assumes normal errors. That of a coverage is the half-width of Wilson's interval at one standard
    deviation, which stays positive at 0 and 1. The errors of correlation and coverage are not symmetric, so both have a 95 %
    interval too, by Fisher's transformation and Wilson's interval.

    References:
        Fisher (1921), On the probable error of a coefficient of correlation. Wilson (1927), Probable inference. JASA 22.
    """
    m = Moments(*sums)
    if m.n <= 0:
        return FidelityMetrics(n=0, missing=dict.fromkeys(_METRICS, "no outcomes yet"), n_skipped=n_skipped)
    metrics = {**_errors(m, unit), **_correlation(m), **_coverage(m)}
    return FidelityMetrics(
        n=m.n,
        **{name: metric.value for name, metric in metrics.items()},
        n_interval=max(m.n_interval, 0),
        standard_errors={name: metric.standard_error for name, metric in metrics.items() if metric.standard_error is not None},
        intervals={name: metric.interval for name, metric in metrics.items() if metric.interval is not None},
        missing={name: metric.missing for name, metric in metrics.items() if metric.missing},
        n_skipped=n_skipped,
        n_outliers=max(m.n_outliers, 0),
    )


_METRICS = ("mae", "rmse", "bias", "correlation", "coverage_95pct")


class _Metric(NamedTuple):
    value: float | None
    standard_error: float | None = None
    missing: str = ""
    interval: tuple[float, float] | None = None


def _errors(m: Moments, unit: float) -> dict[str, _Metric]:
    rmse = unit * math.sqrt(max(m.error_squared, 0) / m.n)
    return {
        "mae": _Metric(unit * (max(m.absolute_error, 0) / m.n), _standard_error_of_mean(m, m.absolute_error, unit)),
        "rmse": _Metric(rmse, rmse / math.sqrt(2 * m.n)),
        "bias": _Metric(unit * (m.error / m.n), _standard_error_of_mean(m, m.error, unit)),
    }


def _standard_error_of_mean(m: Moments, summed: int, unit: float) -> float | None:
    """Standard error of the mean of values with the sum ``summed``, whose squares are those of the errors."""
    squared_deviations = max(m.n * m.error_squared - summed**2, 0)
    return unit * math.sqrt(squared_deviations / (m.n - 1)) / m.n if m.n > 1 else None


def _correlation(m: Moments) -> dict[str, _Metric]:
    spread = {
        "predicted": m.n * m.predicted_squared - m.predicted**2,
        "actual": m.n * m.actual_squared - m.actual**2,
    }
    constant = [name for name, value in spread.items() if value <= 0]
    if m.n < 2 or constant:
        reason = "fewer than 2 outcomes" if m.n < 2 else f"constant: {' and '.join(constant)}"
        return {"correlation": _Metric(None, missing=reason)}
    covariance = m.n * m.product - m.predicted * m.actual
    r = covariance / (math.sqrt(spread["predicted"]) * math.sqrt(spread["actual"]))
    r = max(-1.0, min(1.0, r))
    if m.n <= 3:
        return {"correlation": _Metric(r)}
    error = 1 / math.sqrt(m.n - 3)
    return {"correlation": _Metric(r, (1 - r * r) * error, interval=_fisher(r, _Z_95 * error))}


def _fisher(r: float, half: float) -> tuple[float, float]:
    if abs(r) == 1.0:
        return r, r
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def _coverage(m: Moments) -> dict[str, _Metric]:
    k = m.n_interval
    if k <= 0:
        return {"coverage_95pct": _Metric(None, missing="no outcome came with an interval")}
    share = min(max(m.n_inside / k, 0.0), 1.0)
    low, high = _wilson(share, k, _Z_95)
    within_one = _wilson(share, k, 1.0)
    return {"coverage_95pct": _Metric(share, (within_one[1] - within_one[0]) / 2, interval=(low, high))}


def _wilson(share: float, n: int, z: float) -> tuple[float, float]:
    """Wilson's interval of a share of ``n`` at ``z`` standard deviations."""
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max((middle - half) / (1 + z * z / n), 0.0), min((middle + half) / (1 + z * z / n), 1.0)


def _standardised(values: npt.ArrayLike, baseline: Baseline) -> Floats:
    with np.errstate(over="ignore"):
        return (np.asarray(values, dtype=float) - baseline.center) / baseline.scale


def _to_quanta(values: npt.ArrayLike, baseline: Baseline) -> Integers:
    return np.rint(_standardised(values, baseline) / QUANTUM).astype(np.int64)

"""Sequential test of whether the errors of a model have changed: an e-detector of the Shiryaev-Roberts type.

With every outcome a new e-process starts with a stake of 1, which bets that a loss exceeds its baseline mean. Each outcome
multiplies a stake by an e-value: its expectation is at most 1 while nothing has changed. The sum ``R`` of all stakes is the
e-detector. Without a change it reaches a limit ``A`` at most once in ``A`` outcomes on average.

There are several losses (:mod:`engine.fidelity.expected_errors`), and several bets on each. A weighted mean of e-detectors is an
e-detector: each has ``E[R_T] <= E[T]`` at every stopping time ``T``, and so has their mean, by linearity. So all losses share one
budget of false alarms, and one that sees a change costs the others the logarithm of its weight, not a budget of its own.

- ``size``, the size ``x`` in [0, 1] of an error: the stake is multiplied by ``1 + bet * (x / m0 - 1)``.
- ``over`` and ``under``, the signed error both ways; ``slope``, contrasts of predictions that outcomes do not have (the correlation
  is lost); ``misses``, outcomes outside their interval: with ``y`` the loss less the upper bound of its mean, and ``v`` the square
  that is expected of it, the stake is multiplied by ``exp(bet * y - bet**2 * (y**2 / 6 + v / 3))``. Its expectation is at most 1
  because ``exp(z - z**2 / 6) <= 1 + z + z**2 / 3`` for all real ``z`` (Delyon 2009). Its logarithm is linear in the sums of
  ``y`` and ``y**2``, so that two sums serve any number of bets.

Log growths of stakes add up, so that their sum ``S`` is stored for each cell of event time (a pane or part of it), and the cells
are chained: ``R <- (R + m) * exp(S)``. All e-processes of a cell start at its beginning. Their number ``m`` must be known before
the cell, so it is the count of the cell before.

A segment may always have had larger or smaller errors than all rows together. The stored sums bet against the mean of all rows; for
a segment each growth is divided by an upper bound of its expectation under the segment's own baseline mean, which makes it an
e-value for the segment.

No library serves: the detectors of River have no bound on false alarms for heavy-tailed errors (``docs/evidence.html`` compares
them), and their state depends on the order of outcomes, so that late and corrected outcomes could not be taken into account.

References:
    Shin, Ramdas, Rinaldo (2023), E-detectors: a nonparametric framework for sequential change detection. NEJSDS 2(2). Wang, Ramdas
    (2022), False discovery rate control with e-values. JRSS B 84. Dandapanthula, Ramdas (2025), Multiple testing in multi-stream
    sequential change detection. arXiv 2501.04130. Delyon (2009), Exponential inequalities for sums of weakly dependent variables.
    EJP 14. Howard, Ramdas, McAuliffe, Sekhon (2020), Time-uniform Chernoff bounds via nonnegative supermartingales. Probability
    Surveys 17, table 3.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from engine.fidelity.drift_rules import N_MIN
from schemas.arrays import Floats, Integers
from schemas.events import SUM_FIELDS
from schemas.twin_models import Baseline, Errors, LossMoments

__all__ = [
    "AVERAGE_RUN_LENGTH",
    "BETS",
    "LOG_QUANTUM",
    "LOSSES",
    "LOSS_QUANTUM",
    "DetectorState",
    "SeriesReference",
    "accumulate",
    "discoveries",
    "log_mean",
    "log_normalizers",
    "rounded_log_bets",
    "series_reference",
    "size_moments",
    "update_log_stakes",
    "upper_mean",
]

Key = TypeVar("Key", bound=Hashable)


BETS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Fractions of the stake that are bet. Small ones detect small changes, large ones detect large changes sooner."""

LOG_QUANTUM = 1e-9
LOSS_QUANTUM = 1e-6
"""Quantum of the sums of losses and of their squares, whose unit is that of the loss."""
AVERAGE_RUN_LENGTH = 1e6
"""Outcomes to a false alarm of a single detector, on average at least."""

_Z_95 = 1.6448536269514722  # one-sided 95 % quantile of the normal distribution
_RULE_OF_THREE = 2.995732273553991  # -log(0.05): n zeros leave a mean of at most 3/n at 95 %
_N, _N_INTERVAL = SUM_FIELDS.index("n"), SUM_FIELDS.index("n_interval")
_FIRST_BET = SUM_FIELDS.index("log_bet_0")
_LARGEST_LOG = 690.0  # exp of it is still a finite float


class _Loss(NamedTuple):
    """A loss that is bet on beside the size.

    Attributes:
        field: of its sum; that of its squares comes next.
        n_field: of the number of outcomes that have it.
        moments: name of its moments in the baseline.
        sign: of the change that is bet on.
        tolerance: change of its mean that is not worth an alarm.
        bets: the best one against a change by ``d`` is ``d`` over the variance of the loss.
        weight: share of the budget.
    """

    field: int
    n_field: int
    moments: str
    sign: int
    tolerance: float
    bets: tuple[float, ...]
    weight: float


_SIZE_WEIGHT = 0.62
_ERROR, _SLOPE, _MISSES = (SUM_FIELDS.index(name) for name in ("excess_error", "slope", "excess_misses"))
_LOSSES = {
    "over": _Loss(_ERROR, _N, "error", 1, 0.02, (0.2, 0.5, 1.0, 2.0), 0.10),
    "under": _Loss(_ERROR, _N, "error", -1, 0.02, (0.2, 0.5, 1.0, 2.0), 0.10),
    "slope": _Loss(_SLOPE, _N, "slope", 1, 0.0, (0.1, 0.25, 0.5, 1.0), 0.08),
    "misses": _Loss(_MISSES, _N_INTERVAL, "misses", 1, 0.0, (0.4, 0.8, 1.6), 0.10),
}
LOSSES = ("size", *_LOSSES)
"""Names of the losses, in the order of their stakes."""


def size_moments(baseline: Baseline, errors: Errors) -> LossMoments:
    """Moments of the size of errors, in units of the clip, of all rows or a segment."""
    if baseline.expected is not None:
        return errors.losses["size"]
    return LossMoments(mean=errors.clipped_mean, sd=errors.clipped_sd)


def upper_mean(baseline: Baseline, errors: Errors | None = None) -> float:
    """Upper 95 % confidence bound of the mean size of errors, in (0, 1]: the mean ``m0`` that bets are placed against.

    The normal bound of a mean, but never below the rule of three, which is exact for a sample of zeros. It uses only sums,
    quotients and square roots, which all machines round alike: two workers must obtain the same bits.

    Args:
        baseline: of the model.
        errors: of one of its segments; all rows when omitted.
    """
    rows = baseline if errors is None else errors
    moments, n = size_moments(baseline, rows), _effective_n(rows)
    return min(1.0, max(moments.mean + _Z_95 * moments.sd / math.sqrt(n), _RULE_OF_THREE / n))


def _effective_n(errors: Errors) -> float:
    return errors.n if errors.n_effective is None else errors.n_effective


def log_normalizers(baseline: Baseline, segment: Errors) -> tuple[float, ...]:
    """Log of the largest expected growth of each bet on the size at an outcome of a segment, given the segment's own baseline.

    Subtracted from the log growth at every outcome, it makes the growth an e-value for the segment. The expectation is taken at the
    upper bound of the segment's mean loss.
    """
    ratio = upper_mean(baseline, segment) / upper_mean(baseline)
    return tuple(math.log1p(bet * (ratio - 1.0)) for bet in BETS)


class _Bound(NamedTuple):
    """What is subtracted from a loss, and added to its expected square, in a series."""

    margin: float
    square: float


@dataclass(frozen=True)
class SeriesReference:
    """What the losses of a series are compared with.

    Attributes:
        log_normalizers: of the bets on the size, see :func:`log_normalizers`; zeros for the series of all rows.
        bounds: of the other losses, by their name; none where the baseline knows only the size.
    """

    log_normalizers: tuple[float, ...] = (0.0,) * len(BETS)
    bounds: tuple[tuple[str, _Bound], ...] = ()

    @cached_property
    def log_weights(self) -> Floats:
        """Log of the share of each stake in the mean."""
        weights = [(_SIZE_WEIGHT if self.bounds else 1.0) / len(BETS)] * len(BETS)
        for name, _ in self.bounds:
            weights += [_LOSSES[name].weight / len(_LOSSES[name].bets)] * len(_LOSSES[name].bets)
        return np.log(weights)

    def log_growth(self, cells: npt.ArrayLike) -> Floats:
        """Log of the growth of each stake in cells with sums of shape ``(..., len(SUM_FIELDS))``."""
        sums = np.asarray(cells, dtype=float)
        n = sums[..., _N, None]
        size = sums[..., _FIRST_BET : _FIRST_BET + len(BETS)] * LOG_QUANTUM - n * np.array(self.log_normalizers)
        return np.concatenate([size, *(_log_growth(_LOSSES[name], bound, sums) for name, bound in self.bounds)], axis=-1)

    def by_loss(self, log_stakes: npt.ArrayLike) -> dict[str, Floats]:
        """Log of the mean stake on each loss, from stakes of shape ``(..., bets)``."""
        sizes = {"size": len(BETS)} | {name: len(_LOSSES[name].bets) for name, _ in self.bounds}
        ends = np.cumsum(list(sizes.values()))
        parts = np.split(np.asarray(log_stakes), ends[:-1], axis=-1)
        return {name: log_mean(part) for name, part in zip(sizes, parts, strict=True)}


def series_reference(baseline: Baseline, segment: Errors | None = None) -> SeriesReference:
    """The reference of the series of all rows, or of a segment with its own errors."""
    rows = baseline if segment is None else segment
    normalizers = (0.0,) * len(BETS) if segment is None else log_normalizers(baseline, segment)
    if baseline.expected is None:
        return SeriesReference(normalizers)
    return SeriesReference(normalizers, tuple((name, _bound(loss, rows)) for name, loss in _LOSSES.items()))


def _bound(loss: _Loss, errors: Errors) -> _Bound:
    """Upper confidence bound of the mean of a loss, and by how much its square exceeds what is expected of its outcomes."""
    moments = errors.losses[loss.moments]
    margin = max(loss.sign * moments.mean + _Z_95 * moments.sd / math.sqrt(_effective_n(errors)), 0.0) + loss.tolerance
    return _Bound(margin, margin**2 + max(moments.sd**2 + moments.mean**2 - moments.expected_square, 0.0))


def _log_growth(loss: _Loss, bound: _Bound, sums: Floats) -> Floats:
    """``sum(bet * y - bet**2 * (y**2 / 6 + v / 3))`` over the outcomes of cells, with ``y = sign * x - margin``."""
    n, total, squares = (sums[..., field, None] for field in (loss.n_field, loss.field, loss.field + 1))
    total, squares = loss.sign * LOSS_QUANTUM * total, LOSS_QUANTUM * squares
    bets, margin = np.array(loss.bets), bound.margin
    spread = squares - margin * total / 3.0 + n * (margin**2 / 6.0 + bound.square / 3.0)
    return np.asarray(bets * (total - n * margin) - bets**2 * spread)


def discoveries(ratios: Mapping[Key, float], n_series: int) -> set[Key]:
    """Select the series that have changed among ``n_series`` monitored ones, given the evidence of each over its limit.

    This is the e-Benjamini-Hochberg procedure on e-detectors. The expected share of false discoveries stays below the number of
    outcomes so far divided by the average run length, however the series depend on each other.

    Example:
        >>> sorted(discoveries({"a": 4.0, "b": 2.1, "c": 0.5}, 4))
        ['a', 'b']
        >>> discoveries({"a": 3.9, "b": 1.9, "c": 0.5}, 4)
        set()
    """
    ranked = sorted(ratios, key=lambda name: -ratios[name])
    n_discoveries = max((k for k, name in enumerate(ranked, 1) if ratios[name] * k >= n_series), default=0)
    return set(ranked[:n_discoveries])


def rounded_log_bets(size: Floats, baseline: Baseline) -> Integers:
    """Log growth of the stake of each bet on the size at each outcome, as integer multiples of ``LOG_QUANTUM``.

    The integers are the same on every machine, shape ``(n, len(BETS))``; sizes are in units of the clip, 0 to 1.
    Logarithms of different processors differ in the last digit. The few values so close to the middle between two integers that
    this could change the rounding are computed to 40 digits.
    """
    growth = 1.0 + np.asarray(BETS) * (size[:, None] / upper_mean(baseline) - 1.0)
    scaled = np.log(growth) / LOG_QUANTUM
    rounded = np.rint(scaled)
    doubtful = np.abs(np.abs(scaled - rounded) - 0.5) < 1e-4
    rounded[doubtful] = [_rounded_log(value) for value in growth[doubtful].tolist()]
    return rounded.astype(np.int64)


def _rounded_log(value: float) -> int:
    with localcontext(prec=40):
        return int((Decimal(value).ln() * 10**9).to_integral_value())


@dataclass(frozen=True)
class DetectorState:
    """State of a detector after the cells so far.

    Attributes:
        log_values: log of the total stake of each bet; empty before the first outcome.
        last_count: outcomes of the last cell that had any; before the first cell, the outcomes needed to assess a series.
        log_peak: the highest log mean stake at the end of any cell, so that applying many cells at once finds what applying
            them one by one would have found.
        reference: what the series is compared with.

    Example:
        >>> DetectorState().ratio()
        0.0
    """

    log_values: tuple[float, ...] = ()
    last_count: int = N_MIN
    log_peak: float = -math.inf
    reference: SeriesReference = SeriesReference()

    @property
    def log_mean(self) -> float:
        """Log of the weighted mean total stake over the bets."""
        return float(log_mean(self.log_values, self.reference.log_weights)) if self.log_values else -math.inf

    def ratio(self, average_run_length: float = AVERAGE_RUN_LENGTH) -> float:
        """Mean stake over the alarm limit: an alarm from 1 upward. Bounded, so that it is always finite."""
        return _bounded_exp(self.log_mean - math.log(average_run_length))

    def peak_ratio(self, average_run_length: float = AVERAGE_RUN_LENGTH) -> float:
        """The highest ratio at the end of any cell so far."""
        return _bounded_exp(self.log_peak - math.log(average_run_length))

    def loss_ratios(self, average_run_length: float = AVERAGE_RUN_LENGTH) -> dict[str, float]:
        """Evidence of each loss taken alone, over the limit; an alarm has one loss with a ratio of 1 at least."""
        if not self.log_values:
            return {}
        limit = math.log(average_run_length)
        return {name: _bounded_exp(float(value) - limit) for name, value in self.reference.by_loss(self.log_values).items()}


def accumulate(cells: Iterable[Sequence[int]], start: DetectorState) -> DetectorState:
    """Apply the sums of cells, each in the order of ``SUM_FIELDS``, in order of event time to the state ``start``.

    Cells without outcomes are skipped. A cell should hold at most about 200 outcomes: all e-processes of a cell start at its
    beginning, so that large cells detect a change late.

    Example:
        >>> quiet = [100] + [0] * 9 + [-20_000_000] * 5
        >>> accumulate([quiet, quiet], DetectorState()) == accumulate([quiet], accumulate([quiet], DetectorState()))
        True
    """
    state = start
    for cell in cells:
        if cell[_N] > 0:
            state = _apply_cell(state, cell)
    return state


def update_log_stakes(log_stakes: npt.ArrayLike, log_entry: npt.ArrayLike, log_growth: npt.ArrayLike) -> Floats:
    """Return the log of each bet's total stake after a cell: new stakes enter at its beginning, then all of them grow.

    Args:
        log_stakes: before the cell, shape ``(..., bets)``.
        log_entry: log of the number of stakes that enter, which must be known before the cell; it broadcasts.
        log_growth: of the stakes in the cell, shape ``(..., bets)``.
    """
    return np.asarray(np.logaddexp(log_stakes, log_entry) + np.asarray(log_growth, dtype=float), dtype=float)


def log_mean(log_stakes: npt.ArrayLike, log_weights: Floats | None = None) -> Floats:
    """Log of the mean stake over the bets, the last axis; with equal weights when they are omitted."""
    stakes = np.asarray(log_stakes)
    weighted = stakes - math.log(stakes.shape[-1]) if log_weights is None else stakes + log_weights
    return np.asarray(np.logaddexp.reduce(weighted, axis=-1))


def _apply_cell(state: DetectorState, cell: Sequence[int]) -> DetectorState:
    reference = state.reference
    before = state.log_values or (-math.inf,) * len(reference.log_weights)
    log_stakes = update_log_stakes(before, math.log(state.last_count), reference.log_growth(cell))
    peak = max(state.log_peak, float(log_mean(log_stakes, reference.log_weights)))
    return DetectorState(tuple(log_stakes.tolist()), cell[_N], peak, reference)


def _bounded_exp(log_value: float) -> float:
    return math.exp(min(log_value, _LARGEST_LOG))

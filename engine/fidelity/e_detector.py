"""Sequential test of whether the errors of a model have grown: an e-detector of the Shiryaev-Roberts type.

With every outcome a new e-process starts with a stake of 1, which bets that the clipped loss ``x`` in [0, 1] exceeds its baseline
mean ``m0``. Each outcome multiplies a stake by ``1 + bet * (x / m0 - 1)``, an e-value: its expectation is at most 1 while nothing
has changed. The sum ``R`` of all stakes is the e-detector. Without a change it reaches a limit ``A`` at most once in ``A``
outcomes on average.

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
    sequential change detection. arXiv 2501.04130.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from engine.fidelity.drift_rules import N_MIN
from schemas.arrays import Floats, Integers
from schemas.events import SUM_FIELDS
from schemas.twin_models import Baseline, Errors

__all__ = [
    "AVERAGE_RUN_LENGTH",
    "BETS",
    "LOG_QUANTUM",
    "DetectorState",
    "accumulate",
    "discoveries",
    "log_mean",
    "log_normalizers",
    "rounded_log_bets",
    "update_log_stakes",
    "upper_mean",
]

Key = TypeVar("Key", bound=Hashable)


BETS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Fractions of the stake that are bet. Small ones detect small changes, large ones detect large changes sooner."""

LOG_QUANTUM = 1e-9
AVERAGE_RUN_LENGTH = 1e6
"""Outcomes to a false alarm of a single detector, on average at least."""

_Z_95 = 1.6448536269514722  # one-sided 95 % quantile of the normal distribution
_RULE_OF_THREE = 2.995732273553991  # -log(0.05): n zeros leave a mean of at most 3/n at 95 %
_N = SUM_FIELDS.index("n")
_FIRST_BET = SUM_FIELDS.index("log_bet_0")
_LARGEST_LOG = 690.0  # exp of it is still a finite float


def upper_mean(baseline: Errors) -> float:
    """Upper 95 % confidence bound of a baseline's mean clipped loss, in (0, 1]: the mean ``m0`` that bets are placed against.

    The normal bound of a mean, but never below the rule of three, which is exact for a sample of zeros. It uses only sums,
    quotients and square roots, which all machines round alike: two workers must obtain the same bits.
    """
    n = baseline.n if baseline.n_effective is None else baseline.n_effective
    normal = baseline.clipped_mean + _Z_95 * baseline.clipped_sd / math.sqrt(n)
    return min(1.0, max(normal, _RULE_OF_THREE / n))


def log_normalizers(baseline: Baseline, segment: Errors) -> tuple[float, ...]:
    """Log of the largest expected growth of each bet at an outcome of a segment, given the segment's own baseline.

    Subtracted from the log growth at every outcome, it makes the growth an e-value for the segment. The expectation is taken at the
    upper bound of the segment's mean loss.
    """
    ratio = upper_mean(segment) / upper_mean(baseline)
    return tuple(math.log1p(bet * (ratio - 1.0)) for bet in BETS)


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


def rounded_log_bets(absolute_error: npt.ArrayLike, baseline: Baseline) -> Integers:
    """Log growth of the stake of each bet at each outcome, as integer multiples of ``LOG_QUANTUM``.

    The integers are the same on every machine, shape ``(n, len(BETS))``; errors are in units of the target.
    Logarithms of different processors differ in the last digit. The few values so close to the middle between two integers that
    this could change the rounding are computed to 40 digits.
    """
    growth = _growth(absolute_error, baseline)
    scaled = np.log(growth) / LOG_QUANTUM
    rounded = np.rint(scaled)
    doubtful = np.abs(np.abs(scaled - rounded) - 0.5) < 1e-4
    rounded[doubtful] = [_rounded_log(value) for value in growth[doubtful].tolist()]
    return rounded.astype(np.int64)


def _growth(absolute_error: npt.ArrayLike, baseline: Baseline) -> Floats:
    loss = np.minimum(np.asarray(absolute_error, dtype=float) / baseline.clip, 1.0)
    return 1.0 + np.asarray(BETS) * (loss[:, None] / upper_mean(baseline) - 1.0)


def _rounded_log(value: float) -> int:
    with localcontext(prec=40):
        return int((Decimal(value).ln() * 10**9).to_integral_value())


@dataclass(frozen=True)
class DetectorState:
    """State of a detector after the cells so far.

    Attributes:
        log_values: log of the total stake of each bet; minus infinity before the first outcome.
        last_count: outcomes of the last cell that had any; before the first cell, the outcomes needed to assess a series.
        log_peak: the highest log mean stake at the end of any cell, so that applying many cells at once finds what applying
            them one by one would have found.
        log_normalizers: of the segment of the series, see :func:`log_normalizers`; zeros for the series of all rows.

    Example:
        >>> DetectorState().ratio()
        0.0
    """

    log_values: tuple[float, ...] = (-math.inf,) * len(BETS)
    last_count: int = N_MIN
    log_peak: float = -math.inf
    log_normalizers: tuple[float, ...] = (0.0,) * len(BETS)

    @property
    def log_mean(self) -> float:
        """Log of the mean total stake over the bets."""
        return float(log_mean(self.log_values))

    def ratio(self, average_run_length: float = AVERAGE_RUN_LENGTH) -> float:
        """Mean stake over the alarm limit: an alarm from 1 upward. Bounded, so that it is always finite."""
        return _bounded_exp(self.log_mean - math.log(average_run_length))

    def peak_ratio(self, average_run_length: float = AVERAGE_RUN_LENGTH) -> float:
        """The highest ratio at the end of any cell so far."""
        return _bounded_exp(self.log_peak - math.log(average_run_length))


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
        log_stakes: before the cell, shape ``(..., len(BETS))``.
        log_entry: log of the number of stakes that enter, which must be known before the cell; it broadcasts.
        log_growth: sums of the cell's log bets in ``LOG_QUANTUM``, shape ``(..., len(BETS))``.
    """
    growth = np.asarray(log_growth, dtype=float) * LOG_QUANTUM
    return np.asarray(np.logaddexp(log_stakes, log_entry) + growth, dtype=float)


def log_mean(log_stakes: npt.ArrayLike) -> Floats:
    """Log of the mean stake over the bets, the last axis."""
    return np.asarray(np.logaddexp.reduce(np.asarray(log_stakes), axis=-1) - math.log(len(BETS)))


def _apply_cell(state: DetectorState, cell: Sequence[int]) -> DetectorState:
    n, log_growth = cell[_N], cell[_FIRST_BET : _FIRST_BET + len(BETS)]
    log_stakes = update_log_stakes(state.log_values, math.log(state.last_count), log_growth) - n * np.array(state.log_normalizers)
    peak = max(state.log_peak, float(log_mean(log_stakes)))
    return DetectorState(tuple(log_stakes.tolist()), n, peak, state.log_normalizers)


def _bounded_exp(log_value: float) -> float:
    return math.exp(min(log_value, _LARGEST_LOG))

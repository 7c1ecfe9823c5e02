"""Sequential evidence that a model's errors have grown: an e-detector of the Shiryaev-Roberts kind.

A bettor starts afresh with every outcome and bets that the clipped loss ``x`` in [0, 1] exceeds its baseline mean ``m0``; each
stake grows by ``1 + bet * (x / m0 - 1)``, whose expectation is at most 1 while nothing has changed. Their total ``R`` reaches a
limit ``A`` without cause on average once in ``A`` outcomes at the most. Log stakes are plain sums, so they are kept per cell of
event time (a pane) and chained: ``R <- (R + m) * exp(S)``, where ``m`` is a count known before the cell began.

A segment whose errors are larger or smaller than the whole's by nature is bet on with the same sums: divided by what it is at most
in expectation there, the growth is again a fair bet, against the segment's own mean.

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

from schemas.events import SUM_FIELDS
from schemas.twin_models import Baseline, Errors

__all__ = [
    "AVERAGE_RUN_LENGTH",
    "BETS",
    "LOG_QUANTUM",
    "DetectorState",
    "accumulate",
    "discoveries",
    "log_bets",
    "log_mean",
    "log_normalizers",
    "rounded_log_bets",
    "update_log_stakes",
    "upper_mean",
]

Named = TypeVar("Named", bound=Hashable)

Array = npt.NDArray[np.float64]

BETS = (0.02, 0.05, 0.1, 0.2, 0.4)
LOG_QUANTUM = 1e-9
AVERAGE_RUN_LENGTH = 1e6

_Z_95 = 1.6448536269514722  # one-sided 95 % quantile of the normal distribution
_RULE_OF_THREE = 2.995732273553991  # -log(0.05): n zeros leave a mean of at most 3/n at 95 %
_N = SUM_FIELDS.index("n")
_FIRST_BET = SUM_FIELDS.index("log_bet_0")
_LARGEST_LOG = 690.0  # exp of it is still a finite float


def upper_mean(baseline: Errors) -> float:
    """Upper 95 % confidence bound of a baseline's mean clipped loss, in (0, 1]: the mean that is bet against.

    Normal bound of a mean, and never below the rule of three (exact for a sample of zeros). Only sums, quotients and roots,
    which every machine rounds alike: two workers must come to the same bits.
    """
    normal = baseline.clipped_mean + _Z_95 * baseline.clipped_sd / math.sqrt(baseline.n)
    return min(1.0, max(normal, _RULE_OF_THREE / baseline.n))


def log_normalizers(baseline: Baseline, segment: Errors) -> tuple[float, ...]:
    """What each bet's log growth has to be lowered by at every outcome of a segment, so that it is a fair bet there.

    The log of the growth's expectation at the upper bound of the segment's own mean loss.
    """
    ratio = upper_mean(segment) / upper_mean(baseline)
    return tuple(math.log1p(bet * (ratio - 1.0)) for bet in BETS)


def discoveries(ratios: Mapping[Named, float], n_series: int) -> set[Named]:
    """The series that have changed, of ``n_series`` watched together, given the evidence of each over its limit.

    The e-Benjamini-Hochberg procedure on e-detectors: among those found, the expected share of series that have not changed stays
    below the outcomes waited for over the average run length, however the series depend on each other.

    Example:
        >>> sorted(discoveries({"a": 4.0, "b": 2.1, "c": 0.5}, 4))
        ['a', 'b']
        >>> discoveries({"a": 3.9, "b": 1.9, "c": 0.5}, 4)
        set()
    """
    ranked = sorted(ratios, key=lambda name: -ratios[name])
    found = max((k for k, name in enumerate(ranked, 1) if ratios[name] * k >= n_series), default=0)
    return set(ranked[:found])


def log_bets(absolute_error: npt.ArrayLike, baseline: Baseline) -> Array:
    """Log growth of each bet's stake at each outcome, shape ``(n, len(BETS))``; errors in units of the target."""
    return np.log(_growth(absolute_error, baseline))


def rounded_log_bets(absolute_error: npt.ArrayLike, baseline: Baseline) -> npt.NDArray[np.int64]:
    """``log_bets`` in whole ``LOG_QUANTUM``, correctly rounded: the same integers on every machine, shape ``(n, len(BETS))``.

    Logarithms of different processors differ in the last digit. The few values that come so near to the middle between two
    integers that this could matter are computed to 40 digits.
    """
    growth = _growth(absolute_error, baseline)
    scaled = np.log(growth) / LOG_QUANTUM
    rounded = np.rint(scaled)
    doubtful = np.abs(np.abs(scaled - rounded) - 0.5) < 1e-4
    rounded[doubtful] = [_rounded_log(value) for value in growth[doubtful].tolist()]
    return rounded.astype(np.int64)


def _growth(absolute_error: npt.ArrayLike, baseline: Baseline) -> Array:
    loss = np.minimum(np.asarray(absolute_error, dtype=float) / baseline.clip, 1.0)
    return 1.0 + np.asarray(BETS) * (loss[:, None] / upper_mean(baseline) - 1.0)


def _rounded_log(value: float) -> int:
    with localcontext(prec=40):
        return int((Decimal(value).ln() * 10**9).to_integral_value())


@dataclass(frozen=True)
class DetectorState:
    """Where the detector stands after the cells so far.

    Attributes:
        log_values: log of each bet's total stake; minus infinity before the first outcome.
        last_count: outcomes of the last cell that had any; before the first one, the count that a series needs to be judged.
        log_peak: the highest log of the mean stake at the end of any cell: whoever reads many cells at once sees what someone
            who looked at each would have seen.
        handicap: of the series' segment, see :func:`log_normalizers`; nothing for the whole.

    Example:
        >>> Evidence().ratio()
        0.0
    """

    log_values: tuple[float, ...] = (-math.inf,) * len(BETS)
    last_count: int = 200
    log_peak: float = -math.inf
    log_normalizers: tuple[float, ...] = (0.0,) * len(BETS)

    @property
    def log_mean(self) -> float:
        """Log of the mean of the stakes over the bets."""
        return float(log_mean(self.log_values))

    def ratio(self, average_run_length: float = AVERAGE_RUN_LENGTH) -> float:
        """Mean stake as a share of the alarm's limit: evidence from 1 upward. Finite, however overwhelming."""
        return _bounded_exp(self.log_mean - math.log(average_run_length))

    def peak_ratio(self, average_run_length: float = AVERAGE_RUN_LENGTH) -> float:
        """The highest ratio at the end of any cell so far."""
        return _bounded_exp(self.log_peak - math.log(average_run_length))


def accumulate(cells: Iterable[Sequence[int]], start: DetectorState) -> DetectorState:
    """Chain pane sums (each in the order of ``SUM_FIELDS``), given in event-time order, onto ``start``.

    Cells without outcomes are passed over. A cell should hold at most about 200 outcomes: within a cell all bettors enter at
    its beginning, so long cells find a change late.

    Example:
        >>> quiet = [100] + [0] * 9 + [-20_000_000] * 5
        >>> fold([quiet, quiet], Evidence()) == fold([quiet], fold([quiet], Evidence()))
        True
    """
    evidence = start
    for cell in cells:
        if cell[_N] > 0:
            evidence = _after(evidence, cell)
    return evidence


def update_log_stakes(log_stakes: npt.ArrayLike, log_entry: npt.ArrayLike, gains: npt.ArrayLike) -> Array:
    """Log of each bet's total stake after a cell: at its beginning every bet takes in new stakes, then all of them grow.

    Args:
        log_stakes: before the cell, shape ``(..., len(BETS))``.
        log_entry: log of the count that enters, a count known before the cell began; it broadcasts.
        gains: sums of the cell's log bets in ``LOG_QUANTUM``, shape ``(..., len(BETS))``.
    """
    grown_by = np.asarray(gains, dtype=float) * LOG_QUANTUM
    return np.asarray(np.logaddexp(log_stakes, log_entry) + grown_by, dtype=float)


def log_mean(log_stakes: npt.ArrayLike) -> Array:
    """Log of the mean stake over the bets, the last axis."""
    return np.asarray(np.logaddexp.reduce(np.asarray(log_stakes), axis=-1) - math.log(len(BETS)))


def _after(before: DetectorState, cell: Sequence[int]) -> DetectorState:
    n, gains = cell[_N], cell[_FIRST_BET : _FIRST_BET + len(BETS)]
    stakes = update_log_stakes(before.log_values, math.log(before.last_count), gains) - n * np.array(before.log_normalizers)
    peak = max(before.log_peak, float(log_mean(stakes)))
    return DetectorState(tuple(stakes.tolist()), n, peak, before.log_normalizers)


def _bounded_exp(log_value: float) -> float:
    return math.exp(min(log_value, _LARGEST_LOG))

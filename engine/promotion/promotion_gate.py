"""Whether a challenger takes the champion's place: both judged on the same later rows that neither was trained on.

Every difference is paired row by row, so what both find hard cancels out, and comes with its standard error. Rows of one entity
are one observation as far as they agree: errors are those of sums over entities. The challenger has to be better in what called
for the retrain, the absolute error of all rows or of one segment, and must not be worse elsewhere: in the error of all rows, in
correlation, in coverage, and in the error of any segment with enough rows. Better and worse mean beyond noise at one-sided 95 %;
segments share the 5 % among them, and one of them is worse when it lost more than ``SEGMENT_MARGIN``: with enough rows any other
model is worse somewhere beyond noise, by an amount that nobody would feel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from schemas.twin_types import ALL_ROWS

__all__ = [
    "GATE_ENTITIES",
    "GATE_ROWS",
    "SEGMENT_MARGIN",
    "SEGMENT_ROWS",
    "Comparison",
    "Difference",
    "Predictions",
    "compare_models",
]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

"""Name of the segment of every row."""

GATE_ROWS = 500
"""Fewest later rows on which a challenger is judged."""

GATE_ENTITIES = 30
"""Fewest entities behind these rows: with fewer of them a standard error over entities is no good."""

SEGMENT_ROWS = 100
"""Fewest rows, of ``GATE_ENTITIES`` entities, of a segment that is judged for itself."""

SEGMENT_MARGIN = 0.10
"""Rise of a segment's error over the champion's that is put up with elsewhere: half of the rise that the rule takes for drift."""

NOMINAL_COVERAGE = 0.95
_LEVEL = 0.05


@dataclass(frozen=True)
class Predictions:
    """What one model said of the rows of the gate, each of shape ``(n,)``, in units of the target."""

    predicted: Array
    lower: Array
    upper: Array


@dataclass(frozen=True)
class Difference:
    """Challenger minus champion in one figure; null where a side has none.

    Attributes:
        standard_error: of the difference, from the paired rows, those of an entity taken together.
        entities: behind the rows.
    """

    champion: float | None
    challenger: float | None
    difference: float | None
    standard_error: float | None
    entities: int = 0

    def is_lower(self, level: float = _LEVEL) -> bool:
        """Whether the challenger's figure is the lower one beyond noise, at a one-sided level."""
        reach = self._reach(level)
        return reach is not None and self.difference is not None and self.difference + reach < 0.0

    def is_higher(self, level: float = _LEVEL, margin: float = 0.0) -> bool:
        """Whether the challenger's figure is higher by more than a share ``margin`` beyond noise, at a one-sided level."""
        reach = self._reach(level)
        if reach is None or self.difference is None or self.champion is None:
            return False
        return self.difference - reach > margin * self.champion

    def _reach(self, level: float) -> float | None:
        if self.standard_error is None or self.entities < 2:
            return None
        return float(stats.t.ppf(1.0 - level, self.entities - 1)) * self.standard_error


@dataclass(frozen=True)
class Comparison:
    """Verdict of the gate with the numbers it rests on.

    Attributes:
        n: rows that both were judged on, of so many ``entities``.
        n_effective: independent rows that would tell the difference in MAE as well.
        trigger: segment that called for the retrain, ``all`` for every row.
        segments: difference in MAE of each segment with enough rows.
        objections: why the challenger is refused, empty when it is promoted.
    """

    n: int
    entities: int
    n_effective: float
    mae: Difference
    correlation: Difference
    coverage: Difference
    trigger: str = ALL_ROWS
    segments: Mapping[str, Difference] = field(default_factory=dict)
    objections: tuple[str, ...] = ()

    @property
    def promote(self) -> bool:
        """Whether the challenger takes over."""
        return not self.objections

    @property
    def triggered(self) -> Difference:
        """The difference in what called for the retrain."""
        return self.mae if self.trigger == ALL_ROWS else self.segments.get(self.trigger, _UNKNOWN)

    @property
    def reason(self) -> str:
        """The verdict in one sentence."""
        if self.objections:
            return "; ".join(self.objections)
        where = "" if self.trigger == ALL_ROWS else f" of {self.trigger}"
        return f"MAE{where} {self.triggered.challenger:.4g} instead of {self.triggered.champion:.4g} on {self.n} later rows"

    def numbers(self) -> dict[str, Any]:
        """Everything above as plain values, for the ledger and for ``ModelEvent.comparison``."""
        counts = {"n": self.n, "entities": self.entities, "n_effective": self.n_effective}
        figures = {name: vars(getattr(self, name)) for name in ("mae", "correlation", "coverage")}
        segments = {name: vars(difference) for name, difference in self.segments.items()}
        verdict = {"promote": self.promote, "reason": self.reason, "trigger": self.trigger}
        return {**counts, **verdict, **figures, "segments": segments}


_UNKNOWN = Difference(None, None, None, None)


def compare_models(
    actual: npt.ArrayLike,
    champion: Predictions,
    challenger: Predictions,
    *,
    entities: npt.ArrayLike | None = None,
    segments: Mapping[str, Mask] | None = None,
    trigger: str = ALL_ROWS,
    min_rows: int = GATE_ROWS,
) -> Comparison:
    """Judge champion and challenger on the same rows.

    Args:
        actual: what happened, shape ``(n,)``.
        champion: what the champion said of these rows.
        challenger: what the challenger said.
        entities: whom each row is about, shape ``(n,)``; without them every row stands for itself.
        segments: rows of each segment that must not become worse, masks of shape ``(n,)``.
        trigger: segment that has to become better, ``all`` for every row.
        min_rows: fewest rows on which a challenger can be accepted.

    Raises:
        ValueError: for an actual value or a prediction that is missing, or for sides of different lengths.

    References:
        Liang, Zeger (1986), Longitudinal data analysis using generalized linear models. Biometrika 73(1): errors by cluster.
        Piaggio et al. (2012), Reporting of noninferiority and equivalence randomized trials. JAMA 308(24): the margin.

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
    groups = _numbered(truth, entities)
    losses = np.abs(champion.predicted - truth), np.abs(challenger.predicted - truth)
    mae = _mean_difference(*losses, groups)
    found = Comparison(
        n=len(truth),
        entities=mae.entities,
        n_effective=_effective(losses[1] - losses[0], mae),
        mae=mae,
        correlation=_correlation_difference(truth, champion.predicted, challenger.predicted, groups),
        coverage=_mean_difference(_inside(truth, champion), _inside(truth, challenger), groups),
        trigger=trigger,
        segments=_by_segment(losses, groups, segments or {}),
    )
    return replace(found, objections=_objections(found, min_rows))


def _check(truth: Array, judged: Predictions, side: str) -> None:
    if not len(truth) == len(judged.predicted) == len(judged.lower) == len(judged.upper):
        raise ValueError(f"{len(truth)} actual values, but the {side} tells {len(judged.predicted)}")
    missing = int((~np.isfinite(truth + judged.predicted)).sum())
    if missing:
        raise ValueError(f"{missing} of {len(truth)} rows have no actual value or no prediction of the {side}")


def _numbered(truth: Array, entities: npt.ArrayLike | None) -> npt.NDArray[np.int64]:
    """Number of each row's entity."""
    if entities is None:
        return np.arange(len(truth))
    return np.unique(np.asarray(entities).astype(str), return_inverse=True)[1]


def _by_segment(losses: tuple[Array, Array], groups: npt.NDArray[np.int64], segments: Mapping[str, Mask]) -> dict[str, Difference]:
    found = {name: _mean_difference(losses[0][mask], losses[1][mask], groups[mask]) for name, mask in segments.items()}
    return {
        name: difference
        for name, difference in found.items()
        if segments[name].sum() >= SEGMENT_ROWS and difference.entities >= GATE_ENTITIES
    }


def _effective(apart: Array, mae: Difference) -> float:
    """Rows over the design effect of their entities, and never more than there are."""
    if not mae.standard_error:
        return float(len(apart))
    return min(float(len(apart)), float(apart.var(ddof=1)) / mae.standard_error**2)


def _inside(truth: Array, judged: Predictions) -> Array:
    return ((judged.lower <= truth) & (truth <= judged.upper)).astype(float)


def _mean_difference(champion: Array, challenger: Array, groups: npt.NDArray[np.int64]) -> Difference:
    """Difference of two means over the same rows."""
    if len(champion) < 2:
        return _UNKNOWN
    apart = challenger - champion
    error, entities = _standard_error(apart, groups)
    return Difference(float(champion.mean()), float(challenger.mean()), float(apart.mean()), error, entities)


def _standard_error(values: Array, groups: npt.NDArray[np.int64]) -> tuple[float | None, int]:
    """Standard error of a mean whose rows belong to groups, and how many groups there are."""
    of_group = np.unique(groups, return_inverse=True)[1]
    sums = np.bincount(of_group, values - values.mean())
    count = len(sums)
    if count < 2:
        return None, count
    return math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(values), count


def _correlation_difference(truth: Array, champion: Array, challenger: Array, groups: npt.NDArray[np.int64]) -> Difference:
    """Difference of two correlations with the same truth; its error from their influence functions.

    References:
        Devlin, Gnanadesikan, Kettenring (1975), Robust estimation with correlation coefficients. Biometrika 62(3).
    """
    ours, theirs = _influence(truth, champion), _influence(truth, challenger)
    if ours is None or theirs is None:
        known = [None if side is None else side[0] for side in (ours, theirs)]
        return Difference(known[0], known[1], None, None)
    error, entities = _standard_error(theirs[1] - ours[1], groups)
    return Difference(ours[0], theirs[0], theirs[0] - ours[0], error, entities)


def _influence(truth: Array, predicted: Array) -> tuple[float, Array] | None:
    """Pearson correlation and the influence of each row on it; None when either side is constant."""
    if len(truth) < 2 or not np.ptp(truth) or not np.ptp(predicted):
        return None
    a, b = ((side - side.mean()) / side.std() for side in (truth, predicted))
    r = float(np.clip(np.mean(a * b), -1.0, 1.0))
    return r, a * b - r * (a * a + b * b) / 2


def _objections(found: Comparison, min_rows: int) -> tuple[str, ...]:
    if found.n < min_rows:
        return (f"{found.n} later rows are too few to judge on, {min_rows} are needed",)
    if found.entities < GATE_ENTITIES:
        return (f"{found.n} later rows of {found.entities} entities: {GATE_ENTITIES} are needed to judge on",)
    if found.trigger != ALL_ROWS and found.trigger not in found.segments:
        return (f"{found.trigger} called for it and has too few later rows to judge on, {SEGMENT_ROWS} are needed",)
    where = "" if found.trigger == ALL_ROWS else f" of {found.trigger}"
    others = {name: difference for name, difference in found.segments.items() if name != found.trigger}
    held = {
        f"MAE{where} {_pair(found.triggered)}: not better beyond noise": not found.triggered.is_lower(),
        f"MAE of all rows {_pair(found.mae)}: worse beyond noise": found.trigger != ALL_ROWS and found.mae.is_higher(),
        f"correlation {_pair(found.correlation)}: worse beyond noise": found.correlation.is_lower() or _lost(found.correlation),
        f"coverage {_pair(found.coverage)}: worse beyond noise": found.coverage.is_lower() and _undercovers(found),
        **{
            f"MAE of {name} {_pair(difference)}: worse by more than {SEGMENT_MARGIN:.0%} beyond noise": difference.is_higher(
                _LEVEL / len(others), SEGMENT_MARGIN
            )
            for name, difference in others.items()
        },
    }
    return tuple(objection for objection, holds in held.items() if holds)


def _lost(correlation: Difference) -> bool:
    """Whether the challenger says the same of every row, where the champion told them apart."""
    return correlation.challenger is None and correlation.champion is not None


def _undercovers(found: Comparison) -> bool:
    """Whether the challenger's intervals hold less than they promise, beyond noise: one that was too wide may shrink."""
    if found.coverage.challenger is None:
        return False
    error = math.sqrt(NOMINAL_COVERAGE * (1 - NOMINAL_COVERAGE) / found.n)
    return found.coverage.challenger < NOMINAL_COVERAGE - float(stats.norm.ppf(1 - _LEVEL)) * error


def _pair(figure: Difference) -> str:
    told = ["not defined" if value is None else f"{value:.4g}" for value in (figure.challenger, figure.champion)]
    error = "" if figure.standard_error is None else f" (standard error of the difference {figure.standard_error:.2g})"
    return f"{told[0]} against {told[1]}{error}"

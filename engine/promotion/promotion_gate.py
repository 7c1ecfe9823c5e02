"""Decides whether a challenger replaces the champion, by a comparison on rows that neither was trained on.

All differences are paired row by row, so that rows that are hard for both models cancel out. Standard errors are clustered by
entity. The challenger is promoted when

- the absolute error that caused the retrain, of all rows or of one segment, is significantly lower, and
- neither the error of all rows, nor the correlation, nor the coverage, nor the error of any segment with enough rows is
  significantly worse. The correlation is worse when it fell by more than ``CORRELATION_MARGIN``.

Tests are one-sided at 5 %. Segments share the 5 % (Bonferroni), and the error of a segment is worse when it rose by more than
``SEGMENT_MARGIN``: with enough rows, any other model is significantly worse somewhere by an amount that does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from schemas.arrays import Flags, Floats, Integers
from schemas.twin_types import ALL_ROWS

__all__ = [
    "CORRELATION_MARGIN",
    "GATE_ENTITIES",
    "GATE_ROWS",
    "SEGMENT_MARGIN",
    "SEGMENT_ROWS",
    "Basis",
    "Comparison",
    "Difference",
    "Predictions",
    "compare_models",
]


GATE_ROWS = 500
"""Minimum number of rows for a comparison."""

GATE_ENTITIES = 30
"""Minimum number of entities in these rows: a clustered standard error of fewer is not reliable."""

SEGMENT_ROWS = 100
"""Minimum number of rows, of ``GATE_ENTITIES`` entities, of a segment that is compared separately."""

SEGMENT_MARGIN = 0.10
"""Tolerated relative rise of a segment's error: half of the rise that counts as drift."""

Basis = Literal["later", "unseen", "cross_fitted"]
"""Rows of a comparison: observed after all training rows; of entities that neither model was trained on; or rows that are each
predicted by both models fitted without its entity."""

_ROWS: Mapping[Basis, str] = {
    "later": "later rows",
    "unseen": "rows of entities that neither model has learned",
    "cross_fitted": "rows, each predicted by both models fitted without its entity",
}
CORRELATION_MARGIN = 0.02
"""Tolerated fall of the correlation, absolute: with enough rows the smallest one is significant, also beside a much lower error."""

NOMINAL_COVERAGE = 0.95
_LEVEL = 0.05


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model for the rows of the gate, each of shape ``(n,)``, in units of the target."""

    predicted: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True)
class Difference:
    """Challenger minus champion in one metric; None where it is not defined for a model.

    Attributes:
        standard_error: of the difference, from paired rows, clustered by entity.
        entities: number of clusters.
    """

    champion: float | None
    challenger: float | None
    difference: float | None
    standard_error: float | None
    entities: int = 0

    def is_lower(self, level: float = _LEVEL, margin: float = 0.0) -> bool:
        """Whether the challenger's metric is significantly lower by more than an absolute ``margin``, at a one-sided level."""
        margin_of_error = self._margin_of_error(level)
        return margin_of_error is not None and self.difference is not None and self.difference + margin_of_error < -margin

    def is_higher(self, level: float = _LEVEL, margin: float = 0.0) -> bool:
        """Whether the challenger's metric is significantly higher by more than a relative ``margin``, at a one-sided level."""
        margin_of_error = self._margin_of_error(level)
        if margin_of_error is None or self.difference is None or self.champion is None:
            return False
        return self.difference - margin_of_error > margin * self.champion

    def _margin_of_error(self, level: float) -> float | None:
        if self.standard_error is None or self.entities < 2:
            return None
        return float(stats.t.ppf(1.0 - level, self.entities - 1)) * self.standard_error


@dataclass(frozen=True)
class Comparison:
    """Decision of the gate with the numbers it is based on.

    Attributes:
        n: number of rows, of so many ``entities``.
        n_effective: number of independent rows that would give the same standard error of the difference in MAE.
        trigger: segment that caused the retrain, ``all`` for every row.
        segments: difference in MAE of each segment with enough rows.
        objections: reasons against the challenger, empty when it is promoted.
        basis: which rows these are.
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
    basis: Basis = "later"

    @property
    def promote(self) -> bool:
        """Whether the challenger becomes champion."""
        return not self.objections

    @property
    def trigger_difference(self) -> Difference:
        """The difference in MAE of the segment that caused the retrain."""
        return self.mae if self.trigger == ALL_ROWS else self.segments.get(self.trigger, _UNDEFINED)

    @property
    def rows_text(self) -> str:
        """The number and kind of the rows."""
        return f"{self.n:,} {_ROWS[self.basis]}"

    @property
    def reason(self) -> str:
        """The decision in one sentence."""
        if self.objections:
            on = "" if self.basis == "later" else f"on {self.rows_text}: "
            return on + "; ".join(self.objections)
        where = "" if self.trigger == ALL_ROWS else f" of {self.trigger}"
        mae = self.trigger_difference
        return f"MAE{where} {mae.challenger:.4g} instead of {mae.champion:.4g} on {self.rows_text}"

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain values, for the ledger and for ``ModelEvent.comparison``."""
        counts = {"n": self.n, "entities": self.entities, "n_effective": self.n_effective}
        metrics = {name: vars(getattr(self, name)) for name in ("mae", "correlation", "coverage")}
        segments = {name: vars(difference) for name, difference in self.segments.items()}
        decision = {"promote": self.promote, "reason": self.reason, "trigger": self.trigger, "basis": self.basis}
        return {**counts, **decision, **metrics, "segments": segments}


_UNDEFINED = Difference(None, None, None, None)


def compare_models(
    actual: npt.ArrayLike,
    champion: Predictions,
    challenger: Predictions,
    *,
    entities: npt.ArrayLike | None = None,
    segments: Mapping[str, Flags] | None = None,
    trigger: str = ALL_ROWS,
    min_rows: int = GATE_ROWS,
    basis: Basis = "later",
) -> Comparison:
    """Compare champion and challenger on the same rows.

    Args:
        actual: observed outcomes, shape ``(n,)``.
        champion: predictions of the champion.
        challenger: predictions of the challenger.
        entities: the entity of each row, shape ``(n,)``; by default every row is an entity of its own.
        segments: rows of each segment whose error must not become worse, masks of shape ``(n,)``.
        trigger: segment whose error has to become lower, ``all`` for every row.
        min_rows: minimum number of rows for a promotion.
        basis: which rows these are.

    Raises:
        ValueError: for a missing actual value or prediction, or for different numbers of rows.

    References:
        Liang, Zeger (1986), Longitudinal data analysis using generalized linear models. Biometrika 73(1): clusters.
        Piaggio et al. (2012), Reporting of noninferiority and equivalence randomized trials. JAMA 308(24): non-inferiority margin.

    Example:
        >>> import numpy as np
        >>> actual = np.random.default_rng(0).normal(size=600)
        >>> good, bad = (Predictions(actual + bias, actual + bias - 2, actual + bias + 2) for bias in (0.1, 0.5))
        >>> compare_models(actual, champion=bad, challenger=good).promote
        True
    """
    outcomes = np.asarray(actual, dtype=float)
    for role, predictions in (("champion", champion), ("challenger", challenger)):
        _check(outcomes, predictions, role)
    clusters = _cluster_ids(outcomes, entities)
    losses = np.abs(champion.predicted - outcomes), np.abs(challenger.predicted - outcomes)
    mae = _mean_difference(*losses, clusters)
    comparison = Comparison(
        n=len(outcomes),
        entities=mae.entities,
        n_effective=_effective_rows(losses[1] - losses[0], mae),
        mae=mae,
        correlation=_correlation_difference(outcomes, champion.predicted, challenger.predicted, clusters),
        coverage=_mean_difference(_covered(outcomes, champion), _covered(outcomes, challenger), clusters),
        trigger=trigger,
        segments=_segment_differences(losses, clusters, segments or {}),
        basis=basis,
    )
    return replace(comparison, objections=_missing_rows(comparison, min_rows) or _worse_metrics(comparison))


def _check(outcomes: Floats, predictions: Predictions, role: str) -> None:
    if not len(outcomes) == len(predictions.predicted) == len(predictions.lower) == len(predictions.upper):
        raise ValueError(f"{len(outcomes):,} actual values, but {len(predictions.predicted):,} predictions of the {role}")
    missing = int((~np.isfinite(outcomes + predictions.predicted)).sum())
    if missing:
        raise ValueError(f"{missing:,} of {len(outcomes):,} rows have no actual value or no prediction of the {role}")


def _cluster_ids(outcomes: Floats, entities: npt.ArrayLike | None) -> Integers:
    """An integer for each row's entity."""
    if entities is None:
        return np.arange(len(outcomes))
    return np.unique(np.asarray(entities).astype(str), return_inverse=True)[1]


def _segment_differences(losses: tuple[Floats, Floats], clusters: Integers, segments: Mapping[str, Flags]) -> dict[str, Difference]:
    """Difference in MAE of each segment with enough rows and entities."""
    differences = {name: _mean_difference(losses[0][mask], losses[1][mask], clusters[mask]) for name, mask in segments.items()}
    return {
        name: difference
        for name, difference in differences.items()
        if segments[name].sum() >= SEGMENT_ROWS and difference.entities >= GATE_ENTITIES
    }


def _effective_rows(loss_differences: Floats, mae: Difference) -> float:
    """Number of rows divided by the design effect of their clusters, at most the number of rows."""
    if not mae.standard_error:
        return float(len(loss_differences))
    return min(float(len(loss_differences)), float(loss_differences.var(ddof=1)) / mae.standard_error**2)


def _covered(outcomes: Floats, predictions: Predictions) -> Floats:
    return ((predictions.lower <= outcomes) & (outcomes <= predictions.upper)).astype(float)


def _mean_difference(champion: Floats, challenger: Floats, clusters: Integers) -> Difference:
    """Difference of two means over the same rows."""
    if len(champion) < 2:
        return _UNDEFINED
    differences = challenger - champion
    error, entities = _standard_error(differences, clusters)
    return Difference(float(champion.mean()), float(challenger.mean()), float(differences.mean()), error, entities)


def _standard_error(values: Floats, clusters: Integers) -> tuple[float | None, int]:
    """Clustered standard error of a mean, and the number of clusters."""
    cluster_index = np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(cluster_index, values - values.mean())
    count = len(sums)
    if count < 2:
        return None, count
    return math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(values), count


def _correlation_difference(outcomes: Floats, champion: Floats, challenger: Floats, clusters: Integers) -> Difference:
    """Difference of two correlations with the same outcomes; its standard error from their influence functions.

    References:
        Devlin, Gnanadesikan, Kettenring (1975), Robust estimation with correlation coefficients. Biometrika 62(3).
    """
    first, second = _correlation_influence(outcomes, champion), _correlation_influence(outcomes, challenger)
    if first is None or second is None:
        return Difference(first[0] if first else None, second[0] if second else None, None, None)
    error, entities = _standard_error(second[1] - first[1], clusters)
    return Difference(first[0], second[0], second[0] - first[0], error, entities)


def _correlation_influence(outcomes: Floats, predicted: Floats) -> tuple[float, Floats] | None:
    """Pearson correlation and the influence of each row on it; None when the outcomes or the predictions are constant."""
    if len(outcomes) < 2 or not np.ptp(outcomes) or not np.ptp(predicted):
        return None
    a, b = ((values - values.mean()) / values.std() for values in (outcomes, predicted))
    r = float(np.clip(np.mean(a * b), -1.0, 1.0))
    return r, a * b - r * (a * a + b * b) / 2


def _missing_rows(comparison: Comparison, min_rows: int) -> tuple[str, ...]:
    """Whether there are too few rows for a decision."""
    n, entities, trigger = comparison.n, comparison.entities, comparison.trigger
    rows = "later rows" if comparison.basis == "later" else "rows"
    if n < min_rows:
        return (f"{n:,} {rows} are too few for a decision, {min_rows:,} are needed",)
    if entities < GATE_ENTITIES:
        return (f"{n:,} {rows} are of {entities} entities, for a decision {GATE_ENTITIES} are needed",)
    if trigger != ALL_ROWS and trigger not in comparison.segments:
        return (f"segment {trigger} caused the retrain and has too few {rows} for a decision, {SEGMENT_ROWS} are needed",)
    return ()


def _worse_metrics(comparison: Comparison) -> tuple[str, ...]:
    """Metrics that speak against the challenger, each in one sentence."""
    mae, correlation, coverage, trigger = comparison.mae, comparison.correlation, comparison.coverage, comparison.trigger
    where = "" if trigger == ALL_ROWS else f" of {trigger}"
    others = {name: difference for name, difference in comparison.segments.items() if name != trigger}
    trigger_mae = comparison.trigger_difference
    is_objection = {
        f"MAE{where} {_pair_text(trigger_mae)}: not significantly better": not trigger_mae.is_lower(),
        f"MAE of all rows {_pair_text(mae)}: significantly worse": trigger != ALL_ROWS and mae.is_higher(),
        f"correlation {_pair_text(correlation)}: significantly worse": correlation.is_lower(margin=CORRELATION_MARGIN)
        or _became_constant(correlation),
        f"coverage {_share_pair_text(coverage)}: significantly worse": coverage.is_lower() and _undercovers(comparison),
        **{
            f"MAE of {name} {_pair_text(difference)}: significantly worse by more than {SEGMENT_MARGIN:.0%}": difference.is_higher(
                _LEVEL / len(others), SEGMENT_MARGIN
            )
            for name, difference in others.items()
        },
    }
    return tuple(objection for objection, holds in is_objection.items() if holds)


def _became_constant(correlation: Difference) -> bool:
    """Whether the challenger predicts the same for every row, and the champion does not."""
    return correlation.challenger is None and correlation.champion is not None


def _undercovers(comparison: Comparison) -> bool:
    """Whether the challenger's coverage is significantly below the nominal one; intervals that were too wide may shrink."""
    if comparison.coverage.challenger is None:
        return False
    error = math.sqrt(NOMINAL_COVERAGE * (1 - NOMINAL_COVERAGE) / comparison.n)
    return comparison.coverage.challenger < NOMINAL_COVERAGE - float(stats.norm.ppf(1 - _LEVEL)) * error


def _pair_text(metric: Difference) -> str:
    challenger, champion = ("not defined" if value is None else f"{value:.4g}" for value in (metric.challenger, metric.champion))
    error = "" if metric.standard_error is None else f" (standard error of the difference {metric.standard_error:.2g})"
    return f"{challenger} against {champion}{error}"


def _share_pair_text(metric: Difference) -> str:
    challenger, champion = ("not defined" if value is None else f"{value:.1%}" for value in (metric.challenger, metric.champion))
    error = "" if metric.standard_error is None else f" (standard error of the difference {100 * metric.standard_error:.2g}%)"
    return f"{challenger} against {champion}{error}"

"""How well predictions held, and what is concluded from it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal
from uuid import UUID

from pydantic import Field

from schemas.base import Finite, Frozen

__all__ = [
    "DRIFT_RULES",
    "ColumnShift",
    "DriftRule",
    "DriftState",
    "EstimatedFidelity",
    "FidelityMetrics",
    "Labels",
    "PopulationFidelityMetrics",
    "Verdict",
]


class DriftState(StrEnum):
    """Where a series stands."""

    INSUFFICIENT = "insufficient"
    OK = "ok"
    WARNING = "warning"
    ALARM = "alarm"
    SUPPRESSED = "suppressed"


class DriftRule(Frozen):
    """One limit of the brief: ``metric`` beyond ``limit`` calls for ``action``.

    ``relative`` limits are a rise over the baseline's value as a fraction, the others stand for themselves.
    """

    name: str
    metric: Literal["mae", "rmse", "correlation", "coverage_95pct"]
    limit: Finite
    direction: Literal["above", "below"]
    relative: bool
    action: Literal["retrain", "warn", "investigate"]


DRIFT_RULES: tuple[DriftRule, ...] = (
    DriftRule(name="mae_increase", metric="mae", limit=0.20, direction="above", relative=True, action="retrain"),
    DriftRule(name="correlation_drop", metric="correlation", limit=0.7, direction="below", relative=False, action="warn"),
    DriftRule(name="coverage_drop", metric="coverage_95pct", limit=0.90, direction="below", relative=False, action="investigate"),
)


class FidelityMetrics(Frozen):
    """Figures over ``n`` pairs of predicted and actual; null with its reason in ``missing`` where one is undefined.

    Attributes:
        mae, rmse, bias: in units of the target; bias is mean(predicted - actual).
        correlation: Pearson's.
        coverage_95pct: share of the ``n_interval`` outcomes with an interval that lie inside it.
        standard_errors: of each figure, by its name.
        intervals: 95 % confidence intervals of correlation (Fisher's) and coverage (Wilson's), by the figure's name.
        n_effective: as many outcomes as would tell as much if none shared the fortune of its segment; null where nothing is known.
        n_skipped: pairs without an actual value, not counted in ``n``.
        n_outliers: errors beyond three standard deviations, flagged for investigation.
    """

    n: int = Field(ge=0)
    mae: Finite | None = None
    rmse: Finite | None = None
    bias: Finite | None = None
    correlation: Finite | None = None
    coverage_95pct: Finite | None = None
    n_interval: int = 0
    standard_errors: dict[str, float] = Field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    missing: dict[str, str] = Field(default_factory=dict)
    n_effective: Finite | None = None
    n_skipped: int = 0
    n_outliers: int = 0


class PopulationFidelityMetrics(FidelityMetrics):
    """Figures of one population; ``n_unmatched`` actual values belong to no tracked twin."""

    population_id: UUID
    n_unmatched: int = 0


class Verdict(Frozen):
    """What one rule says of one series: ``value`` held against ``limit``, and why it fired or did not.

    ``standing`` is true where the baseline itself breaks the limit: such a rule is stated once and is no drift. ``close`` is true
    where the value keeps its limit by less than its standard error: too little to begin a warning, and too little to end one.
    """

    rule: str
    action: Literal["retrain", "warn", "investigate"]
    fired: bool
    value: Finite | None = None
    limit: Finite | None = None
    baseline: Finite | None = None
    n: int = 0
    standing: bool = False
    close: bool = False
    reason: str


class ColumnShift(Frozen):
    """How far a feature, or the prediction, has moved from the rows that the model learned from.

    Attributes:
        psi: population stability index of ``n`` rows; ``limit`` is what has to be exceeded, given how many they are.
        ks: largest distance of the two cumulative shares, over the bins; ``ks_p`` is the probability of a larger one by chance (at
            most: bins hide differences). Null for a category, whose levels have no order.
        moved: whether the shift is beyond chance and large enough to matter.
    """

    name: str
    n: int
    psi: Finite
    limit: Finite
    ks: Finite | None
    ks_p: Finite | None
    moved: bool


class EstimatedFidelity(Frozen):
    """What the mean absolute error of the newest ``n`` rows is expected to be before their outcomes arrive: an estimate.

    It sees harder rows coming and inputs that moved, never a changed relation of features and outcome. Null where rows have no
    interval.
    """

    n: int
    mae: Finite | None
    baseline_mae: Finite
    columns: tuple[ColumnShift, ...]

    @property
    def moved(self) -> tuple[str, ...]:
        """Columns that have moved, the furthest first."""
        return tuple(column.name for column in self.columns if column.moved)


class Labels(Frozen):
    """What became of predictions that wait for their outcome.

    Attributes:
        age_s: since the prediction.
        matured: outcomes that are in; ``missing`` are known never to come.
        pending: those that may still come; ``expired`` are too old to be expected any more.
    """

    age_s: Finite
    matured: int
    missing: int
    pending: int
    expired: int

    @property
    def share(self) -> float:
        """Outcomes that are in, as a share of the predictions."""
        total = self.matured + self.missing + self.pending + self.expired
        return self.matured / total if total else 0.0

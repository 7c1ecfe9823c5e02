"""Fidelity metrics of predictions, drift rules with their verdicts, and estimates before outcomes arrive."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal
from uuid import UUID

from pydantic import Field

from schemas.base import Finite, Frozen, Number, Whole
from schemas.catalogue_in_effect import SequenceView

__all__ = [
    "BUILT_IN_RULES",
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
    """State of a series of outcomes: ``suppressed`` would be an alarm but for the false-discovery control over segments."""

    INSUFFICIENT = "insufficient"
    OK = "ok"
    WARNING = "warning"
    ALARM = "alarm"
    SUPPRESSED = "suppressed"


class DriftRule(Frozen):
    """A limit on a metric: ``metric`` beyond ``limit`` calls for ``action``.

    A ``relative`` limit is a change against the value of the baseline, as a fraction; the others are absolute.
    """

    name: str
    metric: Literal["mae", "rmse", "correlation", "coverage_95pct"]
    limit: Finite
    direction: Literal["above", "below"]
    relative: bool
    action: Literal["retrain", "warn", "investigate"]

    @property
    def relative_change(self) -> float:
        """The change of the baseline at which a relative rule fires, negative where it fires below."""
        return self.limit if self.direction == "above" else -self.limit


BUILT_IN_RULES: tuple[DriftRule, ...] = (
    DriftRule(name="mae_increase", metric="mae", limit=0.20, direction="above", relative=True, action="retrain"),
    DriftRule(name="correlation_drop", metric="correlation", limit=0.7, direction="below", relative=False, action="warn"),
    DriftRule(name="coverage_drop", metric="coverage_95pct", limit=0.90, direction="below", relative=False, action="investigate"),
)

DRIFT_RULES = SequenceView[DriftRule](lambda catalogue: catalogue.rules)
"""Drift rules of the catalogue in effect, with its limits of all lines."""


class FidelityMetrics(Frozen):
    """Metrics of ``n`` pairs of predicted and actual values; an undefined one is null, with the reason in ``missing``.

    Attributes:
        mae, rmse, bias: in units of the target; bias is mean(predicted - actual).
        mae_robust: mean absolute error in which a single outlier hardly counts, equal to ``mae`` for errors like those of the
            baseline; null where it is undefined.
        correlation: Pearson's.
        coverage_95pct: share of the ``n_interval`` outcomes with an interval that lie inside it.
        standard_errors: of each metric, by its name.
        intervals: 95 % confidence intervals of correlation (Fisher's) and coverage (Wilson's), by the name of the metric.
        n_effective: number of independent outcomes that would be as informative, given correlation within segments; null where it
            was not computed.
        n_skipped: pairs without an actual value, not counted in ``n``.
        n_outliers: errors beyond three standard deviations, flagged for investigation.
    """

    n: Whole = Field(ge=0)
    mae: Finite | None = None
    mae_robust: Finite | None = None
    rmse: Finite | None = None
    bias: Finite | None = None
    correlation: Finite | None = None
    coverage_95pct: Finite | None = None
    n_interval: Whole = 0
    standard_errors: dict[str, Number] = Field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    missing: dict[str, str] = Field(default_factory=dict)
    n_effective: Finite | None = None
    n_skipped: Whole = 0
    n_outliers: Whole = 0


class PopulationFidelityMetrics(FidelityMetrics):
    """Metrics of one population; ``n_unmatched`` actual values belong to no tracked twin."""

    population_id: UUID
    n_unmatched: Whole = 0


class Verdict(Frozen):
    """Result of one rule for one series: ``value`` compared with ``limit``, and why the rule fired or did not.

    ``standing`` is true when the baseline itself breaks the limit, so that breaking it is no drift. ``close`` is true when the
    value is within its limit by less than its standard error: this does not start a warning, and it does not end one.
    """

    rule: str
    action: Literal["retrain", "warn", "investigate"]
    fired: bool
    value: Finite | None = None
    limit: Finite | None = None
    baseline: Finite | None = None
    n: Whole = 0
    standing: bool = False
    close: bool = False
    reason: str


class ColumnShift(Frozen):
    """Shift of a feature, or of the prediction, against the training rows of the model.

    Attributes:
        psi: population stability index of ``n`` rows; ``limit`` is the value above which the column has moved, given ``n``.
        ks: largest distance of the two cumulative shares, over the bins; ``ks_p`` is an upper bound of the probability of a larger
            one by chance (an upper bound because bins hide differences). Null for a category, whose levels have no order.
        moved: whether the shift is beyond chance and large enough to matter.
    """

    name: str
    n: Whole
    psi: Finite
    limit: Finite
    ks: Finite | None
    ks_p: Finite | None
    moved: bool


class EstimatedFidelity(Frozen):
    """Estimate of the mean absolute error of the newest ``n`` rows before their outcomes arrive; null when no row has an interval.

    It reflects rows that are harder to predict and inputs that moved. It cannot reflect a changed relation between features and
    outcome.
    """

    n: Whole
    mae: Finite | None
    baseline_mae: Finite
    columns: tuple[ColumnShift, ...]

    @property
    def moved(self) -> tuple[str, ...]:
        """Columns that have moved, the furthest first."""
        return tuple(column.name for column in self.columns if column.moved)


class Labels(Frozen):
    """Number of predictions by the status of their outcomes.

    Attributes:
        age_s: seconds since the prediction.
        matured: with an outcome; for ``missing`` ones it was reported that none will come.
        pending: whose outcome may still come; ``expired`` ones are too old to expect it.
    """

    age_s: Finite
    matured: Whole
    missing: Whole
    pending: Whole
    expired: Whole

    @property
    def share(self) -> float:
        """Share of the predictions that have an outcome."""
        total = self.matured + self.missing + self.pending + self.expired
        return self.matured / total if total else 0.0

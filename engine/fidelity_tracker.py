"""Tracks pairs of predicted and actual values of twins, computes fidelity metrics and evaluates the drift rules."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from itertools import compress
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.fidelity import (
    N_MOMENTS,
    OUTLIER_DEVIATIONS,
    Reference,
    evaluate_rules,
    interval_coverage,
    metrics_from_moments,
    moments,
    winsorised_mean,
)
from schemas.arrays import Flags, Floats
from schemas.base import require_one_of
from schemas.catalogue import Catalogue
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.fidelity_models import DriftRule, FidelityMetrics, PopulationFidelityMetrics, Verdict
from schemas.tracking import current_store

__all__ = ["FidelityTracker"]

Actuals = Mapping[Any, float | None] | pd.Series | pd.DataFrame

_UNIT = 2.0**-100
"""Values are added up as integer multiples of this power of two, so that all but the very smallest numbers are exact."""
_LARGEST = 1e100
_NONE = math.nan


class FidelityTracker:
    """Compares predictions of twins with actual values. An open ``TwinRepository`` stores each pair about a stored twin.

    Args:
        n_min: pairs below which no rule fires. The rules are plain comparisons, so the default is 1; unattended use should require
            more.
        catalogue: with the drift rules; by default the one in effect where the tracker is made.
        limits: other limits for the drift rules, by the rule's name: ``mae_increase`` (0.20, a rise over the baseline),
            ``correlation_drop`` (0.7), ``coverage_drop`` (0.90).

    Example:
        >>> tracker = FidelityTracker(mae_increase=0.5)
        >>> tracker.track(UUID(int=1), predicted=0.5, actual=0.25).mae
        0.25
        >>> tracker.track(UUID(int=2), predicted=0.30, actual=0.26).n
        2
    """

    def __init__(self, *, n_min: int = 1, catalogue: Catalogue | None = None, **limits: float) -> None:
        self.n_min = n_min
        self.rules = _rules((catalogue or catalogue_in_effect()).rules, limits)
        self._predictions: dict[UUID, tuple[float, float, float]] = {}
        self._sums = (0,) * N_MOMENTS
        self._errors = array("d")
        self._tracked: list[UUID] = []
        self._n_skipped = 0
        self._history: list[PopulationFidelityMetrics] = []

    @property
    def history(self) -> tuple[PopulationFidelityMetrics, ...]:
        """The metrics of every evaluated population, oldest first."""
        return tuple(self._history)

    def track(
        self, twin_id: UUID, predicted: float, actual: float | None, lower: float = _NONE, upper: float = _NONE
    ) -> FidelityMetrics:
        """Add one pair and return the metrics of all pairs so far; a pair without ``actual`` is skipped and counted as such.

        ``lower`` and ``upper`` are the prediction interval of the outcome; without them the pair does not count for the coverage.

        Raises:
            ValueError: for a prediction or an actual value that is not a finite number.
        """
        return self.track_many([twin_id], [predicted], [_number(actual)], [lower], [upper])

    def track_many(
        self,
        twin_ids: Iterable[UUID],
        predicted: npt.ArrayLike,
        actual: npt.ArrayLike,
        lower: npt.ArrayLike = _NONE,
        upper: npt.ArrayLike = _NONE,
    ) -> FidelityMetrics:
        """Add pairs given as arrays of shape ``(n,)``, see :meth:`track`; NaN is a missing actual value or no interval."""
        pairs, ids = _Pairs(predicted, actual, lower, upper), list(map(_uuid, twin_ids))
        self._predictions.update(zip(ids, pairs.predictions(), strict=True))
        self._tracked.extend(compress(ids, pairs.has_actual))
        self._sums = tuple(map(sum, zip(self._sums, pairs.sums(), strict=True)))
        self._errors.extend(pairs.error.tolist())
        self._n_skipped += pairs.n_skipped
        store = current_store()
        if store is not None:
            store.record(ids, pairs.predicted, pairs.actual)
        return _with_outliers(metrics_from_moments(self._sums, _UNIT, self._n_skipped), np.frombuffer(self._errors))

    def outliers(self) -> tuple[UUID, ...]:
        """The twins whose error is more than three standard deviations of all errors from their mean, as often as tracked."""
        return tuple(compress(self._tracked, _beyond(np.frombuffer(self._errors))))

    def calculate_fidelity(self, twin_population: UUID, actual_population: Actuals) -> PopulationFidelityMetrics:
        """Compute the metrics of a population: its actual values joined with the last tracked prediction of each twin.

        Args:
            twin_population: id of the population.
            actual_population: twin id to actual value as a mapping or a Series, or a frame with ``twin_id`` and ``actual``.

        Raises:
            ValueError: when a frame lacks one of the two columns, or a value is not a number.
        """
        ids, actual = _actuals(actual_population)
        tracked = np.array([twin_id in self._predictions for twin_id in ids], dtype=bool)
        rows = [self._predictions[twin_id] for twin_id in ids if twin_id in self._predictions]
        predicted, lower, upper = np.asarray(rows, dtype=float).reshape(-1, 3).T
        pairs = _Pairs(predicted, actual[tracked], lower, upper)
        metrics = _with_outliers(metrics_from_moments(pairs.sums(), _UNIT, pairs.n_skipped), pairs.error)
        unmatched = int((~tracked).sum())
        population = PopulationFidelityMetrics(**metrics.model_dump(), population_id=_uuid(twin_population), n_unmatched=unmatched)
        self._history.append(population)
        return population

    def check_drift(self, current: FidelityMetrics, baseline: Reference) -> bool:
        """Whether the mean absolute error has risen beyond its limit, which calls for a retrain."""
        return any(verdict.fired for verdict in self.verdicts(current, baseline) if verdict.rule == "mae_increase")

    def verdicts(self, current: FidelityMetrics, baseline: Reference) -> tuple[Verdict, ...]:
        """Return the verdict of every drift rule, fired or not, with its reason."""
        return evaluate_rules(current, baseline, self.rules, self.n_min)


class _Pairs:
    """Pairs of one call; those without an actual value are separated, all other values must be finite numbers."""

    def __init__(self, predicted: npt.ArrayLike, actual: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike) -> None:
        self.predicted = np.asarray(predicted, dtype=float)
        self.actual, self.lower, self.upper = (
            np.broadcast_to(np.asarray(values, dtype=float), self.predicted.shape) for values in (actual, lower, upper)
        )
        self.has_actual = ~np.isnan(self.actual)
        _require_finite("predicted", self.predicted)
        _require_finite("actual", self.actual[self.has_actual])
        self.error: Floats = (self.predicted - self.actual)[self.has_actual]
        self.n_skipped = int((~self.has_actual).sum())

    def predictions(self) -> Iterable[tuple[float, float, float]]:
        return zip(self.predicted.tolist(), self.lower.tolist(), self.upper.tolist(), strict=True)

    def sums(self) -> tuple[int, ...]:
        predicted, actual = self.predicted[self.has_actual], self.actual[self.has_actual]
        coverage = interval_coverage(actual, self.lower[self.has_actual], self.upper[self.has_actual])
        no_outliers = np.zeros(len(actual), dtype=bool)  # outliers are counted from all errors so far
        columns = moments(_integers(predicted), _integers(actual), coverage, no_outliers)
        return tuple(int(value) for value in columns.sum(axis=0))


def _rules(rules: Iterable[DriftRule], limits: Mapping[str, float]) -> tuple[DriftRule, ...]:
    named = {rule.name: rule for rule in rules}
    for name in limits:
        require_one_of("drift rule", name, named)
    return tuple(DriftRule(**{**rule.model_dump(), "limit": limits.get(name, rule.limit)}) for name, rule in named.items())


def _with_outliers(metrics: FidelityMetrics, error: Floats) -> FidelityMetrics:
    """Add the number of outliers, and the mean absolute error in which they hardly count."""
    outliers = int(np.count_nonzero(_beyond(error)))
    return metrics.model_copy(update={"n_outliers": outliers, "mae_robust": winsorised_mean(error)})


def _beyond(error: Floats) -> Flags:
    """Which errors are more than three standard deviations of all errors from their mean."""
    if len(error) < 2:
        return np.zeros(len(error), dtype=np.bool_)
    return np.asarray(np.abs(error - error.mean()) > OUTLIER_DEVIATIONS * error.std(ddof=1))


def _actuals(actuals: Actuals) -> tuple[list[UUID], Floats]:
    if isinstance(actuals, pd.DataFrame):
        lacking = [name for name in ("twin_id", "actual") if name not in actuals]
        if lacking:
            raise ValueError(f"the frame of actual values lacks {', '.join(lacking)}: it has {', '.join(map(str, actuals))}")
        actuals = pd.Series(actuals["actual"].to_numpy(), index=actuals["twin_id"])
    values = [_number(value) for _, value in actuals.items()]
    return [_uuid(twin_id) for twin_id, _ in actuals.items()], np.asarray(values, dtype=float)


def _number(value: Any) -> float:
    if value is None or value is pd.NA:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"actual value {value!r} is not a number") from None


def _uuid(value: object) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))


def _require_finite(kind: str, values: Floats) -> None:
    bad = np.flatnonzero(~(np.abs(values) <= _LARGEST))
    if len(bad):
        raise ValueError(f"{kind} value {values.flat[bad[0]]} at position {bad[0]} is not a finite number, at most {_LARGEST:g}")


def _integers(values: Floats) -> npt.NDArray[np.object_]:
    return np.array([int(value / _UNIT) for value in values.tolist()], dtype=object)

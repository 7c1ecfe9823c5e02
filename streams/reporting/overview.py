"""Reads the state of the service for the dashboard, the text reports and the demonstration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from engine.fidelity import AVERAGE_RUN_LENGTH, Detection, fidelity_metrics
from schemas import DRIFT_RULES, DriftState, FidelityMetrics, ModelCard, ModelEvent, Verdict
from schemas.base import utc_time
from schemas.fidelity_models import EstimatedFidelity, Labels
from schemas.thresholds import DEFAULT_THRESHOLDS, LineThresholds
from schemas.twin_types import ALL_ROWS
from sql import overview_store as store
from sql.database import Database, Pool
from sql.feature_count_store import FeatureCount, feature_counts
from sql.outlying_store import Outlier, count_missing, largest_outliers
from sql.overview_store import (
    IntervalSums,
    LineSettings,
    OverviewCounts,
    RefusedSummary,
    RetrainSummary,
    SegmentState,
    SegmentSums,
    SimulationRun,
)
from sql.pending_label_store import Cohort, estimate_of
from sql.population_realism_store import FilterRealism, newest_realism
from streams.monitoring import DriftEvaluator, SeriesKey, latest_cohorts, loss_text, pending_labels

__all__ = [
    "HistoryPoint",
    "LineChoice",
    "LineOverview",
    "Overview",
    "SegmentWindow",
    "SeriesHistory",
    "read_line",
    "read_overview",
    "segment_window",
]

_URGENCY = {DriftState.ALARM: 0, DriftState.WARNING: 1}
_HISTORY_POINTS = 60
_HISTORY_WINDOWS = 24
_MAX_OUTLIERS = 100
_MAX_SIMULATIONS, _MAX_REFUSED, _MAX_RETRAINS, _MAX_EVENTS, _MAX_FILTERS = 12, 12, 6, 40, 6


@dataclass(frozen=True)
class HistoryPoint:
    """Metrics of the outcomes in one interval that begins ``at`` a time."""

    at: datetime
    metrics: FidelityMetrics


@dataclass(frozen=True)
class SeriesHistory:
    """Metrics of one model over time, oldest first, for all outcomes or those of a segment."""

    card: ModelCard
    points: tuple[HistoryPoint, ...]
    segment: str = ALL_ROWS


class LineChoice(NamedTuple):
    """What the reader of a line's page has chosen.

    Attributes:
        segments: whose metrics over time are shown.
        hours: how far back; None for the last 24 windows.
    """

    segments: tuple[str, ...] = (ALL_ROWS,)
    hours: int | None = None


_NO_CHOICE = LineChoice()


@dataclass(frozen=True)
class SegmentWindow:
    """The newest window of one segment.

    Attributes:
        segment: ``all``, ``dimension=level``, or ``dimension:other`` for all levels without a series of their own.
        evidence_ratio: evidence of drift as a multiple of its limit; None where the detector does not run.
        comparison: whether rules and detector agree, as a sentence.
        carriers: which changes carry the evidence of the last change of state, as a clause; empty without evidence.
        carried_by: the other segment that nearly all outcomes belonged to at the last change of state; None where there was none.
    """

    segment: str
    metrics: FidelityMetrics
    state: DriftState
    evidence_ratio: float | None
    verdicts: tuple[Verdict, ...]
    comparison: str
    carriers: str = ""
    carried_by: str | None = None

    @property
    def error_has_risen(self) -> bool:
        """Whether the rule on the mean absolute error has fired."""
        error_rules = {rule.name for rule in DRIFT_RULES if rule.metric == "mae"}
        return any(verdict.fired for verdict in self.verdicts if verdict.rule in error_rules)


@dataclass(frozen=True)
class LineOverview:
    """One model line.

    Attributes:
        scored_model: the model of the newest window, which may be the champion's predecessor; None before the first outcome.
        windows: the newest window of each segment, by segment.
        window_end: end of the newest window.
        series: metrics over time, one series a model.
        events: the newest ledger entries, newest first.
        retrains: the newest retrain requests, newest first.
        estimate: expected error of the champion before outcomes arrive; None where there is no estimate.
        cohorts: predictions of the simulations whose outcomes are reported.
        sums: error sums of the newest window, by segment.
        features: with what the champion predicted its outcomes from features since its promotion, by feature.
        thresholds: of recommendations and drift rules.
        outliers: the largest outliers of the newest window.
        realism: of the champion's twins, by the filters that stored populations were last made with.
        catalogue_version: that the champion was made under; None without one.
    """

    line: str
    policy: str
    champion: ModelCard | None
    scored_model: ModelCard | None
    windows: tuple[SegmentWindow, ...]
    window_end: datetime | None
    window_s: float
    series: tuple[SeriesHistory, ...]
    events: tuple[ModelEvent, ...]
    retrains: tuple[RetrainSummary, ...]
    estimate: EstimatedFidelity | None
    cohorts: tuple[Cohort, ...]
    sums: Mapping[str, tuple[int, ...]]
    features: tuple[FeatureCount, ...] = ()
    thresholds: LineThresholds = DEFAULT_THRESHOLDS
    outliers: tuple[Outlier, ...] = ()
    realism: tuple[FilterRealism, ...] = ()
    catalogue_version: int | None = None

    @property
    def pending(self) -> dict[UUID, Labels]:
        """Outcomes that arrived and outcomes that are pending, by simulation."""
        return pending_labels(self.cohorts)

    @property
    def stopped(self) -> ModelEvent | None:
        """The event that stopped automatic retraining; None while it runs, or after a person has chosen a policy again."""
        last = next((event for event in self.events if event.happened in ("policy", "stopped")), None)
        return last if last is not None and last.happened == "stopped" else None

    @property
    def segments(self) -> list[SegmentWindow]:
        """The newest window of each segment, the most important first: by drift state, then by number of outcomes."""
        windows = [window for window in self.windows if window.segment != ALL_ROWS]
        return sorted(windows, key=lambda window: (_URGENCY.get(window.state, len(_URGENCY)), -window.metrics.n, window.segment))

    @property
    def overall(self) -> SegmentWindow | None:
        """The newest window over all segments."""
        return next((window for window in self.windows if window.segment == ALL_ROWS), None)


@dataclass(frozen=True)
class Overview:
    """The state of the service at one moment."""

    at: datetime
    lines: tuple[LineOverview, ...]
    simulations: tuple[SimulationRun, ...]
    refused: tuple[RefusedSummary, ...]
    counts: OverviewCounts


async def read_overview(pool: Pool, n_min: int) -> Overview:
    """Read the whole overview in one snapshot of the database.

    Args:
        pool: where to read.
        n_min: outcomes that a window needs before rules apply to it.
    """
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        return Overview(
            at=datetime.now(UTC),
            lines=tuple([await _read_line(connection, settings, n_min) for settings in await store.line_settings(connection)]),
            simulations=tuple(await store.newest_simulation_runs(connection, _MAX_SIMULATIONS)),
            refused=tuple(await store.newest_refused_records(connection, _MAX_REFUSED)),
            counts=await store.overview_counts(connection),
        )


async def read_line(pool: Pool, line: str, n_min: int, choice: LineChoice) -> tuple[datetime, LineOverview | None]:
    """Read one line in one snapshot of the database, and the time of that; None where there is no such line."""
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        settings = next((item for item in await store.line_settings(connection) if item.line == line), None)
        return datetime.now(UTC), None if settings is None else await _read_line(connection, settings, n_min, choice)


async def _read_line(database: Database, settings: LineSettings, n_min: int, choice: LineChoice = _NO_CHOICE) -> LineOverview:
    line, champion = settings.line, settings.champion
    newest = await store.newest_window_sums(database, line, settings.window_s)
    intervals = await _history_intervals(database, settings, choice)
    predicting = {row.model_id for rows in intervals.values() for row in rows}
    cards = await store.model_cards(database, {row.model_id for row in newest} | predicting)
    states = await store.segment_states(database, line)
    evaluator = DriftEvaluator(n_min, AVERAGE_RUN_LENGTH, cards, {line: settings.thresholds.rules})
    windows = _windows(newest, states, evaluator, settings.window_s)
    span = (line, newest[0].model_id, newest[0].window_end - settings.window_s, newest[0].window_end) if newest else None
    return LineOverview(
        line=line,
        policy=settings.policy,
        champion=champion,
        scored_model=cards[newest[0].model_id] if newest else None,
        windows=_with_skipped(windows, await count_missing(database, *span)) if span else windows,
        window_end=utc_time(newest[0].window_end) if newest else None,
        window_s=settings.window_s,
        series=tuple(history for segment, rows in intervals.items() for history in _series(segment, rows, cards)),
        events=tuple(await store.newest_events(database, line, _MAX_EVENTS)),
        retrains=tuple(await store.newest_retrains(database, line, _MAX_RETRAINS)),
        estimate=await estimate_of(database, line, champion.model_id) if champion else None,
        cohorts=tuple(await latest_cohorts(database, line)),
        sums={row.segment: row.sums for row in newest},
        features=tuple(await feature_counts(database, champion.model_id)) if champion else (),
        thresholds=settings.thresholds,
        realism=tuple(await newest_realism(database, champion.model_id, _MAX_FILTERS)) if champion else (),
        outliers=tuple(await largest_outliers(database, *span, _MAX_OUTLIERS)) if span else (),
        catalogue_version=settings.catalogue_version,
    )


def _with_skipped(windows: Sequence[SegmentWindow], n_skipped: int) -> tuple[SegmentWindow, ...]:
    """The windows with the number of missing outcomes at that of all rows: they are in no segment."""
    return tuple(
        replace(window, metrics=window.metrics.model_copy(update={"n_skipped": n_skipped}))
        if window.segment == ALL_ROWS
        else window
        for window in windows
    )


async def _history_intervals(database: Database, settings: LineSettings, choice: LineChoice) -> dict[str, list[IntervalSums]]:
    """Sums over about 60 intervals of whole panes, which cover the chosen hours or the last 24 windows, by chosen segment."""
    end = await store.latest_pane_end(database, settings.line)
    if end is None:
        return {}
    span_s = _HISTORY_WINDOWS * settings.window_s if choice.hours is None else 3600.0 * choice.hours
    interval_s = max(1, round(span_s / _HISTORY_POINTS / settings.pane_s)) * settings.pane_s
    since = end - _HISTORY_POINTS * interval_s
    return {segment: await store.interval_sums(database, settings.line, interval_s, since, segment) for segment in choice.segments}


def _series(segment: str, intervals: Sequence[IntervalSums], cards: Mapping[UUID, ModelCard]) -> tuple[SeriesHistory, ...]:
    points: dict[UUID, list[HistoryPoint]] = {}
    for interval in intervals:
        metrics = fidelity_metrics(interval.sums, cards[interval.model_id].baseline)
        points.setdefault(interval.model_id, []).append(HistoryPoint(utc_time(interval.start), metrics))
    return tuple(SeriesHistory(cards[model_id], tuple(history), segment) for model_id, history in points.items())


def _windows(
    rows: Sequence[SegmentSums], states: Mapping[tuple[UUID, str], SegmentState], evaluator: DriftEvaluator, window_s: float
) -> tuple[SegmentWindow, ...]:
    segments = {row.segment: row.sums for row in rows}
    return tuple(segment_window(row, segments, states.get((row.model_id, row.segment)), evaluator, window_s) for row in rows)


def segment_window(
    row: SegmentSums, segments: Mapping[str, Sequence[int]], stored: SegmentState | None, evaluator: DriftEvaluator, window_s: float
) -> SegmentWindow:
    """Assess a window as the fidelity agent does; a stored state has precedence, since alarms are final."""
    series, span = SeriesKey(row.model_id, row.segment), (row.window_end - window_s, row.window_end)
    detection = Detection.CHANGE if stored and stored.alarm_raised_at else Detection.NONE
    assessment = evaluator.assess_window(series, span, row.sums, detection=detection)
    metrics = assessment.metrics
    if row.segment == ALL_ROWS:
        metrics = evaluator.add_effective_n(metrics, row.model_id, segments)
    return SegmentWindow(
        segment=row.segment,
        metrics=metrics,
        state=DriftState(stored.state) if stored and stored.state else assessment.state,
        evidence_ratio=stored.evidence_ratio if stored else None,
        verdicts=assessment.verdicts,
        comparison=assessment.comparison,
        carriers=loss_text(stored.evidence_by_loss) if stored else "",
        carried_by=stored.carried_by if stored else None,
    )

"""The charts of the dashboard: error and coverage of a line over time, and simulated effects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from engine.fidelity import rule_limit
from schemas import TWIN_TYPES, DriftRule, DriftState, ModelCard, line_parts
from sql.overview_store import SimulationRun
from streams.reporting import (
    Chart,
    ChartInterval,
    ChartSeries,
    EventMarker,
    ReferenceLine,
    Tone,
    campaign_label,
    count,
    in_utc,
    intervals_chart,
    line_title,
    moment,
    plain_words,
    series_chart,
    short_id,
)
from streams.reporting.overview import LineOverview

__all__ = ["line_charts", "simulations_chart", "status_tone"]

_STATE_TONES: dict[str, Tone] = {
    DriftState.OK: "good",
    DriftState.WARNING: "warn",
    DriftState.ALARM: "bad",
    DriftState.SUPPRESSED: "muted",
    DriftState.INSUFFICIENT: "muted",
}
_STATUS_TONES: dict[str, Tone] = {
    "promoted": "good",
    "completed": "good",
    "deploy": "good",
    "trained": "one",
    "running": "one",
    "queued": "one",
    "pending": "one",
    "rolled_back": "warn",
    "stopped": "warn",
    "suggested": "one",
    "policy": "muted",
    "gain": "good",
    "nothing": "warn",
    "harm": "bad",
    "test_further": "warn",
    "stale": "muted",
    "rejected": "bad",
    "failed": "bad",
    "cancelled": "muted",
    "do_not_deploy": "bad",
}
_EVENT_LABELS = {
    "promoted": "promoted",
    "suggested": "challenger suggested",
    "rejected": "challenger rejected",
    "rolled_back": "rolled back",
    "failed": "training failed",
    "stopped": "retraining stopped",
}


def status_tone(status: str) -> Tone:
    """The tone of a drift state, an event of the ledger, a status or a recommendation; ``muted`` for any other word."""
    return _STATE_TONES.get(status) or _STATUS_TONES.get(status, "muted")


def line_charts(line: LineOverview, at: datetime, more_markers: Sequence[EventMarker] = ()) -> dict[str, Chart]:
    """The charts ``error`` and ``coverage`` of a line, with its events and ``more_markers``; ``at`` is the time of the overview."""
    markers = sorted([*_event_markers(line), *more_markers], key=lambda marker: marker.at)
    twin_type, _, target = line_parts(line.line)
    reference = line.scored_model or line.champion
    subject = f"{line_title(line.line)}, outcomes of {line.line}, as of {moment(at)} UTC"
    error = series_chart(
        _series(line, "mae"),
        title="Mean absolute error over time",
        description=f"Mean absolute error in {TWIN_TYPES[twin_type].target(target).unit}. {subject}.",
        lines=_error_lines(reference, line.thresholds.rule("mae_increase")),
        markers=markers,
    )
    coverage = series_chart(
        _series(line, "coverage_95pct"),
        title="Coverage over time",
        description=f"Share of outcomes inside their 95% prediction interval. {subject}.",
        form=".0%",
        lines=_coverage_lines(reference, line.thresholds.rule("coverage_drop")),
        markers=markers,
    )
    return {"error": error, "coverage": coverage}


def simulations_chart(simulations: Iterable[SimulationRun]) -> Chart:
    """The effect of each completed simulation with its interval, newest first, and the threshold of all where they share one."""
    completed = [run for run in simulations if run.status == "completed" and "ate" in run.results]
    thresholds = {run.results.get("min_effect_threshold") for run in completed}
    shared = thresholds.pop() if len(thresholds) == 1 else None
    return intervals_chart(
        [_interval(run) for run in completed],
        title="Simulated effects",
        description="Average effect of each simulated intervention with its interval, newest first.",
        lines=[ReferenceLine(shared, f"worthwhile from {shared:.1%}")] if shared else [],
    )


def _series(line: LineOverview, metric: str) -> list[ChartSeries]:
    tones: tuple[Tone, ...] = ("one", "two")
    return [
        ChartSeries(
            label=f"model {short_id(history.card.model_id)}",
            times=[point.at for point in history.points],
            values=[getattr(point.metrics, metric) for point in history.points],
            margins=[point.metrics.standard_errors.get(metric) for point in history.points],
            tone=tones[index % 2],
        )
        for index, history in enumerate(line.series)
    ]


def _error_lines(card: ModelCard | None, rule: DriftRule) -> list[ReferenceLine]:
    if card is None:
        return []
    return [
        ReferenceLine(card.baseline.mae, "baseline"),
        ReferenceLine(card.baseline.mae * (1 + rule.limit), f"limit +{rule.limit:.0%}", "bad"),
    ]


def _coverage_lines(card: ModelCard | None, rule: DriftRule) -> list[ReferenceLine]:
    if card is None:
        return [ReferenceLine(rule.limit, f"limit {rule.limit:.0%}", "bad")]
    limit, baseline = rule_limit(rule, card.baseline), card.baseline.coverage_95pct
    lines = [] if limit is None else [ReferenceLine(limit, f"limit {limit:.0%}", "bad")]
    return lines if baseline is None else [*lines, ReferenceLine(baseline, "baseline")]


def _event_markers(line: LineOverview) -> list[EventMarker]:
    """Events and retrain requests of the line within the time of its series, and up to a tenth of it afterwards."""
    times = [point.at for history in line.series for point in history.points]
    if not times:
        return []
    first, last = min(times), max(times) + 0.1 * (max(times) - min(times))
    events = [
        EventMarker(event.effective_from or event.at, _EVENT_LABELS[event.happened], _STATUS_TONES[event.happened])
        for event in line.events
        if event.happened in _EVENT_LABELS
    ]
    requests = [EventMarker(in_utc(retrain.requested_at), "retrain requested", "warn") for retrain in line.retrains]
    return [marker for marker in events + requests if first <= marker.at <= last]


def _interval(run: SimulationRun) -> ChartInterval:
    results = run.results
    assumed = " on an assumption" if results.get("rests_on_assumption") else ""
    return ChartInterval(
        label=campaign_label(run.intervention.get("intervention_type", "?")),
        estimate=results["ate"],
        lower=results["ate_ci_lower"],
        upper=results["ate_ci_upper"],
        note=f"{plain_words(run.recommendation or '?')}{assumed} · {count(results.get('affected_twin_count', 0))} twins",
        tone=status_tone(run.recommendation or ""),
    )

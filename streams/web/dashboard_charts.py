"""The charts of the dashboard: error and coverage of a line over time, and simulated effects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from engine.fidelity import rule_limit
from schemas import TWIN_TYPES, DriftRule, DriftState, ModelCard, line_parts
from schemas.twin_types import ALL_ROWS
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
    segment_label,
    series_chart,
    short_id,
)
from streams.reporting.overview import LineOverview

__all__ = ["line_charts", "simulation_charts", "simulations_chart", "status_tone"]

_MAX_GROUPS = 6
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
    "approved": "good",
    "refused": "warn",
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


def simulation_charts(run: SimulationRun) -> dict[str, Chart | None]:
    """The charts ``effect`` of a simulation with its alternatives, and ``subgroups``, which is None where no moderator is known."""
    results = run.results
    threshold = results.get("min_effect_threshold")
    lines = [] if threshold is None else [ReferenceLine(threshold, f"worthwhile from {threshold:.1%}")]
    requested = [_interval(run)] if "ate" in results else []
    subgroups = [item for name, groups in _by_dimension(results).items() for item in _subgroup_intervals(name, groups)]
    return {
        "effect": intervals_chart(
            requested + [_alternative(values) for values in results.get("alternatives", [])],
            title="Effect against the threshold",
            description="Average effect of the requested intervention and of its alternatives, each with its interval.",
            lines=lines,
        ),
        "subgroups": intervals_chart(
            subgroups,
            title="Effects by subgroup",
            description="Average effect in the largest subgroups of each dimension, each with its interval.",
            lines=lines,
        )
        if subgroups
        else None,
    }


def _by_dimension(results: Mapping[str, Any]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    by_dimension: Mapping[str, Sequence[Mapping[str, Any]]] = (results.get("heterogeneity") or {}).get("by_dimension", {})
    return by_dimension


def _subgroup_intervals(dimension: str, groups: Sequence[Mapping[str, Any]]) -> list[ChartInterval]:
    """The largest groups of a dimension that a moderator is about."""
    moderated = [group for group in groups if group.get("moderated", True)]
    return [
        ChartInterval(
            label=f"{plain_words(dimension)} {plain_words(group['group'])}",
            estimate=group["estimate"],
            lower=group["ci_lower"],
            upper=group["ci_upper"],
            note=f"{count(group['n'])} twins",
        )
        for group in sorted(moderated, key=lambda group: -group["n"])[:_MAX_GROUPS]
    ]


def _alternative(values: Mapping[str, Any]) -> ChartInterval:
    difference = f"{values['difference']:+.1%} difference".replace("-", "\N{MINUS SIGN}")
    return ChartInterval(
        label=campaign_label(values["intervention"].get("intervention_type", "?")),
        estimate=values["ate"],
        lower=values["ate_ci_lower"],
        upper=values["ate_ci_upper"],
        note=f"{difference}, best with {values['probability_best']:.0%}",
        tone="two",
    )


def _series(line: LineOverview, metric: str) -> list[ChartSeries]:
    """A series for each model and chosen segment, in the tones that tell them apart."""
    tones: tuple[Tone, ...] = ("one", "two", "good", "warn", "muted", "bad")
    is_segmented = len({history.segment for history in line.series}) > 1 or any(
        history.segment != ALL_ROWS for history in line.series
    )
    return [
        ChartSeries(
            label=f"{_segment(history.segment)}, {short_id(history.card.model_id)}" if is_segmented else _model(history.card),
            times=[point.at for point in history.points],
            values=[getattr(point.metrics, metric) for point in history.points],
            margins=[point.metrics.standard_errors.get(metric) for point in history.points],
            tone=tones[index % (len(tones) if is_segmented else 2)],
        )
        for index, history in enumerate(line.series)
    ]


def _segment(segment: str) -> str:
    return "all outcomes" if segment == ALL_ROWS else segment_label(segment)


def _model(card: ModelCard) -> str:
    return f"model {short_id(card.model_id)}"


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

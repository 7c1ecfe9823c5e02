"""Renders models, simulations and windows as text for a terminal, and windows as data for a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.fidelity import weighted_mae
from schemas import DriftState, FidelityMetrics, InterventionConfig, ModelCard, SimulationAnswer
from schemas.simulation_models import NO_MODERATOR, Alternative, BestChoice, SimulationResult, SubgroupEffect
from sql.feature_count_store import FeatureCount
from sql.outlying_store import Outlier
from sql.population_realism_store import FilterRealism
from streams.monitoring import level_weights, multiple_text
from streams.printable import escape_line
from streams.reporting.formatting import (
    MISSING,
    align_columns,
    campaign_label,
    count,
    effect,
    metric_name,
    moment,
    number,
    one_decimal,
    plain_words,
    segment_label,
    share,
    signed_number,
    signed_share,
    signed_share_range,
    span,
    standard_error,
    state_label,
)
from streams.reporting.overview import LineOverview, SegmentWindow

__all__ = [
    "NUMERIC_WINDOW_COLUMNS",
    "WINDOW_COLUMNS",
    "carrier_sentences",
    "feature_sentences",
    "line_text",
    "model_facts",
    "realism_sentences",
    "reproduction_text",
    "simulation_text",
    "weighted_error",
    "window_cells",
    "windows_dict",
    "windows_heading",
    "windows_notes",
    "windows_text",
]

WINDOW_COLUMNS = ("segment", "n", "MAE", "RMSE", "corr.", "coverage", "bias", "evidence", "state")
"""Columns of the table of windows."""

NUMERIC_WINDOW_COLUMNS = range(1, len(WINDOW_COLUMNS) - 1)
"""Indices of the columns of numbers."""

_MAX_GROUPS = 6
_MAX_FEATURES = 5
_MAX_OUTLIERS = 5


def model_facts(card: ModelCard) -> list[str]:
    """Training data and quality of a model on unseen rows, one fact a line."""
    metrics, baseline = card.metrics, card.baseline
    no_change = f" (predicting no change: {number(metrics.no_change_mae)})" if metrics.no_change_mae is not None else ""
    has_groups = metrics.n_entities is not None and metrics.n_entities < card.training_samples
    entities = f" of {count(metrics.n_entities)} entities" if has_groups else ""
    r2 = f"R² {number(metrics.cv_r2_mean, 3)} ± {standard_error(metrics.cv_r2_std)}"
    return [
        f"trained on {count(card.training_samples)} rows{entities}, {len(card.features)} features: {', '.join(card.features)}",
        f"on unseen rows: {r2}, fidelity {number(metrics.fidelity)}, MAE {number(baseline.mae)}{no_change}",
        f"95% prediction intervals cover {share(baseline.coverage_95pct)} of unseen outcomes",
        *([f"every twin satisfies: {'; '.join(map(str, metrics.relations))}"] if metrics.relations else []),
        *([f"realism of the twins: {metrics.realism}"] if metrics.realism else []),
    ]


def realism_sentences(by_filter: Sequence[FilterRealism]) -> list[str]:
    """The verdict on the twins of each filter."""
    return [f"twins with {_filter_text(twins.filters)}: {twins.verdict}" for twins in by_filter]


def _filter_text(filters: Mapping[str, Any]) -> str:
    texts = [
        f"{name} {' or '.join(map(str, value)) if isinstance(value, list) else value}" for name, value in sorted(filters.items())
    ]
    return escape_line(", ".join(texts))


def simulation_text(answer: SimulationAnswer) -> str:
    """The recommendation of a simulation, the effect and the inputs it was computed from."""
    result = answer.result
    if result is None:
        return f"{answer.status.value}: {escape_line(str(answer.reason))}"
    interval = f"{result.confidence_level:.0%} interval {signed_share_range(result.ate_ci_lower, result.ate_ci_upper)}"
    lines = [
        f"{plain_words(result.recommendation.value)}{_assumed(result)}: {result.recommendation_reason}",
        f"effect {effect(result.ate, result.effect_unit)}, {interval}, {count(result.affected_twin_count)} twins",
        *_change(result),
        *([str(result.track_record)] if result.track_record else []),
        *_alternatives(result),
        *_subgroups(result),
        *(f"note: {warning}" for warning in (*result.warnings, result.heterogeneity.warning) if warning),
        *([_campaign_text(result.intervention)] if result.intervention else []),
        f"simulation {answer.simulation_id}, model {answer.model_id}, effects version {answer.effects_version}"
        + ("" if answer.catalogue_version is None else f", catalogue version {answer.catalogue_version}"),
    ]
    return "\n".join(map(escape_line, lines))


def _campaign_text(campaign: InterventionConfig) -> str:
    """What was simulated: the campaign with its label, channel, frequency and duration."""
    weeks = f"{plain_words(campaign.channel)} {campaign.frequency} for {campaign.duration_weeks} weeks"
    return f"campaign {_campaign_name(campaign)} ({campaign_label(campaign.intervention_type)}), {weeks}"


def _assumed(result: SimulationResult) -> str:
    return " (on an assumption)" if result.rests_on_assumption else ""


def reproduction_text(answer: SimulationAnswer, differences: Mapping[str, tuple[Any, Any]]) -> str:
    """A simulation that was computed again, and the fields with another value than the stored one: (stored, computed)."""
    changes = [f"{name} was {stored}, and is {computed} now" for name, (stored, computed) in differences.items()]
    return "\n".join([simulation_text(answer), *(changes or ["computed again from its pins: the same to the last bit"])])


def _change(result: SimulationResult) -> list[str]:
    """The effect in the unit of the outcome, beside the spread of outcomes; empty where it is unknown."""
    change = result.change
    if change is None:
        return []
    estimate, low, high = (signed_number(value, 3) for value in (change.estimate, change.ci_lower, change.ci_upper))
    spread = f"; outcomes have a standard deviation of {number(change.outcome_sd, 3)}" if change.outcome_sd is not None else ""
    return [f"in the unit of the outcome ({change.unit}): {estimate} ({low} to {high}){spread}"]


def _alternatives(result: SimulationResult) -> list[str]:
    """The alternatives against the requested intervention, and the best choice; empty where no alternative was requested."""
    if result.best is None:
        return []
    unit = result.effect_unit
    return [*(_alternative_text(alternative, unit) for alternative in result.alternatives), _best_text(result.best, unit)]


def _alternative_text(alternative: Alternative, unit: str) -> str:
    name, probability_best = _campaign_name(alternative.intervention), alternative.probability_best
    interval = signed_share_range(alternative.difference_ci_lower, alternative.difference_ci_upper)
    difference = f"{signed_share(alternative.difference)} ({interval})"
    return (
        f"  alternative {name}: {effect(alternative.ate, unit)}; difference to the requested intervention {difference}; "
        f"best with probability {probability_best:.0%}"
    )


def _campaign_name(campaign: InterventionConfig) -> str:
    variant = f", variant {campaign.variant}" if campaign.variant is not None else ""
    return f"{campaign.intervention_type}{variant}"


def _best_text(best: BestChoice, unit: str) -> str:
    return (
        f"best: {_campaign_name(best.intervention)} {effect(best.ate, unit)} "
        f"({signed_share_range(best.ate_ci_lower, best.ate_ci_upper)}, corrected for the selection); "
        f"{signed_share(best.margin)} ahead of the next one, best with probability {best.probability_best:.0%}"
    )


def _subgroups(result: SimulationResult) -> list[str]:
    """The largest groups of each dimension, and what is assumed of those without a moderator; ``--json`` has all of them."""
    return [
        line
        for dimension, groups in result.heterogeneity.by_dimension.items()
        for line in _dimension(dimension, groups, result.heterogeneity.unmoderated.get(dimension), result.effect_unit)
    ]


def _dimension(name: str, groups: Sequence[SubgroupEffect], assumption: str | None, unit: str) -> list[str]:
    if assumption:
        return [f"  {name}: {assumption}"]
    largest = sorted(groups, key=lambda group: -group.n)[:_MAX_GROUPS]
    return [f"  {name} {group.group}: {_group_effect(group, unit)}, {count(group.n)} twins" for group in largest]


def _group_effect(group: SubgroupEffect, unit: str) -> str:
    if not group.moderated:
        return NO_MODERATOR
    return f"{effect(group.estimate, unit)} ({signed_share_range(group.ci_lower, group.ci_upper)})"


def line_text(line: LineOverview) -> str:
    """A model line, its policy and its champion."""
    if line.champion is None:
        return f"{line.line}\n  no champion yet"
    version = "" if line.catalogue_version is None else f", catalogue version {line.catalogue_version}"
    champion = f"champion {line.champion.model_id}, {line.champion.model_type}{version}, retraining policy: {line.policy}"
    return "\n  ".join([line.line, champion, *model_facts(line.champion), *realism_sentences(line.realism)])


def windows_text(line: LineOverview, dimension: str = "") -> str:
    """The newest windows of a line as a table, the estimate before outcomes arrive, and pending outcomes.

    Args:
        line: the line.
        dimension: also show the error weighted by the shares of this dimension; empty shows none.
    """
    rows = align_columns([WINDOW_COLUMNS, *map(window_cells, line.windows)], NUMERIC_WINDOW_COLUMNS) if line.scored_model else []
    return "\n".join([windows_heading(line), *(f"  {row}" for row in rows), *windows_notes(line, dimension)])


def windows_heading(line: LineOverview) -> str:
    """The line, the model whose predictions are scored, and the time of the windows."""
    if line.scored_model is None:
        return f"{line.line}: no outcomes yet"
    return f"{line.line}, model {line.scored_model.model_id}, window of {span(line.window_s)} until {moment(line.window_end)} UTC"


def window_cells(window: SegmentWindow) -> tuple[str, ...]:
    """The cells of a window under ``WINDOW_COLUMNS``."""
    metrics = window.metrics
    return (
        segment_label(window.segment),
        count(metrics.n),
        f"{number(metrics.mae)} ± {standard_error(metrics.standard_errors.get('mae'))}",
        number(metrics.rmse),
        number(metrics.correlation, 3),
        share(metrics.coverage_95pct),
        number(metrics.bias),
        MISSING if window.evidence_ratio is None else multiple_text(window.evidence_ratio),
        state_label(window.state.value),
    )


def windows_notes(line: LineOverview, dimension: str = "") -> list[str]:
    """Precision and drift of all outcomes, the estimate before outcomes arrive, and pending outcomes; each line is indented."""
    overall = line.overall if line.scored_model else None
    windows = [] if overall is None else [*_precision(overall.metrics), f"  {overall.comparison}", *_effective_n(overall.metrics)]
    windows += carrier_sentences(line.windows) if line.scored_model else []
    windows += [] if overall is None else _doubts(overall.metrics, line.outliers)
    weighted = [_weighted(line, dimension)] if line.scored_model and dimension else []
    features = [f"  {sentence}" for sentence in feature_sentences(line.features)]
    return [*windows, *weighted, *features, *_estimate(line), *_pending(line)]


def carrier_sentences(windows: Sequence[SegmentWindow]) -> list[str]:
    """Which changes carry the evidence of each segment in warning or alarm; each line is indented."""
    return [
        f"  {segment_label(window.segment)}: evidence {window.carriers}"
        + (f"; nearly all of these outcomes are of {segment_label(window.carried_by)}" if window.carried_by else "")
        for window in windows
        if window.carriers and window.state in (DriftState.WARNING, DriftState.ALARM)
    ]


def feature_sentences(counts: Sequence[FeatureCount]) -> list[str]:
    """With what a model predicted: features without a value, with levels that it never saw, and features that it does not use."""
    kinds = {
        "missing": [(item.missing, item.feature) for item in counts],
        "with a level that the champion never saw": [(item.unseen, item.feature) for item in counts],
        "sent and not used by the champion": [(item.unused, item.feature) for item in counts],
    }
    n = max((item.outcomes for item in counts), default=0)
    return [
        f"features {what}, of {count(n)} outcomes predicted from features: {_listed_counts(counted)}"
        for what, all_counts in kinds.items()
        if (counted := sorted((-number_of, name) for number_of, name in all_counts if number_of))
    ]


def _listed_counts(counted: Sequence[tuple[int, str]]) -> str:
    """The most frequent of some features, each with the negative of its number."""
    shown = ", ".join(f"{name} {count(-negative)}" for negative, name in counted[:_MAX_FEATURES])
    return f"{shown} and {len(counted) - _MAX_FEATURES} more" if len(counted) > _MAX_FEATURES else shown


def _doubts(metrics: FidelityMetrics, outliers: Sequence[Outlier]) -> list[str]:
    """Missing outcomes and outliers of the window; ``--json`` has more of their events."""
    skipped = [f"  {count(metrics.n_skipped)} outcomes without an actual value are skipped"] if metrics.n_skipped else []
    if not metrics.n_outliers:
        return skipped
    robust = f", MAE {number(metrics.mae_robust)} with outliers counted up to a bound" if metrics.mae_robust is not None else ""
    events = [
        f"    event {outlier.event_id}: predicted {number(outlier.predicted)}, actual {number(outlier.actual)}"
        for outlier in outliers[:_MAX_OUTLIERS]
    ]
    return [*skipped, f"  {count(metrics.n_outliers)} errors beyond 3 standard deviations{robust}", *events]


def _precision(metrics: FidelityMetrics) -> list[str]:
    """Standard errors and 95 % intervals of the metrics of all outcomes; the standard error of the MAE is in the table."""
    errors = [
        f"{metric_name(name)} ± {standard_error(metrics.standard_errors[name])}"
        for name in ("rmse", "bias")
        if name in metrics.standard_errors
    ]
    intervals = [
        f"{metric_name(name)} {_format_of(name)(lower)} to {_format_of(name)(upper)} at 95%"
        for name, (lower, upper) in metrics.intervals.items()
    ]
    return [f"  all: {', '.join([*errors, *intervals])}"] if errors or intervals else []


def _format_of(metric: str) -> Callable[[float], str]:
    return share if metric == "coverage_95pct" else lambda value: number(value, 3)


def _effective_n(metrics: FidelityMetrics) -> list[str]:
    if metrics.n_effective is None:
        return []
    sample_size = f"effective sample size {count(metrics.n_effective)}, as outcomes of one segment share errors"
    return [f"  {count(metrics.n)} outcomes, {sample_size}"]


def weighted_error(line: LineOverview, dimension: str) -> tuple[float, float] | None:
    """Mean absolute error and its standard error, with the levels of a dimension weighted by their share of the predictions.

    None where no simulation whose outcomes are reported gives these shares.
    """
    if line.scored_model is None:
        return None
    return weighted_mae(line.sums, level_weights(line.cohorts, dimension), line.scored_model.baseline)


def _weighted(line: LineOverview, dimension: str) -> str:
    error = weighted_error(line, dimension)
    if error is None:
        return f"  no weighted error: no simulation with reported outcomes gives the shares of {dimension}"
    mae, mae_error = error
    return f"  MAE {number(mae)} ± {standard_error(mae_error)} with {dimension} weighted by its share of all predictions"


def _estimate(line: LineOverview) -> list[str]:
    estimate = line.estimate
    if estimate is None:
        return []
    moved = f"moved inputs: {', '.join(estimate.moved)}" if estimate.moved else "no input has moved"
    return [f"  estimated before outcomes arrive, from the newest {count(estimate.n)} rows: MAE {number(estimate.mae)}, {moved}"]


def _pending(line: LineOverview) -> list[str]:
    return [
        f"  simulation {simulation_id}, {one_decimal(labels.age_s / 86_400)} days old: "
        f"{share(labels.share)} of the outcomes arrived, {count(labels.pending)} pending, "
        f"{count(labels.expired)} expired, {count(labels.missing)} missing"
        for simulation_id, labels in line.pending.items()
    ]


def windows_dict(line: LineOverview, dimension: str = "") -> dict[str, Any]:
    """The newest windows of a line as JSON values; ``dimension`` as in :func:`windows_text`."""
    error = weighted_error(line, dimension) if dimension else None
    return {
        "line": line.line,
        "model_id": line.scored_model.model_id if line.scored_model else None,
        "window_s": line.window_s,
        "window_ends": line.window_end,
        "windows": [
            {
                "segment": window.segment,
                "state": window.state.value,
                "evidence_ratio": window.evidence_ratio,
                "comparison": window.comparison,
                "evidence_carriers": window.carriers,
                "carried_by": window.carried_by,
                "metrics": window.metrics.model_dump(mode="json"),
                "verdicts": [verdict.model_dump(mode="json") for verdict in window.verdicts],
            }
            for window in line.windows
        ],
        "weighted": None if error is None else {"dimension": dimension, "mae": error[0], "standard_error": error[1]},
        "features": [
            {name: value for name, value in item._asdict().items() if name not in ("line", "model_id")} for item in line.features
        ],
        "outliers": [outlier._asdict() | {"error": outlier.error} for outlier in line.outliers],
        "estimated": line.estimate.model_dump(mode="json") if line.estimate else None,
        "waiting": [
            {"simulation_id": simulation_id, "share": labels.share, **labels.model_dump()}
            for simulation_id, labels in line.pending.items()
        ],
    }

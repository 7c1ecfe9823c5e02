"""Answers in words, for people on a terminal."""

from __future__ import annotations

from typing import Any

from engine.fidelity.label_delay import weighted_mae
from schemas import FidelityMetrics, ModelCard, SimulationAnswer
from schemas.simulation_models import SimulationResult
from streams.monitoring.performance_estimation import weights_of
from streams.reporting.overview import LineOverview, SegmentWindow

__all__ = ["line_text", "model_facts", "simulation_text", "weighted_error", "windows_dict", "windows_text"]

_GROUPS_TOLD = 6


def model_facts(card: ModelCard) -> list[str]:
    """How good a model is on rows it has not seen."""
    metrics, baseline = card.metrics, card.baseline
    against = f', against {metrics.no_change_mae:.4f} of "no change"' if metrics.no_change_mae is not None else ""
    quality = f"R2 {metrics.cv_r2_mean:.3f} ± {metrics.cv_r2_std:.3f}, fidelity {_number(metrics.fidelity)}"
    return [
        f"learned from {card.training_samples:,} rows, {len(card.features)} features: {', '.join(card.features)}",
        f"on unseen rows: {quality}, MAE {baseline.mae:.4f}{against}",
        f"95 % prediction intervals cover {_share(baseline.coverage_95pct)}",
        *([f"realism: {metrics.realism}"] if metrics.realism else []),
    ]


def simulation_text(answer: SimulationAnswer) -> str:
    """A completed simulation: the effect, the advice and what it rests on."""
    result = answer.result
    if result is None:
        return f"{answer.status.value}: {answer.reason}"
    interval = f"{result.confidence_level:.0%} interval {result.ate_ci_lower:+.1%} to {result.ate_ci_upper:+.1%}"
    lines = [
        f"{result.recommendation.value.replace('_', ' ')}: {result.recommendation_reason}",
        f"effect {result.ate:+.1%}, {interval}, {result.affected_twin_count:,} twins",
        *([str(result.track_record)] if result.track_record else []),
        *_comparison(result),
        *_subgroups(result),
        *(f"note: {warning}" for warning in (*result.warnings, result.heterogeneity.warning) if warning),
        f"simulation {answer.simulation_id}, model {answer.model_id}, effects version {answer.effects_version}",
    ]
    return "\n".join(lines)


def _comparison(result: SimulationResult) -> list[str]:
    """The alternatives on the same twins and draws, and the best of all with an interval that allows for its having been chosen."""
    if result.best is None:
        return []
    best = result.best
    chosen = f"{best.intervention.intervention_type} {best.ate:+.1%}, {best.ate_ci_lower:+.1%} to {best.ate_ci_upper:+.1%}"
    others = (
        f"  {other.intervention.intervention_type} {other.ate:+.1%}; {other.difference:+.1%} beside it,"
        f" {other.difference_ci_lower:+.1%} to {other.difference_ci_upper:+.1%}; best with {other.probability_best:.0%}"
        for other in result.alternatives
    )
    lead = f"{best.margin:+.1%} over the next, best with probability {best.probability_best:.0%}"
    return [*others, f"best: {chosen} though it was chosen; {lead}"]


def line_text(line: LineOverview) -> str:
    """A line and its champion."""
    if line.champion is None:
        return f"{line.line}\n  no champion yet"
    facts = [f"champion {line.champion.model_id}, {line.champion.model_type}, retrains: {line.policy}", *model_facts(line.champion)]
    return "\n  ".join([line.line, *facts])


def windows_text(line: LineOverview, weighted: str = "") -> str:
    """The newest window of each series of a line, as a table, and what is expected before outcomes arrive."""
    told = [f"{line.line}: no outcomes yet"] if line.scored_model is None else _windows(line, line.scored_model, weighted)
    return "\n".join([*told, *_estimate(line), *_waiting(line)])


def _windows(line: LineOverview, scored: ModelCard, weighted: str) -> list[str]:
    head = f"{line.line}, model {scored.model_id}, window of {line.window_s:g} s until {line.window_end}"
    columns = f"  {'segment':<32}{'n':>8}{'MAE':>17}{'RMSE':>10}{'corr.':>8}{'coverage':>10}{'bias':>10}{'evidence':>10}  state"
    said = [head, columns, *map(_row, line.windows)]
    if line.overall:
        said += [*_precision(line.overall.metrics), f"  {line.overall.comparison}", *_effective(line.overall.metrics)]
    return [*said, _weighted(line, weighted)] if weighted else said


def _precision(metrics: FidelityMetrics) -> list[str]:
    """How sure the figures of the whole are, beside that of the error, which its row has."""
    errors = {name: metrics.standard_errors[name] for name in ("rmse", "bias") if name in metrics.standard_errors}
    told = [f"{_CALLED[name]} ± {error:.2g}" for name, error in errors.items()]
    told += [
        f"{_CALLED[name]} {_FORMS[name](low)} to {_FORMS[name](high)} at 95 %" for name, (low, high) in metrics.intervals.items()
    ]
    return [f"  all: {', '.join(told)}"] if told else []


def _effective(metrics: FidelityMetrics) -> list[str]:
    if metrics.n_effective is None:
        return []
    return [f"  {metrics.n:,} outcomes tell as much as {metrics.n_effective:,.0f} that share nothing with their segment"]


def weighted_error(line: LineOverview, dimension: str) -> tuple[float, float] | None:
    """Mean absolute error and its standard error, levels of a dimension weighted by their share of what was predicted.

    None where nothing tells these shares.
    """
    if line.scored_model is None:
        return None
    return weighted_mae(line.sums, weights_of(line.cohorts, dimension), line.scored_model.baseline)


def _weighted(line: LineOverview, dimension: str) -> str:
    found = weighted_error(line, dimension)
    if found is None:
        return f"  no followed simulation tells the shares of {dimension}: nothing to weight by"
    return f"  MAE {found[0]:.4f} ± {found[1]:.2g} with {dimension} weighted by its share of the predictions, arrived or not"


def _estimate(line: LineOverview) -> list[str]:
    found = line.estimate
    if found is None:
        return []
    moved = f"moved inputs: {', '.join(found.moved)}" if found.moved else "no input has moved"
    return [f"  estimated by the newest {found.n:,} rows, before outcomes: MAE {_number(found.mae)}, {moved}"]


def _waiting(line: LineOverview) -> list[str]:
    return [
        f"  simulation {simulation}, {labels.age_s / 86_400:.1f} days old: {labels.share:.1%} of the outcomes in, "
        f"{labels.pending:,} pending, {labels.expired:,} expired, {labels.missing:,} known to be missing"
        for simulation, labels in line.pending.items()
    ]


def windows_dict(line: LineOverview, weighted: str = "") -> dict[str, Any]:
    """The newest windows of a line, for a program."""
    error = weighted_error(line, weighted) if weighted else None
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
                "metrics": window.metrics.model_dump(mode="json"),
                "verdicts": [verdict.model_dump(mode="json") for verdict in window.verdicts],
            }
            for window in line.windows
        ],
        "weighted": None if error is None else {"dimension": weighted, "mae": error[0], "standard_error": error[1]},
        "estimated": line.estimate.model_dump(mode="json") if line.estimate else None,
        "waiting": [
            {"simulation_id": simulation, "share": labels.share, **labels.model_dump()}
            for simulation, labels in line.pending.items()
        ],
    }


def _row(window: SegmentWindow) -> str:
    m = window.metrics
    mae = f"{_number(m.mae)} ± {_error(m.standard_errors.get('mae'))}"
    figures = (
        f"{m.n:>8,}{mae:>17}{_number(m.rmse):>10}{_number(m.correlation, 2):>8}{_share(m.coverage_95pct):>10}{_number(m.bias):>10}"
    )
    evidence = "-" if window.evidence_ratio is None else f"{window.evidence_ratio:.2g}"
    return f"  {window.segment:<32}{figures}{evidence:>10}  {window.state.value}"


_CALLED = {"rmse": "RMSE", "bias": "bias", "correlation": "correlation", "coverage_95pct": "coverage"}
_FORMS = {"correlation": "{:.2f}".format, "coverage_95pct": "{:.1%}".format}


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _subgroups(result: SimulationResult) -> list[str]:
    """The largest groups of each dimension; ``--json`` has all of them."""
    return [
        f"  {dimension} {group.group}: {group.estimate:+.1%} ({group.ci_lower:+.1%} to {group.ci_upper:+.1%}), {group.n:,} twins"
        for dimension, groups in result.heterogeneity.by_dimension.items()
        for group in sorted(groups, key=lambda group: -group.n)[:_GROUPS_TOLD]
    ]


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"

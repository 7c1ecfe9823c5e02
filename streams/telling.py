"""Answers in words, for people on a terminal."""

from __future__ import annotations

from typing import Any

from schemas import ModelCard, SimulationAnswer
from schemas.simulation_models import SimulationResult
from streams.page_data import LineLook, Window

__all__ = ["line_in_words", "model_facts", "result_in_words", "windows_as_data", "windows_in_words"]

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
    ]


def result_in_words(answer: SimulationAnswer) -> str:
    """A completed simulation: the effect, the advice and what it rests on."""
    result = answer.result
    if result is None:
        return f"{answer.status.value}: {answer.reason}"
    interval = f"{result.confidence_level:.0%} interval {result.ate_ci_lower:+.1%} to {result.ate_ci_upper:+.1%}"
    lines = [
        f"{result.recommendation.value.replace('_', ' ')}: {result.recommendation_reason}",
        f"effect {result.ate:+.1%}, {interval}, {result.affected_twin_count:,} twins",
        *_subgroups(result),
        *(f"note: {warning}" for warning in result.warnings),
        f"simulation {answer.simulation_id}, model {answer.model_id}, effects version {answer.effects_version}",
    ]
    return "\n".join(lines)


def line_in_words(line: LineLook) -> str:
    """A line and its champion."""
    if line.champion is None:
        return f"{line.line}\n  no champion yet"
    facts = [f"champion {line.champion.model_id}, {line.champion.model_type}, retrains: {line.policy}", *model_facts(line.champion)]
    return "\n  ".join([line.line, *facts])


def windows_in_words(line: LineLook) -> str:
    """The newest window of each series of a line, as a table."""
    if line.scored is None:
        return f"{line.line}: no outcomes yet"
    head = f"{line.line}, model {line.scored.model_id}, window of {line.window_s:g} s until {line.window_ends}"
    columns = f"  {'segment':<32}{'n':>8}{'MAE':>10}{'RMSE':>10}{'corr.':>8}{'coverage':>10}{'evidence':>10}  state"
    return "\n".join([head, columns, *map(_row, line.windows)])


def windows_as_data(line: LineLook) -> dict[str, Any]:
    """The newest windows of a line, for a program."""
    return {
        "line": line.line,
        "model_id": line.scored.model_id if line.scored else None,
        "window_s": line.window_s,
        "window_ends": line.window_ends,
        "windows": [
            {
                "segment": window.segment,
                "state": window.state.value,
                "evidence_ratio": window.evidence_ratio,
                "metrics": window.metrics.model_dump(mode="json"),
                "verdicts": [verdict.model_dump(mode="json") for verdict in window.verdicts],
            }
            for window in line.windows
        ],
    }


def _row(window: Window) -> str:
    m = window.metrics
    figures = f"{m.n:>8,}{_number(m.mae):>10}{_number(m.rmse):>10}{_number(m.correlation, 2):>8}{_share(m.coverage_95pct):>10}"
    evidence = "-" if window.evidence_ratio is None else f"{window.evidence_ratio:.2g}"
    return f"  {window.segment:<32}{figures}{evidence:>10}  {window.state.value}"


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

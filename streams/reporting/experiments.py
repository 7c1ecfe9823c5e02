"""Renders results of experiments, their analyses and their receipts, as text for a terminal and as data for a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from engine.effects import prior_interval
from engine.experiments import TrialAnalysis
from schemas import TWIN_TYPES, EffectPrior, ExperimentResult, TwinType
from sql.effects_store import ExperimentDecision, ExperimentRow
from streams.reporting.formatting import (
    align_columns,
    count,
    effect,
    in_utc,
    moment,
    share,
    signed_share,
    signed_share_range,
    standard_error_share,
)

__all__ = [
    "EXPERIMENT_COLUMNS",
    "analysis_dict",
    "analysis_text",
    "decision_text",
    "experiment_cells",
    "experiment_dict",
    "experiment_text",
    "prior_text",
    "result_text",
    "subgroup_lines",
    "widening_reason",
]

EXPERIMENT_COLUMNS = ("ID", "Observed at", "Line", "Campaign", "Effect", "Error", "People", "State")
"""Columns of the list of experiments."""

_HALF = 1.96
_WIDER = 1.05  # factor of the width of an interval from which its growth is told


def result_text(result: ExperimentResult) -> str:
    """A result in a sentence, its effect, error and people, and a line for each subgroup."""
    return "\n".join([_sentence(result), *subgroup_lines([group.model_dump() for group in result.subgroups])])


def _sentence(result: ExperimentResult) -> str:
    unit = TWIN_TYPES[result.twin_type].target(result.target).effect_unit
    return (
        f"{result.experiment_id}: {result.intervention.intervention_type} on {result.line}, {effect(result.effect, unit)} +-"
        f" {standard_error_share(result.standard_error)} ({count(result.n_treated)} treated, {count(result.n_control)} control)"
    )


def analysis_text(result: ExperimentResult, analysis: TrialAnalysis) -> str:
    """An analysis of rows: the effect, what the adjustment saved, the units of assignment, and subgroups."""
    overall, unadjusted = analysis.overall, analysis.unadjusted
    low, high = overall.effect - _HALF * overall.standard_error, overall.effect + _HALF * overall.standard_error
    lines = [_sentence(result), f"  95% interval {signed_share_range(low, high)}"]
    if overall.units != overall.people:
        lines.append(
            f"  {count(overall.units[0])} treated and {count(overall.units[1])} control clusters; the error is robust to them"
        )
    if analysis.covariates:
        lines.append(
            f"  adjusted for {', '.join(analysis.covariates)}: {share(analysis.saved)} of the variance saved (without:"
            f" {signed_share(unadjusted.effect)} +- {standard_error_share(unadjusted.standard_error)})"
        )
    lines += subgroup_lines([group.model_dump() for group in analysis.subgroups])
    lines += [f"  no effect by {name}: {reason}" for name, reason in analysis.skipped.items()]
    return "\n".join(lines)


def widening_reason(before: EffectPrior, after: EffectPrior) -> str | None:
    """Why the interval of the next campaign is wider than before; None where it is not."""
    widths = [high - low for low, high in (prior_interval(before), prior_interval(after))]
    if widths[1] <= widths[0] * _WIDER:
        return None
    grown = after.between_sd > before.between_sd
    cause = (
        f"its experiments, or these and the catalogue, differ by more than was expected, so the next campaign may too (standard"
        f" deviation between campaigns {standard_error_share(after.between_sd)})"
        if grown
        else "what is believed of its mean has become less certain"
    )
    return f"the interval is {widths[1] / widths[0]:.1f} times as wide as before: {cause}"


def subgroup_lines(subgroups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Effects by subgroup as aligned lines."""
    cells = [
        (
            f"{group['dimension']}={group['level']}",
            signed_share(group["effect"]),
            f"+- {standard_error_share(group['standard_error'])}",
            count(group["n_treated"]),
            f"treated, {count(group['n_control'])} control",
        )
        for group in subgroups
    ]
    return [f"  {line}" for line in align_columns(cells, numeric=(1, 3))] if cells else []


def analysis_dict(analysis: TrialAnalysis) -> dict[str, Any]:
    """An analysis as data for a program."""
    overall, unadjusted = analysis.overall, analysis.unadjusted
    return {
        "effect": overall.effect,
        "standard_error": overall.standard_error,
        "people": dict(zip(("treated", "control"), overall.people, strict=True)),
        "units": dict(zip(("treated", "control"), overall.units, strict=True)),
        "unadjusted": {"effect": unadjusted.effect, "standard_error": unadjusted.standard_error},
        "covariates": [*analysis.covariates],
        "variance_saved": analysis.saved,
        "subgroups": [group.model_dump(mode="json") for group in analysis.subgroups],
        "skipped": dict(analysis.skipped),
        "warnings": [*analysis.warnings],
    }


def prior_text(prior: EffectPrior) -> str:
    """The mean of a campaign's base effect, and the interval of the next campaign's."""
    return f"{signed_share(prior.mean)} (95% {signed_share_range(*prior_interval(prior))})"


def experiment_dict(row: ExperimentRow) -> dict[str, Any]:
    """A stored experiment as data for a program, without its details."""
    body = row.body
    return {
        "experiment_id": row.experiment_id,
        "line": row.line,
        "intervention": row.intervention,
        "observed_at": body["observed_at"],
        "recorded_at": row.recorded_at,
        **{name: body[name] for name in ("effect", "standard_error", "n_treated", "n_control")},
        "state": "withdrawn" if row.withdrawn_at else "counted" if _measures_target(row) else "apart",
        "withdrawn_at": row.withdrawn_at,
        "revision": row.revision,
        "first_effects_version": row.first_version,
    }


def experiment_cells(row: ExperimentRow) -> tuple[str, ...]:
    """A stored experiment as the cells of ``EXPERIMENT_COLUMNS``."""
    body = row.body
    return (
        row.experiment_id,
        _observed(body),
        row.line,
        row.intervention,
        signed_share(body["effect"]),
        standard_error_share(body["standard_error"]),
        f"{count(body['n_treated'])} / {count(body['n_control'])}",
        _state_text(row),
    )


def decision_text(decision: ExperimentDecision) -> str:
    """A withdrawal or what took it back in words: by whom, and why."""
    what = "withdrawn" if decision.withdrawn else "counts again"
    by = f" by {decision.decided_by}" if decision.decided_by else ""
    return f"{decision.experiment_id} {what}{by}{f' ({decision.reason})' if decision.reason else ''}"


def experiment_text(
    row: ExperimentRow, decisions: Sequence[ExperimentDecision], distance: float | None, warnings: Sequence[str]
) -> str:
    """Everything about a stored experiment."""
    body = row.body
    campaign = body["intervention"]
    dose = f"{campaign['channel']}, {campaign['frequency']}, {campaign['duration_weeks']} weeks"
    filters = {name: value for name, value in body.get("filters", {}).items() if value is not None}
    facts = [
        f"{row.experiment_id}: {row.intervention} ({dose}) on {row.line}",
        f"effect {signed_share(body['effect'])} +- {standard_error_share(body['standard_error'])}",
        f"{count(body['n_treated'])} treated, {count(body['n_control'])} control",
        *([f"variant {body['variant']}"] if body.get("variant") else []),
        f"on {', '.join(f'{name}={value}' for name, value in filters.items()) or 'all'}",
        f"observed {_observed(body)}, recorded {moment(row.recorded_at)} UTC, {_state_text(row)}",
    ]
    facts += [f"{moment(decision.decided_at)}: {decision_text(decision)}" for decision in decisions]
    if row.reach:
        facts.append(f"it reached {row.reach['mean']:.0%} of the base effect, by its dose and people")
    if distance is not None:
        facts.append(f"{abs(distance):.1f} standard deviations {'above' if distance > 0 else 'below'} what all others predict")
    subgroups = body.get("subgroups", [])
    return "\n".join([*facts, *subgroup_lines(subgroups), *(f"warning: {warning}" for warning in warnings)])


def _observed(body: Mapping[str, Any]) -> str:
    """When an experiment ended, with the zone: in UTC the day may be another one than where the time was written."""
    return f"{in_utc(datetime.fromisoformat(body['observed_at'])):%Y-%m-%d %H:%M} UTC"


def _measures_target(row: ExperimentRow) -> bool:
    """Whether it calibrates, by the fields that say what it measured; the campaign itself may be no entry of today's catalogue."""
    body = row.body
    target = TWIN_TYPES[TwinType(body["twin_type"])].target(body.get("target"))
    unit = "points" if target.scale == "additive" else "relative"
    return (
        body.get("outcome") in (None, target.name)
        and body.get("unit") in (None, unit)
        and body.get("population") in (None, body["twin_type"])
    )


def _state_text(row: ExperimentRow) -> str:
    if row.withdrawn_at is not None:
        return f"withdrawn {moment(row.withdrawn_at)}"
    return f"counts since effects version {row.first_version}" if _measures_target(row) else "stored, calibrates nothing"

"""Reports why a retrain was requested and what came of it: metrics, rules, evidence, training data, gate, decision and effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from schemas import ModelCard, ModelEvent
from sql.database import Database
from sql.ledger import Ledger
from sql.promotion_effect_store import PromotionEffect, promotion_effect
from sql.retrain_store import RetrainLimits, RetrainRequest, find_retrain, waits_for
from streams.monitoring import loss_text, multiple_text
from streams.printable import escape_line
from streams.reporting.formatting import (
    count,
    labelled,
    moment,
    number,
    share,
    signed_number,
    signed_share,
    standard_error,
    standard_error_share,
)

__all__ = ["RetrainReport", "load_retrain_report"]

_LABEL_WIDTH = 10
_ROWS = {"later": "later rows", "unseen": "later rows, unknown to both models,"}
_DECISIONS = ("promoted", "suggested", "rejected", "failed")
_VERDICTS = {"gain": "an improvement", "nothing": "no change beyond noise", "harm": "a deterioration"}


@dataclass(frozen=True)
class RetrainReport:
    """A retrain from its cause to its effect.

    Attributes:
        waits_for: what a queued request waits for; empty for any other.
        incumbent: the champion that the retrain was requested against.
        events: ledger entries of the retrain, oldest first.
        effect: the measured effect of the promotion; None while it is not measured.
        stopped: the event that stopped automatic retraining of the line; None while it runs.
    """

    request: RetrainRequest
    policy: str
    waits_for: str
    incumbent: ModelCard
    events: tuple[ModelEvent, ...]
    effect: PromotionEffect | None
    stopped: ModelEvent | None

    @property
    def decision(self) -> ModelEvent | None:
        """The ledger entry that ended the retrain."""
        return next((event for event in self.events if event.happened in _DECISIONS), None)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "request": asdict(self.request),
            "policy": self.policy,
            "waits_for": self.waits_for,
            "accused": self.incumbent.model_dump(mode="json"),
            "events": [event.model_dump(mode="json") for event in self.events],
            "effect": self.effect._asdict() if self.effect else None,
            "stopped": self.stopped.model_dump(mode="json") if self.stopped else None,
        }

    def format_text(self) -> str:
        """The report for a terminal, on one screen."""
        request, evidence = self.request, self.request.evidence
        sections = {
            "requested": [
                f"{moment(request.requested_at)} by {request.cause}, attempt {request.attempt} against model {request.model_id}"
            ],
            "metrics": _readable(lambda: _metrics(evidence, self.incumbent)),
            "rules": _readable(lambda: _rules(evidence)),
            "evidence": _readable(lambda: _detector(evidence)) or [request.reason],
            "training": _training_rows(request.learned),
            "gate": _gate(self.decision.comparison) if self.decision else [],
            "decision": self._decision_lines(),
            "effect": self._effect_lines(),
            "retraining": [f"policy {self.policy}" if self.stopped is None else f"policy {self.policy}: {self.stopped.reason}"],
        }
        escaped = {name: list(map(escape_line, section)) for name, section in sections.items()}
        lines = [line for name, section in escaped.items() for line in labelled(name, section, _LABEL_WIDTH)]
        return "\n".join([f"retrain {request.retrain_id} of {request.line}: {request.status}", *lines])

    def _decision_lines(self) -> list[str]:
        request, decision = self.request, self.decision
        if request.status == "queued":
            return [f"none yet: waits for {self.waits_for or 'a trainer'}"]
        if request.status == "running":
            return [f"none yet: training since {moment(request.started_at)}, attempt {request.tries}"]
        if decision is None:
            return [f"{moment(request.finished_at)} {request.status}: {request.outcome}"]
        effective = f", effective from {moment(decision.effective_from)}" if decision.happened == "promoted" else ""
        lines = [f"{moment(decision.at)} {decision.happened}: model {decision.model_id}{effective}", decision.reason]
        if decision.happened == "suggested":
            lines.append(f"to promote it: twinstream models promote {request.line} {decision.model_id}")
        return lines

    def _effect_lines(self) -> list[str]:
        if self.effect is None:
            if self.decision is None:
                return []
            if self.request.status != "promoted":
                return ["none: the champion stays"]
            from engine.promotion import GATE_ROWS  # noqa: PLC0415  # loads scikit-learn, which no other report needs

            return [f"not measured yet: needs {GATE_ROWS} outcomes after the promotion"]
        rollbacks = [
            f"{moment(event.at)} rolled back to model {event.champion}" for event in self.events if event.happened == "rolled_back"
        ]
        if self.effect.verdict == "unknown":
            return [f"unknown: only {count(self.effect.n)} outcomes arrived before the next change", *rollbacks]
        preliminary = "" if self.effect.final else " so far"
        return [
            f"{_VERDICTS[self.effect.verdict]}{preliminary}: {self.effect.comparison['reason']}",
            f"MAE {_difference(self.effect.comparison['mae'])}",
            *rollbacks,
        ]


async def load_retrain_report(database: Database, retrain_id: UUID, limits: RetrainLimits) -> RetrainReport:
    """Load everything that is stored about a retrain.

    Raises:
        UnknownRequest: when there is no such retrain.
    """
    ledger, retrain = Ledger(database), await find_retrain(database, retrain_id)
    return RetrainReport(
        request=retrain,
        policy=await ledger.policy(retrain.line),
        waits_for=await waits_for(database, retrain_id, limits) if retrain.status == "queued" else "",
        incumbent=await ledger.card(retrain.model_id),
        events=tuple(event for event in await ledger.history(retrain.line) if event.retrain_id == retrain_id),
        effect=await promotion_effect(database, retrain_id),
        stopped=await ledger.stopped(retrain.line),
    )


def _readable(format_section: Callable[[], list[str]]) -> list[str]:
    """A section about stored evidence, or that it cannot be read: what an older release accepted must not hide the rest."""
    try:
        return [str(line) for line in format_section()]
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError):
        return ["what is stored has another form and cannot be shown"]


def _metrics(evidence: dict[str, Any], incumbent: ModelCard) -> list[str]:
    metrics, baseline = evidence.get("metrics"), incumbent.baseline
    if not metrics:
        return []
    error = metrics.get("standard_errors", {}).get("mae")
    return [
        (
            f"MAE {number(metrics.get('mae'))}{f' ± {standard_error(error)}' if error else ''} (baseline {number(baseline.mae)}), "
            f"RMSE {number(metrics.get('rmse'))} ({number(baseline.rmse)}), "
            f"correlation {number(metrics.get('correlation'))} ({number(baseline.correlation)}), "
            f"coverage {share(metrics.get('coverage_95pct'))} ({share(baseline.coverage_95pct)})"
        ),
        (
            f"{count(metrics.get('n', 0))} outcomes of segment {evidence.get('segment', 'all')} "
            f"from {_stored_moment(evidence.get('window_start'))} to {_stored_moment(evidence.get('window_end'))}"
        ),
    ]


def _rules(evidence: dict[str, Any]) -> list[str]:
    return [
        f"{'fired' if verdict['fired'] else 'not fired'} {verdict['rule']}: {verdict['reason']}"
        for verdict in evidence.get("verdicts", [])
    ]


def _detector(evidence: dict[str, Any]) -> list[str]:
    ratio = evidence.get("evidence_ratio")
    limit = "times its limit, over every outcome since the promotion of the model"
    text = "" if ratio is None else f"the evidence is {multiple_text(ratio)} {limit}"
    return list(filter(None, [text, loss_text(evidence.get("evidence_by_loss") or {}), evidence.get("comparison")]))


def _training_rows(learned: dict[str, Any]) -> list[str]:
    if not learned:
        return []
    since, until = _stored_moment(learned["since"]), _stored_moment(learned["until"])
    return [
        (
            f"{count(learned['rows'])} outcomes since the estimated change, observed {since} to {until}, "
            f"and {count(learned['history_rows'])} rows from before it"
        )
    ]


def _gate(comparison: dict[str, Any]) -> list[str]:
    if "mae" not in comparison:
        return []
    n, entities, n_effective = (count(comparison[name]) for name in ("n", "entities", "n_effective"))
    rows = _ROWS[comparison.get("basis", "later")]
    return [
        f"on {n} {rows} of {entities} entities (effective sample size {n_effective}), challenger against champion:",
        f"MAE {_difference(comparison['mae'])}",
        f"correlation {_difference(comparison['correlation'])}",
        f"coverage {_difference(comparison['coverage'], share, signed_share, standard_error_share)}",
        *(f"MAE of {segment} {_difference(difference)}" for segment, difference in comparison["segments"].items()),
    ]


def _stored_moment(text: str | None) -> str:
    """A time of a stored JSON object."""
    return moment(None if text is None else datetime.fromisoformat(text))


def _difference(
    difference: dict[str, Any],
    value: Callable[[float], str] = number,
    signed: Callable[[float], str] = signed_number,
    error: Callable[[float], str] = standard_error,
) -> str:
    """Challenger against champion; ``value``, ``signed`` and ``error`` format the values, their difference and its error."""
    pair = f"{value(difference['challenger'])} against {value(difference['champion'])}"
    if difference["standard_error"] is None:
        return pair
    return f"{pair}, difference {signed(difference['difference'])} ± {error(difference['standard_error'])}"

"""Why a retrain happened and what came of it, on one screen: figures, rules, evidence, rows, gate, and what it bought."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from schemas import ModelCard, ModelEvent
from sql.database import Database
from sql.ledger import Ledger, PromotionEffect
from sql.retrain_store import Limits, Request, request, waits_for
from streams.web.dashboard import moment, number, share

__all__ = ["Story", "story_of"]


@dataclass(frozen=True)
class Story:
    """A retrain from its cause to its effect.

    Attributes:
        waits_for: what keeps a queued request from beginning, empty for any other.
        events: what the ledger tells of it, oldest first.
        effect: what its promotion bought, None while that was not measured.
        stopped: how the line stopped retraining by itself, None when it did not.
    """

    request: Request
    policy: str
    waits_for: str
    accused: ModelCard
    events: tuple[ModelEvent, ...]
    effect: PromotionEffect | None
    stopped: ModelEvent | None

    @property
    def decided(self) -> ModelEvent | None:
        """The end of the retrain in the ledger."""
        ends = ("promoted", "suggested", "rejected", "failed")
        return next((event for event in self.events if event.happened in ends), None)

    def to_dict(self) -> dict[str, Any]:
        """The story for a program."""
        return {
            "request": asdict(self.request),
            "policy": self.policy,
            "waits_for": self.waits_for,
            "accused": self.accused.model_dump(mode="json"),
            "events": [event.model_dump(mode="json") for event in self.events],
            "effect": self.effect._asdict() if self.effect else None,
            "stopped": self.stopped.model_dump(mode="json") if self.stopped else None,
        }

    def format_text(self) -> str:
        """The story for a person."""
        asked, evidence = self.request, self.request.evidence
        parts = {
            "asked": [f"{moment(asked.requested_at)} by {asked.cause}, attempt {asked.attempt} against model {asked.model_id}"],
            "figures": _figures(evidence, self.accused),
            "rules": _rules(evidence),
            "evidence": _detector(evidence) or [asked.reason],
            "learned": _learned(asked.learned),
            "gate": _gate(self.decided.comparison) if self.decided else [],
            "decided": self._decided(),
            "bought": self._bought(),
            "line": [f"policy {self.policy}"] if self.stopped is None else [f"policy {self.policy}: {self.stopped.reason}"],
        }
        told = [f"  {name if first else '':<9} {line}" for name, lines in parts.items() for first, line in _firsts(lines)]
        return "\n".join([f"retrain {asked.retrain_id} of {asked.line}: {asked.status}", *told])

    def _decided(self) -> list[str]:
        if self.request.status == "queued":
            return [f"nothing yet: it waits for {self.waits_for or 'a trainer'}"]
        if self.request.status == "running":
            return [f"nothing yet: begun {moment(self.request.started_at)}, try {self.request.tries}"]
        if self.decided is None:
            return [f"{moment(self.request.finished_at)} {self.request.status}: {self.request.outcome}"]
        takes = f", in effect from {moment(self.decided.effective_from)}" if self.decided.happened == "promoted" else ""
        words = [f"{moment(self.decided.at)} {self.decided.happened}: model {self.decided.model_id}{takes}", self.decided.reason]
        if self.decided.happened == "suggested":
            words.append(f"take it: twinstream models promote {self.request.line} {self.decided.model_id}")
        return words

    def _bought(self) -> list[str]:
        back = [event for event in self.events if event.happened == "rolled_back"]
        undone = [f"{moment(event.at)} rolled back to model {event.champion}" for event in back]
        if self.effect is None:
            waiting = (
                "not measured yet: it takes 500 later outcomes" if self.request.status == "promoted" else "nothing: no new champion"
            )
            return [waiting] if self.decided else []
        if self.effect.verdict == "unknown":
            return [f"not known: {self.effect.n} outcomes came before the next change", *undone]
        return [
            f"{_VERDICTS[self.effect.verdict]}{'' if self.effect.final else ' so far'}: {self.effect.comparison['reason']}",
            f"difference {_difference(self.effect.comparison['mae'])}",
            *undone,
        ]


_VERDICTS = {"gain": "a gain", "nothing": "nothing beyond noise", "harm": "harm"}


async def story_of(database: Database, retrain_id: UUID, limits: Limits) -> Story:
    """Everything that is known of a retrain.

    Raises:
        UnknownRequest: when there is none.
    """
    ledger, asked = Ledger(database), await request(database, retrain_id)
    return Story(
        request=asked,
        policy=await ledger.policy(asked.line),
        waits_for=await waits_for(database, retrain_id, limits) if asked.status == "queued" else "",
        accused=await ledger.card(asked.model_id),
        events=tuple(event for event in await ledger.history(asked.line) if event.retrain_id == retrain_id),
        effect=await ledger.effect(retrain_id),
        stopped=await ledger.stopped(asked.line),
    )


def _firsts(lines: list[str]) -> list[tuple[bool, str]]:
    return [(number == 0, line) for number, line in enumerate(lines)]


def _figures(evidence: dict[str, Any], accused: ModelCard) -> list[str]:
    metrics, baseline = evidence.get("metrics"), accused.baseline
    if not metrics:
        return []
    error = metrics.get("standard_errors", {}).get("mae")
    return [
        (
            f"MAE {number(metrics.get('mae'))}{f' ± {error:.2g}' if error else ''} (baseline {number(baseline.mae)}), "
            f"RMSE {number(metrics.get('rmse'))} ({number(baseline.rmse)}), "
            f"correlation {number(metrics.get('correlation'))} ({number(baseline.correlation)}), "
            f"coverage {share(metrics.get('coverage_95pct'))} ({share(baseline.coverage_95pct)})"
        ),
        (
            f"{metrics.get('n', 0):,} outcomes of segment {evidence.get('segment', 'all')} "
            f"from {evidence.get('window_start', '-')} to {evidence.get('window_end', '-')}"
        ),
    ]


def _rules(evidence: dict[str, Any]) -> list[str]:
    return [f"{'fired' if said['fired'] else 'silent'} {said['rule']}: {said['reason']}" for said in evidence.get("verdicts", [])]


def _detector(evidence: dict[str, Any]) -> list[str]:
    ratio = evidence.get("evidence_ratio")
    told = [] if ratio is None else [f"{number(ratio)} of the limit, sequentially on every outcome since the promotion"]
    return [*told, *filter(None, [evidence.get("comparison")])]


def _learned(learned: dict[str, Any]) -> list[str]:
    if not learned:
        return []
    return [
        (
            f"{learned['rows']:,} outcomes since the estimated change, observed {learned['since']} to {learned['until']}, "
            f"and {learned['history_rows']:,} rows from before it, carried over"
        )
    ]


def _gate(comparison: dict[str, Any]) -> list[str]:
    if "mae" not in comparison:
        return []
    n, entities, effective = (comparison[name] for name in ("n", "entities", "n_effective"))
    return [
        f"on {n:,} later rows of {entities:,} entities (worth {effective:,.0f} independent ones), challenger against champion:",
        *(f"{name} {_difference(comparison[name])}" for name in ("mae", "correlation", "coverage")),
        *(f"mae of {name} {_difference(told)}" for name, told in comparison["segments"].items()),
    ]


def _difference(told: dict[str, Any]) -> str:
    pair = f"{number(told['challenger'])} against {number(told['champion'])}"
    if told["standard_error"] is None:
        return pair
    return f"{pair}, {told['difference']:+.4g} ± {told['standard_error']:.2g}"

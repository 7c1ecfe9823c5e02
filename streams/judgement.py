"""What the rules and the detector say of a series, and the events that tell of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid5

from engine.detector import Evidence
from engine.drift import Detected, compared, judge, state_of
from engine.sums import figures
from schemas import DriftEvent, DriftState, FidelityMetrics, RetrainEvent, Verdict
from schemas.twin_models import Baseline
from streams.fidelity_view import LineView, Series
from streams.scoring import ALL

__all__ = ["Judge", "Judgement", "drift_event", "retrain_event"]


class Judgement(NamedTuple):
    """What was found on the fewest latest panes of a series that hold enough outcomes; times in seconds since the epoch."""

    start: float
    end: float
    metrics: FidelityMetrics
    verdicts: tuple[Verdict, ...]
    evidence: float | None
    state: DriftState
    comparison: str


class Judge(NamedTuple):
    """Judges series.

    Attributes:
        n_min: outcomes that it takes.
        average_run_length: outcomes to a false alarm.
    """

    n_min: int
    average_run_length: float

    @property
    def first(self) -> Evidence:
        """The detector before the first outcome."""
        return Evidence(last_count=self.n_min)

    def of_series(self, view: LineView, series: Series, baseline: Baseline) -> Judgement:
        """Judge a series by its latest panes; evidence is gathered for the segment ``all``."""
        start, end, sums = view.latest(series, self.n_min)
        evidence = self.evidence(view, series) if series.segment == ALL else None
        return self._judged(start, end, figures(sums, baseline), evidence, baseline)

    def of_window(self, start: float, end: float, sums: Iterable[int], evidence: float | None, baseline: Baseline) -> Judgement:
        """Judge a window by itself."""
        return self._judged(start, end, figures(tuple(sums), baseline), evidence, baseline)

    def evidence(self, view: LineView, series: Series) -> float:
        """Evidence of drift over its limit."""
        return view.evidence(series, self.first).ratio(self.average_run_length)

    def _judged(self, start: float, end: float, found: FidelityMetrics, evidence: float | None, baseline: Baseline) -> Judgement:
        verdicts = judge(found, baseline, n_min=self.n_min)
        detected = Detected.CHANGE if evidence is not None and evidence >= 1.0 else Detected.NOTHING
        state = state_of(verdicts, detected, found, n_min=self.n_min)
        return Judgement(start, end, found, verdicts, evidence, state, compared(verdicts, detected))


def drift_event(line: str, series: Series, previous: DriftState, found: Judgement) -> DriftEvent:
    """Tell that the state of a series changed."""
    return DriftEvent(
        line=line,
        model_id=series.model_id,
        segment=series.segment,
        window_start=datetime.fromtimestamp(found.start, UTC),
        window_end=datetime.fromtimestamp(found.end, UTC),
        state=found.state,
        previous=previous,
        metrics=found.metrics,
        verdicts=found.verdicts,
        evidence=found.evidence,
        evidence_limit=None if found.evidence is None else 1.0,
        reason=_reason(found),
    )


def retrain_event(line: str, series: Series, attempt: int, found: Judgement, at: datetime) -> RetrainEvent:
    """Ask for the training that comes after ``attempt`` finished ones."""
    return RetrainEvent(
        retrain_id=uuid5(series.model_id, str(attempt)),
        line=line,
        model_id=series.model_id,
        attempt=attempt,
        requested_at=at,
        cause="drift",
        reason=_reason(found),
        evidence=_evidence(series, found),
    )


def _reason(found: Judgement) -> str:
    fired = [verdict.reason for verdict in found.verdicts if verdict.fired]
    shown = [] if found.evidence is None else [f"evidence is {found.evidence:.3g} of its limit"]
    return "; ".join([*(fired or [f"{found.metrics.n} outcomes, no rule fired"]), *shown, found.comparison])


def _evidence(series: Series, found: Judgement) -> dict[str, Any]:
    return {
        "segment": series.segment,
        "window_start": datetime.fromtimestamp(found.start, UTC).isoformat(),
        "window_end": datetime.fromtimestamp(found.end, UTC).isoformat(),
        "metrics": found.metrics.model_dump(mode="json"),
        "verdicts": [verdict.model_dump(mode="json") for verdict in found.verdicts],
        "evidence_ratio": found.evidence,
        "comparison": found.comparison,
    }

"""What the rules and the detector say of a series, and the events that tell of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from engine.fidelity.drift_rules import Detection, comparison_text, evaluate_rules, next_state
from engine.fidelity.e_detector import DetectorState, discoveries, log_normalizers
from engine.fidelity.effective_sample_size import effective_n
from engine.fidelity.error_sums import fidelity_metrics
from schemas import DriftEvent, DriftState, FidelityMetrics, ModelCard, RetrainEvent, Verdict
from schemas.fidelity_models import EstimatedFidelity
from schemas.twin_models import Baseline, Errors
from schemas.twin_types import ALL_ROWS
from streams.monitoring.window_state import SeriesKey, WindowState

__all__ = [
    "NO_BASELINE",
    "DetectorFindings",
    "DriftAssessment",
    "DriftEvaluator",
    "drift_event",
    "early_retrain_event",
    "reference_of",
    "retrain_event",
]


class DriftAssessment(NamedTuple):
    """What was found on the fewest latest panes of a series that hold enough outcomes; times in seconds since the epoch."""

    start: float
    end: float
    metrics: FidelityMetrics
    verdicts: tuple[Verdict, ...]
    evidence: float | None
    state: DriftState
    comparison: str

    @property
    def calls(self) -> bool:
        """Whether a rule calls for a retrain."""
        return any(verdict.fired and verdict.action == "retrain" for verdict in self.verdicts)


class DetectorFindings(NamedTuple):
    """What the detectors of a model's series say.

    Attributes:
        ratios: evidence over the limit of a single detector; series without a baseline of their own are absent.
        changed: those that changed: the whole by its own limit, segments by false-discovery control over all that have a baseline.
    """

    ratios: Mapping[SeriesKey, float]
    changed: frozenset[SeriesKey]

    def detected(self, series: SeriesKey, alarmed: Iterable[SeriesKey]) -> Detection:
        """What the detector of a series has found, given those whose alarm was raised before."""
        if series in alarmed:
            return Detection.CHANGE
        return Detection.SUPPRESSED if self.ratios.get(series, 0.0) >= 1.0 else Detection.NONE


def reference_of(baseline: Baseline, segment: str) -> Errors | None:
    """What a series is held against; None for a segment that the model had seen too little of."""
    return baseline if segment == ALL_ROWS else baseline.segments.get(segment)


class DriftEvaluator(NamedTuple):
    """Judges series.

    Attributes:
        n_min: outcomes that it takes.
        average_run_length: outcomes to a false alarm.
        cards: of the models that are known.
    """

    n_min: int
    average_run_length: float
    cards: dict[UUID, ModelCard]

    def first(self, series: SeriesKey) -> DetectorState:
        """The detector of a series before the first outcome."""
        baseline = self.cards[series.model_id].baseline
        own = baseline.segments.get(series.segment)
        return (
            DetectorState(last_count=self.n_min)
            if own is None
            else DetectorState(last_count=self.n_min, log_normalizers=log_normalizers(baseline, own))
        )

    def evidence(self, view: WindowState, series: SeriesKey) -> float | None:
        """Evidence of drift over its limit; None for a segment without a baseline of its own.

        The limit of a segment is what one alone needs among all that are watched.
        """
        standing = self._standing(view, series)
        if standing is None:
            return None
        watched = 1 if series.segment == ALL_ROWS else len(self.cards[series.model_id].baseline.segments)
        return standing.ratio(self.average_run_length) / watched

    def found(self, view: WindowState, model_id: UUID) -> DetectorFindings:
        """What the detectors of all series of a model say.

        Of the whole the highest evidence so far counts: whoever reads many cells at once finds what someone who looked at each
        would have found.
        """
        known = {series: self._standing(view, series) for series in view.series() if series.model_id == model_id}
        standing = {series: evidence for series, evidence in known.items() if evidence is not None}
        ratios = {series: evidence.ratio(self.average_run_length) for series, evidence in standing.items()}
        whole = {
            each for each in standing if each.segment == ALL_ROWS and standing[each].peak_ratio(self.average_run_length) >= 1.0
        }
        segments = {series: ratio for series, ratio in ratios.items() if series.segment != ALL_ROWS}
        return DetectorFindings(ratios, frozenset(whole | discoveries(segments, len(self.cards[model_id].baseline.segments))))

    def confirms(self, view: WindowState, series: SeriesKey, found: DetectorFindings) -> bool:
        """Whether a view of one series alone, as it is stored, leads to the alarm that was found among all."""
        standing = self._standing(view, series)
        if standing is None:
            return False
        if series.segment == ALL_ROWS:
            return standing.peak_ratio(self.average_run_length) >= 1.0
        own = {each: ratio for each, ratio in found.ratios.items() if each.segment != ALL_ROWS}
        own[series] = standing.ratio(self.average_run_length)
        return series in discoveries(own, len(self.cards[series.model_id].baseline.segments))

    def _standing(self, view: WindowState, series: SeriesKey) -> DetectorState | None:
        known = reference_of(self.cards[series.model_id].baseline, series.segment) is not None
        return view.evidence(series, self.first(series)) if known else None

    def assess_series(
        self, view: WindowState, series: SeriesKey, detection: Detection, previous: DriftState = DriftState.INSUFFICIENT
    ) -> DriftAssessment:
        """Assess a series by its latest panes."""
        start, end, sums = view.latest(series, self.n_min)
        return self.assess_window(series, (start, end), sums, self.evidence(view, series), detection, previous)

    def assess_window(
        self,
        series: SeriesKey,
        span: tuple[float, float],
        sums: Sequence[int],
        evidence: float | None = None,
        detection: Detection = Detection.NONE,
        previous: DriftState = DriftState.INSUFFICIENT,
    ) -> DriftAssessment:
        """Assess the outcomes of a span of time, given their sums in the order of ``SUM_FIELDS``."""
        baseline = self.cards[series.model_id].baseline
        metrics, reference = fidelity_metrics(sums, baseline), reference_of(baseline, series.segment)
        if reference is None:
            return DriftAssessment(*span, metrics, (), None, DriftState.INSUFFICIENT, NO_BASELINE)
        verdicts = evaluate_rules(metrics, reference, n_min=self.n_min)
        state = next_state(verdicts, detection, metrics, previous, self.n_min)
        return DriftAssessment(*span, metrics, verdicts, evidence, state, comparison_text(verdicts, detection))

    def add_effective_n(self, metrics: FidelityMetrics, model_id: UUID, segments: Mapping[str, Sequence[int]]) -> FidelityMetrics:
        """Return the metrics of all outcomes with their effective number, given the sums of all segments of the same span."""
        return metrics.model_copy(update={"n_effective": effective_n(segments, self.cards[model_id].baseline)})


NO_BASELINE = "the segment has no baseline of its own: the training data held too few rows of it"


def drift_event(line: str, series: SeriesKey, previous: DriftState, found: DriftAssessment) -> DriftEvent:
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


def retrain_event(line: str, series: SeriesKey, found: DriftAssessment, attempt: int, at: datetime) -> RetrainEvent:
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


def early_retrain_event(line: str, series: SeriesKey, found: EstimatedFidelity, attempt: int, at: datetime) -> RetrainEvent:
    """Ask for the same training by an estimate, before outcomes have arrived."""
    return RetrainEvent(
        retrain_id=uuid5(series.model_id, str(attempt)),
        line=line,
        model_id=series.model_id,
        attempt=attempt,
        requested_at=at,
        cause="drift",
        reason=(
            f"estimated before outcomes arrive: mae {found.mae:.4g} is to be expected, {found.baseline_mae:.4g} at the baseline; "
            f"moved inputs: {', '.join(found.moved)}"
        ),
        evidence={"segment": series.segment, "estimated": found.model_dump(mode="json")},
    )


def _reason(found: DriftAssessment) -> str:
    fired = [verdict.reason for verdict in found.verdicts if verdict.fired]
    shown = [] if found.evidence is None else [f"evidence is {found.evidence:.3g} of its limit"]
    return "; ".join([*(fired or [f"{found.metrics.n} outcomes, no rule fired"]), *shown, found.comparison])


def _evidence(series: SeriesKey, found: DriftAssessment) -> dict[str, Any]:
    return {
        "segment": series.segment,
        "window_start": datetime.fromtimestamp(found.start, UTC).isoformat(),
        "window_end": datetime.fromtimestamp(found.end, UTC).isoformat(),
        "metrics": found.metrics.model_dump(mode="json"),
        "verdicts": [verdict.model_dump(mode="json") for verdict in found.verdicts],
        "evidence_ratio": found.evidence,
        "comparison": found.comparison,
    }

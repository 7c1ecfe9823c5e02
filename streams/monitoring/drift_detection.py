"""Assesses series of outcomes by the drift rules and the sequential detector, and builds the events that report the result."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from engine.fidelity import (
    Detection,
    DetectorState,
    bias_verdict,
    comparison_text,
    discoveries,
    dominating_segment,
    effective_n,
    evaluate_rules,
    fidelity_metrics,
    moments_in,
    next_state,
    requests_retrain,
    series_reference,
)
from schemas import DRIFT_RULES, DriftEvent, DriftRule, DriftState, FidelityMetrics, ModelCard, RetrainEvent, Verdict
from schemas.base import utc_time
from schemas.fidelity_models import EstimatedFidelity
from schemas.twin_models import Baseline, Errors
from schemas.twin_types import ALL_ROWS, dimension_of_other
from streams.monitoring.window_state import SeriesKey, WindowState

__all__ = [
    "DetectorFindings",
    "DriftAssessment",
    "DriftEvaluator",
    "Mix",
    "SeriesEvidence",
    "carriers",
    "drift_event",
    "early_retrain_event",
    "loss_text",
    "multiple_text",
    "retrain_event",
]

_OTHER_VALUES = "values beyond TWIN_MAX_SEGMENT_VALUES are counted together, and compared with no baseline"
_NO_BASELINE = "the segment has no baseline of its own: the training data held too few rows of it"


class DriftAssessment(NamedTuple):
    """Assessment of the outcomes of a series between ``start`` and ``end``, in seconds since the epoch.

    Attributes:
        evidence: evidence of drift over its limit; None where it was not computed or the segment has no baseline.
        comparison: why rule and detector agree or disagree.
        by_loss: evidence of each loss taken alone, over the limit; empty where it was not computed.
        carried_by: the other segment that nearly all of these outcomes belong to, unlike the training rows; else None.
        correction: what has to be added to the predictions of ``carried_by``, in units of the target.
    """

    start: float
    end: float
    metrics: FidelityMetrics
    verdicts: tuple[Verdict, ...]
    evidence: float | None
    state: DriftState
    comparison: str
    by_loss: Mapping[str, float] = MappingProxyType({})
    carried_by: str | None = None
    correction: float | None = None

    @property
    def calls_for_retrain(self) -> bool:
        """Whether a rule that calls for a retrain has fired, on outcomes that are not those of one other segment."""
        losses = carriers(self.by_loss)
        return self.carried_by is None and any(requests_retrain(verdict, losses) for verdict in self.verdicts)


class DetectorFindings(NamedTuple):
    """Results of the detectors of all series of a model.

    Attributes:
        ratios: evidence of each series over the limit of a single detector; series without a baseline of their own are absent.
        changed: series with a detected change: all rows by their own limit, segments by false-discovery control over all segments
            that have a baseline.
    """

    ratios: Mapping[SeriesKey, float]
    changed: frozenset[SeriesKey]

    def detection(self, series: SeriesKey, alarmed: Collection[SeriesKey]) -> Detection:
        """Result for one series, given the series whose alarm is raised."""
        if series in alarmed:
            return Detection.CHANGE
        return Detection.SUPPRESSED if self.ratios.get(series, 0.0) >= 1.0 else Detection.NONE


class SeriesEvidence(NamedTuple):
    """Evidence of a series over its limit, together and of each loss taken alone; None where it was not computed."""

    ratio: float | None = None
    by_loss: Mapping[str, float] = MappingProxyType({})


NO_EVIDENCE = SeriesEvidence()


def carriers(by_loss: Mapping[str, float]) -> tuple[str, ...]:
    """The losses whose evidence has reached the limit by itself, the largest first."""
    return tuple(name for name in sorted(by_loss, key=lambda name: -by_loss[name]) if by_loss[name] >= 1.0)


class Mix(NamedTuple):
    """The segment that the latest outcomes of a model belong to nearly all, and the correction of its predictions."""

    segment: str
    correction: float

    def carries(self, series: SeriesKey) -> bool:
        """Whether a series is one of another dimension, or of all rows, so that its outcomes are those of this segment."""
        return series.segment != self.segment and series.segment.partition("=")[0] != self.segment.partition("=")[0]


def _reference_of(baseline: Baseline, segment: str) -> Errors | None:
    """Errors that a series is compared with; None for a segment with too few rows in the training data."""
    return baseline if segment == ALL_ROWS else baseline.segment(segment)


class DriftEvaluator(NamedTuple):
    """Evaluates the drift of series.

    Attributes:
        n_min: outcomes needed before rules and detectors are evaluated.
        average_run_length: outcomes to a false alarm of a detector, on average at least.
        cards: cards of the models, by model id; filled as models are met.
        rules: drift rules by line, of lines with limits of their own.
    """

    n_min: int
    average_run_length: float
    cards: dict[UUID, ModelCard]
    rules: Mapping[str, tuple[DriftRule, ...]] = MappingProxyType({})

    def rules_of(self, line: str) -> tuple[DriftRule, ...]:
        """The drift rules of a line."""
        return self.rules.get(line) or tuple(DRIFT_RULES)

    def initial_state(self, series: SeriesKey) -> DetectorState:
        """State of the detector of a series before its first outcome."""
        baseline = self.cards[series.model_id].baseline
        return DetectorState(last_count=self.n_min, reference=series_reference(baseline, baseline.segment(series.segment)))

    def evidence(self, window_state: WindowState, series: SeriesKey) -> SeriesEvidence:
        """Evidence of drift over its limit; none for a segment without a baseline of its own.

        The limit of a segment is the one it needs to be discovered alone among all watched segments.
        """
        state = self._detector_state(window_state, series)
        if state is None:
            return NO_EVIDENCE
        n_watched = 1 if series.segment == ALL_ROWS else self._n_segments(series.model_id)
        by_loss = {name: ratio / n_watched for name, ratio in state.loss_ratios(self.average_run_length).items()}
        return SeriesEvidence(state.ratio(self.average_run_length) / n_watched, by_loss)

    def mix(self, window_state: WindowState, model_id: UUID) -> Mix | None:
        """The segment that dominates the fewest latest panes with enough outcomes of the model, unlike the training rows."""
        whole = SeriesKey(model_id, ALL_ROWS)
        if whole not in window_state.series():
            return None
        start, end, sums = window_state.latest_panes(whole, self.n_min)
        segments = window_state.segment_sums(model_id, start, end)
        baseline = self.cards[model_id].baseline
        counts = {name: moments_in(of_segment).n for name, of_segment in segments.items()}
        n = moments_in(sums).n
        segment = dominating_segment(counts, n, baseline) if n > 0 else None
        if segment is None:
            return None
        bias = fidelity_metrics(segments[segment], baseline).bias
        return Mix(segment, -(bias or 0.0))

    def findings(self, window_state: WindowState, model_id: UUID) -> DetectorFindings:
        """Evaluate the detectors of all series of a model.

        For the series of all rows the highest evidence so far counts, so that applying many cells at once finds what applying them
        one by one would have found.
        """
        candidates = {
            series: self._detector_state(window_state, series) for series in window_state.series() if series.model_id == model_id
        }
        states = {series: state for series, state in candidates.items() if state is not None}
        ratios = {series: state.ratio(self.average_run_length) for series, state in states.items()}
        whole = {series for series, state in states.items() if series.segment == ALL_ROWS and self._exceeds_limit(state)}
        segments = {series: ratio for series, ratio in ratios.items() if series.segment != ALL_ROWS}
        return DetectorFindings(ratios, frozenset(whole | discoveries(segments, self._n_segments(model_id))))

    def confirms(self, window_state: WindowState, series: SeriesKey, findings: DetectorFindings) -> bool:
        """Whether the stored rows of one series, with the findings for all others, lead to its alarm as well."""
        state = self._detector_state(window_state, series)
        if state is None:
            return False
        if series.segment == ALL_ROWS:
            return self._exceeds_limit(state)
        segments = {key: ratio for key, ratio in findings.ratios.items() if key.segment != ALL_ROWS}
        segments[series] = state.ratio(self.average_run_length)
        return series in discoveries(segments, self._n_segments(series.model_id))

    def stays_insufficient(self, window_state: WindowState, series: SeriesKey, detection: Detection) -> bool:
        """Whether a series without a state gets none: it has no baseline, or nothing was detected in too few outcomes.

        It answers what :meth:`assess_series` would, without the metrics, for the many series of rare segments.
        """
        if _reference_of(self.cards[series.model_id].baseline, series.segment) is None:
            return True
        return detection is Detection.NONE and moments_in(window_state.latest_panes(series, self.n_min)[2]).n < self.n_min

    def assess_series(
        self,
        window_state: WindowState,
        series: SeriesKey,
        mix: Mix | None,
        detection: Detection,
        previous: DriftState = DriftState.INSUFFICIENT,
    ) -> DriftAssessment:
        """Assess the fewest latest panes of a series that hold enough outcomes; ``mix`` is that of its model."""
        start, end, sums = window_state.latest_panes(series, self.n_min)
        evidence = self.evidence(window_state, series)
        if mix is None or not mix.carries(series):
            return self.assess_window(series, (start, end), sums, evidence, detection, previous)
        carried = detection if detection is Detection.NONE else Detection.CARRIED
        assessment = self.assess_window(series, (start, end), sums, evidence, carried, previous)
        return assessment._replace(carried_by=mix.segment, correction=mix.correction)

    def assess_window(
        self,
        series: SeriesKey,
        span: tuple[float, float],
        sums: Sequence[int],
        evidence: SeriesEvidence = NO_EVIDENCE,
        detection: Detection = Detection.NONE,
        previous: DriftState = DriftState.INSUFFICIENT,
    ) -> DriftAssessment:
        """Assess the outcomes of a span of time, given their sums in the order of ``SUM_FIELDS``."""
        card = self.cards[series.model_id]
        baseline = card.baseline
        metrics, reference = fidelity_metrics(sums, baseline), _reference_of(baseline, series.segment)
        if reference is None:
            reason = _NO_BASELINE if dimension_of_other(series.segment) is None else _OTHER_VALUES
            return DriftAssessment(*span, metrics, (), None, DriftState.INSUFFICIENT, reason)
        verdicts = evaluate_rules(metrics, reference, self.rules_of(card.line), self.n_min)
        bias = bias_verdict(sums, reference, self.n_min)
        verdicts += () if bias is None else (bias,)
        losses = carriers(evidence.by_loss)
        state = next_state(verdicts, detection, metrics, previous, self.n_min, losses)
        comparison = comparison_text(verdicts, detection, losses)
        return DriftAssessment(*span, metrics, verdicts, evidence.ratio, state, comparison, evidence.by_loss)

    def add_effective_n(self, metrics: FidelityMetrics, model_id: UUID, segments: Mapping[str, Sequence[int]]) -> FidelityMetrics:
        """Return the metrics of all outcomes with their effective number, given the sums of all segments of the same span."""
        return metrics.model_copy(update={"n_effective": effective_n(segments, self.cards[model_id].baseline)})

    def _detector_state(self, window_state: WindowState, series: SeriesKey) -> DetectorState | None:
        if _reference_of(self.cards[series.model_id].baseline, series.segment) is None:
            return None
        return window_state.detector_state(series, self.initial_state(series))

    def _exceeds_limit(self, state: DetectorState) -> bool:
        return state.peak_ratio(self.average_run_length) >= 1.0

    def _n_segments(self, model_id: UUID) -> int:
        return len(self.cards[model_id].baseline.segments)


def drift_event(line: str, series: SeriesKey, previous: DriftState, assessment: DriftAssessment) -> DriftEvent:
    """Build the event that reports a change of the state of a series."""
    return DriftEvent(
        line=line,
        model_id=series.model_id,
        segment=series.segment,
        window_start=utc_time(assessment.start),
        window_end=utc_time(assessment.end),
        state=assessment.state,
        previous=previous,
        metrics=assessment.metrics,
        verdicts=assessment.verdicts,
        evidence=assessment.evidence,
        evidence_limit=None if assessment.evidence is None else 1.0,
        evidence_by_loss=dict(assessment.by_loss),
        carried_by=assessment.carried_by,
        reason=_reason(assessment),
    )


def retrain_event(line: str, series: SeriesKey, assessment: DriftAssessment, attempt: int, at: datetime) -> RetrainEvent:
    """Build the request for the retrain that follows ``attempt`` finished ones."""
    return _retrain_event(line, series, attempt, at, _reason(assessment), _evidence(assessment))


def early_retrain_event(line: str, series: SeriesKey, estimate: EstimatedFidelity, attempt: int, at: datetime) -> RetrainEvent:
    """Build the request for the same retrain on an estimate, before outcomes arrive."""
    reason = (
        f"estimated before outcomes arrive: expected MAE {estimate.mae:.4g}, {estimate.baseline_mae:.4g} at the baseline; "
        f"moved inputs: {', '.join(estimate.moved)}"
    )
    return _retrain_event(line, series, attempt, at, reason, {"estimated": estimate.model_dump(mode="json")})


def _retrain_event(
    line: str, series: SeriesKey, attempt: int, at: datetime, reason: str, evidence: Mapping[str, Any]
) -> RetrainEvent:
    return RetrainEvent(
        retrain_id=uuid5(series.model_id, str(attempt)),  # an alarm and an estimate ask for the same retrain
        line=line,
        model_id=series.model_id,
        attempt=attempt,
        requested_at=at,
        cause="drift",
        reason=reason,
        evidence={"segment": series.segment, **evidence},
    )


def _reason(assessment: DriftAssessment) -> str:
    fired = [verdict.reason for verdict in assessment.verdicts if verdict.fired]
    evidence = [] if assessment.evidence is None else [f"the evidence is {multiple_text(assessment.evidence)} times its limit"]
    evidence += [loss_text(assessment.by_loss)] if carriers(assessment.by_loss) else []
    is_carried = assessment.carried_by is not None and assessment.state not in (DriftState.OK, DriftState.INSUFFICIENT)
    carried = [_carried_text(str(assessment.carried_by), assessment.correction)] if is_carried else []
    rules = fired or [f"{assessment.metrics.n:,} outcomes, no rule fired"]
    return "; ".join([*rules, *evidence, assessment.comparison, *carried])


_LOSS_NAMES = {
    "size": "errors are larger than expected",
    "over": "predictions are too high",
    "under": "predictions are too low",
    "slope": "predicted contrasts are larger than those of outcomes",
    "misses": "outcomes lie outside their interval",
}


def loss_text(by_loss: Mapping[str, float]) -> str:
    """Which changes carry the evidence: those that have reached the limit by themselves, else the one that is nearest to it."""
    if not by_loss:
        return ""
    names = carriers(by_loss) or (max(by_loss, key=lambda name: by_loss[name]),)
    return "carried by: " + ", ".join(f"{_LOSS_NAMES[name]} (alone {multiple_text(by_loss[name])})" for name in names)


def _carried_text(segment: str, correction: float | None) -> str:
    by = "" if correction is None else f" by {correction:+.3g}, a correction of its own"
    return f"{segment} carries it: shift its predictions{by}, or add a feature that tells such rows apart"


def multiple_text(ratio: float) -> str:
    """Evidence as a multiple of its limit, in three digits or more; beyond a million its size says nothing more.

    >>> multiple_text(0.0123456), multiple_text(1234.5), multiple_text(3e88)
    ('0.0123', '1,234', 'over a million')
    """
    if ratio >= 1_000_000:
        return "over a million"
    return f"{ratio:.3g}" if ratio < 999.5 else f"{ratio:,.0f}"


def _evidence(assessment: DriftAssessment) -> dict[str, Any]:
    return {
        "window_start": utc_time(assessment.start).isoformat(),
        "window_end": utc_time(assessment.end).isoformat(),
        "metrics": assessment.metrics.model_dump(mode="json"),
        "verdicts": [verdict.model_dump(mode="json") for verdict in assessment.verdicts],
        "evidence_ratio": assessment.evidence,
        "evidence_by_loss": dict(assessment.by_loss),
        "carriers": list(carriers(assessment.by_loss)),
        "comparison": assessment.comparison,
    }

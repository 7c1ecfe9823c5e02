"""Reasons in events of drift and retrains."""

from __future__ import annotations

import pytest

from schemas import DriftState, FidelityMetrics
from streams.monitoring.drift_detection import DriftAssessment, SeriesKey, drift_event
from streams.reporting import number
from tests.outcomes import LINE, START, make_card


@pytest.mark.parametrize(("evidence", "shown"), [(0.2512, "0.251"), (1.07, "1.07"), (999.7, "1,000"), (1768.352, "1,768")])
def test_evidence_is_a_multiple_of_its_limit_as_in_the_reports(evidence: float, shown: str):
    start = START.timestamp()
    assessment = DriftAssessment(start, start + 60, FidelityMetrics(n=2000), (), evidence, DriftState.OK, "as tested")
    event = drift_event(LINE, SeriesKey(make_card().model_id, "all"), DriftState.OK, assessment)
    assert event.reason == f"2,000 outcomes, no rule fired; the evidence is {shown} times its limit; as tested"
    assert number(evidence, 3) == shown

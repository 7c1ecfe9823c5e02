"""The report of a retrain as text: the same formats as everywhere, and nothing that a terminal or a script cannot read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from schemas import ModelEvent
from sql.promotion_effect_store import PromotionEffect
from sql.retrain_store import RetrainRequest
from streams.reporting.retrain_report import RetrainReport
from tests.outcomes import LINE, make_card

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ERROR = {"champion": 0.25, "challenger": 0.12, "difference": -0.13, "standard_error": 0.01, "entities": 500}
COVERAGE = {"champion": 0.9476, "challenger": 0.86, "difference": -0.0876, "standard_error": 0.00123, "entities": 500}
COMPARISON = {
    "n": 14_534,
    "entities": 1200,
    "n_effective": 10.0,
    "mae": ERROR,
    "correlation": ERROR,
    "coverage": COVERAGE,
    "segments": {"region=south": ERROR},
    "reason": "as measured",
}
EVIDENCE: dict[str, Any] = {
    "segment": "all",
    "window_start": "2026-03-01T10:00:00.123456+00:00",
    "window_end": "2026-03-01T11:00:00.654321+00:00",
    "metrics": {"n": 2400, "mae": 0.25, "correlation": -0.5, "coverage_95pct": 0.86},
    "verdicts": [
        {"rule": "mae_increase", "fired": True, "reason": "MAE 0.25 is above 0.14"},
        {"rule": "correlation_drop", "fired": False, "reason": "correlation 0.8 is not below 0.7"},
    ],
    "evidence_ratio": 1768.352,
    "comparison": "rule and detector agree",
}


@pytest.fixture
def text() -> str:
    card, new = make_card(), make_card("second")
    times = {"since": "2026-03-01T09:00:00.000001+00:00", "until": "2026-03-01T11:00:00+00:00"}
    request = RetrainRequest(
        retrain_id=UUID(int=1),
        line=LINE,
        model_id=card.model_id,
        attempt=0,
        cause="drift",
        reason="",
        evidence=EVIDENCE,
        requested_at=NOW,
        tries=1,
        learned={"rows": 1200, "history_rows": 30, **times},
        queued_at=NOW,
        approved_at=None,
        status="promoted",
        started_at=NOW,
        finished_at=NOW,
        outcome="",
    )
    event = ModelEvent(
        line=LINE,
        generation=2,
        happened="promoted",
        at=NOW,
        model_id=new.model_id,
        champion=new.model_id,
        effective_from=NOW,
        comparison=COMPARISON,
    )
    effect = PromotionEffect(LINE, 2, 2000, "gain", True, COMPARISON)
    return RetrainReport(request, "auto", "", card, (event,), effect, None).format_text()


@pytest.mark.parametrize(
    "part",
    [
        "the evidence is 1,768 times its limit",
        "not fired correlation_drop: correlation 0.8 is not below 0.7",
        "2,400 outcomes of segment all from 2026-03-01 10:00:00 to 2026-03-01 11:00:00",
        "observed 2026-03-01 09:00:00 to 2026-03-01 11:00:00",
        "correlation -0.5 (0.9)",
        "on 14,534 later rows of 1,200 entities (effective sample size 10)",
        "coverage 86.0% against 94.8%, difference -8.8% ± 0.12%",
        "MAE of region=south 0.12 against 0.25, difference -0.13 ± 0.01",
    ],
)
def test_a_retrain_is_explained_in_one_style(text: str, part: str):
    assert part in text


def test_the_report_can_be_printed_on_a_terminal_of_latin_1(text: str):
    assert text.encode("latin-1")

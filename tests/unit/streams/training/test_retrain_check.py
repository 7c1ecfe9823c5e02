"""What no fidelity worker can have sent is refused, and what it sends is accepted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest
from pydantic import ValidationError

from schemas import RetrainEvent
from streams.training.retrain_check import ForgedRetrain, check_retrain

MODEL = UUID(int=7)
NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
EVIDENCE = {
    "segment": "all",
    "window_start": NOW.isoformat(),
    "window_end": NOW.isoformat(),
    "metrics": {"n": 5, "mae": 0.1, "intervals": {}},
    "verdicts": [],
    "evidence_ratio": 1.2,
    "comparison": "",
}


def event(**fields: Any) -> RetrainEvent:
    return RetrainEvent.model_validate(
        {
            "retrain_id": uuid5(MODEL, str(fields.get("attempt", 0))),
            "line": "hcp:kisqali:x",
            "model_id": MODEL,
            "attempt": 0,
            "requested_at": NOW,
            "cause": "drift",
            "reason": "MAE",
            "evidence": EVIDENCE,
            **fields,
        }
    )


def test_an_event_of_the_service_is_accepted():
    check_retrain(event(), NOW)
    check_retrain(event(evidence={"segment": "all", "estimated": {"mae": 0.2}}), NOW)
    check_retrain(event(evidence={}, attempt=3), NOW + timedelta(days=400))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"retrain_id": UUID(int=1)}, "follows from model"),
        ({"requested_at": datetime(1, 1, 1, tzinfo=UTC)}, "requested_at 0001-01-01"),
        ({"requested_at": datetime.max.replace(tzinfo=UTC)}, "requested_at 9999-12-31"),
        ({"requested_at": NOW + timedelta(days=2)}, "must be from 2000-01-01"),
        ({"reason": "x" * 1_000_000}, "a reason of 1000000 characters"),
    ],
)
def test_a_forged_event_is_refused_with_what_is_wrong(fields: dict[str, Any], reason: str):
    with pytest.raises(ForgedRetrain, match=reason) as refusal:
        check_retrain(event(**fields), NOW)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    "evidence",
    [
        {"metrics": "x"},
        {"metrics": {"mae": "x"}},
        {"metrics": {"n": -1}},
        {"metrics": {"standard_errors": []}},
        {"verdicts": [{}]},
        {"verdicts": 5},
        {"window_start": "yesterday"},
        {"evidence_ratio": {}},
        {"comparison": []},
        {"segment": "x" * 1001},
    ],
)
def test_evidence_that_reports_could_not_show_is_refused(evidence: dict[str, Any]):
    with pytest.raises(ValidationError):
        check_retrain(event(evidence=evidence), NOW)

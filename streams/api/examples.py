"""Examples of the OpenAPI document, each of which a test sends."""

from __future__ import annotations

from typing import Any

__all__ = [
    "COMPARISONS",
    "DESIGNS",
    "EXPERIMENTS",
    "OUTCOMES",
    "PARKED_RECORDS",
    "POLICIES",
    "PROMOTIONS",
    "REPLAYS",
    "RETRAIN_DECISIONS",
    "ROLLBACKS",
    "SIMULATIONS",
    "THRESHOLDS",
    "TRAININGS",
]

_LINE = {"twin_type": "hcp", "brand": "kisqali"}
_EMAIL = {"intervention_type": "email_campaign", "channel": "email", "frequency": "weekly", "duration_weeks": 12}
_SPEAKER = {
    "intervention_type": "speaker_program_invitation",
    "channel": "in_person",
    "frequency": "monthly",
    "duration_weeks": 12,
}

SIMULATIONS: dict[str, Any] = {
    "Speaker programs in the south": {**_LINE, "intervention": _SPEAKER, "filters": {"region": "south", "min_decile": 8}},
    "An email beside a speaker program": {**_LINE, "intervention": _EMAIL, "alternatives": [_SPEAKER], "twin_count": 5000},
}
COMPARISONS: dict[str, Any] = {"Two campaigns": {**_LINE, "campaigns": [_EMAIL, _SPEAKER]}}
DESIGNS: dict[str, Any] = {"A pilot of 4,000 people": {**_LINE, "intervention": _EMAIL, "effect": 0.03, "n_available": 4000}}
OUTCOMES: dict[str, Any] = {
    "A prediction and what happened": {
        **_LINE,
        "event_id": "7f0c8a52-6c1e-4b3a-9f57-0d2f7f1f8a11",
        "observed_at": "2026-11-02T12:00:00Z",
        "metric_type": "prescribing_change",
        "actual_value": 0.12,
        "predicted_value": 0.10,
        "predicted_lower": -0.05,
        "predicted_upper": 0.25,
    }
}
EXPERIMENTS: dict[str, Any] = {
    "A trial of emails": {
        **_LINE,
        "experiment_id": "spring",
        "observed_at": "2026-06-30T00:00:00Z",
        "intervention": _EMAIL,
        "effect": 0.03,
        "standard_error": 0.01,
        "n_treated": 400,
        "n_control": 400,
    }
}

_MODEL, _FORMER = "0b6f3a52-6c1e-4b3a-9f57-0d2f7f1f8a11", "1c6f3a52-6c1e-4b3a-9f57-0d2f7f1f8a11"
PROMOTIONS: dict[str, Any] = {
    "A challenger that the gate has suggested": {"model_id": _MODEL, "champion": _FORMER, "reason": "approved by the board"}
}
ROLLBACKS: dict[str, Any] = {"The champion before": {"champion": _MODEL, "reason": "worse in the south"}}
POLICIES: dict[str, Any] = {"Wait for approval": {"policy": "approve", "reason": "audit in June"}}
THRESHOLDS: dict[str, Any] = {
    "A smaller effect, with a test": {"min_effect_threshold": 0.03, "require_test": True, "drift_limits": {"mae_increase": 0.3}}
}
RETRAIN_DECISIONS: dict[str, Any] = {"With a reason": {"reason": "the quarter is odd"}}
REPLAYS: dict[str, Any] = {
    "With a corrected field": {"set": {"actual_value": 0.1}, "drop": ["surprise"]},
    "What would be published": {"dry_run": True},
}
PARKED_RECORDS: dict[str, Any] = {
    "A record that its producer has asked for": {"topic": "outcome-events", "partition": 2, "offset": 81346, "why": "asked for"}
}
TRAININGS: dict[str, Any] = {
    "Two columns are named, the others as guessed": {
        "table_id": "7f0c8a52-6c1e-4b3a-9f57-0d2f7f1f8a11",
        "brand": "kisqali",
        "answers": ["NPI=entity_id", "Grad Yr=years_experience:years_before 2026"],
    }
}

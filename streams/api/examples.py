"""Examples of the OpenAPI document, each of which a test sends."""

from __future__ import annotations

from typing import Any

__all__ = ["COMPARISONS", "DESIGNS", "EXPERIMENTS", "OUTCOMES", "SIMULATIONS"]

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

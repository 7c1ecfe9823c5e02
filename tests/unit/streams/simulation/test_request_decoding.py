"""Simulation requests are decoded, or named with the reason why they are no valid request."""

import hashlib
import json
from uuid import UUID

import pytest

from schemas import SimulationRequest
from schemas.events import canonical_digest
from streams.simulation import UnreadableRequest, decode_request

BODY = {
    "simulation_id": "00000000-0000-0000-0000-000000000007",
    "requested_at": "2025-03-01T00:00:00Z",
    "twin_type": "hcp",
    "brand": "kisqali",
    "intervention": {"intervention_type": "email_campaign", "channel": "email", "frequency": "monthly", "duration_weeks": 12},
}


def test_a_valid_request_has_the_digest_of_its_content():
    decoded = decode_request(json.dumps(BODY).encode())
    request = SimulationRequest.model_validate(BODY)
    assert (decoded.simulation_id, decoded.request, decoded.reason) == (UUID(int=7), request, "")
    assert decoded.digest == canonical_digest(request) == decode_request(json.dumps(BODY, indent=2).encode()).digest


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"brand": "aspirin"}, "brand: "),
        ({"surprise": 1}, "surprise: unknown field"),
        ({"requested_by": "a\0b"}, "NUL"),
        ({"target": "overall_survival"}, "target 'overall_survival' is clinical ("),
        ({"filters": {"tumour_stage": ["III"]}}, "filter 'tumour_stage' is clinical ("),
        ({"intervention": {"intervention_type": "dose_escalation"}}, "intervention_type 'dose_escalation' is clinical ("),
    ],
)
def test_an_invalid_request_has_the_digest_of_its_bytes_and_the_reason(fields, reason):
    value = json.dumps(BODY | fields).encode()
    decoded = decode_request(value)
    assert (decoded.simulation_id, decoded.request) == (UUID(int=7), None)
    assert decoded.digest == hashlib.sha256(value).digest()
    assert reason in decoded.reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no JSON: "),
        (b"[" * 100_000, "no JSON: "),
        (b"[1, 2]", "no JSON object, but a list"),
        (b"{}", "no simulation_id"),
        (b'{"simulation_id": "seven"}', "the simulation_id 'seven', which is no UUID"),
    ],
)
def test_a_record_without_a_simulation_id_is_unreadable(value, reason):
    with pytest.raises(UnreadableRequest, match=reason):
        decode_request(value)

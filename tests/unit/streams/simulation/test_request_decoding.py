"""Simulation requests are decoded, or named with the reason why they are no valid request."""

import hashlib
import json
import sys
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given

from schemas import SimulationRequest
from schemas.events import canonical_digest
from streams.simulation import UnreadableRequest, decode_request
from tests.request_bodies import BODY, bodies


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


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"filters": {"min_decile": 2**64}}, "filter 'min_decile' got 18446744073709551616: 'decile' is an integer between -92"),
        ({"filters": {"decile": [10**400]}}, "filter 'decile' got 1000"),
        ({"filters": {"decile": {"min": 1}}}, "filter 'decile' got {'min': 1}: 'decile' is an integer"),
        ({"filters": {"specialty": [["oncology"]]}}, "filters.specialty.0: input should be a valid string, not ['oncology']"),
        ({"filters": [1]}, "filters: "),
        ({"twin_type": []}, "twin_type: input should be 'hcp', 'patient' or 'territory', not []"),
        ({"twin_type": {"hcp": 1}}, "twin_type: input should be 'hcp', 'patient' or 'territory', not {'hcp': 1}"),
        ({"target": ["trx"]}, "target: input should be a valid string, not ['trx']"),
        ({"confidence_level": 1e-300}, "confidence_level: must be from 0.001 to 0.999999, not 1e-300"),
        ({"confidence_level": 0.9999999999999999}, "confidence_level: must be from 0.001 to 0.999999, not 0.9999999999999999"),
        ({"confidence_level": 1}, "confidence_level: input should be less than 1, not 1"),
        ({"seed": 2**63}, "seed: input should be less than 9223372036854775808, not 9223372036854775808"),
        ({"twin_count": 10**400}, "twin_count: must be from 100 to 1000000000, not 1000"),
        ({"twin_count": 0}, "twin_count: must be from 100 to 1000000000, not 0"),
        ({"twin_count": -1}, "twin_count: must be from 100 to 1000000000, not -1"),
        ({"twin_count": 1e30}, "twin_count: must be from 100 to 1000000000, not 1e+30"),
        ({"twin_count": float("nan")}, "twin_count: must be from 100 to 1000000000, not nan"),
        ({"seed": 2**200}, "seed: input should be less than 9223372036854775808, not 16069"),
        ({"alternatives": [BODY["intervention"]] * 10_000}, "alternatives: at most 10 are allowed, not 10000"),
        ({"alternatives": [1] * 10_000}, "alternatives: at most 10 are allowed, not 10000"),
        ({"alternatives": [1] * 3}, "alternatives.0: input should be an object, not 1; alternatives.1: "),
        (
            {"filters": {"specialty": ["oncology"] * 100_000}},
            "filter 'specialty' lists 100000 values: at most 1000 are allowed (TWIN_MAX_",
        ),
        ({"filters": {"specialty": [[1]] * 100}}, "filters.specialty.9: input should be a valid string, not [1]; and 90 more"),
        ({"filters": {"min_decile": float("nan")}}, "filter 'min_decile' got nan: 'decile' is an integer"),
        ({str(name): 1 for name in range(1000)}, "9: unknown field; and 990 more"),
        ({"intervention": BODY["intervention"] | {"intervention_type": "x" * 10**6}}, "unknown intervention_type 'xxx"),
        ({"intervention": BODY["intervention"] | {"duration_weeks": 2**64}}, "intervention.duration_weeks: "),
        ({"intervention": BODY["intervention"] | {"intensity": 1e308}}, "intervention.intensity: "),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_field_and_what_is_allowed(fields, reason):
    decoded = decode_request(json.dumps(BODY | fields).encode())
    assert decoded.request is None
    assert reason in decoded.reason
    assert len(decoded.reason) <= 2000


def test_a_clinical_name_of_a_megabyte_has_a_short_reason():
    decoded = decode_request(json.dumps(BODY | {"filters": {"tumour_" * 200_000: 1}}).encode())
    assert "is clinical ('tumour')" in decoded.reason
    assert len(decoded.reason) <= 2000


def test_a_number_that_is_too_long_for_python_is_rejected():
    value = json.dumps(BODY).encode()[:-1] + b', "seed": ' + b"7" * (sys.int_info.default_max_str_digits + 1) + b"}"
    decoded = decode_request(value)
    assert decoded.request is None
    assert "number out of range" in decoded.reason


def test_a_rejected_confidence_level_has_the_digest_of_its_content():
    body = BODY | {"confidence_level": 1e-300}
    assert decode_request(json.dumps(body).encode()).digest == canonical_digest(SimulationRequest.model_validate(body))


@given(bodies())
def test_whatever_json_is_in_a_request_it_is_a_request_or_has_a_reason(body: dict[str, Any]):
    decoded = decode_request(json.dumps(body).encode())
    assert decoded.simulation_id == UUID(int=7)
    assert (decoded.request is None) == bool(decoded.reason)
    assert len(decoded.reason.encode()) <= 20_000
    if decoded.request is not None:
        stored = json.loads(json.dumps(decoded.request.model_dump(mode="json", exclude_none=True)))
        assert canonical_digest(SimulationRequest.model_validate(stored)) is not None

"""Decodes simulation requests from JSON, and names what is wrong with those that are no valid request."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from schemas import TWIN_TYPES, SimulationRequest, TwinType
from schemas.base import shorten
from schemas.clinical_terms import clinical_term
from schemas.events import MAX_ALTERNATIVES, MAX_TWINS, MIN_TWINS, canonical_digest
from streams.errors import describe_error, require_clear
from streams.settings import MAX_FILTER_VALUES

__all__ = ["DecodedRequest", "UnreadableRequest", "decode_request", "find_simulation_id"]

_LOWEST_LEVEL, _HIGHEST_LEVEL = 0.001, 0.999999
"""Confidence levels that can be computed: closer to 0 and 1 a tail probability is no number between them any more."""


class UnreadableRequest(ValueError):
    """The record has no simulation id that an answer could be published under."""


@dataclass(frozen=True)
class DecodedRequest:
    """A record that names a simulation.

    Attributes:
        digest: of the request's content, or of the record's bytes when that is not valid.
        request: None when it cannot be computed.
        reason: why it cannot be computed.
    """

    simulation_id: UUID
    digest: bytes
    request: SimulationRequest | None
    reason: str = ""


def decode_request(value: bytes | None, *, max_filter_values: int = MAX_FILTER_VALUES) -> DecodedRequest:
    """Decode the value of a record.

    Args:
        value: of the record.
        max_filter_values: most values that a filter may list.

    Raises:
        UnreadableRequest: when it is no JSON object with a simulation id.
    """
    body = _read_body(value)
    simulation_id = _read_simulation_id(body)
    reason = _clinical_reason(body) or _size_reason(body, max_filter_values)
    if reason is not None:
        return DecodedRequest(simulation_id, hashlib.sha256(value or b"").digest(), None, reason)
    try:
        request = SimulationRequest.model_validate_json(require_clear(value))
    except ValueError as error:
        return DecodedRequest(simulation_id, hashlib.sha256(value or b"").digest(), None, describe_error(error))
    if not _LOWEST_LEVEL <= request.confidence_level <= _HIGHEST_LEVEL:
        reason = f"confidence_level: must be from {_LOWEST_LEVEL} to {_HIGHEST_LEVEL}, not {request.confidence_level!r}"
        return DecodedRequest(simulation_id, canonical_digest(request), None, reason)
    return DecodedRequest(simulation_id, canonical_digest(request), request)


def find_simulation_id(value: bytes | None) -> UUID | None:
    """The simulation id that a record names, None without a readable one."""
    try:
        return _read_simulation_id(_read_body(value))
    except UnreadableRequest:
        return None


def _read_body(value: bytes | None) -> Mapping[str, Any]:
    try:
        body = json.loads(value or b"", parse_int=_parse_integer)
    except (ValueError, RecursionError) as error:
        raise UnreadableRequest(f"the request is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise UnreadableRequest(f"the request is no JSON object, but a {type(body).__name__}")
    return body


def _parse_integer(digits: str) -> int | float:
    """Parse an integer of any length: Python's own parser refuses the whole text for one of more than 4300 digits."""
    return int(digits) if len(digits) <= sys.int_info.default_max_str_digits else float(digits)


def _read_simulation_id(body: Mapping[str, Any]) -> UUID:
    text = body.get("simulation_id")
    try:
        return UUID(text)
    except (ValueError, TypeError, AttributeError) as error:
        problem = "no simulation_id" if text is None else f"the simulation_id {shorten(text)}, which is no UUID"
        raise UnreadableRequest(f"the request has {problem}: it cannot be answered") from error


def _clinical_reason(body: Mapping[str, Any]) -> str | None:
    """Why a request with a clinical target, intervention or filter is rejected; None for any other request."""
    twin_type = TwinType(body["twin_type"]) if body.get("twin_type") in list(TwinType) else TwinType.HCP
    for place, name in _names(body):
        term = clinical_term(twin_type, name)
        if term is not None:
            targets = ", ".join(target.name for target in TWIN_TYPES[twin_type].targets)
            return f"{place} {shorten(name)} is clinical ({term!r}): only commercial outcomes are simulated, such as {targets}"
    return None


def _size_reason(body: Mapping[str, Any], max_filter_values: int) -> str | None:
    """Why a request with too many twins, alternatives or values of a filter is rejected, before all of them are validated."""
    twins, alternatives, filters = body.get("twin_count"), body.get("alternatives"), body.get("filters")
    if isinstance(twins, int | float) and not isinstance(twins, bool) and not MIN_TWINS <= twins <= MAX_TWINS:
        return f"twin_count: must be from {MIN_TWINS} to {MAX_TWINS}, not {shorten(twins)}"
    if isinstance(alternatives, list) and len(alternatives) > MAX_ALTERNATIVES:
        return f"alternatives: at most {MAX_ALTERNATIVES} are allowed, not {len(alternatives)}"
    for name, values in filters.items() if isinstance(filters, dict) else ():
        if isinstance(values, list) and len(values) > max_filter_values:
            allowed = f"at most {max_filter_values} are allowed (TWIN_MAX_FILTER_VALUES)"
            return f"filter {shorten(name)} lists {len(values)} values: {allowed}"
    return None


def _names(body: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The names in a request that could be clinical, each with its place."""
    intervention, filters = body.get("intervention"), body.get("filters")
    if isinstance(body.get("target"), str):
        yield "target", body["target"]
    if isinstance(intervention, dict) and isinstance(intervention.get("intervention_type"), str):
        yield "intervention_type", intervention["intervention_type"]
    if isinstance(filters, dict):
        yield from (("filter", name) for name in filters)

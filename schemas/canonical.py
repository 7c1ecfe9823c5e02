"""The canonical encoding of an outcome, from which its digest is computed: equal outcomes have equal bytes.

It has three parts, so that a whole batch of outcomes is encoded at once: numbers as a row of the NumPy type ``NUMBERS``, fields
that many outcomes share as JSON, and what only some outcomes have as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import numpy as np

__all__ = ["NUMBERS", "encode_own_fields", "encode_shared_fields"]

NUMBERS = np.dtype(
    [
        ("event_id", "V16"),
        ("observed_at", "<i8"),  # microseconds since 1970
        ("revision", "<i4"),
        ("actual_value", "<f8"),  # NaN for null, as in the following
        ("predicted_value", "<f8"),
        ("predicted_lower", "<f8"),
        ("predicted_upper", "<f8"),
        ("treated", "i1"),  # -1 for null
    ]
)


def encode_shared_fields(
    version: int, twin_type: str, brand: str, metric_type: str, model_id: UUID | None, segment: Iterable[tuple[str, str]]
) -> bytes:
    """Encode what many outcomes of a producer have in common; ``segment`` as pairs in the order of their names."""
    return _json([version, twin_type, brand, metric_type, model_id and str(model_id), list(segment)])


def encode_own_fields(
    simulation_id: UUID | None, twin_id: UUID | None, entity_id: str | None, features: Mapping[str, Any] | None
) -> bytes:
    """Encode the twin or entity of an outcome; no bytes for an outcome that names neither."""
    if simulation_id is None and entity_id is None:
        return b""
    return _json([simulation_id and str(simulation_id), twin_id and str(twin_id), entity_id, features])


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

"""One spelling for the content of an outcome: numbers in octets, what many outcomes have in common, and the rest as JSON.

Made so that a whole slice of outcomes is spelled at once: the numbers are a row of ``NUMBERS``, the words are looked up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import numpy as np

__all__ = ["NUMBERS", "spell_way", "spell_words"]

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


def spell_words(
    version: int, twin_type: str, brand: str, metric_type: str, model_id: UUID | None, segment: Iterable[tuple[str, str]]
) -> bytes:
    """What many outcomes of a producer have in common; ``segment`` as pairs in the order of their names."""
    return _json([version, twin_type, brand, metric_type, model_id and str(model_id), list(segment)])


def spell_way(simulation_id: UUID | None, twin_id: UUID | None, entity_id: str | None, features: Mapping[str, Any] | None) -> bytes:
    """The way to the prediction beside its numbers, nothing where there is no more to say."""
    if simulation_id is None and entity_id is None:
        return b""
    return _json([simulation_id and str(simulation_id), twin_id and str(twin_id), entity_id, features])


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

"""The base class of all events."""

from __future__ import annotations

from typing import Literal

from schemas.base import Frozen

__all__ = ["Event"]


class Event(Frozen):
    """Base class of all events; ``schema_version`` rises when a field changes its meaning."""

    schema_version: Literal[1] = 1

    def canonical(self) -> bytes:
        """The content in canonical form: equal events have equal bytes."""
        return self.model_dump_json().encode()

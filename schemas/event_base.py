"""The base class of all events."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from schemas.base import Frozen, refuse_flags

__all__ = ["Event"]


class Event(Frozen):
    """Base class of all events; ``schema_version`` rises when a field changes its meaning."""

    schema_version: Annotated[Literal[1], BeforeValidator(refuse_flags)] = 1

    def canonical(self) -> bytes:
        """The content in canonical form: equal events have equal bytes."""
        return self.model_dump_json().encode()

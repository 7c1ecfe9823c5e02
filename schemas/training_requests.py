"""The event that asks for a training on an uploaded table."""

from __future__ import annotations

from typing import Any, Self
from uuid import UUID

from pydantic import Field, model_validator

from schemas.base import Moment
from schemas.event_base import Event
from schemas.twin_types import TWIN_TYPES, KnownBrand, TwinType, model_line

__all__ = ["TrainingRequest"]


class TrainingRequest(Event):
    """A request to train a model line on a table that was uploaded.

    Attributes:
        table_id: of the uploaded table.
        mapping: by which the table is read, as ``twinstream import`` saves it: which column is which feature, by which rule.
    """

    training_id: UUID
    requested_at: Moment
    table_id: UUID
    twin_type: TwinType
    brand: KnownBrand
    target: str | None = None
    mapping: dict[str, Any]
    requested_by: str = Field(default="unknown", max_length=200)

    @model_validator(mode="after")
    def _target_exists(self) -> Self:
        TWIN_TYPES[self.twin_type].target(self.target)
        return self

    @property
    def line(self) -> str:
        """Name of the model line."""
        return model_line(self.twin_type, self.brand, self.target)

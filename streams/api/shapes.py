"""Describes answers: models of what endpoints return, made from the values that they return where these have fields."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from functools import cache
from typing import Any, get_type_hints
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, create_model

__all__ = ["DeadLetterShape", "items_of", "page_of", "shape_of"]


@cache
def shape_of(record: type[Any]) -> type[BaseModel]:
    """A model with the fields of a dataclass or a named tuple, which all are there in an answer."""
    hints = get_type_hints(record)
    names = [field.name for field in dataclasses.fields(record)] if dataclasses.is_dataclass(record) else record._fields
    fields: dict[str, Any] = {name: (hints[name], ...) for name in names}
    return create_model(record.__name__, __config__=ConfigDict(protected_namespaces=()), __doc__=record.__doc__, **fields)


@cache
def items_of(item: type[Any]) -> type[BaseModel]:
    """An answer with all items of a list."""
    return create_model(f"{item.__name__}List", __doc__="A list.", items=(list[item], ...))  # type: ignore[valid-type]


@cache
def page_of(item: type[Any]) -> type[BaseModel]:
    """An answer with a page of a list."""
    cursor = Field(description="The `cursor` of the page behind it; null on the last one.")
    fields: dict[str, Any] = {"items": (list[item], ...), "next": (str | None, cursor)}  # type: ignore[valid-type]
    return create_model(f"{item.__name__}Page", __doc__="A page of a list.", **fields)


class Bytes(BaseModel):
    """Bytes of a record; as text where they are text."""

    text: str | None
    base64: str


class HeaderBytes(BaseModel):
    """A header of a record; without text and base64 where it has no value."""

    name: str
    text: str | None = None
    base64: str | None = None


class ReplayShape(BaseModel):
    """A replay of a refused record: as which record, by whom, with which change, and its result once that is stored."""

    record: str = Field(alias="as", examples=["outcome-events:2:81346"])
    at: datetime
    by: str
    change: str
    came_of_it: str | None


class DeadLetterShape(BaseModel):
    """A refused record as it arrived, why it was refused, and its replays."""

    refusal_id: UUID
    topic: str
    partition: int
    offset: int
    first_offset: int
    element: int
    arrived_at: datetime | None
    refused_at: datetime
    kind: str
    reason: str
    exception: str
    traceback: str
    attempt: int
    key: Bytes | None
    value: Bytes | None
    headers: list[HeaderBytes]
    replays: list[ReplayShape]

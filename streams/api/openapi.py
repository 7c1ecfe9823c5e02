"""Describes bodies that are events: the schema of the event, without the fields that the service fills in, and examples."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from streams.api.bodies import EVENT_TYPE, JSON_TYPE

__all__ = ["body_of", "decision_body", "event_body", "table_body", "with_components"]

_REFERENCE = "#/components/schemas/{model}"
_DEFINITIONS: dict[str, Any] = {}
"""Schemas that bodies refer to, by name."""


def event_body(
    event: type[BaseModel], shown: Mapping[str, Any], *, without: Collection[str] = (), several: bool = False
) -> dict[str, Any]:
    """The description of a body that is an event, or, with ``several``, also an array of them.

    Args:
        event: its class.
        shown: examples, by their title.
        without: fields that the service fills in.
        several: whether an array is taken too.
    """
    name = event.__name__ if not without else f"{event.__name__}Body"
    schema = _schema(event)
    required = [field for field in schema.get("required", []) if field not in without]
    _DEFINITIONS[name] = {**schema, "title": name, "required": required}
    reference: dict[str, Any] = {"$ref": _REFERENCE.format(model=name)}
    if several:
        reference = {"anyOf": [reference, {"type": "array", "items": reference}]}
    examples = {title: {"summary": title, "value": value} for title, value in shown.items()}
    content: dict[str, Any] = {JSON_TYPE: {"schema": reference, "examples": examples}}
    content[EVENT_TYPE] = {"schema": {"type": "object", "description": "The event in structured mode of CloudEvents."}}
    return body_of(content)


def decision_body(model: type[BaseModel], shown: Mapping[str, Any], *, required: bool = True) -> dict[str, Any]:
    """The description of a body that is a decision; one that is not required may be left out."""
    name = f"{model.__name__}Body"
    _DEFINITIONS[name] = {**_schema(model), "title": name}
    examples = {title: {"summary": title, "value": value} for title, value in shown.items()}
    described = body_of({JSON_TYPE: {"schema": {"$ref": _REFERENCE.format(model=name)}, "examples": examples}})
    described["requestBody"]["required"] = required
    return described


def body_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a body with these types."""
    return {"requestBody": {"required": True, "content": dict(content)}}


def table_body() -> dict[str, Any]:
    """The types of a body that is a table."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {"text/csv": {"schema": {"type": "string"}}, "application/vnd.apache.parquet": binary}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a model; those that it refers to are kept beside it."""
    _, generated = models_json_schema([(model, "validation")], ref_template=_REFERENCE)
    definitions = generated.get("$defs", {})
    _DEFINITIONS.update({name: schema for name, schema in definitions.items() if name != model.__name__})
    own: dict[str, Any] = definitions[model.__name__]
    return own


def with_components(document: dict[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """An OpenAPI document with the schemas that bodies refer to, and others."""
    components = document.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **_DEFINITIONS, **others}
    return document

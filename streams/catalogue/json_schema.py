"""The JSON Schema of a catalogue file, by which editors complete and check it."""

from __future__ import annotations

from functools import cache
from typing import Any

from schemas.catalogue import Catalogue

__all__ = ["catalogue_schema"]

_NAMES = {"Intervention": "name", "Feature": "name", "Target": "name", "Ratio": "name", "DriftRule": "name", "Moderator": "column"}
"""Fields that an entry has by the name that it is written under."""


@cache
def catalogue_schema() -> dict[str, Any]:
    """The schema of a file: nothing in it is needed, and null takes an entry out.

    What an entry of one's own needs beyond the schema, ``twinstream catalogue check`` tells.
    """
    schema = Catalogue.model_json_schema(mode="validation")
    schema["properties"].pop("version")
    for name, definition in schema["$defs"].items():
        definition.get("properties", {}).pop(_NAMES.get(name), None)
    for part in (schema, *schema["$defs"].values()):
        part.pop("required", None)
        for field in part.get("properties", {}).values():
            _allow_null_entries(field)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Twinstream catalogue",
        "description": "Brands, campaigns, features, targets, drift rules and thresholds, laid over the built-in ones.",
    }


def _allow_null_entries(field: dict[str, Any]) -> None:
    """Let null take out an entry of a field that has entries by name."""
    for place in ("additionalProperties", "patternProperties"):
        entries = field.get(place)
        if place == "patternProperties" and isinstance(entries, dict):
            field[place] = {pattern: {"anyOf": [entry, {"type": "null"}]} for pattern, entry in entries.items()}
        elif isinstance(entries, dict) and "$ref" in entries:
            field[place] = {"anyOf": [entries, {"type": "null"}]}

"""What may be said on which topic, for those who do not read Python: JSON Schema of every event, and an AsyncAPI 3 document.

References:
    AsyncAPI 3.0.0; its Kafka bindings 0.5.0; JSON Schema draft 2020-12; CloudEvents 1.0.2, Kafka binding, binary mode.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic.json_schema import models_json_schema

from schemas import EVENTS, Event, OutcomeEvent
from streams.kafka.dead_letters import DEAD_LETTER_HEADERS
from streams.kafka.topics import DEAD_LETTERS, TOPICS, Topic

__all__ = ["asyncapi_document", "event_schemas", "write_schemas"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SCHEMA_FORMAT = "application/schema+json;version=draft-2020-12"
_BINDING = "0.5.0"
_FROM_OUTSIDE = ("simulation-requests", "outcome-events", "experiment-results")
_KEYS = {
    "simulation-requests": "simulation_id",
    "simulation-results": "simulation_id",
    "outcome-events": "the producer's own; the event_id where it has none",
    "effect-priors": "model line and intervention, with a colon between them",
    DEAD_LETTERS: "of the refused record",
}
_ABOUT = """\
What Twinstream reads and writes on Kafka. Values are JSON, times carry their zone, unknown fields are refused. Outsiders send on
simulation-requests, outcome-events and experiment-results; whatever cannot be read comes back on dead-letters as it was, with the
reason in its headers."""
_CLOUD_EVENT = {
    "ce_specversion": "version of CloudEvents",
    "ce_type": "twinstream.EVENT.vVERSION",
    "ce_source": "who says it",
    "ce_id": "equal for equal events of one source",
    "content-type": "application/json",
}


def event_schemas() -> dict[str, dict[str, Any]]:
    """A whole JSON Schema of each event, by its name."""
    return {event.__name__: {"$schema": DIALECT, "title": event.__name__, **event.model_json_schema()} for event in EVENTS.values()}


def asyncapi_document() -> dict[str, Any]:
    """The document: a channel each topic, a message each event, and who sends what."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Twinstream",
            "version": version("twinstream"),
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": dict(map(_operation, TOPICS)),
        "components": {
            "schemas": {name: _of_draft(schema) for name, schema in _shared_schemas().items()},
            "messages": {_message_name(topic): _message(topic) for topic in TOPICS},
        },
    }


def write_schemas(folder: Path) -> list[Path]:
    """Write ``EVENT.schema.json`` for every event, and ``asyncapi.json``; gives the files."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {f"{name}.schema.json": schema for name, schema in event_schemas().items()} | {"asyncapi.json": asyncapi_document()}
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in contents]


def _shared_schemas() -> Mapping[str, dict[str, Any]]:
    """Each event and each part of one, once."""
    sides: list[tuple[type[Event], Literal["validation"]]] = [(event, "validation") for event in EVENTS.values()]
    _, definitions = models_json_schema(sides, ref_template="#/components/schemas/{model}/schema")
    found: dict[str, dict[str, Any]] = definitions["$defs"]
    return found


def _of_draft(schema: dict[str, Any]) -> dict[str, Any]:
    return {"schemaFormat": _SCHEMA_FORMAT, "schema": schema}


def _channel(topic: Topic) -> dict[str, Any]:
    name = _message_name(topic)
    configuration = topic.configuration()
    kept: dict[str, Any] = {"cleanup.policy": [configuration["cleanup.policy"]]}
    if "retention.ms" in configuration:
        kept["retention.ms"] = int(configuration["retention.ms"])
    kept["max.message.bytes"] = int(configuration["max.message.bytes"])
    return {
        "address": topic.name,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"kafka": {"partitions": topic.partitions, "topicConfiguration": kept, "bindingVersion": _BINDING}},
    }


def _operation(topic: Topic) -> tuple[str, dict[str, Any]]:
    """What the service does: it receives what outsiders send, and sends the rest (some of it to itself)."""
    action = "receive" if topic.name in _FROM_OUTSIDE else "send"
    name = _message_name(topic)
    told = {
        "action": action,
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "messages": [{"$ref": f"#/channels/{topic.name}/messages/{name}"}],
    }
    return f"{action}{name}", told


def _message_name(topic: Topic) -> str:
    return EVENTS[topic.name].__name__ if topic.name in EVENTS else "DeadLetter"


def _message(topic: Topic) -> dict[str, Any]:
    if topic.name == DEAD_LETTERS:
        return _dead_letter()
    event = EVENTS[topic.name]
    one = {"$ref": f"#/components/schemas/{event.__name__}/schema"}
    payload = {"oneOf": [one, {"type": "array", "items": one, "minItems": 1}]} if event is OutcomeEvent else one
    return {
        "name": event.__name__,
        "summary": (event.__doc__ or "").strip().split("\n")[0],
        "contentType": "application/json",
        "headers": _headers(_CLOUD_EVENT),
        "payload": _of_draft(payload),
        "bindings": {"kafka": _key(topic.name)},
    }


def _dead_letter() -> dict[str, Any]:
    return {
        "name": "DeadLetter",
        "summary": "A refused record, byte for byte, with its headers and what happened to it; of one too large only the latter.",
        "contentType": "application/octet-stream",
        "headers": _headers(DEAD_LETTER_HEADERS),
        "payload": _of_draft({"description": "the value as it came: any bytes, or none"}),
        "bindings": {"kafka": _key(DEAD_LETTERS)},
    }


def _headers(described: Mapping[str, str]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string", "description": what} for name, what in described.items()}}


def _key(topic: str) -> dict[str, Any]:
    return {"key": {"type": "string", "description": _KEYS.get(topic, "model line")}, "bindingVersion": _BINDING}

"""Describes the topics and events for programs in any language: a JSON Schema of every event, and an AsyncAPI 3 document.

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
_BINDING_VERSION = "0.5.0"
_RECEIVED_TOPICS = ("simulation-requests", "outcome-events", "experiment-results", "training-requests")
_KEYS = {
    "simulation-requests": "simulation_id",
    "simulation-results": "simulation_id",
    "simulation-progress": "simulation_id",
    "training-requests": "training_id",
    "outcome-events": "chosen by the producer; the event_id when there is none",
    "effect-priors": "model line and intervention, separated by a colon",
    DEAD_LETTERS: "key of the refused record",
}
_DESCRIPTION = """\
Topics that Twinstream reads and writes on Kafka. Values are JSON, times have a time zone, unknown fields are refused. Other
programs send to simulation-requests, outcome-events, experiment-results and training-requests; a record that is refused is
published on dead-letters unchanged, with the reason in its headers."""
_CLOUD_EVENT_HEADERS = {
    "ce_specversion": "version of CloudEvents",
    "ce_type": "twinstream.EVENT.vVERSION",
    "ce_source": "publisher of the event",
    "ce_id": "equal for equal events of one source",
    "content-type": "application/json",
}


def event_schemas() -> dict[str, dict[str, Any]]:
    """Return a complete JSON Schema of each event, by the name of its class."""
    return {event.__name__: {"$schema": DIALECT, "title": event.__name__, **event.model_json_schema()} for event in EVENTS.values()}


def asyncapi_document() -> dict[str, Any]:
    """Return the AsyncAPI document: a channel for each topic, a message for each event, and who sends it."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Twinstream",
            "version": version("twinstream"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": dict(map(_operation, TOPICS)),
        "components": {
            "schemas": {name: _with_format(schema) for name, schema in _shared_schemas().items()},
            "messages": {_message_name(topic): _message(topic) for topic in TOPICS},
        },
    }


def write_schemas(folder: Path) -> list[Path]:
    """Write ``EVENT.schema.json`` for every event and ``asyncapi.json``, and return the paths of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {f"{name}.schema.json": schema for name, schema in event_schemas().items()} | {"asyncapi.json": asyncapi_document()}
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in contents]


def _shared_schemas() -> Mapping[str, dict[str, Any]]:
    """The schemas of all events and of their parts, each once."""
    inputs: list[tuple[type[Event], Literal["validation"]]] = [(event, "validation") for event in EVENTS.values()]
    _, document = models_json_schema(inputs, ref_template="#/components/schemas/{model}/schema")
    schemas: dict[str, dict[str, Any]] = document["$defs"]
    return schemas


def _with_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"schemaFormat": _SCHEMA_FORMAT, "schema": schema}


def _channel(topic: Topic) -> dict[str, Any]:
    name = _message_name(topic)
    broker = topic.configuration()
    configuration: dict[str, Any] = {"cleanup.policy": [broker["cleanup.policy"]]}
    if "retention.ms" in broker:
        configuration["retention.ms"] = int(broker["retention.ms"])
    configuration["max.message.bytes"] = int(broker["max.message.bytes"])
    binding = {"partitions": topic.partitions, "topicConfiguration": configuration, "bindingVersion": _BINDING_VERSION}
    return {
        "address": topic.name,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"kafka": binding},
    }


def _operation(topic: Topic) -> tuple[str, dict[str, Any]]:
    """Name and description of what the service does with a topic: it receives what other programs send, and sends the rest."""
    action = "receive" if topic.name in _RECEIVED_TOPICS else "send"
    name = _message_name(topic)
    operation = {
        "action": action,
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "messages": [{"$ref": f"#/channels/{topic.name}/messages/{name}"}],
    }
    return f"{action}{name}", operation


def _message_name(topic: Topic) -> str:
    return EVENTS[topic.name].__name__ if topic.name in EVENTS else "DeadLetter"


def _message(topic: Topic) -> dict[str, Any]:
    if topic.name == DEAD_LETTERS:
        return _dead_letter_message()
    event = EVENTS[topic.name]
    schema = {"$ref": f"#/components/schemas/{event.__name__}/schema"}
    payload = {"oneOf": [schema, {"type": "array", "items": schema, "minItems": 1}]} if event is OutcomeEvent else schema
    return {
        "name": event.__name__,
        "summary": (event.__doc__ or "").strip().split("\n")[0],
        "contentType": "application/json",
        "headers": _header_schema(_CLOUD_EVENT_HEADERS),
        "payload": _with_format(payload),
        "bindings": {"kafka": _key_schema(topic.name)},
    }


def _dead_letter_message() -> dict[str, Any]:
    return {
        "name": "DeadLetter",
        "summary": "A refused record with headers that describe the refusal; of a record that is too large, only these headers.",
        "contentType": "application/octet-stream",
        "headers": _header_schema(DEAD_LETTER_HEADERS),
        "payload": _with_format({"description": "value of the refused record: any bytes, or null"}),
        "bindings": {"kafka": _key_schema(DEAD_LETTERS)},
    }


def _header_schema(descriptions: Mapping[str, str]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string", "description": text} for name, text in descriptions.items()}}


def _key_schema(topic: str) -> dict[str, Any]:
    return {"key": {"type": "string", "description": _KEYS.get(topic, "model line")}, "bindingVersion": _BINDING_VERSION}

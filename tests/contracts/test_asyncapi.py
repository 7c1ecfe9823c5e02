"""The published schemas are valid against those of AsyncAPI and JSON Schema, and agree with the events.

``asyncapi-3.0.0.schema.json`` is the schema of AsyncAPI 3.0.0 (Apache-2.0) without its descriptions and examples.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from typer.testing import CliRunner

from schemas import EVENTS, OutcomeEvent
from streams.cli.app import app
from streams.kafka.asyncapi import asyncapi_document, event_schemas
from streams.kafka.topics import TOPICS
from tests.outcomes import outcome

ASYNCAPI_SCHEMA = json.loads(Path(__file__).with_name("asyncapi-3.0.0.schema.json").read_text(encoding="utf-8"))


def violations(document: dict[str, Any]) -> list[str]:
    return [error.message for error in Draft7Validator(ASYNCAPI_SCHEMA).iter_errors(document)]


def resolve(document: Any, reference: str) -> Any:
    for step in reference.removeprefix("#/").split("/"):
        document = document[step]
    return document


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        part = [part["$ref"]] if isinstance(part.get("$ref"), str) else list(part.values())
    if isinstance(part, list):
        return [reference for item in part for reference in references(item)]
    return [part] if isinstance(part, str) and part.startswith("#/") else []


def test_the_document_is_valid_asyncapi_and_an_invalid_one_is_detected() -> None:
    document = asyncapi_document()
    assert violations(document) == []
    assert violations(document | {"operations": {"fly": {"action": "fly"}}})
    assert violations(document | {"channels": {"a": {"partitions": 4}}})


def test_every_topic_is_a_channel_and_every_reference_resolves() -> None:
    document = asyncapi_document()
    assert set(document["channels"]) == {topic.name for topic in TOPICS}
    assert {operation["action"] for operation in document["operations"].values()} == {"send", "receive"}
    for reference in set(references(document)):
        assert resolve(document, reference)


@pytest.mark.parametrize("name", [event.__name__ for event in EVENTS.values()])
def test_the_schema_of_an_event_is_json_schema_and_refuses_unknown_fields(name: str) -> None:
    schema = event_schemas()[name]
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False


def test_the_schema_of_an_outcome_accepts_what_the_service_accepts() -> None:
    validator = Draft202012Validator(event_schemas()["OutcomeEvent"])
    for fields, accepted in (({}, True), ({"surprise": 1}, False), ({"actual_value": "much"}, False), ({"revision": -1}, False)):
        body = outcome(1) | fields
        assert validator.is_valid(body) is accepted
        if accepted:
            assert validator.is_valid(OutcomeEvent.model_validate(body).model_dump(mode="json"))


def test_the_command_prints_the_document_or_writes_every_schema(tmp_path: Path) -> None:
    assert json.loads(CliRunner().invoke(app, ["schemas"]).stdout) == asyncapi_document()
    result = json.loads(CliRunner().invoke(app, ["schemas", "--out", str(tmp_path / "new"), "--json"]).stdout)
    assert [Path(name).name for name in result["written"]] == [
        *(f"{name}.schema.json" for name in event_schemas()),
        "asyncapi.json",
    ]
    assert json.loads((tmp_path / "new" / "OutcomeEvent.schema.json").read_text()) == event_schemas()["OutcomeEvent"]

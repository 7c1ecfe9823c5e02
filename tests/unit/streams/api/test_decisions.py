"""Decisions over HTTP without servers behind it: what is refused before anything is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams.api.corrections import Replay
from streams.api.problems import Problem
from streams.operations import Correction
from tests.http_api import Api, running

LINE = "hcp:kisqali:prescribing_change"
MODEL = "0b6f3a52-6c1e-4b3a-9f57-0d2f7f1f8a11"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running() as api:
        yield api


@pytest.mark.parametrize(
    ("method", "path", "body", "detail"),
    [
        ("POST", f"models/{LINE}/promotions", {}, "model_id: missing"),
        ("POST", f"models/{LINE}/promotions", {"model_id": "best"}, "model_id: input should be a valid UUID"),
        ("POST", f"models/{LINE}/rollbacks", {"from": MODEL}, "from: unknown field"),
        ("PUT", f"models/{LINE}/policy", {"policy": "never"}, "'off', 'suggest', 'approve' or 'auto'"),
        (
            "PATCH",
            f"models/{LINE}/thresholds",
            {"reason": "none"},
            "name at least one of min_effect_threshold, confidence_threshold",
        ),
        (
            "PATCH",
            f"models/{LINE}/thresholds",
            {"confidence_threshold": 0.2},
            "confidence_threshold: input should be greater than 0.5",
        ),
        ("POST", f"retrains/{MODEL}/approval", [], "a decision is a JSON object, not []"),
        ("POST", f"retrains/{MODEL}/refusal", {"reason": "x" * 1001}, "reason: string should have at most 1000 characters"),
        ("POST", "retrains/last/refusal", {}, "retrain_id: input should be a valid UUID"),
        (
            "POST",
            f"dead-letters/{MODEL}/replays",
            {"value": {}, "value_base64": "e30="},
            "value and value_base64 both replace the value",
        ),
        ("POST", f"dead-letters/{MODEL}/replays", {"value_base64": "%"}, "value_base64: '%' is not base64"),
        ("POST", "parked-records", {"topic": "outcome-events", "partition": -1, "offset": 0}, "partition: input should be greater"),
    ],
)
async def test_a_decision_that_is_none_is_refused_with_what_is_allowed(api: Api, method: str, path: str, body: Any, detail: str):
    reply = await api.send(method, f"/api/v1/{path}", body)
    assert reply.status == 422
    assert detail in reply.body["detail"]


async def test_a_decision_comes_as_json_or_without_a_body(api: Api):
    path = f"/api/v1/retrains/{MODEL}/approval"
    form = await api.ask("POST", path, b"reason=x", Content_Type="application/x-www-form-urlencoded")
    assert (form.status, form.headers["Accept-Post"]) == (415, "application/json")
    assert (await api.ask("POST", path)).status == 503  # it was read, and Postgres does not answer
    assert (await api.ask("POST", path, b"{", Content_Type="application/json")).status == 400


@pytest.mark.parametrize(
    ("body", "correction"),
    [
        ({}, Correction()),
        ({"accept": True}, Correction({"confirmed": True})),
        ({"set": {"segment.region": "west"}, "drop": ["surprise"]}, Correction({"segment.region": "west"}, ("surprise",))),
        ({"value": [{"a": 1}]}, Correction(value=b'[{"a": 1}]')),
        ({"value_base64": "AP8="}, Correction(value=b"\x00\xff")),
    ],
)
def test_the_body_of_a_replay_is_its_correction(body: dict[str, Any], correction: Correction):
    assert Replay.model_validate(body).correction() == correction


def test_a_value_is_given_once():
    with pytest.raises(Problem, match="both replace the value"):
        Replay.model_validate({"value": {}, "value_base64": "e30="}).correction()

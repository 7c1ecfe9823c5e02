"""Reads bodies of requests: JSON, or an event of CloudEvents in structured or binary mode; and writes events as CloudEvents.

References:
    CloudEvents 1.0.2, HTTP Protocol Binding, sections 3.1 (binary) and 3.2 (structured content mode).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from cloudevents.core.bindings.http import HTTPMessage, from_http, to_binary, to_structured
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel
from pydantic_core import to_json

from schemas import Event
from schemas.base import shorten
from streams.api.problems import Problem
from streams.errors import describe_error, require_clear
from streams.kafka import event_headers, event_value

__all__ = [
    "BATCH_TYPE",
    "EVENT_TYPE",
    "JSON_TYPE",
    "event_response",
    "json_response",
    "media_type",
    "parse_json",
    "read_decision",
    "read_fields",
]

JSON_TYPE, EVENT_TYPE, BATCH_TYPE = "application/json", "application/cloudevents+json", "application/cloudevents-batch+json"
_FORMAT = JSONFormat()
_PREFIX = "ce_"
M = TypeVar("M", bound=BaseModel)


def media_type(request: Request) -> str:
    """The type of the body, in small letters and without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_fields(request: Request, event: type[Event], *others: str) -> Any:
    """The JSON value in the body, which may be that of an event: of CloudEvents the data, of a batch the list of all data.

    Args:
        request: the request.
        event: the event that the body describes.
        others: further types of bodies that its address takes, for the message.

    Raises:
        Problem: for a body of another type, and one that is not valid.
    """
    body, kind = await request.body(), media_type(request)
    if kind not in {JSON_TYPE, EVENT_TYPE, BATCH_TYPE}:
        allowed = ", ".join([JSON_TYPE, EVENT_TYPE, *others])
        raise Problem(415, f"Content-Type {shorten(kind)} is not known here: use one of {allowed}", {"Accept-Post": allowed})
    value = parse_json(body)
    if kind == BATCH_TYPE:
        if not isinstance(value, list):
            raise Problem(400, f"a batch of CloudEvents is a JSON array, not {shorten(value)}")
        return [_data(HTTPMessage({"content-type": EVENT_TYPE}, json.dumps(item).encode()), event) for item in value]
    if kind == EVENT_TYPE or "ce-specversion" in request.headers:
        headers = {name: value for name, value in request.headers.items() if name.startswith("ce-") and kind == JSON_TYPE}
        return _data(HTTPMessage({**headers, "content-type": kind}, body), event)
    return value


async def read_decision(request: Request, model: type[M]) -> M:
    """A decision in the body, which may be left out where nothing in it is needed.

    Raises:
        Problem: for a body of another type than JSON.
        ValidationError: for one that is no such decision.
    """
    body, kind = await request.body(), media_type(request)
    if body and kind != JSON_TYPE:
        raise Problem(415, f"Content-Type {shorten(kind)} is not known here: use {JSON_TYPE}", {"Accept-Post": JSON_TYPE})
    fields = parse_json(body) if body else {}
    if not isinstance(fields, dict):
        raise Problem(422, f"a decision is a JSON object, not {shorten(fields)}")
    return model.model_validate_json(json.dumps(fields))


def parse_json(body: bytes) -> Any:
    """The JSON value of a body.

    Raises:
        Problem: when it is none, or has a name twice or the character NUL.
    """
    try:
        return json.loads(require_clear(body))
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is no JSON that can be stored: {describe_error(error)}") from None


def _data(message: HTTPMessage, event: type[Event]) -> Any:
    try:
        cloud_event = from_http(message, _FORMAT)
    except (CloudEventValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Problem(400, f"the body is no CloudEvent of version 1.0: {describe_error(error)}") from None
    allowed = _type_of(event)
    if cloud_event.get_type() != allowed:
        raise Problem(422, f"the type of the CloudEvent is {shorten(cloud_event.get_type())}: this address takes {allowed}")
    data = cloud_event.get_data()
    return parse_json(data) if isinstance(data, bytes) else data


def _type_of(event: type[Event]) -> str:
    return f"twinstream.{event.__name__}.v{event.model_fields['schema_version'].default}"


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value of the service as JSON: times with their zone, ids as text, numbers that are none as null."""
    return Response(to_json(value, inf_nan_mode="null"), status, headers=dict(headers or {}), media_type=JSON_TYPE)


def event_response(request: Request, event: Event, headers: Mapping[str, str] | None = None) -> Response:
    """An event as CloudEvents have it: structured when ``Accept`` asks for that, else with its attributes as headers."""
    own = {name: (value or b"").decode() for name, value in event_headers(event, "web")}
    attributes = {name.removeprefix(_PREFIX): text for name, text in own.items() if name.startswith(_PREFIX)}
    cloud_event = CloudEvent({**attributes, "datacontenttype": JSON_TYPE}, json.loads(event_value(event)))
    write = to_structured if EVENT_TYPE in request.headers.get("accept", "") else to_binary
    message = write(cloud_event, _FORMAT)
    return Response(message.body, headers={**message.headers, "Vary": "Accept", **(headers or {})})

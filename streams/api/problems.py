"""Errors of the API as problem details, which name the refused value and what is allowed.

References:
    Nottingham, Wilde, Dalal (2023), Problem Details for HTTP APIs. RFC 9457.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, cast

import asyncpg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from sql.ledger import ChampionChanged, NoPredecessor
from sql.retrain_approval_store import NotWaiting
from streams.api.pages_of_problems import page_of_problem
from streams.api.unavailable import Unavailable
from streams.client import NoAnswer
from streams.errors import describe_error, describe_fields, is_waited_for, limit_text
from streams.operations import AlreadyProcessed

__all__ = ["PROBLEM_TYPE", "Problem", "ProblemDetails", "add_problem_handlers", "problem_body", "problem_response", "problems"]

LOG = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
_RETRY_S = "2"

Handler = Callable[[Request, Exception], Awaitable[Response]]


class ProblemDetails(BaseModel):
    """Why a request was not done, as RFC 9457 describes it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(default="about:blank", description="The kind of problem; about:blank where the status says it.")
    title: str = Field(description="The status in words.", examples=["Unprocessable Content"])
    status: int = Field(description="The status of the answer.", examples=[422])
    detail: str = Field(
        description="What is wrong, the refused value, and what is allowed.",
        examples=["intervention 'email_campain' is not known: use one of email_campaign, ..."],
    )


class Problem(HTTPException):
    """An answer with an error, and further members of its body."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        super().__init__(status, limit_text(detail), dict(headers or {}))
        self.members = members


def problem_body(status: int, detail: str, members: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The body of an answer with an error."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **(members or {})}


def problem_response(
    status: int, detail: str, headers: Mapping[str, str] | None = None, members: Mapping[str, Any] | None = None
) -> JSONResponse:
    """An answer with an error."""
    body = problem_body(status, detail, members)
    return JSONResponse(body, status, headers=dict(headers or {}), media_type=PROBLEM_TYPE)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an endpoint, for its documentation; those of every endpoint are among them."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    every = {400, 401, 403, 413, 421, 422, 429, 500, 503, *statuses}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in sorted(every)}


_CONFLICTS: tuple[type[Exception], ...] = (AlreadyProcessed, ChampionChanged, NoPredecessor, NotWaiting)
"""What is stored does not allow a decision, whatever its request has in it."""


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of an application by problem details."""
    handlers: dict[type[Exception], Handler] = {
        HTTPException: _answer_http,
        RequestValidationError: _answer_request,
        Unavailable: _answer_unavailable,
        NoAnswer: _answer_unavailable,
        **dict.fromkeys(_CONFLICTS, _answer_conflict),
        LookupError: _answer_unknown,
        ValueError: _answer_value,
        asyncpg.PostgresError: _answer_unforeseen,
        asyncpg.InterfaceError: _answer_unforeseen,
        OSError: _answer_unforeseen,
        Exception: _answer_unforeseen,
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)


def _reply(
    request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None, members: Mapping[str, Any] | None = None
) -> Response:
    """The answer with an error: a page where a browser has asked for one."""
    page = page_of_problem(request, status, detail, headers, members or {})
    return problem_response(status, detail, headers, members) if page is None else page


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if not isinstance(error, Problem) and detail == HTTPStatus(error.status_code).phrase:
        detail = _ROUTING.get(error.status_code, detail)
    return _reply(request, error.status_code, detail, error.headers, getattr(error, "members", None))


_ROUTING = {
    404: "there is nothing at this address: /openapi.json lists the addresses",
    405: "this address does not take this method: the header Allow has those that it takes",
}


async def _answer_request(request: Request, error: Exception) -> Response:
    """Answer parameters, headers or a body that FastAPI has refused."""
    assert isinstance(error, RequestValidationError)
    details = [{**item, "loc": item["loc"][1:] if len(item["loc"]) > 1 else item["loc"]} for item in error.errors()]
    return _reply(request, 422, describe_fields(cast("list[ErrorDetails]", details)))


async def _answer_value(request: Request, error: Exception) -> Response:
    """Answer a value that a function of the service has refused; an outage can be a ``ValueError`` too."""
    if isinstance(error, ValidationError) or not is_waited_for(error):
        return _reply(request, 422, describe_error(error))
    return await _answer_unavailable(request, error)


async def _answer_unknown(request: Request, error: Exception) -> Response:
    if isinstance(error, KeyError | IndexError):  # of our own code: nobody has asked for it
        return await _answer_unforeseen(request, error)
    return _reply(request, 404, describe_error(error))


async def _answer_conflict(request: Request, error: Exception) -> Response:
    return _reply(request, 409, describe_error(error))


async def _answer_unavailable(request: Request, error: Exception) -> Response:
    return _reply(request, 503, describe_error(error), {"Retry-After": _RETRY_S})


async def _answer_unforeseen(request: Request, error: Exception) -> Response:
    """Answer an outage that an endpoint has met; of anything else the log has the traceback, and nothing of the request."""
    if is_waited_for(error):
        return await _answer_unavailable(request, error)
    route = request.scope.get("route")
    LOG.error("%s %s failed", request.method, getattr(route, "path", "an unknown address"), exc_info=error)
    return _reply(request, 500, "the service has failed: its log has the reason")

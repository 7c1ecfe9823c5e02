"""Simulations: ask, follow, read the answer, cancel."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from schemas import SimulationAnswer, SimulationRequest
from schemas.base import shorten
from sql.simulation_state_store import ListedSimulation, SimulationState, list_simulations, simulation_states
from sql.simulation_store import Pins, UnknownSimulation, find_runs
from streams.api import examples
from streams.api.access import AskCaller, Caller, Context, ReadCaller
from streams.api.bodies import event_response, json_response, read_fields
from streams.api.context import ApiContext
from streams.api.idempotency import Answer, IdempotencyKey, Occasion, do_once
from streams.api.openapi import event_body
from streams.api.paging import Cursor, Limit, page, read_cursor
from streams.api.problems import Problem, problems
from streams.operations.simulation_status import NotQueued, cancel_queued

__all__ = ["router", "submit"]

router = APIRouter(prefix="/simulations", tags=["simulations"])

Prefer = Annotated[
    str | None,
    Header(max_length=100, description="`wait=10` waits up to so many seconds, at most 30, for the answer.", examples=["wait=10"]),
]
Status = Literal["queued", "running", "completed", "rejected", "failed", "cancelled"]
_WAIT = re.compile(r"(?:^|[;,\s])wait=(\d{1,4})(?:$|[;,\s])")
_LONGEST_WAIT_S = 30.0
_PING_S = 15.0
_RETRY = {"Retry-After": "1"}


@router.post(
    "",
    status_code=202,
    summary="Ask what a campaign will do",
    responses={200: {"description": "The answer came within the time of `Prefer`."}, **problems(409, 415)},
    openapi_extra=event_body(SimulationRequest, examples.SIMULATIONS, without=("simulation_id", "requested_at", "requested_by")),
)
async def ask(
    request: Request, context: Context, caller: AskCaller, idempotency_key: IdempotencyKey = None, prefer: Prefer = None
) -> JSONResponse:
    """Publish a request, and return its id: `Location` has its state, and below it `/events` the progress and the result.

    Fields that are left out are filled in: the id, the time, and who asks.
    """
    fields = await read_fields(request, SimulationRequest)
    return await submit(request, context, caller, idempotency_key, prefer, fields)


async def submit(
    request: Request, context: ApiContext, caller: Caller, key: str | None, prefer: str | None, fields: Any
) -> JSONResponse:
    """Publish the request that these fields make, once, and wait for its answer for as long as the caller prefers.

    Raises:
        Problem: when the fields make no request, with what is allowed.
    """
    wait_s = _preferred_wait_s(prefer)

    async def act(occasion: Occasion) -> Answer:
        event = _request_of(fields, caller, occasion)
        await context.publish(event)
        context.remember(event.simulation_id)
        return Answer(202, {"simulation_id": str(event.simulation_id), "status": "published"}, _location(event.simulation_id))

    response = await do_once(context, request, caller, key, await request.body(), act)
    if not wait_s:
        return response
    simulation_id = UUID(json.loads(bytes(response.body))["simulation_id"])
    state = await context.watch.answered(simulation_id, wait_s)
    headers = {"Location": _location(simulation_id), "Preference-Applied": f"wait={wait_s:g}"}
    if state is None or not state.is_answered:
        return JSONResponse(json.loads(bytes(response.body)), 202, headers=headers)
    return JSONResponse(await _described(context, state), 200, headers=headers)


def _request_of(fields: Any, caller: Caller, occasion: Occasion) -> SimulationRequest:
    if not isinstance(fields, dict):
        raise Problem(422, f"a simulation request is a JSON object, not {shorten(fields)}")
    own = {"simulation_id": str(occasion.request_id), "requested_at": occasion.at.isoformat()}
    return SimulationRequest.model_validate_json(json.dumps({**own, **fields, "requested_by": caller.name}))


def _preferred_wait_s(prefer: str | None) -> float:
    match = _WAIT.search(prefer or "")
    return min(float(match[1]), _LONGEST_WAIT_S) if match else 0.0


def _location(simulation_id: UUID) -> str:
    return f"/api/v1/simulations/{simulation_id}"


@router.get("", summary="List simulations, newest first", responses=problems())
async def list_all(
    context: Context,
    _caller: ReadCaller,
    limit: Limit = 50,
    cursor: Cursor = None,
    line: Annotated[str | None, Query(max_length=300, description="Only those of this model line.")] = None,
    status: Annotated[Status | None, Query(description="Only those in this state.")] = None,
) -> Response:
    """A page of simulations with their effects; `next` is the cursor of the page behind it, null on the last one."""
    before = read_cursor(cursor, UUID)
    rows = await list_simulations(await context.pool(), limit + 1, line=line, status=status, before=before)
    return json_response(page(rows, limit, lambda row: (row.started_at, row.simulation_id), ListedSimulation._asdict))


@router.get("/{simulation_id}", summary="How far a simulation is, and its answer", responses=problems(404))
async def show(simulation_id: UUID, context: Context, _caller: ReadCaller) -> JSONResponse:
    """The state of a simulation: published, queued, running, or that of its answer, which is there then."""
    state = (await simulation_states(await context.pool(), [simulation_id])).get(simulation_id)
    if state is None:
        return JSONResponse(_published(context, simulation_id), headers=_RETRY)
    return JSONResponse(await _described(context, state), headers={} if state.is_answered else _RETRY)


@router.get("/{simulation_id}/answer", summary="The answer as an event", responses=problems(404, 409))
async def answer(simulation_id: UUID, request: Request, context: Context, _caller: ReadCaller) -> Response:
    """The event on the topic simulation-results, as CloudEvents: with its attributes as headers, or all in the body.

    `Accept: application/cloudevents+json` asks for the second.
    """
    run = (await find_runs(await context.pool(), [simulation_id])).get(simulation_id)
    if run is None:
        _published(context, simulation_id)
    if run is None or run.answer is None:
        raise Problem(409, f"simulation {simulation_id} is not answered yet", _RETRY)
    return event_response(request, run.answer)


@router.get(
    "/{simulation_id}/events",
    summary="Progress and result as server-sent events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}, **problems(404)},
)
async def events(simulation_id: UUID, context: Context, _caller: ReadCaller) -> StreamingResponse:
    """An event `progress` for each change, then one `result`, after which the stream ends."""
    if simulation_id not in await simulation_states(await context.pool(), [simulation_id]):
        _published(context, simulation_id)
    headers = {"X-Accel-Buffering": "no"}  # a proxy passes events on as they come
    return StreamingResponse(_stream(context, simulation_id), media_type="text/event-stream", headers=headers)


@router.delete("/{simulation_id}", status_code=202, summary="Cancel a simulation", responses=problems(404, 409))
async def cancel(simulation_id: UUID, context: Context, _caller: AskCaller) -> JSONResponse:
    """Have a simulation answered as cancelled; whatever is computed for it ends within seconds."""
    try:
        await cancel_queued(await context.pool(), simulation_id)
    except NotQueued as error:
        raise Problem(409, str(error), simulation_status=error.status) from None
    except UnknownSimulation:
        _published(context, simulation_id)
        raise Problem(409, f"simulation {simulation_id} was published, and is not queued yet: try again", _RETRY) from None
    return JSONResponse({"simulation_id": str(simulation_id), "status": "cancelled"}, 202)


async def _stream(context: ApiContext, simulation_id: UUID) -> AsyncIterator[str]:
    async for state in context.watch.pinged_states(simulation_id, _PING_S):
        if state is None:
            yield ": still waiting\n\n"  # a proxy closes a connection on which nothing comes
        elif state.is_answered:
            yield _message("result", await _described(context, state))
        else:
            yield _message("progress", _fields(state))


def _message(name: str, content: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n"


async def _described(context: ApiContext, state: SimulationState) -> dict[str, Any]:
    """A state with the request and, once it is there, the answer."""
    run = (await find_runs(await context.pool(), [state.simulation_id])).get(state.simulation_id)
    request, result = (None, None) if run is None else (_request_fields(run), _answer_fields(run.answer))
    return {**_fields(state), "request": request, "answer": result}


def _fields(state: SimulationState) -> dict[str, Any]:
    return {
        "simulation_id": str(state.simulation_id),
        "status": state.status,
        "line": state.line,
        "model_id": str(state.model_id) if state.model_id else None,
        "lane": state.lane,
        "ahead": state.ahead,
        "twins": state.twins,
        "twins_done": state.twins_done,
        "started_at": state.started_at.isoformat(),
        "completed_at": state.completed_at.isoformat() if state.completed_at else None,
    }


def _request_fields(run: Pins) -> dict[str, Any] | None:
    return run.request.model_dump(mode="json", exclude_none=True) if run.request else None


def _answer_fields(event: SimulationAnswer | None) -> dict[str, Any] | None:
    return event.model_dump(mode="json") if event else None


def _published(context: ApiContext, simulation_id: UUID) -> dict[str, Any]:
    """The state of a simulation that no worker has read yet.

    Raises:
        UnknownSimulation: when it was not published here lately.
    """
    if not context.was_published(simulation_id):
        raise UnknownSimulation(simulation_id)
    return {"simulation_id": str(simulation_id), "status": "published", "request": None, "answer": None}

"""Results of real experiments: list, show and add them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from schemas import ExperimentResult
from schemas.base import shorten
from sql.effects_store import ExperimentDecision, experiment_decisions, experiment_rows, find_experiment
from streams.api import examples
from streams.api.access import AskCaller, Context, ReadCaller
from streams.api.bodies import json_response, read_fields
from streams.api.idempotency import Answer, IdempotencyKey, Occasion, do_once
from streams.api.openapi import event_body
from streams.api.paging import Cursor, Limit, page, read_cursor
from streams.api.problems import Problem, problems
from streams.api.shapes import page_of, shape_of
from streams.reporting.experiments import experiment_dict
from streams.simulation import check_result

__all__ = ["router"]

router = APIRouter(prefix="/experiments", tags=["experiments"])


class ExperimentShape(BaseModel):
    """An experiment in a list; `apart` has another measure than the target of its line."""

    experiment_id: str
    line: str
    intervention: str
    observed_at: datetime
    recorded_at: datetime
    effect: float
    standard_error: float
    n_treated: int
    n_control: int
    state: Literal["counted", "apart", "withdrawn"]
    withdrawn_at: datetime | None
    revision: int
    first_effects_version: int | None


class ExperimentDetails(ExperimentShape):
    """An experiment with all fields of its result, who has withdrawn it, and the share of its effect that has reached people."""

    result: dict[str, Any]
    decisions: list[shape_of(ExperimentDecision)]  # type: ignore[valid-type]
    reach: dict[str, Any] | None


class ExperimentAdded(BaseModel):
    """An experiment that was published."""

    experiment_id: str
    line: str
    status: Literal["published"]


@router.get("", summary="List experiments, newest first", response_model=page_of(ExperimentShape), responses=problems())
async def list_all(
    context: Context,
    _caller: ReadCaller,
    limit: Limit = 50,
    cursor: Cursor = None,
    line: Annotated[str | None, Query(max_length=300, description="Only those of this model line.")] = None,
    intervention: Annotated[str | None, Query(max_length=200, description="Only those on this campaign.")] = None,
) -> Response:
    """A page of experiments, with withdrawn ones."""
    after = read_cursor(cursor, str)
    rows = await experiment_rows(await context.pool(), line, intervention, limit + 1, after)
    return json_response(
        page(rows, limit, lambda row: (datetime.fromisoformat(row.body["observed_at"]), row.experiment_id), experiment_dict)
    )


@router.get("/{experiment_id}", summary="What an experiment measured", response_model=ExperimentDetails, responses=problems(404))
async def show(experiment_id: Annotated[str, Path(max_length=500)], context: Context, _caller: ReadCaller) -> Response:
    """An experiment as it was added, who has withdrawn it, and whom it has reached."""
    pool = await context.pool()
    row = await find_experiment(pool, experiment_id)
    decisions = [decision._asdict() for decision in await experiment_decisions(pool, experiment_id)]
    return json_response({**experiment_dict(row), "result": row.body, "decisions": decisions, "reach": row.reach})


@router.post(
    "",
    status_code=202,
    summary="Add what an experiment measured",
    response_model=ExperimentAdded,
    responses=problems(415),
    openapi_extra=event_body(ExperimentResult, examples.EXPERIMENTS, without=("observed_at",)),
)
async def add(request: Request, context: Context, caller: AskCaller, idempotency_key: IdempotencyKey = None) -> JSONResponse:
    """Check a result as the service does, and publish it; `Location` has it once it is stored."""
    fields = await read_fields(request, ExperimentResult)
    if not isinstance(fields, dict):
        raise Problem(422, f"a result is a JSON object, not {shorten(fields)}")

    async def act(occasion: Occasion) -> Answer:
        decided = {"decided_by": caller.name} if "decided_by" in fields else {}
        event = ExperimentResult.model_validate_json(json.dumps({"observed_at": occasion.at.isoformat(), **fields, **decided}))
        check_result(event)
        await context.publish(event)
        body = {"experiment_id": event.experiment_id, "line": event.line, "status": "published"}
        return Answer(202, body, f"/api/v1/experiments/{quote(event.experiment_id, safe='')}")

    return await do_once(context, request, caller, idempotency_key, await request.body(), act)

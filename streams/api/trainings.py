"""Trainings on uploaded tables: ask for one, and follow it."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, model_validator

from schemas import TrainingRequest, TwinType
from schemas.base import Frozen, shorten
from schemas.twin_types import KnownBrand
from sql.training_store import Training, UnknownTraining, find_training, list_trainings
from sql.upload_store import find_table
from streams.api import examples
from streams.api.access import Caller, Context, OperateCaller, ReadCaller
from streams.api.bodies import json_response, read_fields
from streams.api.context import ApiContext
from streams.api.idempotency import Answer, IdempotencyKey, Occasion, do_once
from streams.api.openapi import event_body
from streams.api.paging import Cursor, Limit, page, read_cursor
from streams.api.problems import Problem, problems
from streams.operations.learning import TableLine, checked_mapping

__all__ = ["TrainingBody", "request_training", "router", "training_fields"]

router = APIRouter(prefix="/trainings", tags=["training"])

_RETRY = {"Retry-After": "1"}
_ENDED = {"promoted", "rejected", "refused", "failed"}
ColumnAnswer = Annotated[str, Field(max_length=2000)]


class TrainingBody(Frozen):
    """A training to run on an uploaded table.

    Attributes:
        answers: what columns are, as `map` of the table takes them; what they leave open is not used.
        mapping: instead of answers, one as the table shows it.
        twin_type: of the line; by default that of the upload.
    """

    table_id: UUID
    brand: KnownBrand
    answers: tuple[ColumnAnswer, ...] = Field(default=(), max_length=1000)
    mapping: dict[str, Any] | None = None
    twin_type: TwinType | None = None
    target: str | None = None

    @model_validator(mode="after")
    def _answers_or_mapping(self) -> TrainingBody:
        if self.answers and self.mapping is not None:
            raise ValueError("answers and mapping exclude each other: a mapping has an answer for every column")
        return self


@router.post(
    "",
    status_code=202,
    summary="Train a model line on an uploaded table",
    responses=problems(404, 415),
    openapi_extra=event_body(TrainingBody, examples.TRAININGS),
)
async def train(request: Request, context: Context, caller: OperateCaller, idempotency_key: IdempotencyKey = None) -> JSONResponse:
    """Check the table as the training would, and ask for the training; `Location` has its state.

    The first model of a line becomes its champion; a later one only where it proves better than the champion.
    """
    fields = await read_fields(request, TrainingRequest)
    if not isinstance(fields, dict):
        raise Problem(422, f"a training is a JSON object, not {shorten(fields)}")
    body = TrainingBody.model_validate_json(json.dumps(fields))

    async def act(occasion: Occasion) -> Answer:
        event = await request_training(context, caller, body, occasion)
        answer = {"training_id": str(event.training_id), "table_id": str(event.table_id), "line": event.line, "status": "published"}
        return Answer(202, answer, f"/api/v1/trainings/{event.training_id}")

    return await do_once(context, request, caller, idempotency_key, await request.body(), act)


async def request_training(context: ApiContext, caller: Caller, body: TrainingBody, occasion: Occasion) -> TrainingRequest:
    """Check a table before a training, and publish the request.

    Raises:
        Problem: when a training would refuse the table, with everything that is wrong with it.
        UnknownTable: when there is no such table.
        ValueError: for answers, or a mapping, that cannot be read.
    """
    pool = await context.pool()
    twin_type = body.twin_type or TwinType((await find_table(pool, body.table_id)).twin_type)
    line = TableLine(twin_type, body.brand, body.target)
    async with context.computing:
        checked = await checked_mapping(pool, body.table_id, line, body.answers, body.mapping)
    if refusals := checked.report.check.problems:
        texts = [str(problem) for problem in refusals]
        raise Problem(422, f"a training would refuse the table: {'; '.join(texts)}", problems=texts)
    event = TrainingRequest(
        training_id=occasion.request_id,
        requested_at=occasion.at,
        table_id=body.table_id,
        twin_type=twin_type,
        brand=body.brand,
        target=body.target,
        mapping=checked.mapping.model_dump(mode="json"),
        requested_by=caller.name,
    )
    await context.publish(event)
    context.remember(event.training_id)
    return event


@router.get("", summary="List trainings, newest first", responses=problems())
async def list_all(
    context: Context,
    _caller: ReadCaller,
    limit: Limit = 50,
    cursor: Cursor = None,
    table: Annotated[UUID | None, Query(description="Only those on this table.")] = None,
) -> Response:
    """A page of trainings on uploaded tables, and how each ended."""
    before = read_cursor(cursor, UUID)
    rows = await list_trainings(await context.pool(), limit + 1, before, table)
    return json_response(page(rows, limit, lambda row: (row.queued_at, row.training_id), training_fields))


@router.get("/{training_id}", summary="How far a training is, and how it ended", responses=problems(404))
async def show(training_id: UUID, context: Context, _caller: ReadCaller) -> Response:
    """The state of a training: published, queued, running, promoted, rejected, refused or failed, with the reason and the model."""
    try:
        training = await find_training(await context.pool(), training_id)
    except UnknownTraining:
        if not context.was_published(training_id):
            raise
        return json_response({"training_id": training_id, "status": "published"}, headers=_RETRY)
    return json_response(training_fields(training), headers={} if training.status in _ENDED else _RETRY)


def training_fields(training: Training) -> dict[str, Any]:
    """A training as JSON."""
    return training._asdict()

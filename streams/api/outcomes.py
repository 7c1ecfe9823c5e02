"""Outcomes: single ones, arrays and tables, with the checks of ``twinstream outcomes publish``, and what became of them."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import pandas as pd
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas import OutcomeEvent, TwinType
from sql.publication_store import Publication, publications
from streams.api import examples
from streams.api.access import AskCaller, Caller, Context, ReadCaller
from streams.api.bodies import json_response, media_type, read_fields
from streams.api.context import ApiContext
from streams.api.idempotency import Answer, IdempotencyKey, Occasion, do_once
from streams.api.openapi import event_body, table_body
from streams.api.problems import Problem, problems
from streams.api.shapes import items_of, shape_of
from streams.api.uploads import TABLE_TYPES, Reading, uploaded
from streams.errors import describe_error
from streams.kafka import event_value
from streams.operations.outcome_columns import outcome_scale
from streams.operations.outcome_files import OutcomeLine, publish_outcomes, read_outcome_file, require_plausible_scale
from streams.operations.publication import PublicationRefused, Publisher, describe_rows
from streams.operations.receipts import await_receipt
from streams.tables import TableOptions

__all__ = ["router"]

router = APIRouter(prefix="/outcomes", tags=["outcomes"])

_OPTIONS = re.compile(r"--(partly|backfill|accept)\b")
_MAX_SHOWN = 100
_DESCRIPTION = event_body(OutcomeEvent, examples.OUTCOMES, several=True)
_DESCRIPTION["requestBody"]["content"] |= table_body()

Partly = Annotated[bool, Query(description="Leave out outcomes that are bad or too late, and publish the others.")]
Backfill = Annotated[bool, Query(description="Of a table, publish rows that are too late to be counted too, as history.")]
Accept = Annotated[bool, Query(description="Confirm that values beyond the plausible scale of their target are meant.")]


class RefusedOutcome(BaseModel):
    """An outcome of an array that was not sent."""

    index: int
    reason: str


class OutcomesPublished(BaseModel):
    """Number of outcomes that were sent, and those that were left out."""

    published: int
    refused: list[RefusedOutcome]


class TablePublished(BaseModel):
    """What was sent of the rows of a table."""

    receipt: UUID
    rows: int
    published: int
    history: int
    remarks: list[str]


class ReceiptShape(BaseModel):
    """What became of the rows of a table; all numbers but `rows` add up to `rows`."""

    model_config = ConfigDict(extra="allow")

    receipt: UUID
    file: str
    by: str
    begun_at: datetime
    rows: int
    counted: int
    refused: dict[str, int]


@router.post(
    "",
    status_code=202,
    summary="Hand over outcomes",
    response_model=OutcomesPublished | TablePublished,
    responses=problems(408, 415),
    openapi_extra=_DESCRIPTION,
)
async def publish(
    request: Request,
    context: Context,
    caller: AskCaller,
    options: Reading,
    twin_type: Annotated[TwinType, Query(description="Of rows of a table that do not name theirs.")] = TwinType.HCP,
    brand: Annotated[str, Query(max_length=200, description="As `twin_type`.")] = "kisqali",
    target: Annotated[str | None, Query(max_length=200, description="As `twin_type`; by default that of the twin type.")] = None,
    name: Annotated[str, Query(max_length=200, description="Names a table in its receipt.")] = "upload",
    partly: Partly = False,
    backfill: Backfill = False,
    accept: Accept = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Check outcomes, publish them, and wait until Kafka has all of them: one event, an array, or a CSV or Parquet table.

    All are checked before the first is sent. A table has a receipt, at `Location`, which tells what became of its rows.
    """
    if media_type(request) not in TABLE_TYPES:
        fields = await read_fields(request, OutcomeEvent, *TABLE_TYPES)
        act = partial(_publish_events, context, fields, partly=partly, accept=accept)
        return await do_once(context, request, caller, idempotency_key, await request.body(), act)
    line = OutcomeLine(twin_type, brand, target)
    async with uploaded(request, context) as upload:

        async def act_on_table(occasion: Occasion) -> Answer:
            try:
                table = _Table(context, caller, line, options, name, partly=partly, backfill=backfill, accept=accept)
                return await table.publish(upload.path, occasion.at)
            except PublicationRefused as refused:
                raise Problem(422, _OPTIONS.sub(r"\1=true", str(refused))) from None

        return await do_once(context, request, caller, idempotency_key, upload.digest, act_on_table)


async def _publish_events(context: ApiContext, fields: Any, _occasion: Occasion, *, partly: bool, accept: bool) -> Answer:
    """Publish outcomes that are valid and would be accepted now.

    Raises:
        Problem: when one is bad, unless the others are wanted all the same.
    """
    items = fields if isinstance(fields, list) else [fields]
    events: dict[int, OutcomeEvent] = {}
    bad: dict[int, str] = {}
    for index, item in enumerate(items):
        try:
            events[index] = OutcomeEvent.model_validate_json(json.dumps(item))
        except ValidationError as error:
            bad[index] = describe_error(error)
    check = await context.outcome_check()
    results = await check.check([(str(event.event_id).encode(), event_value(event)) for event in events.values()])
    bad |= {index: result.reason for index, result in zip(events, results, strict=True) if result.reason is not None}
    refused = [{"index": index, "reason": reason} for index, reason in sorted(bad.items())[:_MAX_SHOWN]]
    if bad and (not partly or len(bad) == len(items)):
        first = f"outcome {refused[0]['index']}: {refused[0]['reason']}" if isinstance(fields, list) else refused[0]["reason"]
        more = f"; {len(bad):,} of {len(items):,} are bad: partly=true leaves them out" if len(items) > 1 else ""
        raise Problem(422, f"nothing is sent, as {first}{more}", refused=refused)
    good = [event for index, event in events.items() if index not in bad]
    _require_scale(good, accept=accept)
    client = await context.client()
    return Answer(202, {"published": await client.publish_outcomes(good), "refused": refused})


def _require_scale(events: list[OutcomeEvent], *, accept: bool) -> None:
    """Refuse outcomes in another unit than their target.

    Raises:
        Problem: when that is not confirmed.
    """
    frame = pd.DataFrame([{**(event.features or {}), **event.model_dump(include=_SCALED)} for event in events])
    problems_found = outcome_scale(frame, {}).problems if events else ()
    if problems_found and not accept:
        raise Problem(422, f"nothing is sent, as {'; '.join(problems_found)}: correct it, or confirm the values with accept=true")


_SCALED = {"twin_type", "metric_type", "actual_value", "predicted_value"}


class _Table:
    """A table of outcomes to publish."""

    def __init__(
        self,
        context: ApiContext,
        caller: Caller,
        line: OutcomeLine,
        options: TableOptions,
        name: str,
        *,
        partly: bool,
        backfill: bool,
        accept: bool,
    ) -> None:
        self._context, self._caller, self._line, self._options, self._name = context, caller, line, options, name
        self._partly, self._backfill, self._accept = partly, backfill, accept

    async def publish(self, path: Any, at: datetime) -> Answer:
        """Check and publish the rows.

        Raises:
            PublicationRefused: when a row is bad or too late, and that is not allowed for.
        """
        read = partial(read_outcome_file, path, self._line, self._options, at, partly=self._partly, name=self._name)
        outcomes, remarks = await asyncio.to_thread(read)
        doubts = await asyncio.to_thread(require_plausible_scale, outcomes, accept=self._accept)
        notes = [*remarks, *doubts, *outcomes.remarks()]
        published = await publish_outcomes(
            self._context.settings,
            await self._context.pool(),
            outcomes,
            self._line.twin_type,
            Publisher(self._caller.name, "web"),
            partly=self._partly,
            backfill=self._backfill,
            notify=notes.append,
        )
        left_out = [describe_rows(published.bad)] if published.bad else []
        late = [f"{'published as history' if self._backfill else 'left out'}: {published.late}"] if published.late else []
        body = {
            "receipt": str(published.publication_id),
            "rows": len(outcomes.frame),
            "published": published.sent,
            "history": published.history,
            "remarks": [*notes, *left_out, *late],
        }
        return Answer(202, body, f"/api/v1/outcomes/receipts/{published.publication_id}")


@router.get(
    "/receipts",
    summary="List published tables, newest first",
    response_model=items_of(shape_of(Publication)),
    responses=problems(),
)
async def list_receipts(
    context: Context, _caller: ReadCaller, limit: Annotated[int, Query(ge=1, le=500, description="Most items.")] = 50
) -> Response:
    """The tables that were published, with the id of each receipt."""
    return json_response({"items": [item._asdict() for item in await publications(await context.pool(), limit)]})


@router.get(
    "/receipts/{receipt_id}", summary="What became of the rows of a table", response_model=ReceiptShape, responses=problems(404)
)
async def receipt(
    receipt_id: UUID,
    context: Context,
    _caller: ReadCaller,
    wait_s: Annotated[float, Query(ge=0, le=30, description="Longest wait until every row is processed.")] = 0.0,
) -> Response:
    """The rows of a table by what became of them, counted from what is stored."""
    return json_response((await await_receipt(await context.pool(), receipt_id, wait_s)).to_dict())

"""Tables that are uploaded for a training: what each column is taken for, by answers, and the check of the table by them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from schemas import TwinType
from sql.database import clock
from sql.upload_store import UploadedTable, add_table, delete_table, find_table, list_tables
from streams.api.access import AskCaller, Context, ReadCaller
from streams.api.bodies import json_response
from streams.api.context import ApiContext
from streams.api.openapi import body_of, table_body
from streams.api.paging import Cursor, Limit, page, read_cursor
from streams.api.problems import problems
from streams.api.uploads import Reading, Upload, uploaded
from streams.operations.learning import TableLine, TableView, table_fields, table_id_of, view_table
from streams.tables import TableOptions
from streams.training.mapped_import import Proposal
from streams.training.uploaded_table import cell_texts, column_fields, options_fields, propose_mapping

__all__ = ["Answers", "router", "store_upload", "view_fields"]

router = APIRouter(prefix="/tables", tags=["training"])

Answers = Annotated[
    list[str] | None,
    Query(
        alias="map",
        description="What a column is, as `twinstream import --map` takes it: COLUMN=FEATURE, COLUMN=FEATURE:RULE, COLUMN=own:NAME,"
        " or COLUMN= to leave it out; repeatable.",
        max_length=2000,
    ),
]


@router.post(
    "",
    status_code=201,
    summary="Upload a table to train on",
    responses={201: {"description": "The table is stored, with what each column is taken for."}, **problems(408, 415)},
    openapi_extra=body_of(table_body()),
)
async def upload(
    request: Request,
    context: Context,
    caller: AskCaller,
    options: Reading,
    name: Annotated[str, Query(min_length=1, max_length=200, description="Of the table, such as that of its file.")] = "table",
    twin_type: Annotated[TwinType, Query(description="Of the entities in its rows.")] = TwinType.HCP,
) -> Response:
    """Store a CSV or Parquet table for some days, and guess what each column is: nothing is trained.

    The same table of the same caller has the same id.
    """
    async with uploaded(request, context) as file:
        stored, proposal = await store_upload(context, file, name, twin_type, options, caller.name)
    body = {**table_fields(stored), "columns": [column_fields(guess) for guess in proposal.guesses]}
    return json_response(body, 201, {"Location": f"/api/v1/tables/{stored.table_id}"})


async def store_upload(
    context: ApiContext, upload: Upload, name: str, twin_type: TwinType, options: TableOptions, by: str
) -> tuple[UploadedTable, Proposal]:
    """Store an uploaded table, unless it cannot be read; returns it with the guesses of its columns.

    Raises:
        ValueError: when it cannot be read, or names a person who was erased.
    """
    async with context.computing:
        proposal = await asyncio.to_thread(propose_mapping, upload.path, twin_type, options)
        texts = await asyncio.to_thread(cell_texts, proposal)
    pool, fields = await context.pool(), options_fields(options)
    table = UploadedTable(
        table_id=table_id_of(upload.digest, name, twin_type, repr(sorted(fields.items())), by),
        name=name,
        twin_type=twin_type.value,
        ending=upload.path.suffix,
        options=fields,
        n_rows=len(proposal.raw.rows),
        size=upload.path.stat().st_size,
        sha256=upload.digest,
        uploaded_by=by,
        uploaded_at=await clock(pool),
    )
    await add_table(pool, table, upload.path, texts)
    return table, proposal


@router.get("", summary="List uploaded tables, newest first", responses=problems())
async def list_all(context: Context, _caller: ReadCaller, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """A page of uploaded tables, without what is in them."""
    before = read_cursor(cursor, UUID)
    rows = await list_tables(await context.pool(), limit + 1, before)
    return json_response(page(rows, limit, lambda row: (row.uploaded_at, row.table_id), table_fields))


@router.get("/{table_id}", summary="What a training would make of a table", responses=problems(404))
async def show(
    table_id: UUID,
    context: Context,
    _caller: AskCaller,
    answers: Answers = None,
    twin_type: Annotated[TwinType | None, Query(description="Of the line; by default that of the upload.")] = None,
    brand: Annotated[str, Query(max_length=200, description="Of the line whose champion the rows are compared with.")] = "kisqali",
    target: Annotated[str | None, Query(max_length=200, description="Of the line; by default that of the twin type.")] = None,
) -> Response:
    """What each column is taken for, the mapping that makes, and the data check by it: problems, notes, suspects, columns.

    It shows values of the table, so it needs the scope ask.
    """
    async with context.computing:
        pool = await context.pool()
        kind = twin_type or TwinType((await find_table(pool, table_id)).twin_type)
        view = await view_table(pool, table_id, TableLine(kind, brand, target), answers or ())
    return json_response(view_fields(view))


def view_fields(view: TableView) -> dict[str, Any]:
    """An uploaded table with what becomes of it, as JSON."""
    return {
        **table_fields(view.table),
        "columns": [column_fields(guess) for guess in view.guesses],
        "mapping": view.mapping.model_dump(mode="json") if view.mapping else None,
        "check": view.report.to_dict() if view.report else None,
        "problem": view.problem or None,
    }


@router.delete("/{table_id}", status_code=204, summary="Delete an uploaded table", responses=problems(404))
async def delete(table_id: UUID, context: Context, _caller: AskCaller) -> Response:
    """Delete a table at once; trainings on it that have not begun are refused."""
    await delete_table(await context.pool(), table_id)
    return Response(status_code=204)

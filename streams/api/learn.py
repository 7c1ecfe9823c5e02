"""The pages on which a table is uploaded, its columns are mapped, and a line is trained on it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from uuid import UUID, uuid4

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from schemas import TWIN_TYPES, TwinType, catalogue_in_effect
from schemas.twin_types import catalogue_brand
from sql.training_store import list_trainings
from sql.upload_store import UnknownTable, UploadedTable, find_table, list_tables
from streams.api.access import AskCaller, Context, OperateCaller, ReadCaller
from streams.api.context import ApiContext
from streams.api.idempotency import Occasion
from streams.api.problems import Problem
from streams.api.trainings import TrainingBody, request_training
from streams.api.unavailable import Unavailable
from streams.errors import describe_error
from streams.operations.learning import TableForm, TableLine, fill_table_form
from streams.tables import entity_columns
from streams.training.uploaded_table import column_fields
from streams.web.assets import PAGE_POLICY, UPLOAD_SCRIPTS, asset
from streams.web.rendering import render_page

__all__ = ["router"]

router = APIRouter(include_in_schema=False, prefix="/learn")

_SHOWN = 50
_SECTION = "/learn"


class _Written(NamedTuple):
    """What the form of a table says.

    Attributes:
        columns: what was written for columns, by their place.
        training: id of the training that it has asked for, if any.
    """

    brand: str
    target: str
    columns: dict[int, str]
    training: str


@router.get("")
async def learn(context: Context, _caller: ReadCaller) -> HTMLResponse:
    """The form to upload a table, the stored tables, and the trainings."""
    content: dict[str, Any] = {"at": None}
    problem = ""
    try:
        pool = await context.pool()
        content = {
            "at": datetime.now(UTC),
            "tables": await list_tables(pool, _SHOWN),
            "trainings": await list_trainings(pool, _SHOWN),
        }
    except Unavailable as error:
        problem = describe_error(error)
    return _page(
        context,
        "learn.html",
        problem=problem,
        **content,
        twin_types=[kind.value for kind in TwinType],
        days=context.settings.upload_days,
        script=asset(UPLOAD_SCRIPTS[0]),
    )


@router.get("/{table_id}")
async def table(table_id: str, request: Request, context: Context, _caller: AskCaller) -> HTMLResponse:
    """A table with what each column is taken for, the check by it, and the trainings on it."""
    return await _table_page(context, table_id, _written(request.query_params.multi_items()))


@router.post("/{table_id}")
async def train(table_id: str, request: Request, context: Context, caller: OperateCaller) -> Response:
    """Ask for a training by what the form says; refused, the page has everything that was written, and why."""
    body = (await request.body()).decode(errors="replace")
    written = _written(parse_qsl(body, keep_blank_values=True))
    try:
        stored, form = await _form_of(context, table_id, written)
        if any(field.error for field in form.fields):
            return await _table_page(context, table_id, written, 422)
        fields = {"table_id": stored.table_id, "brand": written.brand, "target": written.target or None, "answers": form.answers}
        occasion = Occasion(datetime.now(UTC), uuid4())
        event = await request_training(context, caller, TrainingBody.model_validate(fields), occasion)
    except UnknownTable:
        return await _table_page(context, table_id, written)
    except (Problem, ValueError) as error:
        sentence = error.detail if isinstance(error, Problem) else describe_error(error)
        return await _table_page(context, table_id, written, 422, sentence)
    return RedirectResponse(f"{_SECTION}/{stored.table_id}?training={event.training_id}", 303)


async def _form_of(context: ApiContext, table_id: str, written: _Written) -> tuple[UploadedTable, TableForm]:
    """A table and its form.

    Raises:
        UnknownTable: when there is no such table.
        ValueError: for a brand or target that is not known.
    """
    pool = await context.pool()
    stored = await find_table(pool, _parse_id(table_id))
    line = TableLine(TwinType(stored.twin_type), catalogue_brand(written.brand), written.target or None)
    key = (stored.table_id, line, tuple(sorted(written.columns.items())))
    async with context.computing:
        if key not in context.forms:
            context.forms[key] = await fill_table_form(pool, stored.table_id, line, written.columns)
        return stored, context.forms[key]


async def _table_page(context: ApiContext, table_id: str, written: _Written, status: int = 200, refusal: str = "") -> HTMLResponse:
    """The page of a table with what was written."""
    pool = await context.pool()
    try:
        stored = await find_table(pool, _parse_id(table_id))
    except UnknownTable:
        sentence = "It was deleted, or is older than the tables that are kept: upload it again."
        return _page(context, "problem.html", 404, heading="No such table", sentence=sentence)
    line_error = ""
    try:
        _, form = await _form_of(context, table_id, written)
    except ValueError as error:
        line_error, refusal = describe_error(error), ""
        own = _written([*((f"c{place}", text) for place, text in written.columns.items()), ("brand", _DEFAULT_BRAND)])
        _, form = await _form_of(context, table_id, own)
    trainings = await list_trainings(pool, _SHOWN, table_id=stored.table_id)
    is_shown = any(str(training.training_id) == written.training for training in trainings)
    entry = TWIN_TYPES[TwinType(stored.twin_type)]
    return _page(
        context,
        "learn_table.html",
        status,
        at=datetime.now(UTC),
        table=stored,
        columns=list(zip(map(column_fields, form.view.guesses), form.fields, strict=True)),
        n_errors=sum(bool(field.error) for field in form.fields),
        report=form.view.report,
        problem=form.view.problem,
        refusal=refusal,
        line_error=line_error,
        features=list(entity_columns(TwinType(stored.twin_type))),
        brand=written.brand,
        brands=[str(brand) for brand in catalogue_in_effect().brands],
        target=written.target or entry.target(None).name,
        targets=list(entry.declared),
        trainings=trainings,
        published=bool(written.training) and not is_shown,
    )


_DEFAULT_BRAND = "kisqali"


def _parse_id(text: str) -> UUID:
    """The id of a table.

    Raises:
        UnknownTable: for a text that is none.
    """
    try:
        return UUID(text)
    except ValueError:
        raise UnknownTable(UUID(int=0)) from None


def _written(pairs: list[tuple[str, str]]) -> _Written:
    fields = dict(pairs)
    places = {int(name[1:]): text for name, text in fields.items() if name[:1] == "c" and name[1:].isdecimal() and len(name) < 6}
    return _Written(fields.get("brand", _DEFAULT_BRAND), fields.get("target", ""), places, fields.get("training", ""))


def _page(context: ApiContext, template: str, status: int = 200, problem: str = "", **content: Any) -> HTMLResponse:
    html = render_page(template, context.settings, _SECTION, context.page_state(problem), **content)
    return HTMLResponse(html, status, {"Content-Security-Policy": PAGE_POLICY})

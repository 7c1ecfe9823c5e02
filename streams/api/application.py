"""Builds the application of the role web: its endpoints, their errors and their description."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp

from streams.api import (
    answer_pages,
    ask,
    corrections,
    decisions,
    experiments,
    learn,
    models,
    outcomes,
    page,
    planning,
    records,
    sessions,
    simulations,
    tables,
    trainings,
)
from streams.api.access import Access, ReadCaller
from streams.api.context import ApiContext
from streams.api.guard import Guard
from streams.api.openapi import with_components
from streams.api.problems import ProblemDetails, add_problem_handlers

__all__ = ["PREFIX", "api_app", "fastapi_app"]

PREFIX = "/api/v1"
_SUBJECTS = (simulations, planning, outcomes, experiments, models, tables, trainings, decisions, records, corrections)
_DESCRIPTION = """\
Ask what a campaign will do, hand over what happened, and read what the service knows. Requests become events on Kafka; answers come
from what is stored. Errors are problem details (RFC 9457) that name the refused value and what is allowed."""


def api_app(context: ApiContext) -> ASGIApp:
    """The whole application, guarded."""
    return Guard(fastapi_app(context), context.settings)


def fastapi_app(context: ApiContext) -> FastAPI:
    """The endpoints. There is no page of documentation, as FastAPI's would load scripts from elsewhere."""
    app = FastAPI(title="Twinstream", version="1", description=_DESCRIPTION, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context, app.state.access = context, Access(context)
    add_problem_handlers(app)
    app.add_exception_handler(page.OtherPage, page.answer_other_page)
    for pages in (ask, learn, answer_pages, page, sessions):
        app.include_router(pages.router)
    for module in _SUBJECTS:
        app.include_router(module.router, prefix=PREFIX)

    @app.get("/openapi.json", include_in_schema=False)
    async def description(_caller: ReadCaller) -> JSONResponse:
        """The OpenAPI document."""
        return JSONResponse(_document(app))

    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an application."""
    document = app.openapi()
    return with_components(document, {"ProblemDetails": ProblemDetails.model_json_schema()})

"""Refused records, and the catalogue."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import BaseModel

from schemas import catalogue_in_effect
from sql.catalogue_store import AppliedVersion, catalogue_history
from sql.dead_letter_store import RefusalQuery, count_refused, find_refused
from sql.refusal_page_store import ListedRefusal, list_refusals
from streams.api.access import Context, OperateCaller, ReadCaller
from streams.api.bodies import json_response
from streams.api.paging import Cursor, Limit, page, read_cursor
from streams.api.problems import problems
from streams.api.shapes import DeadLetterShape, items_of, page_of, shape_of
from streams.catalogue.applying import catalogue_of_version
from streams.operations import load_dead_letters

__all__ = ["router"]

router = APIRouter()

Topic = Annotated[str | None, Query(max_length=200, description="Only records that arrived on this topic.")]
Kind = Annotated[str | None, Query(max_length=100, description="Only this kind of refusal.", examples=["invalid"])]
Waiting = Annotated[bool, Query(description="Only records that were never published again.")]


@router.get(
    "/dead-letters",
    tags=["dead letters"],
    summary="List refused records, newest first",
    response_model=page_of(shape_of(ListedRefusal)),
    responses=problems(),
)
async def list_letters(
    context: Context,
    _caller: ReadCaller,
    limit: Limit = 50,
    cursor: Cursor = None,
    topic: Topic = None,
    kind: Kind = None,
    waiting: Waiting = False,
) -> Response:
    """A page of refused records with the reason of each, without what is in them."""
    after = read_cursor(cursor, UUID)
    rows = await list_refusals(await context.pool(), limit + 1, topic=topic, kind=kind, unreplayed=waiting, after=after)
    return json_response(page(rows, limit, lambda row: (row.refused_at, row.refusal_id), ListedRefusal._asdict))


class CatalogueContent(BaseModel):
    """What requests may name; a catalogue file has the same entries."""

    version: int
    brands: dict[str, Any]
    campaigns: dict[str, Any]
    moderators: dict[str, Any]
    twin_types: dict[str, Any]
    levels: dict[str, Any]
    clinical_terms: list[str]
    drift_rules: dict[str, Any]
    thresholds: dict[str, Any]


class RefusalCount(BaseModel):
    """The number of refused records of a kind on a topic."""

    topic: str
    kind: str
    count: int
    newest: datetime


@router.get(
    "/dead-letters/counts",
    tags=["dead letters"],
    summary="Count refused records",
    response_model=items_of(RefusalCount),
    responses=problems(),
)
async def counts(
    context: Context, _caller: ReadCaller, topic: Topic = None, kind: Kind = None, waiting: Waiting = False
) -> Response:
    """Numbers of refused records by topic and kind."""
    return json_response({"items": await count_refused(await context.pool(), RefusalQuery(topic, kind, waiting))})


@router.get(
    "/dead-letters/{refusal_id}",
    tags=["dead letters"],
    summary="Show a refused record",
    response_model=DeadLetterShape,
    responses=problems(404),
)
async def show(refusal_id: UUID, context: Context, _caller: OperateCaller) -> Response:
    """Everything about a refused record, with its key, its value and its headers, which may name people."""
    pool = await context.pool()
    (letter,) = await load_dead_letters(pool, [await find_refused(pool, str(refusal_id))])
    return json_response(letter.to_dict())


@router.get(
    "/catalogue", tags=["catalogue"], summary="The catalogue in effect", response_model=CatalogueContent, responses=problems(404)
)
async def catalogue(
    context: Context,
    _caller: ReadCaller,
    version: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="An applied version; 0 is the built-in one.")] = None,
) -> Response:
    """Brands, campaigns, features, targets and limits that requests may name."""
    found_catalogue = catalogue_in_effect() if version is None else await catalogue_of_version(await context.pool(), version)
    return json_response({"version": found_catalogue.version, **found_catalogue.model_dump(mode="json")})


@router.get(
    "/catalogue/versions",
    tags=["catalogue"],
    summary="Applied versions, newest first",
    response_model=items_of(shape_of(AppliedVersion)),
    responses=problems(),
)
async def versions(context: Context, _caller: ReadCaller) -> Response:
    """When each version was applied, by whom and why."""
    return json_response({"items": [version._asdict() for version in await catalogue_history(await context.pool())]})

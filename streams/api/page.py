"""The pages of the service, with their scripts and styles, as the role web serves it."""

from __future__ import annotations

import gzip
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import cache
from http import HTTPStatus
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from schemas.base import shorten
from streams.api.access import Context, OperateCaller, ReadCaller
from streams.api.problems import Problem
from streams.web.assets import PAGE_POLICY, Asset, find_asset
from streams.web.change_feed import TooManyListeners
from streams.web.page_lists import PairParameters
from streams.web.pages import KINDS, PARAMETERS, PageAnswer

__all__ = ["OtherPage", "answer_other_page", "page_response", "router"]

router = APIRouter(include_in_schema=False)

_KEEP = "private, max-age=31536000, immutable"  # its address changes with its content


@router.get("/")
async def lines(request: Request, context: Context, _caller: ReadCaller) -> HTMLResponse:
    """The first page, which loads nothing from elsewhere; it answers also while Kafka or Postgres is out."""
    return page_response(await context.pages.lines(_parameters(request)))


@router.get("/lines/{name}")
async def line(name: str, request: Request, context: Context, _caller: ReadCaller) -> HTMLResponse:
    """The page of a line."""
    return page_response(await context.pages.line(name, _parameters(request)))


@router.get("/events")
async def events(context: Context, _caller: ReadCaller) -> StreamingResponse:
    """Server-sent events: ``change`` each time that what pages show has changed."""
    changes = context.feed.listen()
    try:
        await anext(changes)
    except TooManyListeners as error:
        raise Problem(503, str(error), {"Retry-After": "10"}) from None
    headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
    return StreamingResponse(_messages(changes), media_type="text/event-stream", headers=headers)


async def _messages(changes: AsyncGenerator[bool, None]) -> AsyncIterator[str]:
    async with aclosing(changes):
        yield "retry: 2000\n\n"
        async for has_changed in changes:
            yield "event: change\ndata: 1\n\n" if has_changed else ": no change\n\n"


@router.get("/static/{path:path}")
async def static(path: str, request: Request, _caller: ReadCaller) -> Response:
    """A script or a style of the page."""
    item = find_asset(f"/static/{path}")
    if item is None:
        raise Problem(404, "this script or style is of another version: load the page again")
    headers = {"Cache-Control": _KEEP, "Vary": "Accept-Encoding"}
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(item.content, media_type=item.media_type, headers=headers)
    return Response(_compressed(item), media_type=item.media_type, headers={**headers, "Content-Encoding": "gzip"})


def _add_lists(kind: str) -> None:
    """Add the addresses of a list and of the items in it."""

    @router.get(f"/{kind}")
    async def listed(request: Request, context: Context, _caller: ReadCaller) -> HTMLResponse:
        return page_response(await context.pages.listed(kind, _parameters(request)))

    @router.get(f"/{kind}/{{item_id}}")
    async def single(item_id: str, request: Request, context: Context, _caller: ReadCaller) -> HTMLResponse:
        _parameters(request)
        answer = await context.pages.single(kind, item_id)
        if answer.status == HTTPStatus.NOT_FOUND and kind == "simulations" and _was_published(context, item_id):
            answer = context.pages.published(UUID(item_id))
        return page_response(answer)


@router.get("/refused/{item_id}")
async def refused_record(item_id: str, request: Request, context: Context, _caller: OperateCaller) -> HTMLResponse:
    """A refused record with its bytes, which may name people."""
    _parameters(request)
    return page_response(await context.pages.single("refused", item_id))


for _kind in KINDS:
    _add_lists(_kind)


class OtherPage(Exception):  # it is no error of the service
    """Another page is the answer: one that tells why there is nothing to show."""

    def __init__(self, answer: PageAnswer) -> None:
        super().__init__(answer.status)
        self.answer = answer


async def answer_other_page(_request: Request, error: Exception) -> HTMLResponse:
    """Send the page of an :class:`OtherPage`."""
    assert isinstance(error, OtherPage)
    return page_response(error.answer)


def _was_published(context: Context, item_id: str) -> bool:
    try:
        return context.was_published(UUID(item_id))
    except ValueError:
        return False


def page_response(answer: PageAnswer) -> HTMLResponse:
    """A page as it is sent. Its forms tell the service where they come from, which browsers hide without a referrer."""
    return HTMLResponse(answer.html, answer.status, {"Content-Security-Policy": PAGE_POLICY, "Referrer-Policy": "same-origin"})


def _parameters(request: Request) -> PairParameters:
    """The parameters of a page's address.

    Raises:
        Problem: when there are others than pages take.
    """
    if unknown := sorted(request.query_params.keys() - set(PARAMETERS)):
        raise Problem(400, f"unknown parameter {shorten(unknown[0])}: use {', '.join(PARAMETERS)}")
    return PairParameters(request.query_params.multi_items())


@cache
def _compressed(item: Asset) -> bytes:
    return gzip.compress(item.content.encode())

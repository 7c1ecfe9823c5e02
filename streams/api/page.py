"""The page of the service, with its scripts and styles, as the role web serves it."""

from __future__ import annotations

import gzip
from functools import cache

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from streams.api.access import Context, ReadCaller
from streams.api.problems import Problem
from streams.outages import OUTAGES
from streams.web.assets import PAGE_POLICY, Asset, find_asset
from streams.web.dashboard import PageState, render_dashboard

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_KEEP = "private, max-age=31536000, immutable"  # its address changes with its content


@router.get("/")
async def page(context: Context, _caller: ReadCaller) -> HTMLResponse:
    """The page, which loads nothing from elsewhere; it answers also while Kafka or Postgres is out."""
    reading = await context.overview.read()
    state = PageState(outages=OUTAGES.current(), problem=reading.problem)
    html = render_dashboard(reading.overview, context.settings, state)
    return HTMLResponse(html, headers={"Content-Security-Policy": PAGE_POLICY})


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


@cache
def _compressed(item: Asset) -> bytes:
    return gzip.compress(item.content.encode())

"""Answers a browser that has asked for a page by a page, where a program gets problem details."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from streams.web.access_page import AccessPage, render_access_page
from streams.web.assets import PAGE_POLICY

__all__ = ["access_page", "page_of_problem"]

_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Referrer-Policy": "same-origin",  # else browsers send the origin null with the form
}
_FROM_ELSEWHERE = frozenset({"cross-site", "same-site"})


def access_page(page: AccessPage, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A page of this kind as an answer."""
    return HTMLResponse(render_access_page(page), status, {**_HEADERS, **(headers or {})})


def page_of_problem(
    request: Request, status: int, detail: str, headers: Mapping[str, str] | None, members: Mapping[str, Any]
) -> Response | None:
    """The page for a problem; None where the request is not for a page.

    Without a valid token the browser is sent to the log-in. It does not send its cookie with a link of another site: then the page
    loads itself again, which is a request of this site.
    """
    if not _wants_page(request):
        return None
    address = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if status == HTTPStatus.UNAUTHORIZED:
        if request.headers.get("sec-fetch-site") in _FROM_ELSEWHERE:
            return access_page(AccessPage("One moment", again=address), status, headers)
        return RedirectResponse(f"/login?next={quote(address, safe='')}", 303)
    sentences = [f"{detail[:1].upper()}{detail[1:]}."]
    scope = members.get("missing_scope")
    if scope is None:
        return access_page(AccessPage(HTTPStatus(status).phrase, sentences, link=("/", "Lines")), status, headers)
    sentences.append(f"Ask whoever runs the service for a token: `twinstream tokens create NAME --scope {scope}` makes one.")
    link = (f"/login?next={quote(address, safe='')}", "Log in with another token")
    return access_page(AccessPage(f"This needs the scope {scope}", sentences, link=link), status, headers)


def _wants_page(request: Request) -> bool:
    path = request.url.path
    return "text/html" in request.headers.get("accept", "") and not path.startswith("/api/") and path != "/openapi.json"

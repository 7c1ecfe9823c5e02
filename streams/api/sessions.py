"""Logs browsers in and out where requests need a token: the browser keeps the token in a cookie that no script can read.

The service stores nothing for it: the cookie has the token itself, of which the database has the hash. It is sent by pages of this
service only, and over TLS only.

References:
    West, Wilander (2024), Cookies: HTTP State Management Mechanism. draft-ietf-httpbis-rfc6265bis, sections 4.1.3.2 and 5.7.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from sql.api_token_store import ApiToken
from streams.api.access import SESSION_COOKIE, Access, require_own_page
from streams.api.bodies import media_type
from streams.api.pages_of_problems import access_page
from streams.api.problems import Problem
from streams.web.access_page import AccessPage, access_style

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_LONGEST_S = 30 * 86_400
_FORM = "application/x-www-form-urlencoded"
_FIELDS = 10
_WAY = "`twinstream tokens create NAME` prints a token once. This browser keeps it for 30 days, or until you log out."
_INVALID = "the token is unknown, revoked or expired"
_MAX_ADDRESS = 2000


@router.get("/login")
async def show_log_in(request: Request, target: Annotated[str, Query(alias="next")] = "/") -> Response:
    """The form, and who is logged in."""
    access, address = _access(request), _local_address(target)
    if access.is_open:
        return RedirectResponse(address, 303)
    secret = request.cookies.get(SESSION_COOKIE)
    if secret is None:
        access.require_pace(request)
        return access_page(AccessPage("Log in", [_WAY], has_form=True, target=address))
    token = await access.find(secret, request)
    if token is None:
        page = AccessPage("Log in", [f"You were logged out, as {_INVALID}. {_WAY}"], has_form=True, target=address)
        return _without_cookie(access_page(page))
    sentence = f"You are logged in with the token {token.name}, which allows {', '.join(token.scopes)}."
    page = AccessPage(
        "Log in",
        [sentence, "Enter another one to change that."],
        has_form=True,
        target=address,
        has_session=True,
        link=("/", "Lines"),
    )
    return access_page(page)


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Keep a token in the browser, and go on to the page that was asked for."""
    require_own_page(request)
    access, fields = _access(request), await _fields(request)
    secret, target = fields.get("token", "").strip(), _local_address(fields.get("next", "/"))
    token = await access.find(secret, request) if secret else None
    if token is None:
        problem = f"T{_INVALID[1:]}." if secret else "Enter a token."
        return access_page(AccessPage("Log in", [_WAY], has_form=True, problem=problem, target=target), 401 if secret else 422)
    response = RedirectResponse(target, 303)
    response.set_cookie(SESSION_COOKIE, secret, max_age=_lifetime_s(token), path="/", secure=True, httponly=True, samesite="strict")
    return response


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """Have the browser forget its token, which stays valid for others who have it."""
    require_own_page(request)
    return _without_cookie(RedirectResponse("/login", 303))


@router.get("/access.css")
async def style() -> Response:
    """The style of these pages."""
    return Response(access_style(), media_type="text/css")


def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access


def _without_cookie(response: Response) -> Response:
    response.delete_cookie(SESSION_COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return response


def _lifetime_s(token: ApiToken) -> int:
    if token.expires_at is None:
        return _LONGEST_S
    return max(1, min(_LONGEST_S, int((token.expires_at - datetime.now(UTC)).total_seconds())))


async def _fields(request: Request) -> dict[str, str]:
    """The fields of the form.

    Raises:
        Problem: when the body is none.
    """
    if media_type(request) != _FORM:
        raise Problem(415, f"the log-in takes a form, {_FORM}: programs send the header Authorization: Bearer TOKEN instead")
    try:
        parsed = parse_qs((await request.body()).decode(), max_num_fields=_FIELDS)
    except ValueError:
        raise Problem(400, "the body is no form") from None
    return {name: values[0] for name, values in parsed.items()}


def _local_address(target: str) -> str:
    """An address of this service to go to; the first page for any other text, which could lead to somebody else's page.

    >>> [_local_address(target) for target in ("/lines?q=a", "https://evil.example", "//evil.example", "/login")]
    ['/lines?q=a', '/', '/', '/']
    """
    is_local = target.startswith("/") and not target.startswith(("//", "/\\", "/login", "/logout")) and target.isprintable()
    return target if is_local and len(target) <= _MAX_ADDRESS else "/"

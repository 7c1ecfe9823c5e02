"""Who may do what: without a token on loopback, else with a bearer token of the needed scope, which browsers keep in a cookie.

References:
    Jones, Hardt (2012), The OAuth 2.0 Authorization Framework: Bearer Token Usage. RFC 6750.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

from cachetools import LRUCache, TTLCache
from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer

from sql.api_token_store import SCOPES, ApiToken, Scope, find_token, note_token_use, token_digest
from streams.api.context import ApiContext
from streams.api.problems import Problem
from streams.operations.operator import operator_name

__all__ = [
    "SESSION_COOKIE",
    "Access",
    "AskCaller",
    "Caller",
    "Context",
    "OperateCaller",
    "RateLimit",
    "ReadCaller",
    "require_own_page",
]

SESSION_COOKIE = "__Host-twinstream"
"""The cookie with the token of a browser; by this name browsers take it over TLS only, and from this host only."""

_REMEMBER_S = 5.0
"""For so long a token is not looked up again; a revoked one is refused then."""
_REMEMBERED = 1000
_BURST_S = 10.0
_CHALLENGE = 'Bearer realm="twinstream"'
_BEARER = HTTPBearer(auto_error=False, description="A token of `twinstream tokens create`; not needed on loopback.")
_COOKIE = APIKeyCookie(name=SESSION_COOKIE, auto_error=False, description="The token of a browser that has logged in at /login.")
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class Caller(NamedTuple):
    """Who sends a request, and what they may do; on loopback, where nobody needs a token, the user of this process."""

    name: str
    scopes: tuple[Scope, ...]


class Access:
    """Finds out who sends a request, and refuses those who may not.

    Args:
        context: settings, and Postgres with the tokens.
        clock: the monotonic clock.

    Attributes:
        is_open: whether nobody needs a token.
    """

    def __init__(self, context: ApiContext, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self.is_open = not context.settings.is_api_exposed
        self._tokens: TTLCache[bytes, ApiToken] = TTLCache(_REMEMBERED, _REMEMBER_S, timer=clock)
        self._rate = RateLimit(context.settings.api_rate_per_s, clock)

    async def caller(self, request: Request, needed: Scope) -> Caller:
        """Who sends a request that needs a scope.

        Raises:
            Problem: with status 401 for a request without a valid token, 403 for one without the scope and for one that changes
                something by the cookie from elsewhere, 429 for one too many.
        """
        secret = self._secret(request)
        if secret is None and self.is_open:
            self.require_pace(request)
            return Caller(operator_name(), SCOPES)
        if secret is None:
            self.require_pace(request)
            raise Problem(
                401, "this needs the header Authorization: Bearer TOKEN: `twinstream tokens create` makes one", _unknown()
            )
        token = await self.find(secret, request)
        if token is None:
            raise Problem(401, "the token is unknown, revoked or expired", _unknown("invalid_token"))
        self._require_pace(str(token.token_id))
        if needed not in token.scopes:
            challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{needed}"'
            raise Problem(
                403,
                f"the token {token.name} lacks the scope {needed}: it has {', '.join(token.scopes)}",
                {"WWW-Authenticate": challenge},
                missing_scope=needed,
            )
        return Caller(token.name, token.scopes)

    def _secret(self, request: Request) -> str | None:
        """The token of a request: that of the header, else that of a browser's cookie where a token is needed.

        Raises:
            Problem: with status 401 for another header, 403 for a request that changes something by the cookie from elsewhere.
        """
        header = request.headers.get("authorization")
        if header is None:
            cookie = None if self.is_open else request.cookies.get(SESSION_COOKIE)
            if cookie is not None and request.method not in _READS:
                require_own_page(request)
            return cookie
        scheme, _, secret = header.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            self.require_pace(request)
            raise Problem(401, "the header Authorization is not of the form Bearer TOKEN", _unknown("invalid_request"))
        return secret.strip()

    async def find(self, secret: str, request: Request) -> ApiToken | None:
        """The token with a secret, None when it is unknown, revoked or expired.

        Raises:
            Problem: with status 429 when the sender of the request guesses too often.
        """
        digest = token_digest(secret)
        token = self._tokens.get(digest)
        if token is None:
            self.require_pace(request)  # guesses are limited by their sender
            pool = await self._context.pool()
            token = await find_token(pool, digest)
            if token is None:
                return None
            today = datetime.now(UTC).date()
            if token.last_used_on != today:
                await note_token_use(pool, token.token_id, today)
            self._tokens[digest] = token
        return token

    def require_pace(self, request: Request) -> None:
        """Count a request of a sender who is not known by a token.

        Raises:
            Problem: with status 429 when it is one too many.
        """
        self._require_pace(request.client.host if request.client else "unknown")

    def _require_pace(self, sender: str) -> None:
        wait_s = self._rate.take(sender)
        if wait_s > 0:
            limit = self._context.settings.api_rate_per_s
            raise Problem(
                429,
                f"more than {limit:g} requests a second (TWIN_API_RATE_PER_S): try again in {math.ceil(wait_s)} s",
                {"Retry-After": str(math.ceil(wait_s))},
            )


def require_own_page(request: Request) -> None:
    """Check that a page of this service sends a request. One of another page is refused before; here a browser has to tell it.

    Raises:
        Problem: with status 403 when nothing tells it.
    """
    if request.headers.get("sec-fetch-site") != "same-origin" and request.headers.get("origin") is None:
        raise Problem(
            403, "a request with the cookie comes from a page of this service: programs send the header Authorization: Bearer TOKEN"
        )


class RateLimit:
    """Limits how often each sender may send: a bucket that fills at a rate, and holds what it gives in ten seconds.

    Args:
        per_s: requests a second.
        clock: the monotonic clock.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._clock = per_s, clock
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(_REMEMBERED)  # what is left, and when it was counted

    def take(self, sender: str) -> float:
        """Take one request of a sender; returns 0, or the seconds to wait where none is left."""
        full = max(1.0, self._per_s * _BURST_S)
        now = self._clock()
        left, counted_s = self._buckets.get(sender, (full, now))
        left = min(full, left + (now - counted_s) * self._per_s)
        if left < 1:
            self._buckets[sender] = left, now
            return (1 - left) / self._per_s
        self._buckets[sender] = left - 1, now
        return 0.0


def _unknown(error: str | None = None) -> dict[str, str]:
    return {"WWW-Authenticate": _CHALLENGE if error is None else f'{_CHALLENGE}, error="{error}"'}


def _context_of(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


def _requires(scope: Scope) -> Callable[[Request, object, object], Awaitable[Caller]]:
    async def caller(
        request: Request, _credentials: Annotated[object, Security(_BEARER)], _cookie: Annotated[object, Security(_COOKIE)]
    ) -> Caller:
        access: Access = request.app.state.access
        return await access.caller(request, scope)

    caller.__doc__ = f"The caller, who may {scope}."
    return caller


Context = Annotated[ApiContext, Depends(_context_of)]
ReadCaller = Annotated[Caller, Depends(_requires("read"))]
AskCaller = Annotated[Caller, Depends(_requires("ask"))]
OperateCaller = Annotated[Caller, Depends(_requires("operate"))]

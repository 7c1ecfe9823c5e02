"""Guards every request before an endpoint sees it: its host, its origin, the size and the pace of its body; and every answer.

A page of somebody else that an analyst opens can send requests to this machine. Browsers tell so in the header ``Sec-Fetch-Site``,
or name that page in the header ``Origin``: such a request is refused, and no answer allows another origin to read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.base import shorten
from streams.api.problems import Problem, problem_response
from streams.settings import Settings
from streams.web import SECURITY_HEADERS, allowed_names, refuse_host

__all__ = ["UPLOAD_TYPES", "Guard"]

UPLOAD_TYPES = frozenset({"text/csv", "application/vnd.apache.parquet", "application/cloudevents-batch+json"})
"""Types of bodies that may be as large as an upload."""
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_MEGABYTE = 1_000_000


class Guard:
    """Passes allowed requests on to an application.

    Args:
        app: the application.
        settings: names of hosts, and limits.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._allowed: Collection[str] = allowed_names((*settings.host_names, settings.api_host))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        has_begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                answer = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        refusal = self._refuse(scope, headers)
        if refusal is not None:
            await problem_response(*refusal)(scope, receive, send_guarded)
            return
        try:
            await self._app(scope, self._bounded(receive, headers), send_guarded)
        except Exception:
            if not has_begun:  # else it is logged and answered
                raise

    def _refuse(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Status and reason, where the request is refused."""
        server = scope.get("server")
        target = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        refusal = refuse_host(headers.getlist("host"), target, self._allowed, server[0] if server else None)
        if refusal is not None:
            return refusal
        if scope["method"] not in _READS and (foreign := _foreign_origin(headers)) is not None:
            return 403, f"a page of {foreign} may not send requests to this service"
        length = headers.get("content-length", "0")
        limit = self._limit(headers)
        if length.isdecimal() and int(length) > limit * _MEGABYTE:
            return 413, self._too_large(headers)
        return None

    def _limit(self, headers: Headers) -> float:
        """Most megabytes of the body."""
        return self._settings.api_max_upload_mb if _is_upload(headers) else self._settings.api_max_body_mb

    def _too_large(self, headers: Headers) -> str:
        setting = "TWIN_API_MAX_UPLOAD_MB" if _is_upload(headers) else "TWIN_API_MAX_BODY_MB"
        return f"the body is larger than {self._limit(headers):g} MB ({setting}): send it in parts"

    def _bounded(self, receive: Receive, headers: Headers) -> Receive:
        """Receive a body that is not larger, and does not come slower, than the settings allow."""
        limit, received, is_complete = self._limit(headers) * _MEGABYTE, 0, False

        async def receive_bounded() -> Message:
            nonlocal received, is_complete
            if is_complete:
                return await receive()  # waits for the end of the connection
            try:
                message = await asyncio.wait_for(receive(), self._settings.web_idle_s)
            except TimeoutError:
                idle_s = self._settings.web_idle_s
                raise Problem(
                    408, f"nothing of the body has come for {idle_s:g} s (TWIN_WEB_IDLE_S)", {"Connection": "close"}
                ) from None
            received += len(message.get("body", b""))
            if received > limit:
                raise Problem(413, self._too_large(headers), {"Connection": "close"})
            is_complete = not message.get("more_body", False)
            return message

        return receive_bounded


def _is_upload(headers: Headers) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() in UPLOAD_TYPES


def _foreign_origin(headers: Headers) -> str | None:
    """The origin of the page that sends a request, where that is not a page of the host that the request goes to."""
    site = headers.get("sec-fetch-site")
    if site == "same-origin":  # browsers tell it, and no page can
        return None
    if site not in {None, "none"}:
        return shorten(headers.get("origin", "another site"))
    origin = headers.get("origin")
    if origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower():
        return None
    return shorten(origin)

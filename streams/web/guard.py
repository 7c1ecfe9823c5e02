"""Guards the web applications: which host names they answer to, which parameters they take, what browsers may do with answers.

A browser sends the name from its address bar as the header ``Host``. A page of somebody else can let its own name point to this
machine (DNS rebinding) and would then read what is served here; so only names that belong to this service are answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from ipaddress import ip_address

from aiohttp import web

from schemas.base import shorten

__all__ = ["guarded_app", "require_known_parameters"]

ANY_HOST = "*"
_MAX_PARAMETERS, _MAX_PARAMETER_CHARACTERS = 50, 200
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guarded_app(hosts: Iterable[str] = ()) -> web.Application:
    """An application that answers to loopback, to the address that a request came to, and to these host names; ``*`` allows all.

    Every answer, also one of an error, tells browsers not to frame, cache or reinterpret it; a handler may set its own values.
    """
    allowed = {_host_name(host) for host in hosts}

    @web.middleware
    async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
        _require_allowed_host(request, allowed)
        return await handler(request)

    app = web.Application(middlewares=[check_host])
    app.on_response_prepare.append(_add_headers)
    return app


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def _require_allowed_host(request: web.Request, allowed: Collection[str]) -> None:
    names = [_host_name(header) for header in request.headers.getall("Host", [""])]
    if ANY_HOST in allowed or (len(names) == 1 and (names[0] in allowed or _is_own(names[0], request))):
        return
    text = f"this is not {shorten(names[0])}: ask for localhost, or name the host in TWIN_ALLOWED_HOSTS\n"
    raise web.HTTPMisdirectedRequest(text=text)


def _host_name(header: str) -> str:
    """The name in a header ``Host``, without its port and in small letters; the header as it is where it has no such form.

    >>> _host_name("Worker:6066"), _host_name("[::1]:6066"), _host_name("localhost."), _host_name("a:b:c")
    ('worker', '::1', 'localhost', 'a:b:c')
    """
    name, colon, port = header.rpartition(":")
    if not (colon and port.isdecimal()):
        name = header
    return name.removeprefix("[").removesuffix("]").removesuffix(".").casefold()


def _is_own(name: str, request: web.Request) -> bool:
    """Whether a name is loopback or the address that the request came to; a numeric address cannot be rebound."""
    if name == "localhost":
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    own = request.transport.get_extra_info("sockname") if request.transport else None
    return address.is_loopback or (own is not None and address == ip_address(own[0]))


def require_known_parameters(request: web.Request, names: Collection[str] = ()) -> None:
    """Refuse parameters of an address that are not among these names, and values that are too long or too many.

    Raises:
        web.HTTPBadRequest: with the parameter that is refused.
    """
    for name, value in request.query.items():
        if name not in names:
            known_names = f"use {', '.join(sorted(names))}" if names else "there are none"
            raise web.HTTPBadRequest(text=f"unknown parameter {shorten(name)}: {known_names}\n")
        if len(value) > _MAX_PARAMETER_CHARACTERS:
            raise web.HTTPBadRequest(text=f"parameter {name} has more than {_MAX_PARAMETER_CHARACTERS} characters\n")
    if len(request.query) > _MAX_PARAMETERS:
        raise web.HTTPBadRequest(text=f"there are more than {_MAX_PARAMETERS} parameters\n")

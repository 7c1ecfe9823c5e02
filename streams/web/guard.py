"""Guards the web applications: which host names they answer to, which parameters they take, what browsers may do with answers.

A browser sends the name from its address bar as the header ``Host``. A page of somebody else can let its own name point to this
machine (DNS rebinding) and would then read what is served here; so only names that belong to this service are answered.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

from aiohttp import web

from schemas.base import shorten

__all__ = ["SECURITY_HEADERS", "HostRefusal", "allowed_names", "guarded_app", "refuse_host", "require_known_parameters"]

ANY_HOST = "*"
_MAX_PARAMETERS, _MAX_PARAMETER_CHARACTERS = 50, 200
_MAX_NAME_CHARACTERS, _MAX_PORT = 253, 65_535
_LABEL = r"[a-z0-9_-]{1,63}"  # with the underscore of Docker's names
_HOST = re.compile(rf"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>{_LABEL}(?:\.{_LABEL})*))(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII)
SECURITY_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cache-Control": "no-store",
    }
)
"""Headers of every answer, unless a handler has set its own."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guarded_app(hosts: Iterable[str] = ()) -> web.Application:
    """An application that answers to loopback, to the address that a request came to, and to these host names; ``*`` allows all.

    Every answer, also one of an error, tells browsers not to frame, cache or reinterpret it; a handler may set its own values.
    """
    allowed = allowed_names(hosts)

    @web.middleware
    async def check_request(request: web.Request, handler: Handler) -> web.StreamResponse:
        _require_allowed_host(request, allowed)
        _require_no_body(request)
        return await handler(request)

    app = web.Application(middlewares=[check_request])
    app.on_response_prepare.append(_add_headers)
    return app


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)


class HostRefusal(NamedTuple):
    """Why the host of a request is refused: the status of the answer, and a sentence without its full stop."""

    status: int
    reason: str


def allowed_names(hosts: Iterable[str]) -> frozenset[str]:
    """The names of these hosts as :func:`refuse_host` compares them."""
    return frozenset(map(_configured_name, hosts))


def refuse_host(headers: Sequence[str], target: str, allowed: Collection[str], own_address: str | None) -> HostRefusal | None:
    """Why a request is refused because of the host that it asks for, None when it is not.

    Args:
        headers: its headers ``Host``.
        target: what it asks for: a path, or an address with the host in it, which counts too.
        allowed: names of hosts; ``*`` allows all. Loopback and the address that the request came to are allowed as well.
        own_address: this address.
    """
    if len(headers) != 1:
        return HostRefusal(400, f"a request has one header Host, not {len(headers)}")
    hosts = headers if target.startswith(("/", "*")) else (headers[0], urlsplit(target).netloc or target)
    refusals = (_refuse_name(host, allowed, own_address) for host in hosts)
    return next((refusal for refusal in refusals if refusal is not None), None)


def _refuse_name(host: str, allowed: Collection[str], own_address: str | None) -> HostRefusal | None:
    name = _parse_host(host)
    if name is None:
        return HostRefusal(
            400, f"the host {shorten(host)} is not a name or an address, with or without a port from 1 to {_MAX_PORT}"
        )
    if ANY_HOST not in allowed and name not in allowed and not _is_own(name, own_address):
        return HostRefusal(421, f"this is not {shorten(name)}: ask for localhost, or name the host in TWIN_ALLOWED_HOSTS")
    return None


def _require_allowed_host(request: web.Request, allowed: Collection[str]) -> None:
    own = request.transport.get_extra_info("sockname") if request.transport else None
    refusal = refuse_host(request.headers.getall("Host", []), request.raw_path, allowed, own[0] if own else None)
    if refusal is not None:
        error = web.HTTPBadRequest if refusal.status == 400 else web.HTTPMisdirectedRequest
        raise error(text=f"{refusal.reason}\n")


def _require_no_body(request: web.Request) -> None:
    """Refuse a body, which nothing here reads, and close its connection instead of waiting for its end."""
    if request.body_exists:
        refusal = web.HTTPBadRequest(text="a request to this address has no body\n")
        refusal.force_close()
        raise refusal


def _parse_host(header: str) -> str | None:
    """The name or address in a header ``Host``, without its port and in small letters; None where it has another form.

    >>> _parse_host("Worker:6066"), _parse_host("[::1]:6066"), _parse_host("localhost:"), _parse_host("a@localhost")
    ('worker', '::1', None, None)
    """
    match = _HOST.fullmatch(header.lower())
    if match is None or len(header) > _MAX_NAME_CHARACTERS + len(":65535") or not 1 <= int(match["port"] or 1) <= _MAX_PORT:
        return None
    if match["address"] is None:
        return match["name"]
    try:
        return str(IPv6Address(match["address"]))
    except ValueError:
        return None


def _configured_name(host: str) -> str:
    """The name of a host in the settings, where a port, brackets or the final dot of a name may follow or be missing.

    >>> _configured_name("Worker:6066"), _configured_name("[::1]:6066"), _configured_name("::1"), _configured_name("twins.example.")
    ('worker', '::1', '::1', 'twins.example')
    """
    name, colon, port = host.rpartition(":")
    if not (colon and port.isdecimal() and (":" not in name or name.endswith("]"))):
        name = host
    return name.removeprefix("[").removesuffix("]").removesuffix(".").casefold()


def _is_own(name: str, own_address: str | None) -> bool:
    """Whether a name is loopback or the address that the request came to; a numeric address cannot be rebound."""
    if name == "localhost":
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or (own_address is not None and address == ip_address(own_address))


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

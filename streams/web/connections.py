"""Bounds the connections of a web server, so that idle ones of anybody do not take the files that the process needs.

A connection without a complete request for some time is closed, also one that sends its headers slowly. Among more connections than
the bound, a new one takes the place of the oldest one without a request in work; when all have one, it is answered with status 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, cast

from aiohttp import web
from aiohttp.typedefs import Middleware

__all__ = ["ConnectionLimits", "listening"]

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\nRetry-After: 1\r\n\r\n"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ConnectionLimits(NamedTuple):
    """Limits of a web server.

    Attributes:
        at_once: most connections at once.
        idle_s: seconds after which a connection without a complete request is closed.
    """

    at_once: int = 100
    idle_s: float = 10.0


@asynccontextmanager
async def listening(app: web.Application, host: str, port: int, limits: ConnectionLimits, shutdown_s: float) -> AsyncIterator[int]:
    """Serve an application within limits, and yield its port; what is in work has ``shutdown_s`` to end.

    Raises:
        OSError: when the port is taken.
    """
    connections = _Connections(limits.at_once)
    app.middlewares.append(connections.while_in_work)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=shutdown_s, keepalive_timeout=limits.idle_s)
    await runner.setup()
    try:
        handle = cast("Callable[[], asyncio.Protocol]", runner.server)
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(connections, handle()), host, port)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
    finally:
        await runner.cleanup()


class _Connections:
    """The open connections of a server, the oldest first."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._open: dict[asyncio.BaseTransport, None] = {}
        self._in_work: set[asyncio.BaseTransport] = set()

    @property
    def while_in_work(self) -> Middleware:
        """The middleware that notes which connections have a request in work."""

        @web.middleware
        async def handle_request(request: web.Request, handler: Handler) -> web.StreamResponse:
            transport = request.transport
            if transport is None:
                return await handler(request)
            self._in_work.add(transport)
            try:
                return await handler(request)
            finally:
                self._in_work.discard(transport)

        return handle_request

    def admit(self, transport: asyncio.BaseTransport) -> bool:
        """Whether there is room for a new connection, for which an older one may be closed."""
        if len(self._open) >= self._at_once:
            idle = next((older for older in self._open if older not in self._in_work), None)
            if idle is None:
                return False
            self.remove(idle)
            cast("asyncio.WriteTransport", idle).abort()
        self._open[transport] = None
        return True

    def remove(self, transport: asyncio.BaseTransport) -> None:
        """Forget a connection that is closed."""
        self._open.pop(transport, None)


class _Connection(asyncio.Protocol):
    """Passes what happens to a connection on to its handler, once there is room for it."""

    def __init__(self, connections: _Connections, handler: asyncio.Protocol) -> None:
        self._connections = connections
        self._handler: asyncio.Protocol = handler
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand a connection over to its handler, or refuse it."""
        self._transport = transport
        if not self._connections.admit(transport):
            self._handler = asyncio.Protocol()
            refused = cast("asyncio.WriteTransport", transport)
            refused.write(_FULL)
            refused.close()
        self._handler.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room."""
        if self._transport is not None:
            self._connections.remove(self._transport)
        self._handler.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on."""
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        """Pass on."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass on."""
        self._handler.resume_writing()

"""Serves the API with uvicorn: on a socket of its own, with limits on its connections, and with TLS where the settings name it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from streams.api.application import api_app
from streams.api.context import ApiContext
from streams.settings import Settings

__all__ = ["require_safe_exposure", "serving_api"]

_SHUTDOWN_S = 2
_BACKLOG = 128


@asynccontextmanager
async def serving_api(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """Serve the API while the block runs, and yield the task that ends when the server does.

    Raises:
        ValueError: when the settings would open it to a network without protection; it names them.
        OSError: when the port is taken, or a file of the certificate cannot be read.
    """
    require_safe_exposure(settings)
    async with ApiContext.open(settings) as context:
        with _bound_socket(*settings.api_address) as listener:
            server = _Server(_config(settings, context))
            serving = asyncio.create_task(server.serve(sockets=[listener]), name="the HTTP API")
            try:
                yield serving
            finally:
                context.close_streams()
                server.should_exit = True
                await asyncio.wait({serving})


def require_safe_exposure(settings: Settings) -> None:
    """Check that a network reaches the API only by TLS.

    Raises:
        ValueError: when it would not; it names the settings.
    """
    certificate, key = settings.api_certificate_file, settings.api_key_file
    if (certificate is None) != (key is None):
        raise ValueError("TWIN_API_CERTIFICATE_FILE and TWIN_API_KEY_FILE belong together: set both, or none")
    if not settings.is_api_on_loopback and certificate is None and not settings.web_behind_proxy:
        raise ValueError(
            f"TWIN_API_HOST={settings.api_host} opens the API to a network: set TWIN_API_CERTIFICATE_FILE and TWIN_API_KEY_FILE, or"
            " TWIN_WEB_BEHIND_PROXY=1 where a proxy in front of it speaks TLS, or use 127.0.0.1"
        )


def _config(settings: Settings, context: ApiContext) -> uvicorn.Config:
    config = uvicorn.Config(
        api_app(context),
        http=_BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # limits and logs go by the connection: whoever connects could write the header
        timeout_keep_alive=max(1, round(settings.web_idle_s)),
        limit_concurrency=settings.web_connections + 1,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        ssl_certfile=settings.api_certificate_file,
        ssl_keyfile=settings.api_key_file,
    )
    config.load()  # also reads the certificate
    return config


@contextmanager
def _bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((host, port), family=_family(host), backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(error.errno, f"cannot listen on {host}:{port} ({reason}): set TWIN_API_HOST or TWIN_API_PORT") from error
    with listener:
        yield listener


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _Server(uvicorn.Server):
    """A server that leaves signals to the process of the role."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


class _BoundedProtocol(H11Protocol):
    """Closes a connection that sends no complete head of a request for as long as an idle one may be kept."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch the connection."""
        super().connection_made(transport)
        self._last_cycle: Any = self
        self._watch()

    def _watch(self) -> None:
        """Close the connection when there was no request since the last look."""
        if self.transport.is_closing():
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self._last_cycle is self.cycle:
            self.transport.close()
            return
        self._last_cycle = self.cycle
        self.loop.call_later(self.timeout_keep_alive, self._watch)

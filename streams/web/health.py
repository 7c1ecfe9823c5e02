"""HTTP endpoints of a role's process: metrics for Prometheus, liveness for its supervisor, readiness for a load balancer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler

from streams.metrics import REGISTRY
from streams.retries import oldest_unfinished_s

__all__ = ["HealthProbe", "health_app", "serve_app"]

ProcessCollector(registry=REGISTRY)
SHUTDOWN_S = 2.0


@dataclass(frozen=True)
class HealthProbe:
    """State of a role's process, read at each request.

    Attributes:
        unready: returns the reason why the role does not process events yet, None when it does.
        last_poll_s: returns the seconds since the last poll of Kafka, None before the first.
        stuck_s: the process is not alive when an event takes longer, or the last poll is longer ago.
    """

    role: str
    unready: Callable[[], str | None]
    last_poll_s: Callable[[], float | None]
    stuck_s: float


def health_app(probe: HealthProbe) -> web.Application:
    """Build the application that serves ``/metrics``, ``/health`` and ``/ready``; the latter two answer 503 when not."""

    async def health(_request: web.Request) -> web.Response:
        oldest_s, poll_s = oldest_unfinished_s(probe.role), probe.last_poll_s()
        alive = max(oldest_s, poll_s or 0.0) < probe.stuck_s
        body = {
            "role": probe.role,
            "alive": alive,
            "oldest_unfinished_s": round(oldest_s, 3),
            "last_poll_s": poll_s and round(poll_s, 3),
        }
        return web.json_response(body, status=200 if alive else 503)

    async def ready(_request: web.Request) -> web.Response:
        reason = probe.unready()
        return web.json_response({"role": probe.role, "ready": reason is None, "reason": reason}, status=503 if reason else 200)

    app = web.Application()
    app.add_routes([web.get("/metrics", make_aiohttp_handler(REGISTRY)), web.get("/health", health), web.get("/ready", ready)])
    return app


@asynccontextmanager
async def serve_app(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve an application and yield its port; port 0 chooses a free one.

    Raises:
        OSError: when the port is taken, naming the setting that changes it.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        yield await _listen(runner, host, port)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> int:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port} ({error.strerror}): set TWIN_WEB_PORT") from error
    return int(runner.addresses[0][1])

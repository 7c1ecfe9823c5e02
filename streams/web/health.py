"""The small site of a role's process: what Prometheus, a load balancer and a supervisor ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, ProcessCollector, generate_latest

from streams.metrics import REGISTRY
from streams.retries import oldest_unfinished_s

__all__ = ["HealthProbe", "health_app", "serve_app"]

ProcessCollector(registry=REGISTRY)
GRACE_S = 2.0


@dataclass(frozen=True)
class HealthProbe:
    """How a role's process is asked whether it lives and whether it works.

    Attributes:
        unready: why it does not take events yet, None when it does.
        last_poll_s: seconds since it last asked Kafka for records, None before the first time.
        stuck_s: an event that takes longer, or a poll longer ago, means that the process should be restarted.
    """

    role: str
    unready: Callable[[], str | None]
    last_poll_s: Callable[[], float | None]
    stuck_s: float


def health_app(pulse: HealthProbe) -> web.Application:
    """``/metrics`` for Prometheus, ``/health`` for who restarts the process, ``/ready`` for who sends work to it."""

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(_request: web.Request) -> web.Response:
        oldest, poll = oldest_unfinished_s(pulse.role), pulse.last_poll_s()
        alive = max(oldest, poll or 0.0) < pulse.stuck_s
        told = {"role": pulse.role, "alive": alive, "oldest_unfinished_s": round(oldest, 3), "last_poll_s": poll and round(poll, 3)}
        return web.json_response(told, status=200 if alive else 503)

    async def ready(_request: web.Request) -> web.Response:
        reason = pulse.unready()
        return web.json_response({"role": pulse.role, "ready": reason is None, "reason": reason}, status=503 if reason else 200)

    site = web.Application()
    site.add_routes([web.get("/metrics", metrics), web.get("/health", health), web.get("/ready", ready)])
    return site


@asynccontextmanager
async def serve_app(site: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve a site and give its port; 0 asks for a free one.

    Raises:
        OSError: when the port is taken, naming the setting that moves it.
    """
    runner = web.AppRunner(site, access_log=None, shutdown_timeout=GRACE_S)
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

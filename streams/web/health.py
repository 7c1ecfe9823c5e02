"""HTTP endpoints of a role's process: metrics for Prometheus, and whether the role is alive and ready."""

from __future__ import annotations

import asyncio
import gzip
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import cast

from aiohttp import web
from aiohttp.log import server_logger
from prometheus_client import ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler

from streams.metrics import REGISTRY
from streams.web.connections import ConnectionLimits, listening
from streams.web.guard import guarded_app, require_known_parameters
from streams.web.malformed import MALFORMED_REQUESTS

__all__ = ["HealthProbe", "health_app", "serve_app"]

ProcessCollector(registry=REGISTRY)
SHUTDOWN_S = 2.0
DEFAULT_LIMITS = ConnectionLimits()
_SCRAPE_S, _SCRAPES_PER_PERIOD = 1.0, 5
_ScrapeKey = tuple[str, str, bool]  # the parameters, the accepted formats, and whether compression is accepted


@dataclass(frozen=True)
class HealthProbe:
    """State of a role's process, read at each request.

    Attributes:
        live_problems: returns what hangs, in plain words; the role is alive when there is nothing.
        ready_problems: returns why the role does not process events now; the role is ready when there is nothing.
        details: returns figures for the answer about liveness.
        waits_for_server: returns whether Kafka, Postgres or MLflow does not answer.
        behind: returns the number of waiting records of each partition that has any.
    """

    role: str
    live_problems: Callable[[], Sequence[str]]
    ready_problems: Callable[[], Sequence[str]]
    details: Callable[[], Mapping[str, float | None]] = dict
    waits_for_server: Callable[[], bool] = lambda: False
    behind: Callable[[], Mapping[str, int]] = dict


def health_app(probe: HealthProbe, hosts: Iterable[str] = ()) -> web.Application:
    """Build the application that serves ``/metrics``, ``/live`` (alias ``/health``) and ``/ready``; they answer 503 when not.

    It answers to loopback, its own address and the names in ``hosts``. An event loop that hangs answers nothing: whoever asks has
    to set a time limit.
    """

    async def live(_request: web.Request) -> web.Response:
        problems = probe.live_problems()
        body = {"role": probe.role, "alive": not problems, "reason": "; ".join(problems) or None, **probe.details()}
        return web.json_response(body, status=503 if problems else 200)

    async def ready(_request: web.Request) -> web.Response:
        problems = probe.ready_problems()
        body = {
            "role": probe.role,
            "ready": not problems,
            "reason": "; ".join(problems) or None,
            "waits_for_server": bool(problems) and probe.waits_for_server(),
            "behind": probe.behind(),
        }
        return web.json_response(body, status=503 if problems else 200)

    scrapes = _Scrapes()

    async def metrics(request: web.Request) -> web.StreamResponse:
        require_known_parameters(request, ["name[]"])
        return await scrapes.answer(request)

    app = guarded_app(hosts)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/ready", ready)
    for path in ("/live", "/health"):
        app.router.add_get(path, live)
    return app


class _Scrapes:
    """Answers requests for metrics: equal ones within a second have one answer, as it costs much, and more different ones wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._write = make_aiohttp_handler(REGISTRY, disable_compression=True)
        self._began_s = -math.inf
        self._answers: dict[_ScrapeKey, tuple[bytes, dict[str, str]]] = {}

    async def answer(self, request: web.Request) -> web.Response:
        """The metrics as they were at most a second ago.

        Raises:
            web.HTTPTooManyRequests: when there were too many different requests within this second.
        """
        await asyncio.sleep(0)  # requests of one connection that wait in a row leave the event loop to others
        accepts_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
        key = request.query_string, request.headers.get("Accept", ""), accepts_gzip
        if self._clock() - self._began_s >= _SCRAPE_S:
            self._began_s = self._clock()
            self._answers.clear()
        if key not in self._answers:
            if len(self._answers) >= _SCRAPES_PER_PERIOD:
                raise web.HTTPTooManyRequests(
                    text="at most 5 different requests for metrics a second\n", headers={"Retry-After": "1"}
                )
            written = cast("web.Response", await self._write(request))
            body, content_type = cast("bytes", written.body), {"Content-Type": written.headers["Content-Type"]}
            compressed = (gzip.compress(body, 1), {**content_type, "Content-Encoding": "gzip"})
            self._answers[key] = compressed if accepts_gzip else (body, content_type)
        body, headers = self._answers[key]
        return web.Response(body=body, headers=headers)


@asynccontextmanager
async def serve_app(
    app: web.Application, host: str, port: int, setting: str = "TWIN_WEB_PORT", limits: ConnectionLimits = DEFAULT_LIMITS
) -> AsyncIterator[int]:
    """Serve an application and yield its port; port 0 chooses a free one.

    Raises:
        OSError: when the port is taken, naming the ``setting`` that changes it.
    """
    server_logger.addFilter(MALFORMED_REQUESTS)
    async with AsyncExitStack() as resources:
        try:
            bound_port = await resources.enter_async_context(listening(app, host, port, limits, SHUTDOWN_S))
        except OSError as error:
            reason = error.strerror or error
            raise OSError(error.errno, f"cannot listen on {host}:{port} ({reason}): set {setting}") from error
        yield bound_port

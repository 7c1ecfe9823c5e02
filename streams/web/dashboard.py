"""The pages of a running service over HTTP, which answer also while Kafka or Postgres is out, and tell when they have changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from types import MappingProxyType

from aiohttp import web

from streams.dependencies import DependencyMonitor, role_probes
from streams.outages import OUTAGES
from streams.settings import Role, Settings
from streams.web.assets import PAGE_POLICY, find_asset
from streams.web.change_feed import ChangeFeed, TooManyListeners
from streams.web.connections import ConnectionLimits
from streams.web.guard import guarded_app, require_known_parameters
from streams.web.health import serve_app
from streams.web.page_reader import PageReader
from streams.web.pages import KINDS, PARAMETERS, PageAnswer, Pages
from streams.web.rendering import PageState

__all__ = ["dashboard_app", "serve_dashboard"]

_PAGES = web.AppKey("pages", Pages)
_FEED = web.AppKey("feed", ChangeFeed)
_KEEP = "public, max-age=31536000, immutable"
_RETRY = b"retry: 2000\n\n"
_ALL_READY: Mapping[Role, str] = MappingProxyType({})

StartingRoles = Callable[[], Mapping[Role, str]]
"""Returns what each role does that is not ready yet."""
ServerProblems = Callable[[], Sequence[str]]
"""Returns what happens to servers of the local stack that have ended, a sentence each without its full stop."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _no_role() -> Mapping[Role, str]:
    return _ALL_READY


def dashboard_app(
    settings: Settings, starting: StartingRoles = _no_role, server_problems: ServerProblems = tuple
) -> web.Application:
    """The web application with the pages, their scripts and styles, and the events that tell of changes."""

    def state(problem: str) -> PageState:
        activities: dict[str, str] = {role: activity for role, activity in starting().items()}  # noqa: C416  # wider keys
        return PageState(activities, OUTAGES.current(), problem, server_problems(), settings.local_api)

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        reader = PageReader(settings)
        app[_PAGES] = Pages(reader, settings, state)
        app[_FEED] = ChangeFeed(app[_PAGES].change_mark)
        with DependencyMonitor(role_probes(settings), settings.probe_interval_s, settings.probe_timeout_s).running():
            async with app[_FEED].running():
                yield
        reader.close()

    app = guarded_app(settings.host_names)
    app.router.add_get("/events", _tell_changes)
    app.router.add_get("/static/{path:.+}", _serve_asset)
    app.router.add_get("/", _page(lambda pages, request: pages.lines(request.query)))
    app.router.add_get("/lines/{name}", _page(lambda pages, request: pages.line(request.match_info["name"], request.query)))
    for section in KINDS:
        app.router.add_get(f"/{section}", _page(lambda pages, request, kind=section: pages.listed(kind, request.query)))
        app.router.add_get(
            f"/{section}/{{id}}", _page(lambda pages, request, kind=section: pages.single(kind, request.match_info["id"]))
        )
    app.cleanup_ctx.append(lifetime)
    return app


def _page(answer: Callable[..., Awaitable[PageAnswer]]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        require_known_parameters(request, PARAMETERS)
        status, html = await answer(request.app[_PAGES], request)
        headers = {"Content-Security-Policy": PAGE_POLICY}
        return web.Response(text=html, status=status, content_type="text/html", headers=headers)

    return handle


async def _serve_asset(request: web.Request) -> web.Response:
    require_known_parameters(request)
    item = find_asset(request.path)
    if item is None:
        raise web.HTTPNotFound(text="this script or style is of another version: load the page again\n")
    reply = web.Response(text=item.content, content_type=item.media_type, headers={"Cache-Control": _KEEP})
    reply.enable_compression()
    return reply


async def _tell_changes(request: web.Request) -> web.StreamResponse:
    """Server-sent events: ``change`` each time that what pages show has changed, and a comment every few seconds."""
    require_known_parameters(request)
    reply = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
    try:
        async with aclosing(request.app[_FEED].listen()) as changes:
            await anext(changes)
            await reply.prepare(request)
            await reply.write(_RETRY)
            async for has_changed in changes:
                await reply.write(b"event: change\ndata: 1\n\n" if has_changed else b": no change\n\n")
    except TooManyListeners as error:
        raise web.HTTPServiceUnavailable(text=f"{error}\n", headers={"Retry-After": "10"}) from error
    except ConnectionError:
        pass  # the page was closed
    return reply


@asynccontextmanager
async def serve_dashboard(
    settings: Settings, port: int = 0, starting: StartingRoles = _no_role, server_problems: ServerProblems = tuple
) -> AsyncIterator[str]:
    """Serve the pages on loopback and yield the address of the first one; port 0 takes a free one."""
    app, limits = dashboard_app(settings, starting, server_problems), settings.connection_limits
    async with serve_app(app, "127.0.0.1", port, "--port", ConnectionLimits(*limits)) as bound_port:
        yield f"http://127.0.0.1:{bound_port}/"

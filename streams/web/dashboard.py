"""The dashboard of a running service: lines, fidelity, simulations, retrains and refused records, refreshed every few seconds."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from types import MappingProxyType
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader

from sql.database import Pool, open_pool
from streams.errors import describe_error, is_transient
from streams.reporting import CHART_STYLE, EventMarker, formatting
from streams.reporting.overview import Overview, read_overview
from streams.settings import ROLES, Role, Settings
from streams.web.dashboard_charts import line_charts, simulations_chart, status_tone
from streams.web.health import serve_app

__all__ = ["dashboard_app", "render_dashboard", "render_report", "serve_dashboard"]

REFRESH_S = 4
_POOL = web.AppKey("pool", Pool)
_MAX_LIST_ITEMS = 6
_ALL_READY: Mapping[Role, str] = MappingProxyType({})

StartingRoles = Callable[[], Mapping[Role, str]]
"""Returns what each role does that is not ready yet."""


def _no_role() -> Mapping[Role, str]:
    return _ALL_READY


def render_dashboard(overview: Overview, settings: Settings, nonce: str, starting: Mapping[Role, str] = _ALL_READY) -> str:
    """The dashboard as one HTML document that loads nothing else; ``nonce`` allows its one script.

    ``starting`` has what each role does that is not ready yet.
    """
    template = _templates().get_template("page.html")
    return template.render(
        **_content(overview),
        sites={role: f"http://{settings.web_host}:{settings.port_of(role)}" for role in ROLES},
        refresh_s=REFRESH_S,
        nonce=nonce,
        starting=starting,
    )


def render_report(overview: Overview, report: Mapping[str, Any], text: str, markers: Sequence[EventMarker]) -> str:
    """The report of a demonstration as one HTML document without a script: its results, and below them the dashboard at its end.

    Args:
        overview: the state at the end.
        report: the report as JSON values, see ``streams.demo.report``.
        text: the report for a terminal.
        markers: events for the charts, in addition to those of the ledger.
    """
    template = _templates().get_template("report.html")
    return template.render(**_content(overview, markers), report=report, text=text.strip())


def _content(overview: Overview, markers: Sequence[EventMarker] = ()) -> dict[str, Any]:
    return {
        "overview": overview,
        "lines": [{"line": line, **line_charts(line, overview.at, markers)} for line in overview.lines],
        "simulations_chart": simulations_chart(overview.simulations),
        "chart_style": CHART_STYLE,
    }


def dashboard_app(settings: Settings, starting: StartingRoles = _no_role) -> web.Application:
    """The web application with the dashboard at ``/``; its database pool is open while it runs."""

    async def dashboard(request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        try:
            html = render_dashboard(await read_overview(request.app[_POOL], settings.n_min), settings, nonce, starting())
        except Exception as error:
            if not is_transient(error):
                raise
            raise web.HTTPServiceUnavailable(text=f"Postgres is not available: {describe_error(error)}\n") from error
        return web.Response(text=html, content_type="text/html", headers=_security_headers(nonce))

    async def pool_lifetime(app: web.Application) -> AsyncIterator[None]:
        app[_POOL] = await open_pool(settings)
        yield
        await app[_POOL].close()

    app = web.Application()
    app.router.add_get("/", dashboard)
    app.cleanup_ctx.append(pool_lifetime)
    return app


@asynccontextmanager
async def serve_dashboard(settings: Settings, port: int = 0, starting: StartingRoles = _no_role) -> AsyncIterator[str]:
    """Serve the dashboard on loopback and yield its address; port 0 takes a free one."""
    async with serve_app(dashboard_app(settings, starting), "127.0.0.1", port) as bound_port:
        yield f"http://127.0.0.1:{bound_port}/"


def _security_headers(nonce: str) -> dict[str, str]:
    """Headers that forbid the page to load anything from elsewhere and to be framed."""
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@cache
def _templates() -> Environment:
    """The templates with their filters; the dashboard is rendered every few seconds, and compiled once."""
    environment = Environment(loader=PackageLoader("streams.web"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "ago": formatting.ago,
        "clock": formatting.clock,
        "count": _typographic(formatting.count),
        "differences": differences,
        "facts": facts,
        "moment": formatting.moment,
        "number": _typographic(formatting.number),
        "one_decimal": formatting.one_decimal,
        "plain": formatting.plain_words,
        "share": _typographic(formatting.share),
        "short": formatting.short_id,
        "signed_number": _typographic(formatting.signed_number),
        "signed_share": _typographic(formatting.signed_share),
        "span": formatting.span,
        "standard_error": _typographic(formatting.standard_error),
        "standard_error_share": _typographic(formatting.standard_error_share),
        "state": formatting.state_label,
        "title": formatting.line_title,
        "tone": status_tone,
    }
    environment.globals |= {"change": _typographic(formatting.change)}
    return environment


def _typographic(format_value: Callable[..., str]) -> Callable[..., str]:
    """A format whose texts have a minus sign and a dash."""
    return lambda *arguments: formatting.typographic(format_value(*arguments))


def differences(comparison: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The metrics of champion and challenger in a comparison of the gate, by label; segments after the metrics of all rows."""
    metrics = [(formatting.metric_name(name), value) for name, value in comparison.items() if _is_difference(value)]
    segments = [(f"MAE of {segment}", value) for segment, value in comparison.get("segments", {}).items() if _is_difference(value)]
    return metrics + segments


def facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The values of a JSON object as pairs of label and text, nested ones with their path.

    Lists of objects, long lists and the metrics of :func:`differences` are left out.

    >>> facts({"challenger_mae": 0.05, "metrics": {"n": 4000}})
    [('challenger MAE', '0.05'), ('metrics, n', '4,000')]
    """
    return list(_facts(values, ""))


def _facts(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        label = path + " ".join(map(formatting.metric_name, name.split("_")))
        if isinstance(value, Mapping) and not _is_difference(value):
            yield from _facts(value, f"{label}, ")
        elif _is_plain(value):
            yield label, _fact_text(value)
        elif isinstance(value, list) and len(value) <= _MAX_LIST_ITEMS and all(map(_is_plain, value)):
            yield label, ", ".join(map(_fact_text, value)) or "none"


def _is_difference(value: Any) -> bool:
    return isinstance(value, Mapping) and {"champion", "challenger", "difference", "standard_error"} <= value.keys()


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _fact_text(value: bool | float | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else formatting.typographic(formatting.number(value))

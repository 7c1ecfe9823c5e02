"""The dashboard of a running service: lines, fidelity, simulations, retrains and refused records, refreshed every few seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from streams.dependencies import DependencyMonitor, role_probes
from streams.monitoring import multiple_text
from streams.outages import OUTAGES, Outage
from streams.printable import escape_text
from streams.reporting import EventMarker, chart_data, chart_table, formatting
from streams.reporting.overview import Overview
from streams.reporting.text import carrier_sentences, feature_sentences, realism_sentences
from streams.settings import ROLES, Role, Settings
from streams.web.assets import LIVE_SCRIPTS, PAGE_POLICY, SCRIPTS, STYLES, asset, document_policy, find_asset
from streams.web.connections import ConnectionLimits
from streams.web.dashboard_charts import line_charts, simulations_chart, status_tone
from streams.web.guard import guarded_app, require_known_parameters
from streams.web.health import serve_app
from streams.web.overview_reader import OverviewReader

__all__ = ["PageState", "dashboard_app", "render_dashboard", "render_report", "serve_dashboard"]

REFRESH_S = 4
_READER = web.AppKey("reader", OverviewReader)
_KEEP = "public, max-age=31536000, immutable"
_MAX_LIST_ITEMS = 6
_MAX_SEGMENTS = 30
_ALL_READY: Mapping[Role, str] = MappingProxyType({})

StartingRoles = Callable[[], Mapping[Role, str]]
"""Returns what each role does that is not ready yet."""
ServerProblems = Callable[[], Sequence[str]]
"""Returns what happens to servers of the local stack that have ended, a sentence each without its full stop."""


def _no_role() -> Mapping[Role, str]:
    return _ALL_READY


@dataclass(frozen=True)
class PageState:
    """What the page shows beside the figures.

    Attributes:
        starting: what each role does that is not ready yet.
        outages: the parts that are out.
        problem: why the figures could not be read anew, empty when they could.
        servers: what happens to servers of the local stack that have ended.
    """

    starting: Mapping[Role, str] = field(default_factory=dict)
    outages: Sequence[Outage] = ()
    problem: str = ""
    servers: Sequence[str] = ()


def render_dashboard(overview: Overview | None, settings: Settings, state: PageState | None = None) -> str:
    """The dashboard as an HTML document, which loads its scripts and styles from the service only.

    Without an overview it has no figures, and ``state`` tells why.
    """
    template = _templates().get_template("page.html")
    return template.render(
        **_content(overview),
        sites={role: f"http://{settings.web_host}:{settings.port_of(role)}" for role in ROLES},
        refresh_s=REFRESH_S,
        styles=[asset(name) for name in STYLES],
        scripts=[asset(name) for name in SCRIPTS + LIVE_SCRIPTS],
        state=state or PageState(),
        now=datetime.now(UTC),
    )


def render_report(overview: Overview, report: Mapping[str, Any], text: str, markers: Sequence[EventMarker]) -> str:
    """The report of a demonstration as one HTML file that opens without a network: results, then the dashboard at its end.

    Args:
        overview: the state at the end.
        report: the report as JSON values, see ``streams.demo.report``.
        text: the report for a terminal.
        markers: events for the charts, in addition to those of the ledger.
    """
    template = _templates().get_template("report.html")
    styles, scripts = [asset(name) for name in STYLES], [asset(name) for name in SCRIPTS]
    return template.render(
        **_content(overview, markers),
        report=report,
        text=text.strip(),
        styles=styles,
        scripts=scripts,
        policy=document_policy(styles, scripts),
    )


def _content(overview: Overview | None, markers: Sequence[EventMarker] = ()) -> dict[str, Any]:
    if overview is None:
        return {"overview": None, "lines": []}
    return {
        "overview": overview,
        "lines": [{"line": line, **line_charts(line, overview.at, markers)} for line in overview.lines],
        "simulations_chart": simulations_chart(overview.simulations),
    }


def dashboard_app(
    settings: Settings, starting: StartingRoles = _no_role, server_problems: ServerProblems = tuple
) -> web.Application:
    """The web application with the dashboard at ``/``, which answers also while Kafka or Postgres is out."""

    async def dashboard(request: web.Request) -> web.Response:
        require_known_parameters(request)
        reading = await request.app[_READER].read()
        state = PageState(starting(), OUTAGES.current(), reading.problem, server_problems())
        html = render_dashboard(reading.overview, settings, state)
        return web.Response(text=html, content_type="text/html", headers={"Content-Security-Policy": PAGE_POLICY})

    async def static(request: web.Request) -> web.Response:
        require_known_parameters(request)
        item = find_asset(request.path)
        if item is None:
            raise web.HTTPNotFound(text="this script or style is of another version: load the page again\n")
        reply = web.Response(text=item.content, content_type=item.media_type, headers={"Cache-Control": _KEEP})
        reply.enable_compression()
        return reply

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        app[_READER] = OverviewReader(settings)
        monitor = DependencyMonitor(role_probes(settings), settings.probe_interval_s, settings.probe_timeout_s)
        with monitor.running():
            yield
        app[_READER].close()

    app = guarded_app(settings.host_names)
    app.router.add_get("/", dashboard)
    app.router.add_get("/static/{path:.+}", static)
    app.cleanup_ctx.append(lifetime)
    return app


@asynccontextmanager
async def serve_dashboard(
    settings: Settings, port: int = 0, starting: StartingRoles = _no_role, server_problems: ServerProblems = tuple
) -> AsyncIterator[str]:
    """Serve the dashboard on loopback and yield its address; port 0 takes a free one."""
    app, limits = dashboard_app(settings, starting, server_problems), settings.connection_limits
    async with serve_app(app, "127.0.0.1", port, "--port", ConnectionLimits(*limits)) as bound_port:
        yield f"http://127.0.0.1:{bound_port}/"


def _without_controls(value: Any) -> Any:
    """Texts with control characters as escapes: they would reach the terminal of whoever reads the page there."""
    return escape_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _templates() -> Environment:
    """The templates with their filters; the dashboard is rendered every few seconds, and compiled once."""
    environment = Environment(
        loader=PackageLoader("streams.web"), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_without_controls
    )
    environment.filters |= {
        "ago": formatting.ago,
        "clock": formatting.clock,
        "count": _typographic(formatting.count),
        "differences": differences,
        "facts": facts,
        "carrier_sentences": carrier_sentences,
        "feature_sentences": feature_sentences,
        "realism_sentences": realism_sentences,
        "moment": formatting.moment,
        "multiple": multiple_text,
        "number": _typographic(formatting.number),
        "one_decimal": formatting.one_decimal,
        "plain": formatting.plain_words,
        "chart_data": chart_data,
        "chart_table": chart_table,
        "campaign": formatting.campaign_label,
        "share": _typographic(formatting.share),
        "short": formatting.short_id,
        "signed_number": _typographic(formatting.signed_number),
        "signed_share": _typographic(formatting.signed_share),
        "span": formatting.span,
        "standard_error": _typographic(formatting.standard_error),
        "standard_error_share": _typographic(formatting.standard_error_share),
        "segment": formatting.segment_label,
        "state": formatting.state_label,
        "title": formatting.line_title,
        "tone": status_tone,
    }
    environment.globals |= {"change": _typographic(formatting.change), "max_segments": _MAX_SEGMENTS}
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

"""The page of a running service: lines, fidelity, simulations, decisions and refused records, fresh every few seconds."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from schemas import DRIFT_RULES, TWIN_TYPES, DriftState, ModelCard, line_parts
from sql.database import Pool, open_pool
from sql.overview_store import SimulationRun
from streams.errors import describe_error, is_transient
from streams.reporting.charts import CHART_STYLE, ChartInterval, ChartSeries, Line, Mark, Tone, intervals_chart, series_chart
from streams.reporting.overview import LineOverview, Overview, read_overview
from streams.settings import ROLES, Settings
from streams.web.health import serve_app

__all__ = ["make_page", "render", "render_report", "serving_page"]

REFRESH_S = 4
_WHOLE, _HALF = 1140, 570  # pixels, as wide as the page shows them on a desk
POOL = web.AppKey("pool", Pool)

_STATE_TONES: dict[str, Tone] = {
    DriftState.OK: "good",
    DriftState.WARNING: "warn",
    DriftState.ALARM: "bad",
    DriftState.SUPPRESSED: "muted",
    DriftState.INSUFFICIENT: "muted",
}
_ENDS: dict[str, Tone] = {
    "promoted": "good",
    "completed": "good",
    "deploy": "good",
    "trained": "one",
    "running": "one",
    "queued": "one",
    "pending": "one",
    "rolled_back": "warn",
    "stopped": "warn",
    "suggested": "one",
    "policy": "muted",
    "gain": "good",
    "nothing": "warn",
    "harm": "bad",
    "test_further": "warn",
    "stale": "muted",
    "rejected": "bad",
    "failed": "bad",
    "do_not_deploy": "bad",
}
_MARKED = {
    "promoted": "promoted",
    "suggested": "challenger suggested",
    "rejected": "challenger rejected",
    "rolled_back": "rolled back",
    "failed": "training failed",
    "stopped": "retraining stopped",
}


def render(overview: Overview, settings: Settings, nonce: str) -> str:
    """The whole page as HTML that needs nothing else; ``nonce`` allows its one script."""
    return (
        _templates()
        .get_template("page.html")
        .render(
            overview=overview,
            lines=[{"line": line, **_charts(line, overview.at)} for line in overview.lines],
            runs_chart=Markup(_runs_chart(overview.simulations)),  # noqa: S704  # the charts escape what they are given
            sites={role: f"http://{settings.web_host}:{settings.port_of(role)}" for role in ROLES},
            chart_style=CHART_STYLE,
            refresh_s=REFRESH_S,
            nonce=nonce,
        )
    )


def render_report(overview: Overview, told: Mapping[str, Any], words: str, marks: Sequence[Mark]) -> str:
    """The report of a demonstration: what it told, and below it the page as it was at the end; nothing in it moves.

    Args:
        overview: the state at the end.
        told: the report for a program, see ``streams.demo.report``.
        words: the report for a terminal.
        marks: moments for the charts, beside those of the ledger.
    """
    return (
        _templates()
        .get_template("report.html")
        .render(
            overview=overview,
            lines=[{"line": line, **_charts(line, overview.at, marks)} for line in overview.lines],
            runs_chart=Markup(_runs_chart(overview.simulations)),  # noqa: S704  # the charts escape what they are given
            chart_style=CHART_STYLE,
            told=told,
            words=words.strip(),
        )
    )


def make_page(settings: Settings) -> web.Application:
    """The site with the page at ``/``; its pool is open while the site runs."""

    async def page(request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        try:
            text = render(await read_overview(request.app[POOL], settings.n_min), settings, nonce)
        except Exception as error:
            if not is_transient(error):
                raise
            raise web.HTTPServiceUnavailable(text=f"Postgres does not answer: {describe_error(error)}\n") from error
        return web.Response(text=text, content_type="text/html", headers=_guards(nonce))

    async def connected(site: web.Application) -> AsyncIterator[None]:
        site[POOL] = await open_pool(settings)
        yield
        await site[POOL].close()

    site = web.Application()
    site.router.add_get("/", page)
    site.cleanup_ctx.append(connected)
    return site


@asynccontextmanager
async def serving_page(settings: Settings, port: int = 0) -> AsyncIterator[str]:
    """Serve the page on loopback and give its address; port 0 takes a free one."""
    async with serve_app(make_page(settings), "127.0.0.1", port) as taken:
        yield f"http://127.0.0.1:{taken}/"


def _guards(nonce: str) -> dict[str, str]:
    """The page loads nothing from anywhere and cannot be framed."""
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _templates() -> Environment:
    found = Environment(loader=PackageLoader("streams.web"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {
        "number": number,
        "error": error_of,
        "share": share,
        "clock": lambda at: f"{at.astimezone(UTC):%H:%M:%S}",
        "ago": ago,
        "moment": moment,
        "span": span,
        "title": title_of,
        "tone": tone_of,
        "words": lambda text: str(text).replace("_", " "),
        "facts": facts,
        "short": lambda value: str(value)[:8],
    }
    found.globals["change"] = change
    return found


def number(value: float | None) -> str:
    """Four significant digits, or a dash.

    >>> number(0.0512345), number(None), number(12345.6)
    ('0.05123', '–', '12,346')
    """
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}".replace("-", "−")


def error_of(value: float | None) -> str:
    """A standard error, to two digits."""
    return "–" if value is None else f"{value:.2g}"


def share(value: float | None) -> str:
    """A fraction as percent, or a dash."""
    return "–" if value is None else f"{value:.1%}".replace("-", "−")


def change(value: float | None, base: float | None) -> str:
    """How far a figure is from its baseline, in percent with its sign; empty where that means nothing."""
    if value is None or not base:
        return ""
    return f"{value / base - 1:+.1%}".replace("-", "−")


def moment(at: datetime | None) -> str:
    """A time in UTC, to the second."""
    return "–" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def ago(at: datetime | None, now: datetime) -> str:
    """How long ago, in the largest unit that fits."""
    if at is None:
        return "–"
    seconds = max(0.0, (now - at).total_seconds())
    size = next((size for size in (86_400, 3600, 60) if seconds >= size), 1)
    return f"{span(seconds // size * size)} ago"


def span(seconds: float) -> str:
    """A length of time in the largest unit that fits.

    >>> span(3600.0), span(15.0)
    ('1 h', '15 s')
    """
    size, unit = next((pair for pair in ((86_400, "d"), (3600, "h"), (60, "min")) if seconds >= pair[0]), (1, "s"))
    return f"{seconds / size:g} {unit}"


def title_of(line: str) -> str:
    """A line's name for people.

    >>> title_of("hcp:kisqali:prescribing_change")
    'HCP · Kisqali'
    """
    twin_type, brand, _ = line_parts(line)
    kind = twin_type.upper() if len(twin_type) <= 3 else twin_type.capitalize()
    return f"{kind} · {brand.capitalize()}"


def tone_of(word: str) -> Tone:
    """The tone of a state or of an end."""
    return _STATE_TONES.get(word) or _ENDS.get(word, "muted")


def facts(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The plain values of a JSON object as pairs of words, nested ones with their path; long lists are left to the command line."""
    return list(_facts(said, ""))


def _facts(said: Mapping[str, Any], path: str) -> Iterable[tuple[str, str]]:
    for name, value in said.items():
        here = f"{path}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _facts(value, f"{here}, ")
        elif isinstance(value, bool):
            yield here, "yes" if value else "no"
        elif isinstance(value, int | float):
            yield here, number(value)
        elif isinstance(value, str):
            yield here, value
        elif isinstance(value, list) and len(value) <= 6:
            yield here, ", ".join(str(entry) if not isinstance(entry, Mapping) else json.dumps(entry) for entry in value) or "none"


def _charts(line: LineOverview, at: datetime, more_marks: Sequence[Mark] = ()) -> dict[str, Markup]:
    marks = sorted([*_marks(line), *more_marks], key=lambda mark: mark.at)
    unit = TWIN_TYPES[line_parts(line.line)[0]].target(line_parts(line.line)[2]).unit
    reference = line.scored_model or line.champion
    about = f"{title_of(line.line)}, outcomes of {line.line}, as of {moment(at)} UTC"
    error = series_chart(
        _curves(line, "mae"),
        title="Mean absolute error over time",
        description=f"Mean absolute error in {unit}. {about}.",
        lines=_error_limits(reference),
        marks=marks,
        width=_HALF,
    )
    coverage = series_chart(
        _curves(line, "coverage_95pct"),
        title="Coverage over time",
        description=f"Share of outcomes inside their 95 % prediction interval. {about}.",
        form=".0%",
        lines=_coverage_limits(reference),
        marks=marks,
        width=_HALF,
    )
    return {"error": Markup(error), "coverage": Markup(coverage)}  # noqa: S704  # the charts escape what they are given


def _curves(line: LineOverview, figure: str) -> list[ChartSeries]:
    tones: tuple[Tone, ...] = ("one", "two")
    return [
        ChartSeries(
            label=f"model {str(series.card.model_id)[:8]}",
            times=[point.at for point in series.points],
            values=[getattr(point.metrics, figure) for point in series.points],
            margins=[point.metrics.standard_errors.get(figure) for point in series.points],
            tone=tones[number % 2],
        )
        for number, series in enumerate(line.series)
    ]


def _error_limits(card: ModelCard | None) -> list[Line]:
    if card is None:
        return []
    rise = next(rule.limit for rule in DRIFT_RULES if rule.name == "mae_increase")
    return [Line(card.baseline.mae, "baseline"), Line(card.baseline.mae * (1 + rise), f"limit +{rise:.0%}", "bad")]


def _coverage_limits(card: ModelCard | None) -> list[Line]:
    limit = next(rule.limit for rule in DRIFT_RULES if rule.name == "coverage_drop")
    known = card.baseline.coverage_95pct if card else None
    return [Line(limit, f"limit {limit:.0%}", "bad")] + ([Line(known, "baseline")] if known is not None else [])


def _marks(line: LineOverview) -> list[Mark]:
    """What happened to the line while the curves run, with a little room at their end."""
    times = [point.at for series in line.series for point in series.points]
    if not times:
        return []
    room = 0.1 * (max(times) - min(times))
    first, last = min(times), max(times) + room
    happened = [
        Mark(event.effective_from or event.at, _MARKED[event.happened], _ENDS[event.happened])
        for event in line.events
        if event.happened in _MARKED
    ]
    asked = [Mark(retrain.requested_at, "retrain asked for", "warn") for retrain in line.retrains]
    return sorted((mark for mark in happened + asked if first <= mark.at <= last), key=lambda mark: mark.at)


def _runs_chart(runs: Iterable[SimulationRun]) -> str:
    done = [run for run in runs if run.status == "completed" and "ate" in run.results]
    threshold = done[0].results.get("min_effect_threshold") if done else None
    return intervals_chart(
        [_interval(run) for run in done],
        title="Simulated effects",
        description="Average effect of each simulated intervention with its interval, newest first.",
        lines=[Line(threshold, f"worthwhile from {threshold:.0%}")] if threshold else [],
        width=_WHOLE,
    )


def _interval(run: SimulationRun) -> ChartInterval:
    said = run.results
    return ChartInterval(
        label=str(run.intervention.get("intervention_type", "?")).replace("_", " "),
        estimate=said["ate"],
        lower=said["ate_ci_lower"],
        upper=said["ate_ci_upper"],
        note=f"{str(run.recommendation or '?').replace('_', ' ')} · {said.get('affected_twin_count', 0):,} twins",
        tone=tone_of(run.recommendation or ""),
    )

"""The templates of the pages, with the filters that write values, and what every page contains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from streams.monitoring import multiple_text
from streams.outages import Outage
from streams.printable import escape_text
from streams.reporting import EventMarker, chart_data, chart_table, formatting
from streams.reporting.overview import Overview
from streams.reporting.text import carrier_sentences, feature_sentences, realism_sentences
from streams.settings import ROLES, Settings
from streams.web.assets import LIVE_SCRIPTS, SCRIPTS, STYLES, asset, document_policy
from streams.web.dashboard_charts import line_charts, simulations_chart, status_tone
from streams.web.page_lists import RANGES

__all__ = ["SECTIONS", "PageState", "differences", "facts", "render_document", "render_page", "render_report"]

SECTIONS: Mapping[str, str] = {
    "/": "Lines",
    "/simulations": "Simulations",
    "/retrains": "Retrains",
    "/models": "Models",
    "/refused": "Refused records",
}
"""The sections of the pages by their address."""

_MAX_LIST_ITEMS = 6
_MAX_SEGMENTS = 30
_MAX_SHOWN_BYTES = 20_000
_MAX_EDITED_BYTES = 200_000


@dataclass(frozen=True)
class PageState:
    """What a page shows beside the figures.

    Attributes:
        starting: what each role does that is not ready yet.
        outages: the parts that are out.
        problem: why the figures could not be read anew, empty when they could.
        servers: what happens to servers of the local stack that have ended.
        asks_at: beginning of the addresses of the pages that ask, empty where they are beside this one; None without any.
        can_act: whether the HTTP API is beside the pages, so that they offer decisions.
        has_log_in: whether the reader has logged in with a token.
    """

    starting: Mapping[str, str] = field(default_factory=dict)
    outages: Sequence[Outage] = ()
    problem: str = ""
    servers: Sequence[str] = ()
    asks_at: str | None = None
    can_act: bool = False
    has_log_in: bool = False


def render_page(template: str, settings: Settings, section: str, state: PageState | None = None, **content: Any) -> str:
    """A page as an HTML document, which loads its scripts and styles from the service only.

    Args:
        template: name of its template.
        settings: where the roles serve their metrics.
        section: address of the section that it belongs to.
        state: what does not work now.
        content: what its template shows; without ``at``, the time of the figures, there are none.
    """
    state = state or PageState()
    return (
        _templates()
        .get_template(template)
        .render(
            {"at": None, **content},
            section=section,
            sections=_sections(state),
            sites={role: f"http://{settings.web_host}:{settings.port_of(role)}" for role in ROLES},
            styles=[asset(name) for name in STYLES],
            scripts=[asset(name) for name in SCRIPTS + LIVE_SCRIPTS],
            state=state,
            now=datetime.now(UTC),
        )
    )


def _sections(state: PageState) -> Mapping[str, str]:
    """The sections by their address, with those that ask and upload where there are any."""
    if state.asks_at is None:
        return SECTIONS
    return {f"{state.asks_at}/ask": "Ask", **SECTIONS, f"{state.asks_at}/learn": "Learn"}


def render_document(template: str, **content: Any) -> str:
    """A page as one HTML file that opens without a network, and leads nowhere."""
    styles, scripts = [asset(name) for name in STYLES], [asset(name) for name in SCRIPTS]
    files = {"styles": styles, "scripts": scripts, "policy": document_policy(styles, scripts)}
    return _templates().get_template(template).render({"state": PageState(), **content, **files})


def render_report(overview: Overview, report: Mapping[str, Any], text: str, markers: Sequence[EventMarker]) -> str:
    """The report of a demonstration as one HTML file that opens without a network: results, then the state at its end.

    Args:
        overview: the state at the end.
        report: the report as JSON values, see ``streams.demo.report``.
        text: the report for a terminal.
        markers: events for the charts, in addition to those of the ledger.
    """
    styles, scripts = [asset(name) for name in STYLES], [asset(name) for name in SCRIPTS]
    return (
        _templates()
        .get_template("report.html")
        .render(
            overview=overview,
            lines=[{"line": line, "charts": line_charts(line, overview.at, markers)} for line in overview.lines],
            simulations_chart=simulations_chart(overview.simulations),
            report=report,
            text=text.strip(),
            styles=styles,
            scripts=scripts,
            policy=document_policy(styles, scripts),
        )
    )


def _without_controls(value: Any) -> Any:
    """Texts with control characters as escapes: they would reach the terminal of whoever reads the page there."""
    return escape_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _templates() -> Environment:
    """The templates with their filters; they are compiled once."""
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
        "editable": _editable,
        "readable": _readable,
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
    environment.globals |= {"change": _typographic(formatting.change), "max_segments": _MAX_SEGMENTS, "ranges": RANGES}
    return environment


def _editable(value: bytes | None) -> str | None:
    """Bytes as text that can be edited; None where they are none, or too many."""
    try:
        return value.decode() if value is not None and len(value) <= _MAX_EDITED_BYTES else None
    except UnicodeDecodeError:
        return None


def _readable(value: bytes) -> str:
    """The beginning of bytes as text, with what is no text as escapes."""
    text = value[:_MAX_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    left_out = len(value) - _MAX_SHOWN_BYTES
    return text if left_out <= 0 else f"{text} ... and {left_out:,} more bytes"


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

"""SVG elements that all charts are drawn with, and the style they share.

They are built with the XML library of Python, which escapes all texts; :mod:`streams.reporting.charts` gives the reason why no
plotting library serves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal
from xml.etree.ElementTree import Element, SubElement, tostring

__all__ = [
    "CHART_STYLE",
    "CHAR_WIDTH",
    "Tone",
    "draw_line",
    "draw_symbol",
    "draw_text",
    "empty_chart",
    "format_value",
    "label_margin",
    "new_chart",
    "set_tooltip",
    "to_text",
]

Tone = Literal["one", "two", "good", "warn", "bad", "muted"]
"""What an element stands for; the style gives each tone a colour for light and for dark schemes."""

CHART_STYLE = """
.chart { --ink: light-dark(#1c2430, #e6e9ef); --soft: light-dark(#5b6675, #9aa5b5); --rule: light-dark(#e3e7ed, #2c3442);
  --one: light-dark(#1f5fbf, #79aef5); --two: light-dark(#7a3fb5, #c39bf0); --good: light-dark(#13795b, #4fcf9f);
  --warn: light-dark(#9a6200, #f0b849); --bad: light-dark(#b3261e, #ff8a80); --muted: var(--soft);
  --paper: light-dark(#fff, #12161d);
  display: block; width: 100%; height: auto; font: 12px/1.2 system-ui, -apple-system, "Segoe UI", sans-serif;
  font-variant-numeric: tabular-nums; color-scheme: light dark; }
.chart text { fill: var(--soft); } .chart .strong { fill: var(--ink); font-weight: 600;
  paint-order: stroke; stroke: var(--paper); stroke-width: 5px; stroke-linejoin: round; }
.chart .grid { stroke: var(--rule); } .chart .axis { stroke: var(--soft); }
.chart .one { --tone: var(--one); } .chart .two { --tone: var(--two); } .chart .good { --tone: var(--good); }
.chart .warn { --tone: var(--warn); } .chart .bad { --tone: var(--bad); } .chart .muted { --tone: var(--muted); }
.chart .ink { fill: var(--tone); } .chart .stroke { stroke: var(--tone); fill: none; }
.chart .hollow { stroke: var(--tone); fill: var(--paper); stroke-width: 2; }
.chart .curve { stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .whisker { stroke-width: 3; stroke-linecap: round; }
.chart .band { fill: var(--tone); opacity: 0.14; } .chart .limit { stroke-dasharray: 6 4; } .chart .mark { stroke-dasharray: 2 3; }
"""

CHAR_WIDTH = 6.6
"""Width of a character in pixels, on average: text is laid out without a browser."""


def new_chart(title: str, description: str, width: int, height: int) -> Element:
    """An empty SVG with a title and a description for screen readers; its ids differ from those of other charts on the page."""
    digest = hashlib.sha256(f"{title}\n{description}".encode()).hexdigest()[:10]
    svg = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "class": "chart",
            "viewBox": f"0 0 {width} {height}",
            "role": "img",
            "aria-labelledby": f"title-{digest} description-{digest}",
        },
    )
    SubElement(svg, "title", {"id": f"title-{digest}"}).text = title
    SubElement(svg, "desc", {"id": f"description-{digest}"}).text = description
    return svg


def empty_chart(svg: Element, width: int, height: int) -> str:
    """The chart with a note that there is no data yet."""
    draw_text(svg, width / 2, height / 2, "no data yet", anchor="middle")
    return to_text(svg)


def to_text(svg: Element) -> str:
    """The SVG as text; labels are escaped."""
    return tostring(svg, encoding="unicode")


def draw_line(parent: Element, css_class: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw a straight line between two points in pixels."""
    ends = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    SubElement(parent, "line", {"class": css_class, **{name: f"{value:g}" for name, value in ends.items()}})


def draw_text(
    parent: Element, x: float, y: float, text: str, *, anchor: str = "start", tone: Tone | None = None, strong: bool = False
) -> None:
    """Write a label; ``anchor`` as in SVG."""
    css_class = "strong" if strong else f"ink {tone}" if tone else ""
    SubElement(parent, "text", {"class": css_class, "x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor}).text = text


def draw_symbol(parent: Element, x: float, y: float, tone: Tone, radius: float) -> None:
    """Draw an estimate: a square for ``bad``, a ring for ``warn``, else a disc, so that colour is never the only cue."""
    if tone == "bad":
        corner = {"x": f"{x - radius:g}", "y": f"{y - radius:g}"}
        SubElement(parent, "rect", {"class": "ink", **corner, "width": f"{2 * radius:g}", "height": f"{2 * radius:g}"})
    else:
        css_class = "hollow" if tone == "warn" else "ink"
        SubElement(parent, "circle", {"class": css_class, "cx": f"{x:g}", "cy": f"{y:g}", "r": f"{radius:g}"})


def set_tooltip(parent: Element, text: str) -> None:
    """Show a text when the element is pointed at."""
    SubElement(parent, "title").text = text


def format_value(value: float, form: str) -> str:
    """A value as for ``format``, with a minus sign in place of a hyphen and without a negative zero."""
    return format(value + 0.0, form).replace("-", "\N{MINUS SIGN}")


def label_margin(labels: Iterable[str]) -> float:
    """Pixels that the longest of these labels needs beside a chart."""
    return 18 + CHAR_WIDTH * max(map(len, labels), default=0)

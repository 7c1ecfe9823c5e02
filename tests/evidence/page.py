"""The evidence as JSON values, and the page that shows it: one HTML file that loads nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader

from streams.reporting import chart_data, chart_table
from streams.web.assets import SCRIPTS, STYLES, Asset, asset, document_policy
from tests.evidence.part import Part

__all__ = ["render", "to_dict"]

_FOLDER = Path(__file__).parent


def to_dict(part: Part) -> dict[str, Any]:
    """A part as JSON values; each figure with its bar and whether it is met."""
    figures = [
        {**asdict(figure), "written": format(figure.value, figure.form), "bar": figure.bar, "met": figure.met}
        for figure in part.figures
    ]
    plots = [
        {"caption": plot.caption, "data": chart_data(plot.chart), "table": chart_table(plot.chart), "wide": plot.wide}
        for plot in part.plots
    ]
    return {**asdict(part), "figures": figures, "plots": plots}


def render(evidence: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        evidence: ``parts`` by name as :func:`to_dict` returns them, and ``about``: how they were measured.
    """
    loader = ChoiceLoader([FileSystemLoader(_FOLDER), PackageLoader("streams.web")])
    templates = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page_style = Asset("evidence.css", (_FOLDER / "evidence.css").read_text(encoding="utf-8"))
    styles = [*map(asset, STYLES), page_style]
    scripts = [asset(name) for name in SCRIPTS]
    return templates.get_template("page.html").render(
        **evidence, styles=styles, scripts=scripts, policy=document_policy(styles, scripts)
    )

"""The evidence as JSON values, and the page that shows it: one HTML file that loads nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader

from streams.reporting import CHART_STYLE
from tests.evidence.part import Part

__all__ = ["render", "to_dict"]


def to_dict(part: Part) -> dict[str, Any]:
    """A part as JSON values; each figure with its bar and whether it is met."""
    figures = [
        {**asdict(figure), "written": format(figure.value, figure.form), "bar": figure.bar, "met": figure.met}
        for figure in part.figures
    ]
    return {**asdict(part), "figures": figures}


def render(evidence: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        evidence: ``parts`` by name as :func:`to_dict` returns them, and ``about``: how they were measured.
    """
    loader = ChoiceLoader([FileSystemLoader(Path(__file__).parent), PackageLoader("streams.web")])
    templates = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return templates.get_template("page.html").render(**evidence, chart_style=CHART_STYLE)

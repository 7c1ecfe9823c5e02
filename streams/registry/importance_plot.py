"""Plots the feature importances of a model into a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

__all__ = ["draw_importance"]

_MAX_BARS = 30
_INCHES_PER_BAR = 0.28


def draw_importance(importance: Mapping[str, float], title: str, path: Path) -> None:
    """Draw the importance of each feature as bars, largest on top, into a PNG file."""
    ranked = sorted(importance.items(), key=lambda item: item[1], reverse=True)[:_MAX_BARS]
    figure = Figure(figsize=(7.0, 1.2 + _INCHES_PER_BAR * len(ranked)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh([name for name, _ in ranked], [share for _, share in ranked], color="#33658a")
    axes.invert_yaxis()
    axes.set(title=title, xlabel="importance (share of all features)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")

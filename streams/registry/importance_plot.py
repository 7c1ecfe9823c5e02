"""Pictures of a model, drawn without a screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

__all__ = ["draw_importance"]

_MOST_BARS = 30
_BAR_INCHES = 0.28


def draw_importance(importance: Mapping[str, float], title: str, path: Path) -> None:
    """Draw the share of each feature in a model's decisions as bars, largest on top, into a PNG file."""
    ranked = sorted(importance.items(), key=lambda item: item[1], reverse=True)[:_MOST_BARS]
    figure = Figure(figsize=(7.0, 1.2 + _BAR_INCHES * len(ranked)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh([name for name, _ in ranked], [share for _, share in ranked], color="#33658a")
    axes.invert_yaxis()
    axes.set(title=title, xlabel="importance (share of all features)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")

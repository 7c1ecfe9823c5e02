"""A part of the evidence: sentences, figures with their bars, tables and plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streams.reporting import Chart

__all__ = ["DATA", "Figure", "Part", "Plot", "Table", "seeded_rng"]

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
"""The public tables, outside of the project; a part whose table is missing reports that instead of figures."""


def seeded_rng(*seed: object) -> np.random.Generator:
    """A generator of random numbers that depends on the written form of the seed only."""
    return np.random.default_rng(list(repr(seed).encode()))


@dataclass(frozen=True)
class Figure:
    """One number, written with ``form`` as for ``format``, and the inclusive range that it should be in."""

    what: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    form: str = ".3g"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value is in its range; None without a range."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (self.at_most is None or self.value <= self.at_most)

    @property
    def bar(self) -> str:
        """The range as text; empty without a range."""
        ends = [end for end in (self.at_least, self.at_most) if end is not None]
        if len(ends) == 2:
            return f"{format(ends[0], self.form)} to {format(ends[1], self.form)}"
        sign = "≥" if self.at_least is not None else "≤"
        return f"{sign} {format(ends[0], self.form)}" if ends else ""


@dataclass(frozen=True)
class Table:
    """Rows of formatted cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plot:
    """A chart of :mod:`streams.reporting.charts` with a caption that describes what it shows."""

    caption: str
    chart: Chart
    wide: bool = False


@dataclass(frozen=True)
class Part:
    """One part of the page."""

    title: str
    sentences: tuple[str, ...]
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()

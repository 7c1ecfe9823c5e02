"""The figures as a text table or as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version

from tests.bench.measure import Aim, Figure
from tests.bench.tables import PRESCRIBERS

__all__ = ["format_json", "format_table", "method"]

HEADER = ("work", "data", "ours", "baseline", "ratio", "n", "aim", "")


def method() -> str:
    """The method of measurement and the machine."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pandas", "scikit-learn"))
    real = "Part D: as many real physicians, 2013 and 2014" if PRESCRIBERS.is_file() else f"no real prescribers at {PRESCRIBERS}"
    cores, load = os.cpu_count() or 1, os.getloadavg()[1]
    busy = " The machine was busy: figures in clock time are too high." if load > cores else ""
    return (
        "Method: ours and the baseline run alternately in one run, n times; medians (fits: sums); ratio = ours / baseline.\n"
        "Computation is timed on one thread in processor time, work with Kafka or PostgreSQL in clock time.\n"
        f"Data: sample: 10,000 generated prescribers; {real}.\n"
        f"Machine: {cores} cores ({platform.machine()}), load {load:.1f};"
        f" Python {platform.python_version()}, {libraries}.{busy}"
    )


def format_table(figures: Sequence[Figure]) -> str:
    """Aligned columns, followed by the baselines, the notes, and the missed aims."""
    rows = [HEADER, *map(_row, figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"  {figure.work}: {figure.note}" for figure in figures if figure.note]
    missed = [f"  {figure.work} ({figure.data})" for figure in figures if figure.met is False]
    blocks = {"Baselines": _baselines(figures), "Notes": notes, "Aims missed": missed or ["  none"]}
    sections = [f"{title}\n" + "\n".join(block) for title, block in blocks.items() if block]
    return "\n\n".join(["\n".join(lines), *sections, method()])


def format_json(figures: Sequence[Figure]) -> str:
    """All figures with the method."""
    rows = [
        {**asdict(figure), "aim": figure.aim and figure.aim._asdict(), "ratio": figure.ratio, "met": figure.met}
        for figure in figures
    ]
    return json.dumps({"method": method(), "figures": rows}, indent=2)


def _baselines(figures: Sequence[Figure]) -> list[str]:
    works: dict[str, dict[str, None]] = {}
    for figure in figures:
        works.setdefault(figure.named, {})[figure.work] = None
    return [f"  {', '.join(names)}: {baseline}" for baseline, names in works.items()]


def _row(figure: Figure) -> tuple[str, ...]:
    values = (_number(figure.ours, figure.unit), _number(figure.baseline, figure.unit))
    met = {None: "", True: "met", False: "MISSED"}[figure.met]
    return (figure.work, figure.data, *values, f"{figure.ratio:.3g}", str(figure.repeats), _aim_text(figure.aim, figure.unit), met)


def _aim_text(aim: Aim | None, unit: str) -> str:
    if aim is None:
        return ""
    if aim.measure == "ours":
        return f"<= {_number(aim.limit, unit)}"
    if aim.measure == "rate":
        return f">= {_number(aim.limit, unit)}"
    if aim.measure == "times":
        return f"ratio >= {aim.limit:g}"
    if aim.measure == "excess":
        return f"at most {_number(aim.limit, unit)} above"
    return f"ratio <= {aim.limit:g}" if aim.measure == "ratio" else f"at most {aim.limit:g} below"


def _number(value: float, unit: str) -> str:
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}".rstrip()

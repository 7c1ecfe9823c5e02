"""Measures the evidence and writes its page: ``python -m tests.evidence [--quick] [--folder docs] [PART ...]``.

Parts that are not named keep their last measurement.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import tests.evidence
from tests.evidence.page import render, to_dict

__all__ = ["main", "parts"]

FRAME = {"__main__", "page", "part", "twin_measurements"}
LIBRARIES = ("numpy", "pandas", "scikit-learn", "scipy")


def main() -> None:
    """Measure the named parts, all by default, and write the page and the data."""
    part_names = parts()
    parser = argparse.ArgumentParser(
        prog="python -m tests.evidence", description="Measure the evidence that the numbers are right."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or more of {', '.join(part_names)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer repeats: to see that it runs")
    parser.add_argument("--folder", type=Path, default=Path("docs"), help="where to write")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(part_names):
        parser.error(f"no part {', '.join(sorted(unknown))}: use {', '.join(part_names)}")
    data_file = arguments.folder / "evidence.json"
    before = json.loads(data_file.read_text(encoding="utf-8"))["parts"] if data_file.is_file() else {}
    measured = before | dict(_measured(arguments.parts or part_names, arguments.quick))
    evidence = {"about": _about(), "parts": {name: measured[name] for name in part_names if name in measured}}
    data_file.write_text(json.dumps(evidence, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (arguments.folder / "evidence.html").write_text(render(evidence), encoding="utf-8")
    print(arguments.folder / "evidence.html")


def parts() -> list[str]:
    """Names of the modules that measure a part."""
    return sorted(module.name for module in iter_modules(tests.evidence.__path__) if module.name not in FRAME)


def _measured(names: Iterable[str], quick: bool) -> Iterable[tuple[str, dict[str, Any]]]:
    for name in names:
        started = time.perf_counter()
        part = import_module(f"tests.evidence.{name}").measure(quick)
        seconds = round(time.perf_counter() - started)
        print(f"{name}: {seconds} s", file=sys.stderr)
        yield name, {**to_dict(part), "seconds": seconds, "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}


def _about() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"Written by make evidence. Python {platform.python_version()} on {platform.machine()}, {libraries}."


if __name__ == "__main__":
    main()

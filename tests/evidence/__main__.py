"""Measure the evidence and write its page: ``python -m tests.evidence [--quick] [--folder docs] [PART ...]``.

Parts that are not named keep what was measured of them last.
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

FRAME = {"__main__", "page", "part"}
LIBRARIES = ("numpy", "pandas", "scikit-learn", "scipy")


def main() -> None:
    """Measure the parts that are named, all by default, and write page and data."""
    known = parts()
    parser = argparse.ArgumentParser(prog="python -m tests.evidence", description="Measure why the numbers can be believed.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or more of {', '.join(known)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer repeats: to see that it runs")
    parser.add_argument("--folder", type=Path, default=Path("docs"), help="where to write")
    said = parser.parse_args()
    if unknown := set(said.parts) - set(known):
        parser.error(f"no part {', '.join(sorted(unknown))}: use {', '.join(known)}")
    kept = said.folder / "evidence.json"
    before = json.loads(kept.read_text(encoding="utf-8"))["parts"] if kept.is_file() else {}
    measured = before | dict(_measured(said.parts or known, said.quick))
    evidence = {"about": _about(), "parts": {name: measured[name] for name in known if name in measured}}
    kept.write_text(json.dumps(evidence, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (said.folder / "evidence.html").write_text(render(evidence), encoding="utf-8")
    print(said.folder / "evidence.html")


def parts() -> list[str]:
    """Names of the modules that measure something."""
    return sorted(found.name for found in iter_modules(tests.evidence.__path__) if found.name not in FRAME)


def _measured(names: Iterable[str], quick: bool) -> Iterable[tuple[str, dict[str, Any]]]:
    for name in names:
        began = time.perf_counter()
        part = import_module(f"tests.evidence.{name}").measure(quick)
        seconds = round(time.perf_counter() - began)
        print(f"{name}: {seconds} s", file=sys.stderr)
        yield name, {**to_dict(part), "seconds": seconds, "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}


def _about() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"Written by make evidence. Python {platform.python_version()} on {platform.machine()}, {libraries}."


if __name__ == "__main__":
    main()

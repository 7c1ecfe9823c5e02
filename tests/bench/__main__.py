"""Speed and memory: every figure a ratio against a named baseline of the same run.

``python -m tests.bench [--json] [--seconds S] [PART ...]``
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from deploy.stack import LocalStack
from deploy.stack.part import free_port, is_free
from streams.client.discovery import settings_on_stack
from streams.settings import ROLES, Settings
from streams.worker.setup import prepare
from tests.bench.fidelity import sums_figure
from tests.bench.forest import forest_figures
from tests.bench.measure import Figure
from tests.bench.memory import memory_figures
from tests.bench.outcomes import outcome_figures
from tests.bench.populations import population_figure
from tests.bench.recovery import recovery_figure
from tests.bench.report import as_json, as_table
from tests.bench.tables import Measured, measured_tables
from tests.bench.twins import generation_figure, simulation_figure

OF_TABLES: dict[str, Callable[[Measured], Sequence[Figure]]] = {"forest": forest_figures}
OF_SAMPLE: dict[str, Callable[[Measured], Sequence[Figure]]] = {
    "generate": lambda table: [generation_figure(table)],
    "simulate": lambda table: [simulation_figure(table)],
    "sums": lambda table: [sums_figure(table)],
}
OF_STACK: dict[str, Callable[[Measured, Settings], Sequence[Figure]]] = {
    "population": lambda table, settings: [population_figure(table, settings)],
    "memory": lambda _, settings: memory_figures(settings),
    "recovery": lambda table, settings: [recovery_figure(table, settings)],
}
TIMED = "outcomes"
PARTS = (*OF_TABLES, *OF_SAMPLE, *OF_STACK, TIMED)


def main() -> None:
    """Measure the parts that were asked for, all by default, and print what was found even when one breaks."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Speed and memory against named baselines.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or more of {', '.join(PARTS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="how long outcomes are to be taken in at the aim's rate, up to 60"
    )
    said = parser.parse_args()
    if unknown := set(said.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: use {', '.join(PARTS)}")
    figures: list[Figure] = []
    try:
        with threadpool_limits(1):
            figures.extend(_measured(said.parts or PARTS, said.seconds))
    finally:
        print((as_json if said.json else as_table)(figures))


def _measured(parts: Sequence[str], seconds: float) -> Iterator[Figure]:
    tables = list(measured_tables())
    with patch.dict(os.environ, LOKY_MAX_CPU_COUNT="1"):  # as many processors joblib tells of, and as many threads we begin
        for part, of_table in OF_TABLES.items():
            for table in tables if part in parts else ():
                with _told(f"{part}, {table.name}"):
                    yield from of_table(table)
        for part, of_sample in OF_SAMPLE.items():
            if part in parts:
                with _told(part):
                    yield from of_sample(tables[0])
    of_stacks = {**OF_STACK, TIMED: lambda table, settings: outcome_figures(table, settings, seconds)}
    for part, of_stack in of_stacks.items():
        if part in parts:
            with _service() as settings, _told(part):
                yield from of_stack(tables[0], settings)


@contextmanager
def _service() -> Iterator[Settings]:
    """A local stack in a folder of its own, tables and topics made: no part finds what another has left."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        with LocalStack(home, _say) as stack:
            settings = settings_on_stack(Settings(web_port=_free_ports(len(ROLES))), stack.environment(), home)
            asyncio.run(prepare(settings))
            yield settings


def _free_ports(count: int) -> int:
    """The first of some free ports in a row."""
    while True:
        first = free_port()
        if all(is_free(first + number) for number in range(count)):
            return first


@contextmanager
def _told(part: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    _say(f"{part}: {time.perf_counter() - began:.1f} s")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()

"""Speed and memory: every figure a ratio against a named baseline of the same run.

``python -m tests.bench [--json] [--seconds S] [--outcomes N] [PART ...]``
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
from functools import partial
from pathlib import Path
from unittest.mock import patch

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from deploy.stack import LocalStack
from deploy.stack.part import free_port, is_free
from streams.client.discovery import settings_on_stack
from streams.settings import PORTS, Settings
from streams.worker.setup import prepare
from tests.bench.fidelity import sums_figure
from tests.bench.forest import forest_figures
from tests.bench.large_tables import large_table_figure
from tests.bench.measure import Figure
from tests.bench.memory import memory_figures
from tests.bench.outcomes import outcome_figures
from tests.bench.peers import peer_figures
from tests.bench.populations import population_figure
from tests.bench.recovery import recovery_figures
from tests.bench.report import format_json, format_table
from tests.bench.requests import request_figures
from tests.bench.shards import shard_figures
from tests.bench.sizes import size_figures
from tests.bench.stored import stored_figures
from tests.bench.tables import Measured, measured_tables
from tests.bench.twins import generation_figure, simulation_figure

OF_TABLES: dict[str, Callable[[Measured], Sequence[Figure]]] = {"forest": forest_figures}
OF_SAMPLE: dict[str, Callable[[Measured], Sequence[Figure]]] = {
    "generate": lambda table: [generation_figure(table)],
    "simulate": lambda table: [simulation_figure(table)],
    "sums": lambda table: [sums_figure(table)],
    "large": lambda _: [large_table_figure()],
}
OF_STACK: dict[str, Callable[[Measured, Settings], Sequence[Figure]]] = {
    "population": lambda table, settings: [population_figure(table, settings)],
    "memory": lambda _, settings: memory_figures(settings),
    "recovery": lambda _, settings: recovery_figures(settings),
    "requests": request_figures,
    "shards": shard_figures,
    "sizes": size_figures,
}
TIMED: dict[str, Callable[[Measured, Settings, float], Sequence[Figure]]] = {"peers": peer_figures, "outcomes": outcome_figures}
COUNTED = "stored"
PARTS = (*OF_TABLES, *OF_SAMPLE, *OF_STACK, *TIMED, COUNTED)


def main() -> None:
    """Measure the requested parts, all by default, and print their figures even when one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Speed and memory against named baselines.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or more of {', '.join(PARTS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of outcomes at the rate of the aim, up to 60")
    parser.add_argument("--outcomes", type=int, default=1_000_000, help=f"outcomes behind the service of the part {COUNTED}")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: use {', '.join(PARTS)}")
    figures: list[Figure] = []
    try:
        with threadpool_limits(1):
            figures.extend(_measure(arguments.parts or PARTS, arguments.seconds, arguments.outcomes))
    finally:
        print((format_json if arguments.json else format_table)(figures))


def _measure(parts: Sequence[str], seconds: float, n_outcomes: int) -> Iterator[Figure]:
    tables = list(measured_tables())
    with patch.dict(os.environ, LOKY_MAX_CPU_COUNT="1"):  # joblib reports one processor, so the engine starts one thread
        for part, of_table in OF_TABLES.items():
            for table in tables if part in parts else ():
                with _report_duration(f"{part}, {table.name}"):
                    yield from of_table(table)
        for part, of_sample in OF_SAMPLE.items():
            if part in parts:
                with _report_duration(part):
                    yield from of_sample(tables[0])
    timed = {part: partial(figures, seconds=seconds) for part, figures in TIMED.items()}
    of_stacks = {**OF_STACK, **timed, COUNTED: partial(stored_figures, count=n_outcomes)}
    for part, of_stack in of_stacks.items():
        if part in parts:
            with _service() as settings, _report_duration(part):
                yield from of_stack(tables[0], settings)


@contextmanager
def _service() -> Iterator[Settings]:
    """A local stack in a temporary folder with new tables and topics, so that parts do not influence each other."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        with LocalStack(home, _report_progress) as stack:
            settings = settings_on_stack(Settings(web_port=_free_ports(PORTS)), stack.addresses, home)
            asyncio.run(prepare(settings))
            yield settings


def _free_ports(count: int) -> int:
    """The first of ``count`` consecutive free ports."""
    while True:
        first = free_port()
        if all(is_free(first + number) for number in range(count)):
            return first


@contextmanager
def _report_duration(part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    _report_progress(f"{part}: {time.perf_counter() - start:.1f} s")


def _report_progress(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()

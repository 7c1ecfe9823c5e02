"""The demonstration from an empty folder to a report; its stack and workers end with it."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from deploy.stack import StackError, free_port, running_stack
from engine.sample_tables import sample_table
from schemas import TWIN_TYPES, Brand, TwinType
from streams.demo.report import DemoReport, make_report
from streams.demo.scenario import Pace, Stopwatch, run_scenario
from streams.demo.shift import split
from streams.operations.verify import verify
from streams.reporting.text import model_facts
from streams.settings import ROLES, Settings
from streams.training.datasets import ENTITY, ImportedTable, as_training_table, read_table
from streams.worker.local_stack import local_stack
from streams.worker.setup import prepare, train_model
from streams.worker.supervisor import Workers

__all__ = ["DEMO", "run_demo"]

Say = Callable[[str], None]

DEMO = {
    "pane_s": 1.0,
    "window_s": 15.0,
    "grace_s": 2.0,
    "skew_s": 5.0,
    "cooldown_s": 30.0,
    "session_timeout_s": 10.0,
    "postgres_statement_timeout_s": 8.0,
    "postgres_tcp_user_timeout_s": 8.0,
}
"""Short panes, windows and sessions, so that a life of months passes in a minute."""

ROWS, MOST_TO_TRAIN, SEED = 20_000, 12_000, 2026
LEAST_QUIET = 2_000


def run_demo(
    settings: Settings,
    data: Path | None,
    twin_type: TwinType,
    brand: Brand,
    say: Say,
    *,
    rows: int = ROWS,
    pace: Pace | None = None,
) -> DemoReport:
    """Run the main job and report; the folder ``demo`` of the home is cleared first.

    ``rows`` are generated where there is no ``data``. Without a ``pace`` the first half of the streamed rows is left as it is.

    Raises:
        ValueError: for a table that cannot be used.
        StackError: when a demonstration runs already.
    """
    watch = Stopwatch(say)
    with watch.step("reading the table" if data else "making a table of people that never were"):
        table = _table(data, twin_type, rows)
    rng = np.random.default_rng(SEED)
    train, stream = split(table.frame, MOST_TO_TRAIN, rng)
    say(f"  {table.source}: {len(train):,} rows to learn from, {len(stream):,} to stream; order and times are ours")
    for note in table.notes:
        say(f"  {note}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = _cleared(settings.home / "demo")
    ours = settings.model_copy(update={**DEMO, "web_port": free_port(in_a_row=len(ROLES))})
    say(f"  settings of the demonstration: {', '.join(f'{name} {value:g}' for name, value in DEMO.items())}")
    with ExitStack() as held:
        with watch.step("starting Kafka and Postgres"):
            at = held.enter_context(local_stack(home, ours, say))
            asyncio.run(prepare(at))
        with watch.step("training"):
            target = table.target
            first = asyncio.run(train_model(at, train, twin_type, brand, target, table.source)).card
        for fact in (*model_facts(first), *first.metrics.warnings):
            say(f"  {fact}")
        with watch.step("starting the workers"):
            workers = held.enter_context(Workers(ROLES, at, log_folder=home / "logs"))
            workers.wait_ready()
        journey = asyncio.run(run_scenario(at, first, stream, pace or _half_quiet(stream), watch, workers))
        with watch.step("verifying every count"):
            verified = asyncio.run(verify(at))
        workers.check()
    return make_report(table, journey, verified, watch.seconds, home)


def _table(data: Path | None, twin_type: TwinType, rows: int) -> ImportedTable:
    if data is not None:
        return as_training_table(read_table(data), twin_type)
    frame = sample_table(twin_type, rows, np.random.default_rng(SEED))
    frame.insert(0, ENTITY, [f"{twin_type.value}-{row:05}" for row in range(rows)])
    note = "marginals and correlations follow published facts, the links to the outcome are ours: nobody real is in it"
    return ImportedTable(
        frame, TWIN_TYPES[twin_type].default_target.name, f"generated table of {rows:,} {twin_type} rows", (), (note,)
    )


def _half_quiet(stream: pd.DataFrame) -> Pace:
    return Pace(quiet=max(LEAST_QUIET, len(stream) // 2))


def _cleared(home: Path) -> Path:
    if (stack := running_stack(home)) is not None:
        raise StackError(f"a demonstration runs in {home} already, process {stack.pid}: wait for its end or stop it")
    shutil.rmtree(home, ignore_errors=True)
    return home

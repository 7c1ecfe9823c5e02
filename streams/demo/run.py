"""Runs the demonstration from an empty folder to a report; its stack and workers stop with it."""

from __future__ import annotations

import asyncio
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from deploy.stack import StackError, free_port, running_stack
from engine.sample_tables import sample_table
from schemas import TWIN_TYPES, ModelCard, TwinType
from sql.training_data_store import ENTITY
from streams.demo.report import DemoReport, make_report
from streams.demo.scenario import Pace, Stopwatch, run_scenario
from streams.demo.shift import split
from streams.operations.verify import verify
from streams.reporting.text import model_facts
from streams.settings import EVENT_ROLES, PORTS, Settings
from streams.tables import TableOptions
from streams.training import ImportedTable, read_training_table
from streams.worker.local_stack import Notify, local_stack
from streams.worker.setup import prepare, train_model
from streams.worker.supervisor import Workers

__all__ = ["DEMO_SETTINGS", "run_demo"]


DEMO_SETTINGS = {
    "pane_s": 1.0,
    "window_s": 15.0,
    "grace_s": 2.0,
    "idle_s": 2.0,
    "skew_s": 5.0,
    "cooldown_s": 30.0,
    "session_timeout_s": 10.0,
    "postgres_statement_timeout_s": 8.0,
    "postgres_tcp_user_timeout_s": 8.0,
}
"""Short panes, windows and sessions, so that the demonstration takes minutes instead of months."""

ROWS, MAX_TRAINING_ROWS, SEED = 20_000, 12_000, 2026
MIN_UNSHIFTED = 2_000


def run_demo(
    settings: Settings,
    data: Path | None,
    twin_type: TwinType,
    brand: str,
    notify: Notify,
    *,
    reading: TableOptions | None = None,
    rows: int = ROWS,
    pace: Pace | None = None,
) -> DemoReport:
    """Run the whole workflow on a local stack and return its report; the folder ``demo`` of the home is cleared first.

    Args:
        settings: the settings that the demonstration starts from.
        data: a table of entities and outcomes; None generates one.
        twin_type: of the table.
        brand: of the model line.
        notify: called with each line of progress.
        reading: answers to what the file of the table leaves open.
        rows: to generate without ``data``.
        pace: how much is streamed; by default the first half of the streamed rows is not shifted.

    Raises:
        ValueError: for a table that cannot be used.
        StackError: when a demonstration already runs.
    """
    stopwatch = Stopwatch(notify)
    with stopwatch.step("reading the table" if data else "generating a table"):
        table = _table(data, twin_type, rows, reading)
    training_rows, stream_rows = split(table.frame, MAX_TRAINING_ROWS, np.random.default_rng(SEED))
    notify(f"  {table.source}: {len(training_rows):,} rows for training, {len(stream_rows):,} to stream in a random order")
    for note in (*table.notes, *table.remarks):
        notify(f"  {note}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = _empty_folder(settings.home / "demo")
    demo_settings = settings.model_copy(update={**DEMO_SETTINGS, "web_port": free_port(in_a_row=PORTS)})
    notify(f"  settings of the demonstration: {', '.join(f'{name} {value:g}' for name, value in DEMO_SETTINGS.items())}")
    with ExitStack() as resources:
        with stopwatch.step("starting Kafka and Postgres"):
            running = resources.enter_context(local_stack(home, demo_settings, notify))
            asyncio.run(prepare(running))
        with stopwatch.step("training"):
            card = asyncio.run(train_model(running, training_rows, twin_type, brand, table.target, table.source)).card
        _notify_model(card, notify)
        with stopwatch.step("starting the workers"):
            workers = resources.enter_context(Workers(EVENT_ROLES, running, log_folder=home / "logs"))
            workers.wait_ready(notify=lambda line: notify(f"  {line}"))
        demo_run = asyncio.run(run_scenario(running, card, stream_rows, pace or _default_pace(stream_rows), stopwatch, workers))
        with stopwatch.step("verifying every count"):
            verification = asyncio.run(verify(running))
        workers.check()
    return make_report(table, demo_run, verification, stopwatch.seconds, home)


def _table(data: Path | None, twin_type: TwinType, rows: int, reading: TableOptions | None) -> ImportedTable:
    if data is not None:
        return read_training_table([data], twin_type, options=reading).require_target()
    frame = sample_table(twin_type, rows, np.random.default_rng(SEED))
    frame.insert(0, ENTITY, [f"{twin_type.value}-{row:05}" for row in range(rows)])
    note = "synthetic data: marginals and correlations follow published statistics, the effect on the outcome is an assumption"
    return ImportedTable(frame, TWIN_TYPES[twin_type].default_target.name, f"generated {twin_type} table", (), (note,))


def _notify_model(card: ModelCard, notify: Notify) -> None:
    for fact in (*model_facts(card), *card.metrics.warnings):
        notify(f"  {fact}")


def _default_pace(stream_rows: pd.DataFrame) -> Pace:
    return Pace(unshifted=max(MIN_UNSHIFTED, len(stream_rows) // 2))


def _empty_folder(home: Path) -> Path:
    if (stack := running_stack(home)) is not None:
        raise StackError(f"a demonstration already runs in {home} (process {stack.pid}): wait for its end or stop it")
    shutil.rmtree(home, ignore_errors=True)
    return home

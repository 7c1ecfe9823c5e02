"""The process of one role: it runs the role until it is stopped, and reports to its supervisor how it starts and ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing as mp
import os
import signal
import sys
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple

from streams.errors import describe_error
from streams.settings import Role, Settings
from streams.worker.bootstrap import CannotStart, run_role
from streams.worker.log_setup import write_logs

__all__ = ["Report", "collect_garbage_rarely", "run_role_process"]

LOG = logging.getLogger(__name__)

ORPHAN_S = 1.5
_MAX_REASON_CHARACTERS = 500  # a report must fit into the buffer of the pipe, so that sending it cannot block


class Report(NamedTuple):
    """Sent by the process of a role: it processes events, its settings do not allow a start, or an error ended it."""

    event: Literal["ready", "cannot_start", "error"]
    reason: str = ""


def collect_garbage_rarely() -> None:
    """Raise the thresholds of Python's garbage collector.

    A poll batch makes tens of thousands of objects that are in no reference cycle. Collections at the default threshold of 700
    objects make its processing a quarter slower.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def run_role_process(role: Role, settings: Settings, log_folder: Path | None, reports: Connection) -> None:
    """Run a role until SIGTERM; the exit status is 1 when its settings do not allow a start, or after an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    collect_garbage_rarely()
    write_logs(role, log_folder)
    try:
        asyncio.run(_run_until_terminated(role, settings, reports))
    except CannotStart as error:
        LOG.error("the role %s cannot be started: %s", role, error)  # noqa: TRY400  # a traceback would add nothing
        _send(reports, Report("cannot_start", str(error)))
        sys.exit(1)
    except Exception as error:
        LOG.exception("the role %s ended with an error", role)
        _send(reports, Report("error", f"{type(error).__name__}: {describe_error(error)}"))
        sys.exit(1)


def _send(reports: Connection, report: Report) -> None:
    try:
        reports.send(report._replace(reason=report.reason[:_MAX_REASON_CHARACTERS]))
    except OSError as error:
        LOG.warning("the supervisor of this process is gone: %s", error)


async def _run_until_terminated(role: Role, settings: Settings, reports: Connection) -> None:
    """Run a role until SIGTERM, or until the parent process is gone."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    parent = mp.parent_process()
    if parent is not None:
        loop.add_reader(parent.sentinel, _stop_orphan, loop, stop, parent.sentinel)
    await run_role(role, settings, stop, partial(_send, reports, Report("ready")))


def _stop_orphan(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, sentinel: int) -> None:
    """Stop cleanly within 1.5 s, else exit at once: another worker receives the unfinished events again."""
    loop.remove_reader(sentinel)
    stop.set()
    loop.call_later(ORPHAN_S, os._exit, 1)

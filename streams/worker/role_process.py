"""The process of one role: it runs the role until it is stopped, and reports to its supervisor how it starts and ends."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import logging
import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import MutableSequence, Sequence
from contextlib import suppress
from ctypes import c_double
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple

from sql.interrupted_work_store import InterruptedWork
from streams.errors import describe_error
from streams.kafka.work_marks import MARKS
from streams.metrics import ROLE_EXITS
from streams.settings import Role, Settings
from streams.worker.bootstrap import CannotStart, RoleObserver, StopTimeout, run_role
from streams.worker.log_setup import write_logs

__all__ = ["STACKS_SIGNAL", "Report", "collect_garbage_rarely", "run_role_process"]

LOG = logging.getLogger(__name__)

ORPHAN_S = 1.5
STACKS_SIGNAL = signal.SIGUSR1
"""Makes the process of a role write the stack of each thread to its log, also when none of them runs Python code any more."""
_EXIT_S = 2.0
_WEB_NICENESS = 5
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_MAX_REASON_CHARACTERS = 500  # a short report is written to the pipe completely or, when that is full, not at all


class Report(NamedTuple):
    """Sent by the process of a role.

    Attributes:
        event: it processes events; its event loop turns; it hangs though its event loop turns; its settings do not allow a
            start; or an error ended it.
    """

    event: Literal["ready", "beat", "hangs", "cannot_start", "error"]
    reason: str = ""


def collect_garbage_rarely() -> None:
    """Raise the thresholds of Python's garbage collector.

    A poll batch makes tens of thousands of objects that are in no reference cycle. Collections at the default threshold of 700
    objects make its processing a quarter slower.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def run_role_process(
    role: Role,
    settings: Settings,
    log_folder: Path | None,
    reports: Connection,
    exits: int,
    pulse: c_double | None,
    member: str | None,
    slots: MutableSequence[int],
    interrupted: Sequence[InterruptedWork],
) -> None:
    """Run a role until SIGTERM; the exit status is 1 when its settings do not allow a start, or after an error.

    ``pulse`` is the time at which the supervisor last did its work, on the monotonic clock, which all processes share. ``member``
    is the name in the consumer group, which this process takes over from the one that it replaces. ``slots`` is shared with the
    supervisor, for the marks of what is in work, and ``interrupted`` is what earlier processes had in work. The process ends
    without waiting for threads and tasks that are left: one of them may hang.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_forking_process()
    os.set_blocking(reports.fileno(), False)
    collect_garbage_rarely()
    if role == "web":  # whoever asks waits for the processors until events are processed
        os.nice(_WEB_NICENESS)
    write_logs(role, log_folder)
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    ROLE_EXITS.labels(role=role).inc(exits)
    MARKS.share(slots, interrupted)
    status = _run(role, settings, _Reporter(reports, settings.stop_limit_s, pulse, member))
    logging.shutdown()
    os._exit(status)


def _end_with_forking_process() -> None:
    """Let Linux kill this process when the one that forked it ends: its supervisor could no longer tell whether it runs."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _run(role: Role, settings: Settings, observer: _Reporter) -> int:
    runner = asyncio.Runner()  # never closed: that would wait for every task and thread
    try:
        runner.run(_run_until_terminated(role, settings, observer))
    except CannotStart as error:
        LOG.error("the role %s cannot be started: %s", role, error)  # noqa: TRY400  # a traceback would add nothing
        observer.send(Report("cannot_start", str(error)))
    except StopTimeout as error:
        LOG.error("%s", error)  # noqa: TRY400  # a traceback would add nothing
    except Exception as error:
        LOG.exception("the role %s ended with an error", role)
        observer.stopping(error)
    else:
        return 0
    return 1


class _Reporter(RoleObserver):
    """Reports to the supervisor, and ends the process when stopping takes too long, whatever its event loop does."""

    def __init__(self, reports: Connection, stop_limit_s: float, pulse: c_double | None, member: str | None = None) -> None:
        self._reports, self._pulse, self.member = reports, pulse, member
        self._deadline = threading.Timer(stop_limit_s + _EXIT_S, os._exit, [1])
        self._deadline.daemon = True
        self._has_failed = False

    def send(self, report: Report) -> None:
        """Send a report; one that the supervisor has no room for, because it stands still, is dropped."""
        try:
            self._reports.send(report._replace(reason=report.reason[:_MAX_REASON_CHARACTERS]))
        except BlockingIOError:
            pass
        except OSError as error:
            LOG.warning("the supervisor of this process is gone: %s", error)

    def ready(self) -> None:
        self.send(Report("ready"))

    def beat(self, problems: Sequence[str]) -> None:
        self.send(Report("hangs", "; ".join(problems)) if problems else Report("beat"))

    def supervisor_silence_s(self) -> float:
        return 0.0 if self._pulse is None else max(0.0, time.monotonic() - self._pulse.value)

    def stopping(self, error: BaseException | None) -> None:
        if error is not None and not self._has_failed:  # the first error is the cause of the others
            self._has_failed = True
            self.send(Report("error", f"{type(error).__name__}: {describe_error(error)}"))
        if not self._deadline.is_alive():
            self._deadline.start()


async def _run_until_terminated(role: Role, settings: Settings, observer: RoleObserver) -> None:
    """Run a role until SIGTERM, or until the parent process is gone."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, _stop, stop, observer)
    parent = mp.parent_process()
    if parent is not None:
        loop.add_reader(parent.sentinel, _stop_orphan, loop, stop, parent.sentinel)
    await run_role(role, settings, stop, observer)


def _stop(stop: asyncio.Event, observer: RoleObserver) -> None:
    stop.set()
    observer.stopping(None)


def _stop_orphan(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, sentinel: int) -> None:
    """Stop cleanly within 1.5 s, else exit at once: another worker receives the unfinished events again."""
    loop.remove_reader(sentinel)
    stop.set()
    loop.call_later(ORPHAN_S, os._exit, 1)

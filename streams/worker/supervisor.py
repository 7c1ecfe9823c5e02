"""Runs one child process per role, restarts a child that ends, and makes sure that none outlives its parent.

No library serves: the children are forked from one process that has imported the libraries, so that they share its memory, and they
end with their parent even when it is killed; process managers such as supervisord start separate interpreters.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import logging
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from streams.errors import describe_error
from streams.settings import Role, Settings
from streams.worker.bootstrap import run_role
from streams.worker.local_stack import Notify
from streams.worker.log_setup import log_file, write_logs

__all__ = ["WorkerFailed", "Workers", "collect_garbage_rarely", "run_worker"]

LOG = logging.getLogger(__name__)

ORPHAN_S = 1.5
STOP_S = 15.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0
MAX_EXITS, EXITS_WITHIN_S = 5, 120.0
CANNOT_START = 78  # EX_CONFIG of sysexits.h: the same start would fail again
PRELOAD = ["streams.worker.bootstrap", "engine", "sklearn.ensemble", "scipy.stats", "skops.io", "schemas"]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class WorkerFailed(RuntimeError):
    """A role keeps ending, cannot be started, or is not ready in time."""


@dataclass
class _Child:
    """The process of a role, and the times (monotonic clock) of its recent exits and of its next start."""

    role: Role
    process: ForkServerProcess
    exits: deque[float] = field(default_factory=deque)
    restart_at: float | None = None


class Workers:
    """Processes of some roles, as a context manager: started when it is entered, stopped cleanly when it is left.

    Args:
        roles: roles to run, in one process each.
        settings: settings of every process.
        log_folder: folder with a log file for each role; without it, the processes log to stderr.
    """

    def __init__(self, roles: Sequence[Role], settings: Settings, *, log_folder: Path | None = None) -> None:
        self._roles, self._settings, self._log_folder = tuple(roles), settings, log_folder
        self._children: list[_Child] = []
        self._stopping = threading.Event()
        self._failure: WorkerFailed | None = None
        self._supervisor = threading.Thread(target=self._supervise, name="workers", daemon=True)

    def __enter__(self) -> Self:
        with _default_environment(ONE_THREAD):
            self._context = _forkserver()
            with _sigint_blocked():  # Ctrl-C reaches every process of a terminal, but only this one reacts to it
                ensure_running()
            self._children = [_Child(role, self._spawn(role)) for role in self._roles]
        self._supervisor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every process finish its event and stop; a process that takes longer than 15 s is killed."""
        self._stopping.set()
        self._supervisor.join()
        for child in self._children:
            if child.process.is_alive():
                child.process.terminate()
        deadline = time.monotonic() + STOP_S
        for child in self._children:
            child.process.join(max(0.0, deadline - time.monotonic()))
            if child.process.is_alive():
                LOG.warning("the role %s did not stop within %g s and was killed", child.role, STOP_S)
                child.process.kill()
                child.process.join()

    @property
    def pids(self) -> dict[Role, int]:
        """Process id of each role."""
        return {child.role: child.process.pid for child in self._children if child.process.pid is not None}

    def check(self) -> None:
        """Raise when a role has failed for good.

        Raises:
            WorkerFailed: naming the role and its log.
        """
        if self._failure is not None:
            raise self._failure

    def ready(self) -> bool:
        """Whether every role processes events."""
        return all(_is_ready(self._settings, role) for role in self._roles)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until every role processes events.

        Raises:
            WorkerFailed: when a role fails, or is not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            self.check()
            if time.monotonic() > deadline:
                unready = [role for role in self._roles if not _is_ready(self._settings, role)]
                hint = self._log_hint(unready[0]) if unready else ""
                raise WorkerFailed(f"not ready after {timeout_s:g} s: {', '.join(unready)}{hint}")
            time.sleep(0.1)

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the workers are stopped, a role has failed, or ``timeout_s`` are over."""
        self._supervisor.join(timeout_s)

    def _spawn(self, role: Role) -> ForkServerProcess:
        process = self._context.Process(
            target=_run_child, args=(role, self._settings, self._log_folder), name=f"twinstream-{role}", daemon=True
        )
        process.start()
        return process

    def _supervise(self) -> None:
        while not self._stopping.is_set() and self._failure is None:
            running = [child.process.sentinel for child in self._children if child.restart_at is None]
            wait(running, timeout=0.2) if running else time.sleep(0.2)
            for child in self._children:
                if not self._stopping.is_set():
                    self._update(child, time.monotonic())

    def _update(self, child: _Child, now: float) -> None:
        """Start a child whose pause is over, and schedule the restart of one that has ended."""
        if child.restart_at is None:
            if child.process.exitcode is not None:
                self._handle_exit(child, now)
        elif now >= child.restart_at:
            child.process, child.restart_at = self._spawn(child.role), None

    def _handle_exit(self, child: _Child, now: float) -> None:
        status, hint = child.process.exitcode, self._log_hint(child.role)
        child.exits.append(now)
        while child.exits[0] < now - EXITS_WITHIN_S:
            child.exits.popleft()
        if status == CANNOT_START:
            self._failure = WorkerFailed(f"the role {child.role} cannot be started{hint}")
        elif len(child.exits) >= MAX_EXITS:
            count = f"{len(child.exits)} times within {EXITS_WITHIN_S:g} s"
            self._failure = WorkerFailed(f"the role {child.role} ended {count}, the last time with status {status}{hint}")
        else:
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (len(child.exits) - 1))
            LOG.warning("the role %s ended with status %s and is restarted in %g s%s", child.role, status, pause_s, hint)
            child.restart_at = now + pause_s

    def _log_hint(self, role: Role) -> str:
        return f"; see {log_file(self._log_folder, role)}" if self._log_folder is not None else ""


def run_worker(
    roles: Sequence[Role],
    settings: Settings,
    *,
    log_folder: Path | None = None,
    notify: Notify = lambda _line: None,
) -> None:
    """Run roles until SIGTERM or SIGINT, and stop them cleanly; ``notify`` is called when all are ready.

    Raises:
        WorkerFailed: when a role keeps ending.
    """
    with _stop_signals() as stop, Workers(roles, settings, log_folder=log_folder) as workers:
        notified = False
        while not stop.wait(0.2):
            workers.check()
            if not notified and workers.ready():
                notified = True
                notify(f"ready: {', '.join(roles)}")


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _default_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for child processes, except those that are set already."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT for processes that are started inside; this process handles it at the end of the block."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _forkserver() -> ForkServerContext:
    """Children are forked from a server process that has imported the heavy modules once."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _is_ready(settings: Settings, role: Role) -> bool:
    listens_everywhere = settings.web_host in ("0.0.0.0", "::", "")  # noqa: S104  # compared, not bound
    host = "127.0.0.1" if listens_everywhere else settings.web_host
    connection = http.client.HTTPConnection(host, settings.port_of(role), timeout=1.0)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def collect_garbage_rarely() -> None:
    """Raise the thresholds of Python's garbage collector.

    A poll batch makes tens of thousands of objects that are in no reference cycle. Collections at the default threshold of 700
    objects make its processing a quarter slower.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _run_child(role: Role, settings: Settings, log_folder: Path | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    collect_garbage_rarely()
    write_logs(role, log_folder)
    try:
        asyncio.run(_run_until_terminated(role, settings))
    except (ValueError, OSError) as error:
        LOG.error("the role %s cannot be started: %s", role, describe_error(error))  # noqa: TRY400  # a traceback would add nothing
        sys.exit(CANNOT_START)
    except Exception:
        LOG.exception("the role %s ended with an error", role)
        sys.exit(1)


async def _run_until_terminated(role: Role, settings: Settings) -> None:
    """Run a role until SIGTERM, or until the parent process is gone."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    parent = mp.parent_process()
    if parent is not None:
        loop.add_reader(parent.sentinel, _stop_orphan, loop, stop, parent.sentinel)
    await run_role(role, settings, stop)


def _stop_orphan(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, sentinel: int) -> None:
    """Stop cleanly within 1.5 s, else exit at once: another worker receives the unfinished events again."""
    loop.remove_reader(sentinel)
    stop.set()
    loop.call_later(ORPHAN_S, os._exit, 1)

"""A worker: one child process for each role, started again when it dies, and none that outlives its parent."""

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
from collections.abc import Callable, Iterator, Sequence
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
from streams.worker.log_setup import log_file, write_logs

__all__ = ["WorkerFailed", "Workers", "collect_seldom", "run_worker"]

LOG = logging.getLogger(__name__)

ORPHAN_S = 1.5
STOP_S = 15.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0
DEATHS_AT_MOST, DEATHS_WITHIN_S = 5, 120.0
REFUSED = 78  # EX_CONFIG of sysexits.h: the same start would fail again
PRELOAD = ["streams.worker.bootstrap", "engine", "sklearn.ensemble", "scipy.stats", "skops.io", "schemas"]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class WorkerFailed(RuntimeError):
    """A role keeps dying, or refuses to start."""


@dataclass
class _Child:
    role: Role
    process: ForkServerProcess
    started: float
    deaths: deque[float] = field(default_factory=deque)
    again_at: float | None = None


class Workers:
    """The processes of some roles, as a context manager: started at its beginning, stopped in good order at its end.

    Args:
        roles: one process each.
        settings: handed to every process.
        log_folder: a file for each role there; without it, stderr.
    """

    def __init__(self, roles: Sequence[Role], settings: Settings, *, log_folder: Path | None = None) -> None:
        self._roles, self._settings, self._log_folder = tuple(roles), settings, log_folder
        self._children: list[_Child] = []
        self._stopping = threading.Event()
        self._failure: WorkerFailed | None = None
        self._watcher = threading.Thread(target=self._watch, name="workers", daemon=True)

    def __enter__(self) -> Self:
        with _environment(ONE_THREAD):
            self._context = _forkserver()
            with _interrupts_held():  # Ctrl-C reaches all processes of a terminal; this one alone shall answer it
                ensure_running()
            self._children = [_Child(role, self._spawn(role), time.monotonic()) for role in self._roles]
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every process finish its event and leave; one that takes longer than 15 s is killed."""
        self._stopping.set()
        self._watcher.join()
        for child in self._children:
            if child.process.is_alive():
                child.process.terminate()
        deadline = time.monotonic() + STOP_S
        for child in self._children:
            child.process.join(max(0.0, deadline - time.monotonic()))
            if child.process.is_alive():
                LOG.warning("%s did not stop within %g s: killed", child.role, STOP_S)
                child.process.kill()
                child.process.join()

    @property
    def pids(self) -> dict[Role, int]:
        """Process of each role."""
        return {child.role: child.process.pid for child in self._children if child.process.pid is not None}

    def check(self) -> None:
        """Raise when a role keeps dying.

        Raises:
            WorkerFailed: naming the role, and where it wrote why.
        """
        if self._failure is not None:
            raise self._failure

    def ready(self) -> bool:
        """Whether every role takes events."""
        return all(_answers(self._settings, role, "/ready") for role in self._roles)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until every role takes events.

        Raises:
            WorkerFailed: when a role keeps dying, or is not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            self.check()
            if time.monotonic() > deadline:
                late = [role for role in self._roles if not _answers(self._settings, role, "/ready")]
                raise WorkerFailed(f"not ready after {timeout_s:g} s: {', '.join(late)}{self._see(late[0]) if late else ''}")
            time.sleep(0.1)

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until stopped, or failed, or ``timeout_s`` are over."""
        self._watcher.join(timeout_s)

    def _spawn(self, role: Role) -> ForkServerProcess:
        process = self._context.Process(
            target=_child, args=(role, self._settings, self._log_folder), name=f"twinstream-{role}", daemon=True
        )
        process.start()
        return process

    def _watch(self) -> None:
        while not self._stopping.is_set() and self._failure is None:
            alive = [child.process.sentinel for child in self._children if child.again_at is None]
            wait(alive, timeout=0.2) if alive else time.sleep(0.2)
            for child in self._children:
                self._look_after(child, time.monotonic())

    def _look_after(self, child: _Child, now: float) -> None:
        if self._stopping.is_set():
            return
        if child.again_at is not None:
            if now >= child.again_at:
                child.process, child.started, child.again_at = self._spawn(child.role), now, None
        elif child.process.exitcode is not None:
            self._note_death(child, now)

    def _note_death(self, child: _Child, now: float) -> None:
        code = child.process.exitcode
        child.deaths.append(now)
        while child.deaths[0] < now - DEATHS_WITHIN_S:
            child.deaths.popleft()
        if code == REFUSED or len(child.deaths) >= DEATHS_AT_MOST:
            often = f"{len(child.deaths)} times within {DEATHS_WITHIN_S:g} s" if code != REFUSED else "and would again"
            self._failure = WorkerFailed(f"{child.role} ended {often}, last with status {code}{self._see(child.role)}")
            return
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (len(child.deaths) - 1))
        LOG.warning("%s ended with status %s: starting it again in %g s%s", child.role, code, pause, self._see(child.role))
        child.again_at = now + pause

    def _see(self, role: Role) -> str:
        return f"; see {log_file(self._log_folder, role)}" if self._log_folder is not None else ""


def run_worker(
    roles: Sequence[Role],
    settings: Settings,
    *,
    log_folder: Path | None = None,
    say: Callable[[str], object] = lambda _line: None,
) -> None:
    """Run roles until SIGTERM or SIGINT, and stop them in good order.

    ``say`` is told when all are ready.

    Raises:
        WorkerFailed: when a role keeps dying.
    """
    with _asked_to_stop() as stop, Workers(roles, settings, log_folder=log_folder) as workers:
        told = False
        while not stop.wait(0.2):
            workers.check()
            if not told and workers.ready():
                told = True
                say(f"ready: {', '.join(roles)}")


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    """Variables that children are to find; what is set already stays."""
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that is started inside never sees SIGINT; here it is answered at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forkserver() -> ForkServerContext:
    """Children are forked from a process that has imported everything heavy once."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _answers(settings: Settings, role: Role, path: str) -> bool:
    host = "127.0.0.1" if settings.web_host in ("0.0.0.0", "::", "") else settings.web_host  # noqa: S104  # asks, does not bind
    connection = http.client.HTTPConnection(host, settings.port_of(role), timeout=1.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def collect_seldom() -> None:
    """Let Python look for garbage less often.

    A slice makes tens of thousands of objects in no cycle: looked through after every 700 of them, they take a quarter longer.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _child(role: Role, settings: Settings, log_folder: Path | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    collect_seldom()
    write_logs(role, log_folder)
    try:
        asyncio.run(_until_asked(role, settings))
    except (ValueError, OSError) as error:
        LOG.error("%s cannot be started: %s", role, describe_error(error))  # noqa: TRY400  # a sentence is enough
        sys.exit(REFUSED)
    except Exception:
        LOG.exception("%s ended", role)
        sys.exit(1)


async def _until_asked(role: Role, settings: Settings) -> None:
    """Play until asked to stop; without a parent, at once."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    parent = mp.parent_process()
    if parent is not None:
        loop.add_reader(parent.sentinel, _orphaned, loop, stop, parent.sentinel)
    await run_role(role, settings, stop)


def _orphaned(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, sentinel: int) -> None:
    """Leave in good order if that takes a moment, else at once: what is unfinished comes again to somebody else."""
    loop.remove_reader(sentinel)
    stop.set()
    loop.call_later(ORPHAN_S, os._exit, 1)

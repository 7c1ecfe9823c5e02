"""Runs one child process per role, restarts a child that ends, and makes sure that none outlives its parent.

Only settings with which a role has never been ready end the worker. A role that ends later is restarted for ever, with pauses that
grow, and the other roles go on meanwhile: one record that ends one role must not stop the service.

No library serves: the children are forked from one process that has imported the libraries, so that they share its memory, and they
end with their parent even when it is killed; process managers such as supervisord start separate interpreters.
"""

from __future__ import annotations

import logging
import math
import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self
from uuid import uuid4

from deploy.stack import describe_exit
from sql.interrupted_work_store import InterruptedWork
from streams.kafka.work_marks import WorkMarks, shared_slots
from streams.settings import Role, Settings
from streams.silence import Silence
from streams.worker.file_limit import raise_file_limit
from streams.worker.local_stack import Notify
from streams.worker.log_setup import log_file
from streams.worker.rights import warn_of_excess_rights
from streams.worker.role_process import STACKS_SIGNAL, Report, run_role_process
from streams.worker.role_start import LEFT_BEHIND, RoleStart, end_left_behind
from streams.worker.service_manager import ALIVE, STARTED, notify_service_manager
from streams.worker.startup import Activity, StartStalled, Startup, read_activity

__all__ = ["WorkerFailed", "Workers", "preload", "run_worker"]

LOG = logging.getLogger(__name__)

KILL_S = 2.0
STACKS_S = 0.5
_LAST_EVENTS = ("cannot_start", "error")
_STOP_MARGIN_S = 3.0
_MAX_DOUBLINGS = 4
FIRST_PAUSE_S, SECOND_PAUSE_S, LONGEST_PAUSE_S = 0.0, 0.5, 20.0
"""Before the first restart, before the second in a row, from which on they double, and the longest."""
_SUPERVISE_S = 0.2
STEADY_S = 180.0
"""A role that ran this long is restarted after the first pause again."""
PRELOAD = ["streams.worker.bootstrap", "engine", "sklearn.ensemble", "scipy.stats", "skops.io", "schemas"]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class WorkerFailed(RuntimeError):
    """The settings do not allow a role to start, or a role is not ready in time."""


@dataclass
class _Child:
    """The process of a role, and how the processes of this role have ended so far; times are of the monotonic clock.

    Attributes:
        reports: receives the reports of the process; they are complete when it has ended.
        was_ready: whether a process of this role has processed events.
        exits: how often a process of this role has ended.
        exits_in_a_row: exits with no run of ``STEADY_S`` between them.
        reason: why the last process ended.
        restart_at: time of the next start, None while the process runs.
        silence: how long the process has sent no heartbeat.
        last_report: its report about why it ends; stopping can take it seconds after that.
        is_ready: whether this process has processed events.
        hangs_at_start: how often in a row it was killed because it hung before it was ready.
        start: of the next process, None unless one is being started.
    """

    role: Role
    process: ForkServerProcess
    reports: Connection
    started_at: float
    was_ready: bool = False
    exits: int = 0
    exits_in_a_row: int = 0
    reason: str = ""
    restart_at: float | None = None
    silence: Silence = field(default_factory=Silence)
    last_report: Report | None = None
    is_ready: bool = False
    hangs_at_start: int = 0
    start: RoleStart | None = None

    def read_reports(self) -> list[Report]:
        """The reports since the last call, and the one about its end that came before."""
        reports = [] if self.last_report is None else [self.last_report]
        try:
            while self.reports.poll():
                reports.append(self.reports.recv())
        except (EOFError, OSError):  # the process has ended
            pass
        self.is_ready |= any(report.event == "ready" for report in reports)
        self.was_ready |= self.is_ready
        if any(report.event == "beat" for report in reports):
            self.silence.end()
        self.last_report = next((report for report in reports if report.event in _LAST_EVENTS), None)
        return reports

    def hang_reason(self, reports: Sequence[Report], now: float, limit_s: float) -> str | None:
        """Why the process has to be killed, None while it does not hang.

        Restoring much state can hold up the event loop: each kill before the role was ready doubles the limit of its next start.
        """
        limit_s *= 1 if self.is_ready else 2 ** min(self.hangs_at_start, _MAX_DOUBLINGS)
        if self.silence.seconds(self.process.pid, now) > limit_s:
            return f"its event loop stood still for {limit_s:g} s (TWIN_HEARTBEAT_LIMIT_S), and it was killed"
        return next((f"{report.reason}; it was killed" for report in reports if report.event == "hangs"), None)

    def count_exit(self, now: float) -> float:
        """Count an exit of the role, and return the seconds to wait before its next start."""
        self.exits += 1
        self.exits_in_a_row = 1 if now - self.started_at >= STEADY_S else self.exits_in_a_row + 1
        if self.exits_in_a_row == 1:
            return FIRST_PAUSE_S
        return float(min(LONGEST_PAUSE_S, SECOND_PAUSE_S * 2.0 ** min(self.exits_in_a_row - 2, 30)))


class Workers:
    """Processes of some roles, as a context manager: started when it is entered, stopped cleanly when it is left.

    A role whose supervisor stands still is told by the age of its last pulse, and a service manager is told of each pulse.

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
        self._id = uuid4().hex
        self._marks = {role: shared_slots() for role in self._roles}  # what the process of each role has in work
        self._interrupted: dict[Role, list[InterruptedWork]] = {role: [] for role in self._roles}
        self._pulse = RawValue("d", time.monotonic())  # when this process last supervised; its children read it
        self._supervisor = threading.Thread(target=self._supervise, name="workers", daemon=True)

    def __enter__(self) -> Self:
        self._context = preload()
        self._children = [_Child(role, *self._spawn(role), time.monotonic()) for role in self._roles]
        self._supervisor.start()
        notify_service_manager(STARTED)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every process finish its event and stop; one that takes 3 s longer than ``stop_limit_s`` is killed."""
        self._stopping.set()
        self._supervisor.join()
        for child in self._children:
            self._take_started(child)
            if child.process.is_alive():
                child.process.terminate()
        stop_s = self._settings.stop_limit_s + _STOP_MARGIN_S
        deadline = time.monotonic() + stop_s
        for child in self._children:
            child.process.join(max(0.0, deadline - time.monotonic()))
            if child.process.is_alive():
                LOG.warning("the role %s did not stop within %g s and was killed", child.role, stop_s)
                child.process.kill()
                child.process.join()

    def _take_started(self, child: _Child) -> None:
        """Take over the process that is being started, so that it is stopped too; one that is not there then ends as an orphan."""
        if child.start is not None:
            with suppress(OSError, EOFError):
                child.process, child.reports = child.start.result(KILL_S) or (child.process, child.reports)

    @property
    def pids(self) -> dict[Role, int]:
        """Process id of each role."""
        return {child.role: child.process.pid for child in self._children if child.process.pid is not None}

    def check(self) -> None:
        """Raise when the settings do not allow a role to start.

        Raises:
            WorkerFailed: naming the role, the reason and the log.
        """
        if self._failure is not None:
            raise self._failure

    def unready(self) -> dict[Role, Activity]:
        """What each role does that is not ready; empty when all roles process events."""
        activities = {child.role: self._read_activity(child) for child in self._children}
        return {role: activity for role, activity in activities.items() if activity is not None}

    def _read_activity(self, child: _Child) -> Activity | None:
        """What a role does that is not ready; another service may answer at its port while its own process starts."""
        activity = read_activity(self._settings, child.role)
        return Activity("starts its process") if activity is None and not child.was_ready else activity

    def wait_ready(self, stall_s: float | None = None, notify: Notify = lambda _line: None) -> None:
        """Wait until every role processes events, however long that takes, as long as it advances.

        Args:
            stall_s: the longest time without progress; ``start_stall_s`` of the settings by default.
            notify: called with a line about the roles that are not ready: when they do something else, else every 10 s.

        Raises:
            WorkerFailed: when a role cannot be started, or none makes progress; it has what the roles did last.
        """
        startup = self.startup(stall_s)
        while self.advance(startup, notify):
            time.sleep(0.1)

    def startup(self, stall_s: float | None = None) -> Startup:
        """Begin to watch the start of the roles."""
        return Startup(self._settings.start_stall_s if stall_s is None else stall_s)

    def advance(self, startup: Startup, notify: Notify) -> dict[Role, Activity]:
        """Check once how the start advances, and return what :meth:`unready` does.

        Raises:
            WorkerFailed: as :meth:`wait_ready` does.
        """
        self.check()
        activities = self.unready()
        try:
            line = startup.update(activities) if activities else None
        except StartStalled as stalled:
            raise WorkerFailed(f"{stalled}: {self._describe_unready(activities)}") from None
        if line is not None:
            notify(line)
        return activities

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the workers are stopped, a role cannot be started, or ``timeout_s`` are over."""
        self._supervisor.join(timeout_s)

    def _spawn(self, role: Role, exits: int = 0) -> tuple[ForkServerProcess, Connection]:
        """Start the process of a role that has ended ``exits`` times; the connection receives its reports."""
        receiver, sender = self._context.Pipe(duplex=False)
        with sender:  # the process has a copy; the receiver notices the end when no copy is open
            member = f"{role}-{self._id}"  # no other process has this name at the same time: the last one has ended
            marks = self._marks[role], self._interrupted[role]
            arguments = (role, self._settings, self._log_folder, sender, exits, self._pulse, member, *marks)
            preload()  # unless the process that forks the roles has ended, it runs
            process = self._context.Process(target=run_role_process, args=arguments, name=f"twinstream-{role}", daemon=True)
            process.start()
        return process, receiver

    def _supervise(self) -> None:
        while not self._stopping.is_set() and self._failure is None:
            running = [child.process.sentinel for child in self._children if child.restart_at is None]
            wait(running, self._pause_s()) if running else time.sleep(self._pause_s())
            for child in self._children:
                if not self._stopping.is_set():
                    self._update_safely(child)

    def _pause_s(self) -> float:
        """Seconds until this process looks after its children again, unless one ends before."""
        due = min(
            (child.restart_at for child in self._children if child.restart_at is not None and not child.start), default=math.inf
        )
        return min(_SUPERVISE_S, max(0.0, due - time.monotonic()))

    def _update_safely(self, child: _Child) -> None:
        """Update a child; what fails unforeseen must not end the supervision of the others."""
        self._pulse.value = time.monotonic()
        notify_service_manager(ALIVE)
        try:
            self._update(child, time.monotonic())
        except Exception:
            LOG.exception("the process of the role %s could not be supervised; it is tried again", child.role)

    def _update(self, child: _Child, now: float) -> None:
        """Start a child whose pause is over, and schedule the restart of one that has ended."""
        if child.restart_at is None:
            has_ended = child.process.exitcode is not None  # before its reports are read: then these are complete
            reports = child.read_reports()
            if has_ended:
                self._handle_exit(child, reports, now)
            elif (reason := child.hang_reason(reports, now, self._settings.heartbeat_limit_s)) is not None:
                self._kill(child, reports, reason, now)
        elif now >= child.restart_at:
            self._restart(child, now)

    def _kill(self, child: _Child, reports: Sequence[Report], reason: str, now: float) -> None:
        """Kill a process that hangs, after it wrote its stacks; SIGTERM would reach its event loop, which does not turn."""
        if child.process.pid is not None:
            os.kill(child.process.pid, STACKS_SIGNAL)
            child.process.join(STACKS_S)
        child.hangs_at_start = 0 if child.is_ready else child.hangs_at_start + 1
        child.process.kill()
        child.process.join(KILL_S)
        self._handle_exit(child, [*reports, Report("error", reason)], now)

    def _restart(self, child: _Child, now: float) -> None:
        """Start a process, or look whether it is started: to import all libraries again takes tens of seconds on a busy machine."""
        if child.start is None:
            child.start = RoleStart(partial(self._spawn, child.role, child.exits))
        try:
            started = child.start.result()
        except (OSError, EOFError) as error:  # the machine has no process or file left
            child.start, child.restart_at = None, now + LONGEST_PAUSE_S
            LOG.warning("the role %s could not be restarted: %s; trying again in %g s", child.role, error, LONGEST_PAUSE_S)
            return
        if started is not None:
            child.process, child.reports = started
            child.start, child.started_at, child.restart_at = None, now, None
            child.silence, child.last_report, child.is_ready = Silence(), None, False

    def _handle_exit(self, child: _Child, reports: Sequence[Report], now: float) -> None:
        child.reports.close()
        if child.process.exitcode == LEFT_BEHIND:
            end_left_behind(child.process.pid, KILL_S)
        in_work = WorkMarks(self._marks[child.role]).take(datetime.now(UTC))
        not_stored = [] if child.is_ready else self._interrupted[child.role]  # the process may have ended before it stored them
        self._interrupted[child.role] = [*not_stored, *in_work]
        child.reason = next(
            (report.reason for report in reports if report.event in _LAST_EVENTS), describe_exit(child.process.exitcode)
        )
        hint = self._log_hint(child.role)
        if not child.was_ready and any(report.event == "cannot_start" for report in reports):
            self._failure = WorkerFailed(f"the role {child.role} cannot be started: {child.reason}{hint}")
            return
        pause_s = child.count_exit(now)
        child.restart_at = now + pause_s
        LOG.warning(
            "the role %s ended (%s); exit %d of this role, which is restarted in %g s%s",
            child.role,
            child.reason,
            child.exits,
            pause_s,
            hint,
        )

    def _describe_unready(self, activities: Mapping[Role, Activity]) -> str:
        unready = [child for child in self._children if child.role in activities]
        return "; ".join(self._describe_child(child, activities[child.role].text) for child in unready)

    def _describe_child(self, child: _Child, activity: str) -> str:
        ended = f" (exits: {child.exits}, the last one: {child.reason})" if child.exits else ""
        return f"{child.role}: {activity}{ended}{self._log_hint(child.role, separator=', see')}"

    def _log_hint(self, role: Role, separator: str = "; see") -> str:
        return f"{separator} {log_file(self._log_folder, role)}" if self._log_folder is not None else ""


def run_worker(
    roles: Sequence[Role],
    settings: Settings,
    *,
    log_folder: Path | None = None,
    notify: Notify = lambda _line: None,
) -> None:
    """Run roles until SIGTERM or SIGINT, and stop them cleanly; ``notify`` is called with their progress, and when all are ready.

    Raises:
        WorkerFailed: when the settings do not allow a role to start.
    """
    with _stop_signals() as stop, Workers(roles, settings, log_folder=log_folder) as workers:
        startup = workers.startup(math.inf)  # servers elsewhere may need any time
        while not stop.wait(0.2) and workers.advance(startup, notify):
            pass
        if not stop.is_set():
            notify(f"ready: {', '.join(roles)}")
            warn_of_excess_rights(settings)
        while not stop.wait(0.2):
            workers.check()


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


def preload() -> ForkServerContext:
    """Start the process that all roles are forked from, unless it runs; it imports the heavy modules while this one goes on."""
    raise_file_limit()  # the children inherit it
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with _default_environment(ONE_THREAD), _sigint_blocked():  # Ctrl-C reaches every process of a terminal: only this one reacts
        ensure_running()
    return context

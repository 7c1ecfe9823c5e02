"""Starts the process of a role beside the supervision of the others: where libraries have to be imported anew, that takes long."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import TypeAlias

from streams.silence import read_process_clock

__all__ = ["LEFT_BEHIND", "RoleStart", "end_left_behind"]

Started: TypeAlias = tuple[ForkServerProcess, Connection]

LEFT_BEHIND = 255
"""Exit status that a process seems to have when the one that forked it has ended, whether or not it runs on itself."""

_FORK_S = 0.2  # a fork takes milliseconds
_LOOK_S = 0.02


class RoleStart:
    """A start in a thread of its own; it is waited for briefly when it is made."""

    def __init__(self, start: Callable[[], Started]) -> None:
        self._start = start
        self._started: Started | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="role-start", daemon=True)
        self._thread.start()
        self._thread.join(_FORK_S)

    def _run(self) -> None:
        try:
            self._started = self._start()
        except Exception as error:  # noqa: BLE001  # raised where the start is asked for
            self._error = error

    def result(self, timeout_s: float = 0.0) -> Started | None:
        """The process and its reports; None while it is not started.

        Raises:
            Exception: what the start raised.
        """
        self._thread.join(timeout_s)
        if self._error is not None:
            raise self._error
        return self._started


def end_left_behind(pid: int | None, limit_s: float) -> None:
    """Kill a process that may run on unsupervised, which holds ports that the next one needs, and wait for its end."""
    if pid is None:
        return
    deadline = time.monotonic() + limit_s
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            clock = read_process_clock(pid)
            if clock is not None and clock.state == "Z":  # nothing but its exit status is left
                return
            time.sleep(_LOOK_S)

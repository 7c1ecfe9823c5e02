"""Measures how long a process has sent no heartbeat although it could have: time without a processor does not count."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["ProcessClock", "Silence", "read_clock", "read_process_clock"]

_LONGEST_STEP_S = 1.0
"""Most that one look adds: after a pause of the supervisor, or of the machine, the process has time to send a heartbeat first."""


@dataclass(frozen=True)
class ProcessClock:
    """State of the main thread of a process, which runs its event loop.

    Attributes:
        state: the letter of ``/proc/PID/stat``: ``R`` runs or waits for a processor, ``S`` sleeps, ``D`` waits for a disk or for
            memory to be read back, ``T`` is stopped by a signal, ``t`` by a debugger.
        running_s: time on a processor.
        waiting_s: time in which it waited for a processor.
    """

    state: str
    running_s: float
    waiting_s: float


class ReadClock(Protocol):
    """Reads the clock of a process; None where the system has none, or the process has ended."""

    def __call__(self, pid: int) -> ProcessClock | None: ...


def read_process_clock(pid: int) -> ProcessClock | None:
    """Read the clock of a process."""
    return read_clock(Path(f"/proc/{pid}"))


def read_clock(folder: Path) -> ProcessClock | None:
    """Read a clock from the folder of a process or a thread below ``/proc``."""
    try:
        state = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
        running_ns, waiting_ns = (folder / "schedstat").read_text(encoding="ascii").split()[:2]
    except (OSError, ValueError, IndexError):
        return None
    return ProcessClock(state, int(running_ns) / 1e9, int(waiting_ns) / 1e9)


class Silence:
    """Seconds since the last heartbeat of a process in which it could have sent one.

    A process that sleeps, is stopped, or computes could have. One that waits for a processor, a disk or a debugger could not: a
    machine that is busy or was suspended is no reason to kill it. Without ``/proc`` all time counts.
    """

    def __init__(self, read_clock: ReadClock = read_process_clock) -> None:
        self._read_clock = read_clock
        self._seconds = 0.0
        self._looked_s: float | None = None
        self._last: ProcessClock | None = None

    def end(self) -> None:
        """Start again at 0, because a heartbeat has come."""
        self._seconds = 0.0

    def seconds(self, pid: int | None, now: float) -> float:
        """Look at the process, and return the silence until now."""
        clock = self._read_clock(pid) if pid is not None else None
        if self._looked_s is not None:
            elapsed_s = min(now - self._looked_s, _LONGEST_STEP_S)
            self._seconds += max(0.0, _usable_s(elapsed_s, self._last, clock))
        self._looked_s, self._last = now, clock
        return self._seconds


def _usable_s(elapsed_s: float, last: ProcessClock | None, clock: ProcessClock | None) -> float:
    """The part of a step in which the process could have sent a heartbeat."""
    if last is None or clock is None:
        return elapsed_s
    if clock.state in "Dt":
        return 0.0
    usable_s = elapsed_s - (clock.waiting_s - last.waiting_s)
    return min(usable_s, clock.running_s - last.running_s) if clock.state == "R" else usable_s

"""Child processes that die with us, and the folder locks that outlive a crash by no moment."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import IO, Literal

__all__ = [
    "TETHER",
    "Identity",
    "Process",
    "StackError",
    "Steps",
    "exclusive",
    "kill",
    "run_together",
    "spawn",
    "tail",
    "wait_for_lock",
]

Identity = Literal["same", "namespace", "nobody"]
Process = subprocess.Popen[bytes]
Steps = Generator[None, None, None]
TETHER = Path(__file__).with_name("tether.py")
TURN_S = 0.02
PREDECESSOR_S = 30.0


class StackError(RuntimeError):
    """The local stack cannot do what was asked, and says why."""


def spawn(
    command: Sequence[str | Path], *, log: IO[bytes], death: signal.Signals, identity: Identity, words: bytes, locks: Sequence[int]
) -> Process:
    """Start ``command``; the kernel sends it ``death`` when this process ends, however it ends.

    ``words`` are its standard input, a few lines at most. ``locks`` are descriptors that the child keeps open, so that a lock
    on them lasts as long as the child and its children.

    Raises:
        StackError: outside the main thread. The kernel ties the child to the thread that started it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise StackError("start the local stack from the main thread: its processes end with the thread that started them")
    tether = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), death.name, identity]
    process = subprocess.Popen(  # noqa: S603  # the commands are ours
        [*tether, *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        pass_fds=tuple(locks),
        start_new_session=True,  # a Ctrl-C in the terminal is for us; we stop our children in order
    )
    if process.stdin is not None:
        process.stdin.write(words)
        process.stdin.close()
    return process


def kill(process: Process) -> None:
    """End the process at once, as a power cut would, with the tether that may stand before it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_together(steps: Iterable[Steps]) -> None:
    """Take turns among generators until all are done; each yields while it has to wait."""
    waiting = list(steps)
    try:
        while waiting:
            waiting = [step for step in waiting if _goes_on(step)]
            time.sleep(TURN_S if waiting else 0.0)
    finally:
        for step in waiting:
            step.close()


def _goes_on(step: Steps) -> bool:
    try:
        next(step)
    except StopIteration:
        return False
    return True


def exclusive(path: Path) -> int | None:
    """A descriptor that holds the lock on ``path``, or None while another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def wait_for_lock(path: Path, *, holder: str, patience_s: float = PREDECESSOR_S) -> Generator[None, None, int]:
    """Wait until nobody holds the lock on ``path``, take it and return its descriptor.

    Raises:
        StackError: when it is still held after ``patience_s``.
    """
    deadline = time.monotonic() + patience_s
    while (descriptor := exclusive(path)) is None:
        if time.monotonic() > deadline:
            raise StackError(f"{holder} of an earlier start still holds {path} after {patience_s:g} s: end it and start again")
        yield
    return descriptor


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

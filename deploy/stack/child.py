"""Starts child processes that end with this process, and holds locks on folders for as long as a process needs them.

No library serves: ``subprocess`` leaves children running when their parent is killed; :mod:`deploy.stack.tether` prevents that.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import IO, Literal

__all__ = [
    "TETHER",
    "Identity",
    "LastingThread",
    "Process",
    "StackError",
    "Steps",
    "describe_exit",
    "kill",
    "run_together",
    "spawn",
    "tail",
    "try_lock",
    "wait_for_lock",
]

Identity = Literal["same", "namespace", "nobody"]
"""The user as whom a child runs: see :mod:`deploy.stack.tether`."""
Process = subprocess.Popen[bytes]
Steps = Generator[None, None, None]
"""Work that yields while it waits, so that several servers can start or stop at the same time."""
TETHER = Path(__file__).with_name("tether.py")
STEP_INTERVAL_S = 0.02
LOCK_TIMEOUT_S = 60.0
LOCK_NOTICE_S = 5.0
LEFTOVERS_S = 2.0


class StackError(RuntimeError):
    """The local stack cannot be started, stopped or used."""


class LastingThread(threading.Thread):
    """A thread that may start child processes, because it ends no earlier than they are to end."""


def spawn(
    command: Sequence[str | Path],
    *,
    log: IO[bytes],
    stop_signal: signal.Signals,
    identity: Identity,
    stdin: bytes,
    locks: Sequence[int],
) -> Process:
    """Start ``command``; the kernel sends it ``stop_signal`` when this process ends, whatever the reason.

    Args:
        command: the program and its arguments.
        log: file for stdout and stderr.
        stop_signal: signal that ends the program cleanly.
        identity: the user as whom it runs.
        stdin: its input, smaller than the buffer of a pipe (64 KiB on Linux).
        locks: descriptors that the child inherits, so that a lock on them is held as long as the child or a child of it runs.

    Raises:
        StackError: in a thread that is neither the main thread nor a lasting one, because the kernel ties the child to the thread
            that started it.
    """
    thread = threading.current_thread()
    if thread is not threading.main_thread() and not isinstance(thread, LastingThread):
        raise StackError("start the local stack from the main thread: its processes end with the thread that started them")
    tether = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), stop_signal.name, identity]
    process = subprocess.Popen(  # noqa: S603  # the command is ours
        [*tether, *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        pass_fds=tuple(locks),
        start_new_session=True,  # Ctrl-C in the terminal reaches this process only, which stops the children in order
    )
    if process.stdin is not None:
        process.stdin.write(stdin)
        process.stdin.close()
    return process


def kill(process: Process) -> None:
    """End the process and its tether at once with SIGKILL."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def describe_exit(status: int | None) -> str:
    """Describe the exit of a process; a negative status is the signal that ended it.

    >>> describe_exit(3), describe_exit(-9), describe_exit(-40)
    ('exit status 3', 'killed by SIGKILL', 'killed by signal 40')
    """
    if status is None or status >= 0:
        return f"exit status {status}"
    has_name = -status in set(signal.Signals)
    return f"killed by {signal.Signals(-status).name if has_name else f'signal {-status}'}"


def run_together(steps: Iterable[Steps]) -> None:
    """Run generators concurrently until all are done."""
    running = list(steps)
    try:
        while running:
            running = [step for step in running if _advance(step)]
            time.sleep(STEP_INTERVAL_S if running else 0.0)
    finally:
        for step in running:
            step.close()


def _advance(step: Steps) -> bool:
    """Run a generator to its next yield; False when it is done."""
    try:
        next(step)
    except StopIteration:
        return False
    return True


def try_lock(path: Path) -> int | None:
    """Lock ``path`` and return the descriptor that holds the lock, None while another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def wait_for_lock(
    path: Path,
    *,
    holder: str,
    notify: Callable[[str], None],
    end_leftovers: Callable[[], object] = lambda: None,
    timeout_s: float = LOCK_TIMEOUT_S,
) -> Generator[None, None, int]:
    """Wait until no process holds the lock on ``path``, take it and return its descriptor.

    ``notify`` is called every 5 s, and ``end_leftovers`` every 2 s: by then what ends by itself has ended.

    Raises:
        StackError: when it is still held after ``timeout_s``.
    """
    started_at = noticed_at = ended_at = time.monotonic()
    while (descriptor := try_lock(path)) is None:
        now = time.monotonic()
        if now - ended_at > LEFTOVERS_S:
            ended_at = now
            end_leftovers()
        if now - noticed_at > LOCK_NOTICE_S:
            noticed_at = now
            notify(f"waiting for the end of the {holder} of an earlier start for {now - started_at:.0f} s")
        if now - started_at > timeout_s:
            raise StackError(f"{holder} of an earlier start still holds {path} after {timeout_s:g} s: end it and start again")
        yield
    return descriptor


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, for an error message."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

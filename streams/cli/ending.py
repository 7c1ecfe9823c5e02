"""How a command ends: with all of its output written, with one line where that fails, and silently where nobody reads it."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn, TextIO

__all__ = ["CLOSED_PIPE", "describe_failed_output", "end_process", "is_closed_output"]

CLOSED_PIPE = 128 + signal.SIGPIPE
_THREAD_S = 0.5


def is_closed_output(error: BaseException) -> bool:
    """Whether an error comes from a standard stream that nobody reads any more, as of ``twinstream ... | head``."""
    return isinstance(error, BrokenPipeError) and any(map(_is_closed, (sys.stdout, sys.stderr)))


def _is_closed(stream: TextIO | None) -> bool:
    """Whether the reader of a pipe has closed it."""
    try:
        descriptor = stream.fileno() if stream is not None else -1
        poll = select.poll()
        poll.register(descriptor, 0)
        return descriptor >= 0 and any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (OSError, ValueError):  # a stream without a descriptor
        return False


def end_process(code: str | int | None) -> NoReturn:
    """End the process with all of its output written; a thread that still waits for a server after a failure is not waited for.

    Raises:
        SystemExit: with the status, unless such a thread is left.
    """
    status = code if isinstance(code, int) else int(code is not None)
    status = next((failed for stream in (sys.stdout, sys.stderr) if (failed := _flush(stream))), status)
    if status and _has_waiting_threads():
        logging.shutdown()
        os._exit(status)
    raise SystemExit(status)


def _flush(stream: TextIO | None) -> int:
    """Write what a stream has left, and return the status of a failure; what cannot be written is dropped."""
    try:
        if stream is not None:
            stream.flush()
    except OSError as error:
        status = describe_failed_output(error)
        _drop(stream)
        return status
    return 0


def describe_failed_output(error: OSError) -> int:
    """Print why output cannot be written, unless nobody reads it any more, and return the status of the command."""
    if is_closed_output(error):
        return CLOSED_PIPE
    with suppress(OSError):
        os.write(2, f"twinstream: the output cannot be written: {error.strerror or error}\n".encode())
    _drop(sys.stdout)  # or the next flush would fail alike, and say so again
    return 1


def _drop(stream: TextIO | None) -> None:
    """Let a stream write to nowhere: Python flushes it once more at the end, and would complain."""
    with suppress(OSError, ValueError):
        if stream is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _has_waiting_threads() -> bool:
    """Whether a thread goes on for which Python would wait."""
    deadline = time.monotonic() + _THREAD_S
    threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return any(thread.is_alive() for thread in threads)

"""Ctrl-C: outside of a command's work it ends the process at once, with one line; inside it is an exception, as usual.

An exception could come up anywhere in the import of a library, which may turn it into another one, or drop it. Whatever is imported
here is imported before Ctrl-C is taken care of, so it is little.
"""

import os
import signal

__all__ = ["INTERRUPTED", "Interruptible", "end_on_interrupt"]

INTERRUPTED = 128 + signal.SIGINT  # as shells have it


def end_on_interrupt() -> None:
    """Let Ctrl-C end this process at once, outside of :class:`Interruptible`; one that was started to ignore it still does."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)


def _end_at_once(_number: int, _frame: object) -> None:
    try:
        os.write(2, b"twinstream: interrupted\n")
    finally:
        os._exit(INTERRUPTED)


class Interruptible:
    """A context in which Ctrl-C raises ``KeyboardInterrupt``, where :func:`end_on_interrupt` was called before."""

    def __enter__(self) -> None:
        self._is_outermost = signal.getsignal(signal.SIGINT) is _end_at_once
        if self._is_outermost:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_error: object) -> None:
        if self._is_outermost:
            signal.signal(signal.SIGINT, _end_at_once)

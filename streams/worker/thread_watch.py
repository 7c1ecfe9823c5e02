"""Finds computations in threads that wait for one another for ever: the event loop turns, and its event is never finished.

A thread that computes, or waits for a disk, a server or another process, does not hang. Only when every thread with work waits for
a lock, and nothing else in the process computes, there is nobody left who could release it.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import thread as pool
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from streams.silence import ProcessClock, read_clock

__all__ = ["PoolThread", "ThreadWatch", "pool_threads"]

_BUSY_SHARE = 0.05
"""Other threads that use more of a processor compute; the loops of an idle role use less."""


class PoolThread(NamedTuple):
    """A thread of a pool that has work; ``waits_for_lock`` is False also where the system does not tell."""

    thread_id: int
    clock: ProcessClock
    waits_for_lock: bool


class ThreadWatch:
    """Seconds for which all computations in threads have waited for locks, with nothing else computing.

    Args:
        read_threads: returns the threads of pools that have work.
        read_process_s: returns the processor time of the whole process but its main thread.
    """

    def __init__(self, read_threads: Callable[[], Iterable[PoolThread]], read_process_s: Callable[[], float]) -> None:
        self._read_threads, self._read_process_s = read_threads, read_process_s
        self._last: dict[int, float] = {}
        self._last_process_s = 0.0
        self.blocked_s = 0.0

    def tick(self, elapsed_s: float) -> None:
        """Look at the threads, ``elapsed_s`` after the last look."""
        threads = {thread.thread_id: thread for thread in self._read_threads()}
        process_s = self._read_process_s()
        is_blocked = bool(threads) and all(
            thread.waits_for_lock and self._last.get(thread_id) == thread.clock.running_s for thread_id, thread in threads.items()
        )
        is_idle = process_s - self._last_process_s < _BUSY_SHARE * elapsed_s
        self.blocked_s = self.blocked_s + elapsed_s if is_blocked and is_idle else 0.0
        self._last = {thread_id: thread.clock.running_s for thread_id, thread in threads.items()}
        self._last_process_s = process_s


def pool_threads() -> list[PoolThread]:
    """The threads of all ``ThreadPoolExecutor`` of this process that have work."""
    frames = _current_frames()
    threads = [
        _read_thread(thread.native_id)
        for thread in threading.enumerate()
        if thread.native_id is not None and thread.ident is not None and _has_work(frames.get(thread.ident))
    ]
    return [thread for thread in threads if thread is not None]


def _has_work(frame: FrameType | None) -> bool:
    """Whether a thread of a pool is inside a piece of work, rather than waiting for one."""
    worker = pool._worker.__code__  # noqa: SLF001  # where a pool's threads wait
    if frame is None or frame.f_code is worker:
        return False
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is worker:
            return True
    return False


def _read_thread(thread_id: int) -> PoolThread | None:
    task = Path(f"/proc/self/task/{thread_id}")
    clock = read_clock(task)
    try:
        return PoolThread(thread_id, clock, "futex" in (task / "wchan").read_text(encoding="ascii")) if clock is not None else None
    except OSError:
        return None


def _current_frames() -> dict[int, FrameType]:
    """The frame of each thread, the only way to see what another thread does.

    Python holds the lock of its threads meanwhile: the collector, which may free
    what belongs to threads, would wait for it for ever.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()  # noqa: SLF001  # it has no public name
    finally:
        if was_enabled:
            gc.enable()

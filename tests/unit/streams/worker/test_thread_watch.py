"""Computations that wait for one another are noticed; those that compute or wait for something outside are not."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from streams.silence import ProcessClock
from streams.worker.thread_watch import PoolThread, ThreadWatch, pool_threads

BLOCKED = PoolThread(1, ProcessClock("S", 2.5, 0.0), waits_for_lock=True)
WAITS_FOR_SERVER = PoolThread(2, ProcessClock("S", 2.5, 0.0), waits_for_lock=False)


def blocked_s(threads: list[PoolThread], process_s: Callable[[int], float] = lambda _tick: 3.0, ticks: int = 21) -> float:
    tick = 0
    watch = ThreadWatch(lambda: threads, lambda: process_s(tick))
    for tick in range(ticks):  # noqa: B007  # the watch reads it
        watch.tick(1.0)
    return watch.blocked_s


def test_computations_that_wait_for_locks_are_blocked():
    assert blocked_s([BLOCKED]) == 20.0
    assert blocked_s([BLOCKED, BLOCKED._replace(thread_id=3)]) == 20.0


def test_without_a_computation_nothing_is_blocked():
    assert blocked_s([]) == 0.0


def test_a_computation_that_waits_for_a_server_may_hold_the_lock_of_another():
    assert blocked_s([WAITS_FOR_SERVER]) == 0.0
    assert blocked_s([BLOCKED, WAITS_FOR_SERVER]) == 0.0


def test_another_thread_that_computes_may_hold_the_lock():
    assert blocked_s([BLOCKED], lambda tick: 0.5 * tick) == 0.0
    assert blocked_s([BLOCKED], lambda tick: 0.01 * tick) == 20.0


def test_a_pause_in_which_a_computation_went_on_starts_again():
    clocks = [2.5] * 10 + [2.6] * 5
    watch = ThreadWatch(lambda: [BLOCKED._replace(clock=ProcessClock("S", clocks.pop(0), 0.0))], lambda: 3.0)
    for _ in range(15):
        watch.tick(1.0)
    assert watch.blocked_s == 4.0


def test_real_threads_are_told_apart():
    lock, released = threading.Lock(), threading.Event()
    lock.acquire()

    def compute() -> None:
        while not released.is_set():
            pass

    with ThreadPoolExecutor(4) as pool:
        pool.submit(int).result()  # leaves an idle thread
        assert pool_threads() == []
        pool.submit(lock.acquire)
        pool.submit(compute)
        pool.submit(lambda: [time.sleep(0.05) for _ in iter(released.is_set, True)])
        try:
            deadline = time.monotonic() + 30.0
            while len(threads := pool_threads()) != 3 or sum(thread.waits_for_lock for thread in threads) != 1:
                if time.monotonic() > deadline:
                    pytest.fail(f"{threads}")
                time.sleep(0.05)
        finally:
            released.set()
            lock.release()


def test_the_collector_rests_while_frames_are_read_and_goes_on_after(monkeypatch: pytest.MonkeyPatch):
    states: list[bool] = []
    read = sys._current_frames
    monkeypatch.setattr(sys, "_current_frames", lambda: (states.append(gc.isenabled()), read())[1])
    pool_threads()
    assert states == [False]
    assert gc.isenabled()

"""The silence of a process grows while it could have sent a heartbeat, and only then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

from streams.silence import ProcessClock, Silence, read_process_clock

SLEEPS = ProcessClock("S", 1.0, 0.0)


def after_steps(clocks: Iterable[ProcessClock | None], step_s: float = 0.2) -> float:
    """The silence after looking at the clocks one after another, with the same pause between them."""
    pending = list(clocks)
    silence = Silence(lambda _pid: pending.pop(0))
    return [silence.seconds(1, step * step_s) for step in range(len(pending))][-1]


def clocks(state: str, *, running_s: float = 0.0, waiting_s: float = 0.0, steps: int = 100) -> list[ProcessClock]:
    """Clocks of a process that runs and waits for so long in each step."""
    return [ProcessClock(state, step * running_s, step * waiting_s) for step in range(steps + 1)]


@pytest.mark.parametrize("state", ["S", "T", "Z", "X"])
def test_a_process_that_sleeps_or_is_stopped_is_silent_all_the_time(state: str):
    assert after_steps(clocks(state)) == pytest.approx(20.0)


def test_a_process_that_computes_is_silent_all_the_time():
    assert after_steps(clocks("R", running_s=0.2)) == pytest.approx(20.0)


def test_a_process_that_waits_for_a_processor_is_not_silent_meanwhile():
    assert after_steps(clocks("R", running_s=0.02, waiting_s=0.18)) == pytest.approx(2.0)
    assert after_steps(clocks("S", running_s=0.02, waiting_s=0.15)) == pytest.approx(5.0)


def test_a_wait_that_the_kernel_counts_only_at_its_end_does_not_count_before_it_either():
    assert after_steps([ProcessClock("R", 1.0, 0.0)] * 101) == 0.0


@pytest.mark.parametrize("state", ["D", "t"])
def test_a_process_that_waits_for_a_disk_or_a_debugger_is_not_silent(state: str):
    assert after_steps(clocks(state)) == 0.0


def test_a_pause_of_the_supervisor_or_the_machine_counts_as_one_second():
    assert after_steps([SLEEPS] * 3, step_s=3600.0) == 2.0


def test_without_process_clocks_all_time_counts():
    assert after_steps([None] * 101) == pytest.approx(20.0)


def test_a_heartbeat_ends_the_silence():
    silence = Silence(lambda _pid: SLEEPS)
    silence.seconds(1, 0.0)
    assert silence.seconds(1, 1.0) == 1.0
    silence.end()
    assert silence.seconds(1, 1.5) == 0.5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_the_clock_of_a_stopped_process_is_read_from_the_system():
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        while (clock := read_process_clock(process.pid)) is None or clock.running_s < 0.1:
            time.sleep(0.01)
        assert clock.state == "R"
        os.kill(process.pid, signal.SIGSTOP)
        while (clock := read_process_clock(process.pid)) is None or clock.state != "T":
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert read_process_clock(process.pid) is None

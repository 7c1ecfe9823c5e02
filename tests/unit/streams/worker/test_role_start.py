"""Starts beside the supervision, and the end of processes that nobody supervises any more."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

from streams.worker.role_start import RoleStart, end_left_behind


def test_a_start_that_takes_long_holds_up_nobody_and_its_process_is_taken_over_later():
    forked = threading.Event()
    started: Any = ("a process", "its reports")

    def start() -> Any:
        assert forked.wait(60.0)
        return started

    role_start = RoleStart(start)
    assert role_start.result() is None
    forked.set()
    assert role_start.result(60.0) == started


def test_the_error_of_a_start_is_raised_where_it_is_asked_for():
    def refuse() -> Any:
        raise OSError("no process left")

    with pytest.raises(OSError, match="no process left"):
        RoleStart(refuse).result(60.0)


def test_a_process_that_was_left_behind_is_killed_and_one_that_has_ended_is_no_error():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        end_left_behind(process.pid, 10.0)
        assert process.wait(10.0) == -9
    end_left_behind(process.pid, 10.0)
    end_left_behind(None, 10.0)

"""Servers of the local stack that end by themselves: they are started again, with growing pauses, and reported on few lines."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.stack import StackError
from deploy.stack.child import LastingThread, Steps
from deploy.stack.keeper import LONGEST_PAUSE_S, REMINDER_S, STEADY_S, Keeper, Watch
from deploy.stack.part import Part

PATIENCE_S = 30.0


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Server(Part):
    """A process that is ready as soon as it has written a line."""

    name = "Server"
    stop_signal = signal.SIGTERM
    script = "import time; print('ready', flush=True); time.sleep(600)"

    def prepare(self) -> Steps:
        self.data.mkdir(exist_ok=True)
        yield

    def command(self) -> list[str | Path]:
        return [sys.executable, "-I", "-S", "-c", self.script]

    def ready(self, log_start: int) -> bool:
        return "ready" in self._log_since(log_start)


class Unstable(Server):
    """A server that can be told to end at once."""

    name = "Unstable"
    script = "import sys; sys.exit(3)"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, ())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(server: Server, lines: list[str], clock: Clock) -> Watch:
    return Watch(server, lines.append, clock)


def wait_until(condition: Callable[[], object], step: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        step()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def end(server: Server, number: int = signal.SIGKILL) -> None:
    assert server.pid is not None
    os.kill(server.pid, number)
    wait_until(lambda: not server.running)


def restart(watch: Watch, clock: Clock) -> float:
    """Let a server that has ended start again, and return the pause before that."""
    watch.tick()
    started_at = clock.now
    while not watch.problem.endswith("is being started again"):
        clock.now += 0.25
        watch.tick()
    pause_s = clock.now - started_at
    wait_until(lambda: not watch.problem, watch.tick)
    return pause_s


def test_a_killed_server_is_started_again_and_reported_on_two_lines(watch, server, lines, clock):
    watch.tick()
    assert (watch.problem, lines) == ("", [])
    first = server.pid
    end(server)
    watch.tick()
    assert watch.problem == "Server of the local stack ended (killed by SIGKILL); it is started again in 0 s"
    assert restart(watch, clock) == 0.5
    assert server.running
    assert server.pid != first
    assert lines == [
        f"Server of the local stack ended (killed by SIGKILL); it is started again in 0.5 s; see {server.log}",
        "Server is ready again, 0.5 s after its end",
    ]


def test_a_server_that_ends_again_and_again_gets_growing_pauses_and_two_lines_a_minute(watch, server, lines, clock):
    pauses, started_at = [], clock.now
    for _ in range(9):
        end(server, signal.SIGTERM)
        pauses.append(restart(watch, clock))
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert len(lines) <= 2 * (1 + (clock.now - started_at) // REMINDER_S)
    assert any("times in a row, the last time (killed by SIGTERM)" in line for line in lines)


def test_a_server_that_has_run_for_a_while_is_started_again_after_the_first_pause(watch, server, clock):
    for _ in range(3):
        end(server)
        last = restart(watch, clock)
    assert last == 2.0
    clock.now += STEADY_S
    end(server)
    assert restart(watch, clock) == 0.5


def test_a_server_that_cannot_start_is_tried_again_without_a_last_attempt(tmp_path, server, lines, clock):
    watch = Watch(server, lines.append, clock)
    server.script = Unstable.script
    end(server)
    for _ in range(12):
        watch.tick()
        clock.now += LONGEST_PAUSE_S
        wait_until(lambda: "is being started" in watch.problem, watch.tick)
        wait_until(lambda: "is being started" not in watch.problem, watch.tick)
        assert "(Server ended while starting (exit status 3)); it is started again in " in watch.problem
    assert len(lines) <= 1 + 12 * LONGEST_PAUSE_S / REMINDER_S
    server.script = Server.script
    clock.now += LONGEST_PAUSE_S
    wait_until(lambda: not watch.problem, watch.tick)
    assert server.running
    assert lines[-1].startswith("Server is ready again, ")


def test_a_server_that_was_stopped_or_killed_on_purpose_stays_so(watch, server, lines, clock):
    for act in (server.stop, server.kill):
        server.start()
        act()
        watch.tick()
        clock.now += LONGEST_PAUSE_S
        watch.tick()
        assert not server.running
    assert lines == []


def test_a_suspended_server_is_left_alone(watch, server, lines, clock):
    os.kill(server.pid, signal.SIGSTOP)
    for _ in range(10):
        clock.now += STEADY_S
        watch.tick()
    assert server.running
    assert (watch.problem, lines) == ("", [])


def test_a_server_whose_data_is_gone_is_not_started_with_an_empty_folder(watch, server, lines, clock):
    end(server)
    shutil.rmtree(server.data)
    watch.tick()
    clock.now += 1.0
    wait_until(lambda: "lost its data" in watch.problem, watch.tick)
    assert not server.data.exists()
    assert not server.running


def test_a_keeper_starts_servers_again_from_its_own_thread_until_it_is_stopped(server, lines):
    keeper = Keeper([server], lines.append)
    keeper.start()
    try:
        first = server.pid
        end(server)
        wait_until(lambda: server.running and server.pid != first and not keeper.problems())
    finally:
        keeper.stop()
    assert "killed by SIGKILL" in lines[0]
    assert "ready again" in lines[1]
    wait_until(lambda: not server.running)  # its thread has ended, and with it the server that it started


def test_a_terminal_that_was_closed_does_not_end_the_watch(server):
    def notify(_line: str) -> None:
        raise BrokenPipeError

    keeper = Keeper([server], notify)
    keeper.start()
    for _ in range(2):
        first = server.pid
        end(server)
        wait_until(lambda earlier=first: server.running and server.pid != earlier and not keeper.problems())
    keeper.stop()


def test_a_start_that_is_in_work_is_given_up_with_the_keeper(server, lines):
    server.ready = lambda _log_start: False  # type: ignore[method-assign]
    keeper = Keeper([server], lines.append)
    keeper.start()
    end(server)
    wait_until(lambda: any("being started" in problem for problem in keeper.problems()))
    keeper.stop()
    server.stop()
    assert not server.running
    assert keeper.problems() == []


def test_a_server_is_started_only_by_a_thread_that_lasts(tmp_path):
    errors: list[Exception] = []

    def start() -> None:
        try:
            Server(tmp_path, ()).start()
        except StackError as error:
            errors.append(error)

    for kind, refused in ((threading.Thread, 1), (LastingThread, 1)):
        thread = kind(target=start)
        thread.start()
        thread.join()
        assert len(errors) == refused

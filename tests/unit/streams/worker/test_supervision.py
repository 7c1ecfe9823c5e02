"""A worker that stands still: its roles tell it, and a service manager misses its signs of life."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.stack import free_port
from streams.worker.service_manager import ALIVE, STARTED, notify_service_manager

RUNS_A_ROLE = """
import sys
from streams.settings import Settings
from streams.worker.supervisor import run_worker
settings = Settings(
    kafka_bootstrap="127.0.0.1:1", postgres_dsn="postgresql://nobody@127.0.0.1:1/none", mlflow_uri="sqlite:///none.db",
    web_port=int(sys.argv[1]), heartbeat_limit_s=3.0,
)
if __name__ == "__main__":
    run_worker(["simulation"], settings)
"""
PATIENCE_S = 90.0


def wait_until(description: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {description}"
        time.sleep(0.05)


def live(port: int) -> tuple[int, str]:
    """Status and reason of ``/live``; status 0 while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        connection.request("GET", "/live")
        reply = connection.getresponse()
        return reply.status, str(json.loads(reply.read())["reason"])
    except OSError:
        return 0, ""
    finally:
        connection.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket at which a service manager waits for states."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


def drain(receiver: socket.socket) -> int:
    """Read everything that has arrived, and return the number of states."""
    receiver.setblocking(False)
    count = 0
    try:
        while receiver.recv(100):
            count += 1
    except BlockingIOError:
        return count
    return count


def test_a_worker_that_stands_still_is_missed_by_its_roles_and_by_the_service_manager(tmp_path: Path, manager: socket.socket):
    port = free_port()
    program = tmp_path / "worker.py"
    program.write_text(RUNS_A_ROLE, encoding="utf-8")
    with subprocess.Popen([sys.executable, program, str(port)], cwd=tmp_path) as worker:
        try:
            assert manager.recv(100) == STARTED.encode()
            assert manager.recv(100) == ALIVE.encode()
            wait_until("the role is alive", lambda: live(port)[0] == 200)
            os.kill(worker.pid, signal.SIGSTOP)
            drain(manager)
            wait_until("the role misses it", lambda: live(port)[0] == 503)
            assert "the worker that supervises this role stands still for" in live(port)[1]
            assert drain(manager) == 0
            os.kill(worker.pid, signal.SIGCONT)
            wait_until("the role has found it again", lambda: live(port)[0] == 200)
            assert drain(manager) > 0
        finally:
            worker.kill()
    wait_until("the role has ended with its worker", lambda: live(port)[0] == 0)


def children_of(pid: int) -> dict[int, str]:
    """Command lines of the children of a process."""
    lines = subprocess.run(["ps", "-axww", "-o", "pid=,ppid=,command="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in lines.splitlines()]
    return {int(child): command for child, parent, command in rows if int(parent) == pid}


def test_a_role_ends_with_the_process_that_forked_it_and_starts_again_with_a_new_one(tmp_path: Path, manager: socket.socket):
    port = free_port()
    program = tmp_path / "worker.py"
    program.write_text(RUNS_A_ROLE, encoding="utf-8")
    with subprocess.Popen([sys.executable, program, str(port)], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as worker:
        try:
            wait_until("the role is alive", lambda: live(port)[0] == 200)
            (server,) = [pid for pid, command in children_of(worker.pid).items() if "forkserver" in command]
            (role,) = children_of(server)
            os.kill(server, signal.SIGKILL)
            wait_until("the role has ended", lambda: live(port)[0] == 0)
            wait_until("another process of the role is alive", lambda: live(port)[0] == 200)
            (server,) = [pid for pid, command in children_of(worker.pid).items() if "forkserver" in command]
            assert role not in children_of(server)
        finally:
            worker.kill()
        assert worker.stderr is not None
        assert "cannot listen" not in worker.stderr.read()


def test_a_service_manager_with_an_abstract_socket_is_told(monkeypatch: pytest.MonkeyPatch):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has abstract sockets")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0twinstream-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@twinstream-{os.getpid()}")
        notify_service_manager(ALIVE)
        receiver.settimeout(PATIENCE_S)
        assert receiver.recv(100) == b"WATCHDOG=1"


def test_without_a_service_manager_and_with_one_that_is_gone_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify_service_manager(ALIVE)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify_service_manager(ALIVE)

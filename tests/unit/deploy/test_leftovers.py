"""A suspended process of a killed PostgreSQL is ended, so that the server can start again, and no other process is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from deploy.stack.leftovers import end_leftovers
from deploy.stack.part import free_port
from deploy.stack.postgres import Postgres, binaries


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Postgres]:
    part = Postgres(tmp_path, free_port())
    tmp_path.chmod(0o711)
    part.start()
    yield part
    part.stop()


def similar_processes(folder: Path) -> list[subprocess.Popen[bytes]]:
    """Processes in the folder of a server, one with the title of a process of it."""
    titled = ["postgres: twinstream twinstream 127.0.0.1(1) idle", "-c", "import time; time.sleep(60)"]
    return [subprocess.Popen(titled, executable=sys.executable, cwd=folder), subprocess.Popen(["sleep", "60"], cwd=folder)]


def has_ended(pid: int) -> bool:
    """Whether a process runs no more: one whose parent never asks for its status stays in the table as a zombie."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_server_starts_again_although_a_process_of_it_is_suspended(server: Postgres):
    lines: list[str] = []
    server.notify = lines.append
    connection = await asyncpg.connect(server.dsn)
    backend = await connection.fetchval("SELECT pg_backend_pid()")
    os.kill(backend, signal.SIGSTOP)
    assert server.pid is not None
    psutil.Process(server.pid).kill()  # the postmaster alone
    while server.running:
        time.sleep(0.01)  # noqa: ASYNC251  # nothing else runs here

    server.start()

    assert has_ended(backend)
    assert any("has left processes behind" in line and str(backend) in line for line in lines)
    connection.terminate()
    connection = await asyncpg.connect(server.dsn)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_no_process_of_a_server_that_runs_is_ended_nor_one_that_only_looks_like_one(server: Postgres, tmp_path: Path):
    connection = await asyncpg.connect(server.dsn)
    others = similar_processes(server.data)
    try:
        assert end_leftovers(server.data, binaries() / "postgres") == []
        assert end_leftovers(tmp_path, binaries() / "postgres") == []
        assert [other.poll() for other in others] == [None, None]
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        for other in others:
            other.kill()
            other.wait()
        await connection.close()

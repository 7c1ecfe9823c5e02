"""Processes of a worker: one per role, restarted when they end, and none left over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from deploy.stack.part import is_free
from streams.settings import ROLES, Settings
from streams.worker import supervisor
from streams.worker.supervisor import WorkerFailed, Workers

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


def is_running(pid: int) -> bool:
    """Whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_end(pids, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_running, pids))


def children_of(pid: int) -> list[int]:
    """Ids of all descendants of a process."""
    columns = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = dict(zip(map(int, columns[::2]), map(int, columns[1::2]), strict=True))
    children = [child for child, parent in parents.items() if parent == pid]
    return children + [descendant for child in children for descendant in children_of(child)]


SCRIPT = """
import sys
from pydantic import SecretStr
from pathlib import Path
from streams.settings import Settings
from streams.worker.supervisor import run_worker
from tests.polling import until
if __name__ == "__main__":
    settings = Settings.model_validate_json(sys.argv[1])
    run_worker(sys.argv[3].split(","), settings, log_folder=Path(sys.argv[2]), notify=lambda line: print(line, flush=True))
"""


@pytest.fixture
def run(settings: Settings, tmp_path: Path):
    """Start a worker in its own process, as ``run_worker`` does on a terminal, and wait until it is ready."""
    script = tmp_path / "worker_script.py"
    script.write_text(SCRIPT)
    body = json.loads(settings.model_dump_json())
    body["postgres_dsn"] = settings.postgres_dsn.get_secret_value()
    started = []

    def start(roles: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), json.dumps(body), str(tmp_path / "logs"), roles]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        lines = iter(process.stdout.readline, "")
        last = next((line for line in lines if not line.startswith("starting: ")), "")
        assert last.strip() == f"ready: {roles.replace(',', ', ')}"
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


async def test_a_killed_parent_leaves_no_process_behind(run):
    parent = await asyncio.to_thread(run, "simulation,experiments")
    children = children_of(parent.pid)
    assert len(children) >= 3
    parent.kill()
    parent.wait()
    assert all_end(children, within_s=15.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_signal_stops_it_cleanly_with_all_its_children(run, number, tmp_path):
    parent = await asyncio.to_thread(run, "simulation")
    children = children_of(parent.pid)
    parent.send_signal(number)
    assert await asyncio.to_thread(parent.wait, PATIENCE_S) == 0
    assert all_end(children, within_s=15.0)
    assert "simulation has stopped cleanly" in (tmp_path / "logs" / "simulation.log").read_text()


async def test_an_interrupt_of_the_whole_group_is_handled_by_the_parent_only(run, tmp_path):
    parent = await asyncio.to_thread(run, "simulation")
    children = children_of(parent.pid)
    os.killpg(parent.pid, signal.SIGINT)
    assert await asyncio.to_thread(parent.wait, PATIENCE_S) == 0
    assert all_end(children, within_s=15.0)
    log = (tmp_path / "logs" / "simulation.log").read_text()
    assert "has stopped cleanly" in log
    assert "KeyboardInterrupt" not in log


async def test_a_child_that_ends_is_restarted_and_serves(settings, promoted):
    with Workers(["experiments"], settings) as workers:
        await asyncio.to_thread(workers.wait_ready, PATIENCE_S)
        first = workers.pids["experiments"]
        os.kill(first, signal.SIGKILL)
        assert all_end([first], within_s=15.0)
        await asyncio.to_thread(workers.wait_ready, PATIENCE_S)
        second = workers.pids["experiments"]
        workers.check()
    assert second != first
    assert all_end([second], within_s=15.0)


async def test_a_child_that_cannot_be_started_ends_the_worker_with_the_reason(settings, tmp_path):
    blocker = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", settings.port_of("simulation"))
    async with blocker:
        with Workers(["simulation"], settings, log_folder=tmp_path / "logs") as workers:
            await asyncio.to_thread(workers.wait, PATIENCE_S)
            with pytest.raises(WorkerFailed, match=r"the role simulation cannot be started.*simulation\.log"):
                workers.check()
    assert "set TWIN_WEB_PORT" in (tmp_path / "logs" / "simulation.log").read_text()


async def test_a_role_that_ends_six_times_is_restarted_alone_and_the_worker_goes_on(settings, promoted, monkeypatch):
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_S", 0.5)
    with Workers(["experiments", "simulation"], settings) as workers:
        await asyncio.to_thread(workers.wait_ready, PATIENCE_S)
        other = workers.pids["simulation"]
        for _ in range(6):
            pid = workers.pids["experiments"]
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: workers.pids["experiments"] != pid)
        await asyncio.to_thread(workers.wait_ready, PATIENCE_S)
        workers.check()
        assert workers.pids["simulation"] == other


async def test_a_role_that_ran_once_waits_for_a_port_that_is_taken(settings, promoted, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 15.0)  # the port is taken before the role is started again
    with Workers(["experiments"], settings, log_folder=tmp_path / "logs") as workers:
        await asyncio.to_thread(workers.wait_ready, PATIENCE_S)
        pid, port = workers.pids["experiments"], settings.port_of("experiments")
        os.kill(pid, signal.SIGKILL)
        assert all_end([pid], within_s=15.0)
        await until(lambda: is_free(port))  # the sockets of a killed process close after its last thread
        async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port):
            await until(lambda: "set TWIN_WEB_PORT" in (tmp_path / "logs" / "experiments.log").read_text())
            workers.check()
        await asyncio.to_thread(workers.wait_ready, PATIENCE_S)


async def until(true) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110  # it is another process that changes
            await asyncio.sleep(0.05)


async def test_a_role_waits_for_postgres_and_reports_it_instead_of_ending(settings, tmp_path):
    absent = settings.model_copy(update={"postgres_dsn": type(settings.postgres_dsn)("postgresql://nobody@127.0.0.1:1/none")})
    with Workers(["simulation"], absent, log_folder=tmp_path / "logs") as workers:
        async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_S):
            reply = None
            while reply is None:
                try:
                    async with session.get(f"http://127.0.0.1:{settings.port_of('simulation')}/ready") as answer:
                        reply = (answer.status, await answer.json())
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
            async with session.get(f"http://127.0.0.1:{settings.port_of('simulation')}/health") as answer:
                alive = answer.status
        with pytest.raises(WorkerFailed, match=r"no progress for .*simulation: waiting for Postgres"):
            await asyncio.to_thread(workers.wait_ready, 0.1)
        workers.check()
    assert reply[0] == 503
    assert reply[1]["reason"].startswith("waiting for Postgres for")
    assert alive == 200


async def test_every_role_idles_under_four_hundred_megabytes(settings, promoted):
    with Workers(ROLES, settings) as workers:
        await asyncio.to_thread(workers.wait_ready, 2 * PATIENCE_S)
        resident = {}
        async with aiohttp.ClientSession() as session:
            for role in ROLES:
                async with session.get(f"http://127.0.0.1:{settings.port_of(role)}/metrics") as reply:
                    (line,) = [
                        line for line in (await reply.text()).splitlines() if line.startswith("process_resident_memory_bytes ")
                    ]
                    resident[role] = float(line.split()[1]) / 2**20
    assert set(resident) == set(ROLES)
    assert max(resident.values()) < 400, resident

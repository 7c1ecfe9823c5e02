"""A role that hangs is killed and restarted alone; one that waits, computes or trains is not; a stop has a limit."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from schemas import ExperimentResult
from sql.database import Pool
from streams.agents import experiments
from streams.kafka import open_producer, topic_of
from streams.kafka.app import TwinApp
from streams.services import Services
from streams.settings import Role, Settings
from streams.worker import supervisor
from streams.worker.supervisor import Workers
from tests.polling import committed_offsets, until

PATIENCE_S = 90.0


def attach_hanging(app: TwinApp, services: Services) -> None:
    """The agent of the role experiments, which hangs in the way that the file ``hang`` in the home of the settings names."""
    original_attach(app, services)
    trigger = app.settings.home / "hang"

    async def hang() -> None:
        kind = trigger.read_text() if trigger.exists() else ""
        if kind:  # a file that was just created is empty
            trigger.unlink()
            await _HANGS[kind](app)

    app.timer(0.2)(hang)


original_attach = experiments.attach


async def block_loop(_app: TwinApp) -> None:
    time.sleep(3600)  # noqa: ASYNC251  # the point of it


async def spin(_app: TwinApp) -> None:
    while True:
        pass


async def raise_and_refuse_to_stop(app: TwinApp) -> None:
    async def ignore_cancellation() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    app.add_future(ignore_cancellation())
    raise ValueError("a timer fails")


async def block_consumer_thread(app: TwinApp) -> None:
    app.consumer._thread.thread_loop.call_soon_threadsafe(time.sleep, 3600)


async def deadlock(_app: TwinApp) -> None:
    lock = threading.Lock()
    await asyncio.gather(*(asyncio.to_thread(lock.acquire) for _ in range(2)))


async def wait_and_compute(_app: TwinApp) -> None:
    await asyncio.to_thread(time.sleep, 3600)


_HANGS = {
    "block": block_loop,
    "spin": spin,
    "unstoppable": raise_and_refuse_to_stop,
    "thread": block_consumer_thread,
    "deadlock": deadlock,
    "wait": wait_and_compute,
}


@asynccontextmanager
async def running(settings: Settings, roles: list[Role], tmp_path: Path) -> AsyncIterator[Workers]:
    workers = await asyncio.to_thread(Workers(roles, settings, log_folder=tmp_path / "logs").__enter__)
    try:
        await asyncio.to_thread(workers.wait_ready)
        yield workers
    finally:
        await asyncio.to_thread(workers.stop)


@pytest.fixture
def short_limits(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with short limits, and processes whose role experiments hangs once the file ``hang`` exists."""
    monkeypatch.setattr(supervisor, "run_role_process", run_hanging_role)
    return settings.model_copy(update={"heartbeat_limit_s": 4.0, "stop_limit_s": 4.0})


def run_hanging_role(*arguments: Any) -> None:
    """Run a role whose agent hangs on demand; it is imported by the process of the role."""
    experiments.attach = attach_hanging
    from streams.worker.role_process import run_role_process  # noqa: PLC0415

    run_role_process(*arguments)


def run_role_with_poison(*arguments: Any) -> None:
    """Run a role whose event loop stands still once it processes a record with the word ``poison``."""
    original = experiments._process

    async def process(app: TwinApp, services: Services, record: Any) -> None:
        if b"poison" in record.value:
            await spin(app)
        await original(app, services, record)

    experiments._process = process
    from streams.worker.role_process import run_role_process  # noqa: PLC0415

    run_role_process(*arguments)


async def test_a_record_that_hangs_its_role_again_and_again_is_parked_and_those_behind_it_go_on(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(supervisor, "run_role_process", run_role_with_poison)
    short = settings.model_copy(update={"heartbeat_limit_s": 3.0, "stop_limit_s": 4.0, "park_attempts": 2})
    topic = topic_of(ExperimentResult)
    async with open_producer(settings) as producer:
        for value in (b"first", b"poison", b"last"):
            await producer.send_and_wait(topic, value, partition=1)
        async with running(short, ["experiments"], tmp_path) as workers:
            rows = await until(lambda: refused_offsets(pool), lambda rows: len(rows) == 3, within_s=PATIENCE_S)
            await until(lambda: is_committed(settings, topic), within_s=PATIENCE_S)
            assert list(workers.pids) == ["experiments"]
    assert [(offset, kind) for offset, kind, _ in rows] == [(0, "invalid"), (1, "parked"), (2, "invalid")]
    assert "its role was killed or ended 2 times while this record was in work" in rows[1][2]


async def refused_offsets(pool: Pool) -> list[tuple[int, str, str]]:
    rows = await pool.fetch("SELECT source_offset, kind, reason FROM refused_records ORDER BY source_offset")
    return [tuple(row) for row in rows]


async def is_committed(settings: Settings, topic: str) -> bool:
    return (await committed_offsets(settings, topic)).get(1) == 3


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("block", "its event loop stood still for 4 s (TWIN_HEARTBEAT_LIMIT_S), and it was killed"),
        ("spin", "its event loop stood still for 4 s (TWIN_HEARTBEAT_LIMIT_S), and it was killed"),
        ("thread", "the thread that reads Kafka hangs"),
        ("deadlock", "computations wait for one another"),
        ("unstoppable", "ValueError: a timer fails"),
    ],
)
async def test_a_role_that_hangs_is_restarted_alone(short_limits, tmp_path, caplog, kind: str, reason: str):
    async with running(short_limits, ["experiments", "simulation"], tmp_path) as workers:
        pids = dict(workers.pids)
        (short_limits.home / "hang").write_text(kind)
        await until(lambda: is_restarted(workers, pids, "experiments"), within_s=PATIENCE_S)
        await asyncio.to_thread(workers.wait_ready)
        assert workers.pids["simulation"] == pids["simulation"]
        assert await read_metric(short_limits, "experiments", "twin_role_exits_total") == 1.0
    assert reason in caplog.text


async def test_a_role_that_is_stopped_by_a_signal_is_restarted(short_limits, tmp_path, caplog):
    async with running(short_limits, ["experiments"], tmp_path) as workers:
        pids = dict(workers.pids)
        os.kill(pids["experiments"], signal.SIGSTOP)
        await until(lambda: is_restarted(workers, pids, "experiments"), within_s=PATIENCE_S)
    assert "its event loop stood still" in caplog.text


async def test_a_role_that_waits_in_a_thread_is_left_alone(short_limits, tmp_path):
    trigger = short_limits.home / "hang"
    async with running(short_limits, ["experiments"], tmp_path) as workers:
        pids = dict(workers.pids)
        trigger.write_text("wait")
        await asyncio.sleep(3 * short_limits.heartbeat_limit_s)
        assert workers.pids == pids
        assert await status(short_limits, "experiments", "/live") == 200
        assert not trigger.exists()


async def is_restarted(workers: Workers, pids: dict[Role, int], role: Role) -> bool:
    return workers.pids[role] != pids[role]


async def status(settings: Settings, role: Role, path: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{settings.port_of(role)}{path}") as reply:
        return reply.status


async def read_metric(settings: Settings, role: Role, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{settings.port_of(role)}/metrics") as reply:
        (line,) = [line for line in (await reply.text()).splitlines() if line.startswith(f"{name}{{")]
    return float(line.split()[-1])

"""Probes find a part that refuses, hangs or is gone, within seconds and with one outage for each."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr

from deploy.stack.part import free_port
from sql.database import PostgresProbe
from streams.dependencies import DependencyMonitor, MlflowProbe, PartProbe, role_probes
from streams.kafka.broker_probe import BrokerProbe
from streams.metrics import REGISTRY
from streams.outages import Outages
from streams.settings import Settings
from streams.web import serve_app

PATIENCE_S = 30.0


class Part:
    """A part that answers, refuses with an error, or hangs."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = False
        self.closed = 0

    async def ask(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed += 1


@asynccontextmanager
async def watched(probe: PartProbe, *, timeout_s: float = 0.2) -> AsyncIterator[Outages]:
    outages = Outages()
    watching = asyncio.create_task(DependencyMonitor({"mlflow": probe}, 0.02, timeout_s, outages).run())
    try:
        yield outages
    finally:
        watching.cancel()


async def until_out(outages: Outages, expected: bool) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while outages.is_out("mlflow") is not expected or gauge() != (0.0 if expected else 1.0):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def gauge() -> float | None:
    return REGISTRY.get_sample_value("twin_dependency_up", {"part": "mlflow"})


@pytest.mark.parametrize("error", [ConnectionRefusedError("closed"), OSError(-2, "unknown host"), RuntimeError("unforeseen")])
async def test_a_part_that_refuses_is_out_until_it_answers(error: Exception):
    part = Part()
    async with watched(part) as outages:
        await until_out(outages, expected=False)
        part.error = error
        await until_out(outages, expected=True)
        assert part.closed
        part.error = None
        await until_out(outages, expected=False)


async def test_a_part_that_hangs_is_out_until_it_answers():
    part = Part()
    async with watched(part) as outages:
        part.hangs = True
        await until_out(outages, expected=True)
        assert "no answer within 0.2 s (TWIN_PROBE_TIMEOUT_S)" in outages.current()[0].error
        part.hangs = False
        await until_out(outages, expected=False)


async def test_probes_are_closed_at_the_end():
    part = Part()
    async with watched(part):
        await asyncio.sleep(0.05)
    async with asyncio.timeout(PATIENCE_S):
        while not part.closed:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """A server that accepts connections and never answers, as a frozen process does."""
    released = asyncio.Event()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        released.set()
        server.close()


def probes_of(port: int, host: str = "127.0.0.1") -> dict[str, PartProbe]:
    settings = Settings(
        kafka_bootstrap=f"{host}:{port}",
        postgres_dsn=SecretStr(f"postgresql://user@{host}:{port}/twins"),
        mlflow_uri=f"http://{host}:{port}",
        probe_timeout_s=0.3,
    )
    return role_probes(settings)


@pytest.mark.parametrize("part", ["kafka", "postgres", "mlflow"])
async def test_a_frozen_server_is_noticed_although_it_accepts_connections(part: str):
    async with silent_server() as port, watched(probes_of(port)[part]) as outages:
        await until_out(outages, expected=True)


@pytest.mark.parametrize("part", ["kafka", "postgres", "mlflow"])
async def test_a_closed_port_is_noticed(part: str):
    async with watched(probes_of(free_port())[part]) as outages:
        await until_out(outages, expected=True)


@pytest.mark.parametrize("part", ["kafka", "postgres", "mlflow"])
async def test_a_host_without_an_address_is_noticed(part: str):
    async with watched(probes_of(9, "no-such-host.invalid")[part]) as outages:
        await until_out(outages, expected=True)


async def test_probes_run_in_a_thread_of_their_own_and_end_with_the_block():
    part = Part()
    part.error = OSError("gone")
    outages = Outages()
    with DependencyMonitor({"mlflow": part}, 0.02, 0.2, outages).running():
        deadline = time.monotonic() + PATIENCE_S
        while not outages.is_out("mlflow"):
            assert time.monotonic() < deadline
            time.sleep(0.01)  # noqa: ASYNC251  # a busy event loop delays no probe
    assert not outages.is_out("mlflow")  # nothing is known any more
    assert not any(thread.name == "probes" for thread in threading.enumerate())


async def test_an_mlflow_server_is_asked_for_its_health():
    healthy = [True]

    async def health(_request: web.Request) -> web.Response:
        return web.Response(status=200 if healthy[0] else 500)

    app = web.Application()
    app.router.add_get("/base/health", health)
    async with (
        serve_app(app, "127.0.0.1", 0) as port,
        watched(MlflowProbe(f"http://127.0.0.1:{port}/base/", 2.0), timeout_s=2.0) as outages,
    ):
        await until_out(outages, expected=False)
        healthy[0] = False
        await until_out(outages, expected=True)


async def test_a_local_mlflow_store_needs_its_file(tmp_path: Path):
    probe = MlflowProbe(f"sqlite:///{tmp_path / 'mlflow.db'}", 1.0)
    with pytest.raises(FileNotFoundError):
        await probe.ask()
    (tmp_path / "mlflow.db").touch()
    await probe.ask()


def test_a_role_probes_the_parts_that_it_needs():
    settings = Settings(kafka_bootstrap="127.0.0.1:1", mlflow_uri="sqlite:///mlflow.db")
    assert set(role_probes(settings, "simulation")) == set(role_probes(settings)) == {"kafka", "postgres", "mlflow"}
    assert set(role_probes(settings, "fidelity")) == {"kafka", "postgres"}
    assert set(role_probes(settings.model_copy(update={"mlflow_uri": "databricks"}))) == {"kafka", "postgres"}


async def test_settings_that_cannot_be_used_fail_the_probe_and_not_its_process():
    for probe in (BrokerProbe(Settings(kafka_bootstrap="broker:ninety")), PostgresProbe(Settings(postgres_dsn=SecretStr("")))):
        async with watched(probe) as outages:
            await until_out(outages, expected=True)

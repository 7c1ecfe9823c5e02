"""The start of a role: settings that cannot work are named before any server is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy.stack.part import free_port
from streams.settings import Settings
from streams.worker import bootstrap
from streams.worker.bootstrap import CannotStart, run_role

UNREACHABLE = Settings(
    kafka_bootstrap="127.0.0.1:1", postgres_dsn=SecretStr("postgresql://nobody@127.0.0.1:1/none"), web_port=free_port(5)
)


async def start(**settings: object) -> None:
    async with asyncio.timeout(60):
        await run_role("simulation", UNREACHABLE.model_copy(update=settings), asyncio.Event())


async def test_a_port_that_is_taken_is_named_with_its_setting():
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", UNREACHABLE.port_of("simulation"))
    async with server:
        with pytest.raises(CannotStart, match=r"cannot listen on 127\.0\.0\.1.*set TWIN_WEB_PORT"):
            await start()


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"kafka_security": "SASL_SSL"}, "TWIN_KAFKA_USERNAME"),
        ({"kafka_security": "SSL", "kafka_ca_file": Path("/nowhere/ca.pem")}, "TWIN_KAFKA_CA_FILE=/nowhere/ca.pem"),
        ({"kafka_security": "SSL", "kafka_ca_file": Path(__file__)}, "TWIN_KAFKA_CA_FILE"),
        ({"postgres_dsn": SecretStr("mysql://nobody@127.0.0.1/none")}, "TWIN_POSTGRES_DSN"),
    ],
)
async def test_a_setting_that_cannot_work_is_named(settings: dict[str, object], setting: str):
    with pytest.raises(CannotStart, match=setting):
        await start(**settings)


async def test_a_kafka_address_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch):
    async def connected(_runner: object) -> None:
        """Postgres answers."""

    monkeypatch.setattr(bootstrap._RoleRunner, "_connect_to_postgres", connected)
    with pytest.raises(CannotStart, match="TWIN_KAFKA_BOOTSTRAP"):
        await start(kafka_bootstrap="broker:ninety")


async def test_servers_that_do_not_answer_are_waited_for():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await run_role("simulation", UNREACHABLE, asyncio.Event())


class Beats(bootstrap.RoleObserver):
    def __init__(self) -> None:
        self.problems: list[list[str]] = []
        self.are_enough = asyncio.Event()

    def beat(self, problems: Sequence[str]) -> None:
        self.problems.append(list(problems))
        if len(self.problems) > 3:
            self.are_enough.set()


async def test_a_heartbeat_is_sent_also_when_the_liveness_cannot_be_judged(monkeypatch: pytest.MonkeyPatch):
    def fail(_liveness: object) -> list[str]:
        raise RuntimeError("the app is not started yet")

    monkeypatch.setattr(bootstrap, "_BEAT_INTERVAL_S", 0.01)
    monkeypatch.setattr(bootstrap.RoleLiveness, "tick", fail)
    beats = Beats()
    running = asyncio.create_task(run_role("simulation", UNREACHABLE, asyncio.Event(), beats))
    await asyncio.wait_for(beats.are_enough.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not any(beats.problems)

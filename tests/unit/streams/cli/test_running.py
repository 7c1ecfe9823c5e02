"""The work of a command ends when a server that it uses does not answer, whatever the work waits for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from streams.cli import server_watch
from streams.cli.failures import ServerFailure
from streams.cli.running import run_command
from streams.settings import Settings


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Settings with an MLflow that accepts connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        yield Settings(mlflow_uri=address, mlflow_connect_timeout_s=0.5)


async def answer() -> int:
    return 7


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


async def ignore_cancellation() -> None:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def fail() -> None:
    raise LookupError("no such line")


def test_work_that_ends_returns_its_result(settings: Settings):
    assert run_command(settings, answer(), "mlflow") == 7


def test_an_error_of_the_work_is_raised(settings: Settings):
    with pytest.raises(LookupError, match="no such line"):
        run_command(settings, fail(), "mlflow")


def test_work_on_a_server_that_does_not_answer_is_given_up(settings: Settings):
    with pytest.raises(ServerFailure, match=r"MLflow at http://127\.0\.0\.1:\d+ has not answered for 0\.5 s \(TWIN_MLFLOW_URI"):
        run_command(settings, wait_for_ever(), "mlflow")


def test_work_that_cannot_be_cancelled_is_left_behind(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("streams.cli.running._CLOSE_S", 0.1)
    with pytest.raises(ServerFailure):
        run_command(settings, ignore_cancellation(), "mlflow")


def test_a_store_without_a_server_is_not_asked():
    settings = Settings(mlflow_uri="sqlite:///mlflow.db", mlflow_connect_timeout_s=0.2)

    async def work() -> str:
        await asyncio.sleep(0.6)
        return "done"

    assert run_command(settings, work(), "mlflow") == "done"


async def test_a_server_is_asked_again_while_it_has_not_answered_so_that_silence_is_noticed_at_its_limit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server_watch, "_INTERVAL_S", 0.01)
    open_questions, most, silent = 0, 0, asyncio.Event()

    async def never(_: Settings) -> None:
        nonlocal open_questions, most
        open_questions += 1
        most = max(most, open_questions)
        try:
            await asyncio.Event().wait()
        finally:
            open_questions -= 1

    watch = server_watch.ServerWatch(settings, (), lambda _: silent.set())
    await watch._watch_server(server_watch._Check("mlflow", never, 0.2))

    assert silent.is_set()
    assert most == 2

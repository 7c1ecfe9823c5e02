"""Watches from a thread of its own whether the servers that a command uses still answer.

A client library can wait for minutes, or for ever, for a server that accepts connections and does not answer.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from streams.settings import Settings

__all__ = ["Server", "ServerWatch", "silent_servers"]

Server = Literal["kafka", "postgres", "mlflow"]

_INTERVAL_S = 1.0
_MIN_FAILURES = 2
"""One attempt can fail because this process got no processor, or its main thread held the interpreter."""


class _Check(NamedTuple):
    """How to find out whether a server answers, and for how many seconds it may fail to."""

    server: Server
    answers: Callable[[Settings], Awaitable[object]]
    limit_s: float


class ServerWatch:
    """Checks servers every second until it is stopped, and calls ``on_silence`` once with the first that does not answer in time.

    Args:
        settings: addresses and connect timeouts; a server that has not answered for so long counts as silent.
        servers: the servers that the command uses.
        on_silence: called from the thread.
    """

    def __init__(self, settings: Settings, servers: Sequence[Server], on_silence: Callable[[Server], None]) -> None:
        self._settings, self._on_silence = settings, on_silence
        self._checks = [_check_of(settings, server) for server in servers]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end; it is not waited for, since a check may take long."""
        self._stopped.set()

    def _run(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        await asyncio.gather(*map(self._watch_server, self._checks))

    async def _watch_server(self, check: _Check) -> None:
        """Ask every second, also while the last question is unanswered, so that silence is noticed when its limit has passed."""
        answered_at, failures = time.monotonic(), 0

        async def ask() -> None:
            nonlocal answered_at, failures
            if await _answers_within(check.answers(self._settings), check.limit_s):
                answered_at, failures = time.monotonic(), 0
                return
            failures += 1
            if failures >= _MIN_FAILURES and time.monotonic() - answered_at >= check.limit_s and not self._stopped.is_set():
                self._stopped.set()
                self._on_silence(check.server)

        questions: set[asyncio.Task[None]] = set()
        while not self._stopped.is_set():
            if len(questions) < _MIN_FAILURES:
                questions.add(question := asyncio.create_task(ask()))
                question.add_done_callback(questions.discard)
            await asyncio.sleep(_INTERVAL_S)


async def silent_servers(settings: Settings, servers: Sequence[Server], seconds: float) -> list[Server]:
    """Those of the servers that do not answer within so many seconds; all are asked at the same time."""
    checks = [_check_of(settings, server) for server in servers]
    answers = await asyncio.gather(*(_answers_within(check.answers(settings), seconds) for check in checks))
    return [check.server for check, answered in zip(checks, answers, strict=True) if not answered]


async def _answers_within(answer: Awaitable[object], seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await answer
    except Exception:  # noqa: BLE001  # whatever the client raises, the server has not answered
        return False
    return True


def _check_of(settings: Settings, server: Server) -> _Check:
    match server:
        case "kafka":
            return _Check(server, _ask_kafka, settings.kafka_connect_timeout_s)
        case "postgres":
            return _Check(server, _ask_postgres, settings.postgres_connect_timeout_s)
        case "mlflow":
            return _Check(server, _ask_mlflow, settings.mlflow_connect_timeout_s)


async def _ask_kafka(settings: Settings) -> None:
    from streams.kafka import open_admin

    async with open_admin(settings):
        pass


async def _ask_postgres(settings: Settings) -> None:
    """Connect; an error that Postgres itself sends is an answer too."""
    import asyncpg

    try:
        connection = await asyncpg.connect(settings.server_dsn)
        connection.terminate()
    except asyncpg.PostgresError:
        return


async def _ask_mlflow(settings: Settings) -> None:
    """Request a page of the server; stores in a database or a folder are not asked."""
    if not settings.mlflow_uri.startswith(("http://", "https://")):
        return
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(f"{settings.mlflow_uri.rstrip('/')}/health"):
        pass

"""Runs the asynchronous work of a command so that it always ends: when a server it uses does not answer, and at once on Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from streams.cli.failures import silence_failure
from streams.cli.server_watch import Server, ServerWatch

if TYPE_CHECKING:
    from streams.settings import Settings

__all__ = ["run_command"]

T = TypeVar("T")

_CLOSE_S = 2.0
"""The longest wait for work that was given up to close its clients."""


def run_command(settings: Settings, work: Coroutine[Any, Any, T], *servers: Server) -> T:
    """Run ``work``, and give it up when one of ``servers`` no longer answers, even where it waits for nothing but a closing client.

    Raises:
        ServerFailure: when a server has not answered for the connect timeout of the settings.
    """
    runner = asyncio.Runner()
    try:
        return runner.run(_supervise(settings, work, servers))
    finally:
        _close(runner.get_loop())


async def _supervise(settings: Settings, work: Coroutine[Any, Any, T], servers: tuple[Server, ...]) -> T:
    loop = asyncio.get_running_loop()
    silent_server: asyncio.Future[Server] = loop.create_future()

    def on_silence(server: Server) -> None:
        with suppress(RuntimeError):  # the loop is closed: the work has ended
            loop.call_soon_threadsafe(_resolve, silent_server, server)

    watch = ServerWatch(settings, servers, on_silence)
    task = asyncio.ensure_future(work)
    watch.start()
    try:
        ends: set[asyncio.Future[Any]] = {task, silent_server}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise silence_failure(settings, silent_server.result())
        return task.result()
    finally:
        watch.stop()
        task.cancel()
        await asyncio.wait({task}, timeout=_CLOSE_S)


def _resolve(silent_server: asyncio.Future[Server], server: Server) -> None:
    if not silent_server.done():
        silent_server.set_result(server)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop without waiting for clients that do not close and threads that do not end, as ``asyncio.run`` does."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_CLOSE_S))
    asyncio.set_event_loop(None)
    loop.close()

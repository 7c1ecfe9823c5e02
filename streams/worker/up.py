"""The whole service on the local stack, with its page, until somebody stops it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from streams.settings import ROLES, Settings
from streams.web.dashboard import serve_dashboard
from streams.worker.local_stack import last_home, local_stack
from streams.worker.setup import prepare
from streams.worker.supervisor import Workers

__all__ = ["serve"]

Say = Callable[[str], None]


def serve(settings: Settings, home: Path | None, port: int, say: Say) -> None:
    """Start the stack and every role, serve the page, and stop all of it in good order on SIGINT or SIGTERM.

    Raises:
        StackError: when the stack runs already, or cannot start.
        WorkerFailed: when a role keeps dying.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with local_stack(home or last_home(settings.home), settings, say) as at:
            asyncio.run(prepare(at))
            say("starting the workers")
            with Workers(ROLES, at, log_folder=at.home / "logs") as workers:
                workers.wait_ready()
                asyncio.run(_show(at, workers, port, say))
    except KeyboardInterrupt:
        say("stopped")


async def _show(settings: Settings, workers: Workers, port: int, say: Say) -> None:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serve_dashboard(settings, port))
        say(f"the page: {address}")
        say(f"metrics: http://{settings.web_host}:{settings.port_of(ROLES[0])}/metrics and the {len(ROLES) - 1} ports after it")
        say(f"models: mlflow server --backend-store-uri {settings.mlflow_uri}")
        say("running until Ctrl-C")
        while True:
            workers.check()
            await asyncio.sleep(1.0)

"""Runs the whole service on the local stack, with its dashboard, until it is stopped."""

from __future__ import annotations

import asyncio
import signal
import time
from functools import partial
from pathlib import Path

from deploy.stack import LocalStack
from streams.client.discovery import last_home
from streams.errors import is_transient
from streams.retries import retry_transient
from streams.settings import ROLES, Role, Settings
from streams.web.dashboard import serve_dashboard
from streams.worker.local_stack import Notify, running_local_stack
from streams.worker.setup import prepare
from streams.worker.startup import Activity
from streams.worker.supervisor import Workers, preload

__all__ = ["serve"]

_POLL_S = 0.2
_CHECK_S = 2.0
_NOTICE_S = 5.0


def serve(settings: Settings, home: Path | None, port: int, notify: Notify) -> None:
    """Start the stack, every role and the dashboard, and stop all of them cleanly on SIGINT or SIGTERM.

    Raises:
        StackError: when the stack is running already, or cannot start.
        WorkerFailed: when the settings do not allow a role to start, or no role makes progress while they start.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    preload()  # beside the start of the servers
    try:
        with running_local_stack(home or last_home(settings.home), settings, notify) as (on_stack, stack):
            asyncio.run(_prepare(on_stack, notify))
            notify("starting the workers")
            with Workers(ROLES, on_stack, log_folder=on_stack.home / "logs") as workers:
                asyncio.run(_serve_dashboard(on_stack, stack, workers, port, notify))
    except KeyboardInterrupt:
        notify("stopped")


async def _prepare(settings: Settings, notify: Notify) -> None:
    """Prepare the servers, and show every 5 s what takes long; a server that ends meanwhile is started again, and waited for."""
    started_at = time.monotonic()
    steps: list[str] = []
    preparing = asyncio.ensure_future(
        retry_transient(partial(prepare, settings, steps.append), part="kafka", waits_for=is_transient)
    )
    while not (await asyncio.wait({preparing}, timeout=_NOTICE_S))[0]:
        notify(f"{steps[-1]}, {time.monotonic() - started_at:.0f} s so far")
    preparing.result()


async def _serve_dashboard(settings: Settings, stack: LocalStack, workers: Workers, port: int, notify: Notify) -> None:
    """Serve the dashboard at once, and follow the roles until they are ready and from then on."""
    unready = dict.fromkeys(ROLES, Activity("starts its process"))

    def starting() -> dict[Role, str]:
        return {role: activity.text for role, activity in unready.items()}

    async with serve_dashboard(settings, port, starting, stack.problems) as address:
        notify(f"dashboard: {address}")
        startup = workers.startup()
        while unready := await asyncio.to_thread(workers.advance, startup, notify):  # noqa: ASYNC110  # other processes start
            await asyncio.sleep(_POLL_S)
        notify(f"metrics: http://{settings.web_host}:{settings.port_of(ROLES[0])}/metrics and the next {len(ROLES) - 1} ports")
        if settings.local_api:
            notify(f"ask: {settings.local_api}/ask")
        host, api_port = settings.api_address
        notify(f"api: http://{host}:{api_port}/api/v1, described by http://{host}:{api_port}/openapi.json")
        notify(f"models: run mlflow server --backend-store-uri {settings.mlflow_uri}")
        notify("running; press Ctrl-C to stop")
        while True:
            workers.check()
            unready = await asyncio.to_thread(workers.unready)
            await asyncio.sleep(_CHECK_S)

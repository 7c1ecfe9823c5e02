"""One role in one process: its Faust app, its site, and its end in good order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from importlib import import_module

import asyncpg

from schemas import EVENTS
from streams.kafka.app import TwinApp
from streams.kafka.clients import open_admin
from streams.metrics import SOURCE_LAG
from streams.retries import retry_transient
from streams.services import Services
from streams.settings import Role, Settings
from streams.web.health import HealthProbe, health_app, serve_app

__all__ = ["build_app", "run_role"]

LOG = logging.getLogger(__name__)
STUCK_S = 900.0
_LAG_S = 1.0


def build_app(role: Role, settings: Settings) -> TwinApp:
    """The app of a role with its agents, not started."""
    app = TwinApp(role, settings)
    agents = import_module(f"streams.agents.{role}")  # a role loads its own agents only
    agents.attach(app, Services(app))
    app.timer(_LAG_S)(_lag_of(app))
    app.finalize()
    return app


def _lag_of(app: TwinApp) -> Callable[[], Awaitable[None]]:
    """Show how many records wait in each partition that the app reads now."""
    shown: set[tuple[str, int]] = set()

    async def show_lag() -> None:
        found = {(tp.topic, tp.partition): lag for tp, lag in app.consumer.lag().items() if tp.topic in EVENTS}
        for topic, partition in shown - found.keys():
            SOURCE_LAG.remove(topic, partition)
        for (topic, partition), lag in found.items():
            SOURCE_LAG.labels(topic=topic, partition=partition).set(lag)
        shown.clear()
        shown.update(found)

    return show_lag


async def run_role(role: Role, settings: Settings, stop: asyncio.Event) -> None:
    """Play a role until ``stop`` is set, then finish the event in hand and leave.

    Kafka and Postgres are waited for, as long as it takes.

    Raises:
        OSError: when the port of the role's site is taken.
        Exception: what ended the app, when it ended by itself.
    """
    stage = _RoleRunner(role, settings)
    async with serve_app(health_app(stage.pulse()), settings.web_host, settings.port_of(role)):
        await _until(stop, stage.parts_answer())
        if not stop.is_set():
            await stage.run(stop)


class _RoleRunner:
    """What the site can tell of the app, also before there is one."""

    def __init__(self, role: Role, settings: Settings) -> None:
        self.role, self.settings = role, settings
        self.app: TwinApp | None = None

    def pulse(self) -> HealthProbe:
        stuck_s = max(STUCK_S, 2 * self.settings.training_timeout_s)
        return HealthProbe(self.role, unready=self._unready, last_poll_s=self._last_poll_s, stuck_s=stuck_s)

    async def parts_answer(self) -> None:
        await retry_transient(self._postgres_answers, part="postgres")
        await retry_transient(self._kafka_answers, part="kafka")

    async def run(self, stop: asyncio.Event) -> None:
        self.app = app = build_app(self.role, self.settings)
        try:
            await app.start()
            LOG.info("%s is up", self.role)
            await app.wait(stop.wait())
        finally:
            await app.stop()
        if app.crash_reason is not None:
            raise app.crash_reason
        LOG.info("%s has stopped in good order", self.role)

    async def _postgres_answers(self) -> None:
        timeout = self.settings.postgres_connect_timeout_s
        connection = await asyncpg.connect(self.settings.postgres_dsn.get_secret_value(), timeout=timeout)
        await connection.close()

    async def _kafka_answers(self) -> None:
        async with open_admin(self.settings):
            pass

    def _unready(self) -> str | None:
        if self.app is None:
            return "waiting for Kafka and Postgres"
        if self.app.rebalancing or not self.app.rebalancing_count:
            return "waiting for its partitions"
        return "stopping" if self.app.should_stop else None

    def _last_poll_s(self) -> float | None:
        polled_at = getattr(self.app.consumer, "polled_at", None) if self.app and self.app.started else None
        return None if polled_at is None else time.monotonic() - polled_at


async def _until(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Wait for ``work``, but leave it when ``stop`` is set."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    for task in (working, leaving):
        task.cancel()
    if working.done():
        working.result()

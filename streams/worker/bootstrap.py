"""Runs one role in one process: its Faust app, its health endpoints, and a clean stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from importlib import import_module

import asyncpg

from schemas import EVENTS
from streams.errors import describe_error, is_transient
from streams.kafka import open_admin
from streams.kafka.app import TwinApp
from streams.kafka.security import kafka_security
from streams.metrics import SOURCE_LAG
from streams.retries import retry_transient
from streams.services import Services
from streams.settings import Role, Settings
from streams.web import HealthProbe, health_app, serve_app

__all__ = ["CannotStart", "build_app", "run_role"]

LOG = logging.getLogger(__name__)
STUCK_S = 900.0
_LAG_INTERVAL_S = 1.0
_READY_INTERVAL_S = 0.1


class CannotStart(RuntimeError):
    """The settings do not allow a role to start: every start with them fails in the same way."""


def build_app(role: Role, settings: Settings) -> TwinApp:
    """Build the app of a role with its agents, without starting it."""
    app = TwinApp(role, settings)
    agents = import_module(f"streams.agents.{role}")  # a process loads the agents of its role only
    agents.attach(app, Services(app))
    app.timer(_LAG_INTERVAL_S)(_lag_reporter(app))
    app.finalize()
    return app


def _lag_reporter(app: TwinApp) -> Callable[[], Awaitable[None]]:
    """Build the timer that sets the metric of waiting records for the partitions the app is assigned now."""
    reported: set[tuple[str, int]] = set()

    async def report_lag() -> None:
        lags = {(tp.topic, tp.partition): lag for tp, lag in app.consumer.lag().items() if tp.topic in EVENTS}
        for topic, partition in reported - lags.keys():
            SOURCE_LAG.remove(topic, partition)
        for (topic, partition), lag in lags.items():
            SOURCE_LAG.labels(topic=topic, partition=partition).set(lag)
        reported.clear()
        reported.update(lags)

    return report_lag


async def run_role(role: Role, settings: Settings, stop: asyncio.Event, on_ready: Callable[[], None] = lambda: None) -> None:
    """Run a role until ``stop`` is set, then finish the event in work and stop.

    It waits for Kafka and Postgres without a time limit before it starts, and calls ``on_ready`` when it processes events.

    Raises:
        CannotStart: when the port of the health endpoints is taken, or a setting is not valid; it names the setting.
        Exception: the reason why the app ended by itself.
    """
    runner = _RoleRunner(role, settings)
    async with AsyncExitStack() as resources:
        with _starting("TWIN_WEB_PORT"):
            server = serve_app(health_app(runner.health_probe()), settings.web_host, settings.port_of(role))
            await resources.enter_async_context(server)
        with _starting("TWIN_KAFKA_SECURITY"):
            kafka_security(settings)
        await _run_until(stop, runner.wait_for_servers())
        if not stop.is_set():
            await runner.run(stop, on_ready)


@contextmanager
def _starting(setting: str) -> Iterator[None]:
    """Turn what fails inside, before the role runs, into :class:`CannotStart` with the name of the setting."""
    try:
        yield
    except (ValueError, OSError, asyncpg.PostgresError) as error:
        reason = describe_error(error)
        raise CannotStart(reason if "TWIN_" in reason else f"{setting}: {reason}") from error


class _RoleRunner:
    """Starts and stops the app of a role, and answers its health probe also before there is an app."""

    def __init__(self, role: Role, settings: Settings) -> None:
        self.role, self.settings = role, settings
        self.app: TwinApp | None = None
        self._awaited_server = "Postgres"
        self._created_at = time.monotonic()

    def health_probe(self) -> HealthProbe:
        stuck_s = max(STUCK_S, 2 * self.settings.training_timeout_s)
        return HealthProbe(self.role, unready=self._unready, last_poll_s=self._last_poll_s, stuck_s=stuck_s)

    async def wait_for_servers(self) -> None:
        with _starting("TWIN_POSTGRES_DSN"):
            await retry_transient(self._connect_to_postgres, part="postgres", waits_for=is_transient)
        self._awaited_server = "Kafka"
        with _starting("TWIN_KAFKA_BOOTSTRAP"):
            await retry_transient(self._connect_to_kafka, part="kafka", waits_for=is_transient)

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        with _starting("the settings of the role"):
            self.app = app = build_app(self.role, self.settings)
        ready = asyncio.create_task(self._when_ready(on_ready))
        try:
            await app.start()
            LOG.info("the role %s has started", self.role)
            await app.wait(stop.wait())
        finally:
            ready.cancel()
            await app.stop()
        if app.crash_reason is not None:
            raise app.crash_reason
        LOG.info("the role %s has stopped cleanly", self.role)

    async def _when_ready(self, on_ready: Callable[[], None]) -> None:
        while self._unready() is not None:  # noqa: ASYNC110  # Faust has no event for it
            await asyncio.sleep(_READY_INTERVAL_S)
        on_ready()

    async def _connect_to_postgres(self) -> None:
        timeout = self.settings.postgres_connect_timeout_s
        connection = await asyncpg.connect(self.settings.postgres_dsn.get_secret_value(), timeout=timeout)
        await connection.close()

    async def _connect_to_kafka(self) -> None:
        async with open_admin(self.settings):
            pass

    def _unready(self) -> str | None:
        if self.app is None:
            return f"waiting for {self._awaited_server} for {time.monotonic() - self._created_at:.0f} s"
        if self.app.rebalancing or not self.app.rebalancing_count:
            return "waiting for its partitions"
        if self.app.restoring is not None:
            return f"restoring {self.app.restoring}"
        return "stopping" if self.app.should_stop else None

    def _last_poll_s(self) -> float | None:
        polled_at = getattr(self.app.consumer, "polled_at", None) if self.app and self.app.started else None
        return None if polled_at is None else time.monotonic() - polled_at


async def _run_until(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Await ``work``, and cancel it when ``stop`` is set."""
    work_task, stop_task = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait({work_task, stop_task}, return_when=asyncio.FIRST_COMPLETED)
    for task in (work_task, stop_task):
        task.cancel()
    if work_task.done():
        work_task.result()

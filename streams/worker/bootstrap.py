"""Runs one role in one process: its Faust app, its health endpoints, and a clean stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib import import_module
from typing import Any

import asyncpg

from schemas import EVENTS
from streams.dependencies import DependencyMonitor, role_probes
from streams.errors import describe_error, is_transient
from streams.kafka import open_admin
from streams.kafka.app import TwinApp
from streams.kafka.partition_gauge import PartitionGauge
from streams.kafka.security import kafka_security
from streams.metrics import PARTITION_STANDSTILL, ROLE_READY, SOURCE_LAG, SUPERVISOR_SILENCE
from streams.outages import OUTAGES
from streams.retries import retry_transient
from streams.services import Services
from streams.settings import Role, Settings
from streams.web import ConnectionLimits, HealthProbe, health_app, serve_app
from streams.worker.liveness import RoleLiveness

__all__ = ["CannotStart", "RoleObserver", "StopTimeout", "build_app", "run_role"]

LOG = logging.getLogger(__name__)
_LAG_INTERVAL_S = 1.0
_BEAT_INTERVAL_S = 1.0
_READY_INTERVAL_S = 0.1


class CannotStart(RuntimeError):
    """The settings do not allow a role to start: every start with them fails in the same way."""


class StopTimeout(RuntimeError):
    """A role did not stop in time."""


def build_app(role: Role, settings: Settings, member: str | None = None) -> TwinApp:
    """Build the app of a role with its agents, without starting it; ``member`` is its name in the consumer group."""
    app = TwinApp(role, settings, member)
    agents = import_module(f"streams.agents.{role}")  # a process loads the agents of its role only
    agents.attach(app, Services(app))
    app.run_every(_LAG_INTERVAL_S, _lag_reporter(app))
    app.finalize()
    return app


def _lag_reporter(app: TwinApp) -> Callable[[], Awaitable[None]]:
    """Build the timer that sets the metric of waiting records for the partitions the app is assigned now.

    While Kafka is out nothing is known about them: the metric is removed instead of standing still.
    """
    gauge = PartitionGauge(SOURCE_LAG)

    async def report_lag() -> None:
        await app.consumer.read_ends()
        lags = {} if OUTAGES.is_out("kafka") else app.consumer.lag()
        gauge.set({tp: lag for tp, lag in lags.items() if tp.topic in EVENTS})

    return report_lag


class RoleObserver:
    """Is notified of what happens to a role, and knows its supervisor; this one ignores it, and has none.

    Attributes:
        member: name in the consumer group that the supervisor gives the process of this role, and the one that replaces it.
    """

    member: str | None = None

    def supervisor_silence_s(self) -> float:
        """Seconds since the supervisor of this process did its work last."""
        return 0.0

    def ready(self) -> None:
        """The role processes events."""

    def beat(self, problems: Sequence[str]) -> None:
        """The event loop turns: called once a second, with what hangs nevertheless."""

    def stopping(self, error: BaseException | None) -> None:
        """The role begins to stop; because of ``error`` unless that is None."""


async def run_role(role: Role, settings: Settings, stop: asyncio.Event, observer: RoleObserver | None = None) -> None:
    """Run a role until ``stop`` is set, then finish the event in work and stop, within ``stop_limit_s``.

    It waits for Kafka and Postgres without a time limit before it starts.

    Raises:
        CannotStart: when the port of the health endpoints is taken, or a setting is not valid; it names the setting.
        StopTimeout: when it did not stop in time.
        Exception: the reason why the app ended by itself.
    """
    runner = _RoleRunner(role, settings, observer or RoleObserver())
    async with AsyncExitStack() as resources:
        await resources.enter_async_context(_running(runner.beat()))
        with _starting("TWIN_WEB_PORT"):
            app, limits = health_app(runner.health_probe(), settings.host_names), ConnectionLimits(*settings.connection_limits)
            server = serve_app(app, settings.web_host, settings.port_of(role), limits=limits)
            await resources.enter_async_context(server)
        with _starting("TWIN_KAFKA_SECURITY"):
            kafka_security(settings)
        monitor = DependencyMonitor(role_probes(settings, role), settings.probe_interval_s, settings.probe_timeout_s)
        resources.enter_context(monitor.running())
        await _run_until(stop, runner.wait_for_servers())
        if not stop.is_set():
            await (runner.serve(stop) if role == "web" else runner.run(stop))


@contextmanager
def _starting(setting: str) -> Iterator[None]:
    """Turn what fails inside, before the role runs, into :class:`CannotStart` with the name of the setting."""
    try:
        yield
    except (ValueError, OSError, asyncpg.PostgresError) as error:
        reason = describe_error(error)
        raise CannotStart(reason if "TWIN_" in reason else f"{setting}: {reason}") from error


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run ``work`` beside the block, and cancel it at its end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


class _RoleRunner:
    """Starts and stops the app of a role, and answers its health probe also before there is an app."""

    def __init__(self, role: Role, settings: Settings, observer: RoleObserver) -> None:
        self.role, self.settings, self.observer = role, settings, observer
        self.liveness = RoleLiveness(role, settings, supervisor_silence_s=observer.supervisor_silence_s)
        self._standstill = PartitionGauge(PARTITION_STANDSTILL)

    def health_probe(self) -> HealthProbe:
        liveness = self.liveness
        return HealthProbe(
            self.role,
            liveness.all_live_problems,
            liveness.all_ready_problems,
            liveness.details,
            liveness.waits_for_server,
            liveness.behind,
        )

    async def beat(self) -> None:
        """Advance the clocks of the liveness and report a heartbeat, once a second.

        A look at the app that fails is logged and no reason to miss a heartbeat: the event loop turns.
        """
        while True:
            try:
                problems = self.liveness.tick()
                ROLE_READY.labels(role=self.role).set(not self.liveness.all_ready_problems())
                SUPERVISOR_SILENCE.labels(role=self.role).set(self.liveness.supervisor_silence_s())
                self._standstill.set(self.liveness.standstill_s())
            except Exception:
                LOG.exception("the liveness of the role %s could not be judged", self.role)
                problems = []
            self.observer.beat(problems)
            await asyncio.sleep(_BEAT_INTERVAL_S)

    async def wait_for_servers(self) -> None:
        self.liveness.awaits("Postgres")
        with _starting("TWIN_POSTGRES_DSN"):
            await retry_transient(self._connect_to_postgres, part="postgres", waits_for=is_transient)
        self.liveness.awaits("Kafka")
        with _starting("TWIN_KAFKA_BOOTSTRAP"):
            await retry_transient(self._connect_to_kafka, part="kafka", waits_for=is_transient)

    async def run(self, stop: asyncio.Event) -> None:
        with _starting("the settings of the role"):
            app = build_app(self.role, self.settings, self.observer.member)
        self.liveness.observe(app)
        beside = [asyncio.create_task(self._when_ready()), asyncio.create_task(app.start())]
        try:
            await self._until_ended(app, stop, starting=beside[1])
        except Exception as error:
            self.observer.stopping(error)
            await self._stop_app(app, self.settings.stop_limit_s / 2)  # its successor waits to start
            raise
        else:
            self.observer.stopping(None)
            app.give_up_place()
            await self._stop_app(app, self.settings.stop_limit_s)
        finally:
            for task in beside:
                task.cancel()
        LOG.info("the role %s has stopped cleanly", self.role)

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve the HTTP API until ``stop`` is set."""
        from streams.api.server import serving_api  # noqa: PLC0415  # only the process of this role has a use for FastAPI

        async with AsyncExitStack() as resources:
            with _starting("TWIN_API_PORT"):
                ended = await resources.enter_async_context(serving_api(self.settings))
            self.liveness.begin_serving()
            self.observer.ready()
            LOG.info("the role %s has started", self.role)
            await _run_until(stop, ended)
            self.observer.stopping(None)
            self.liveness.begin_stop()
        LOG.info("the role %s has stopped cleanly", self.role)

    async def _until_ended(self, app: TwinApp, stop: asyncio.Event, starting: asyncio.Task[None]) -> None:
        """Return when ``stop`` is set; a start that hangs because the app has crashed is not waited for.

        Raises:
            Exception: the reason why the app ended by itself.
        """
        ending = asyncio.create_task(app.wait(stop.wait()))
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            LOG.info("the role %s has started", self.role)
            await ending
        if app.crash_reason is not None:
            raise app.crash_reason

    async def _stop_app(self, app: TwinApp, limit_s: float) -> None:
        """Stop the app, without waiting longer than the limit: its services can wait for one another for ever.

        Raises:
            StopTimeout: when it takes longer.
        """
        self.liveness.begin_stop()
        stopping = asyncio.create_task(app.stop())
        await asyncio.wait({stopping}, timeout=limit_s)
        if not stopping.done():
            raise StopTimeout(f"the role {self.role} did not stop within {limit_s:g} s: see TWIN_STOP_LIMIT_S")
        stopping.result()

    async def _when_ready(self) -> None:
        while self.liveness.ready_problems():  # noqa: ASYNC110  # Faust has no event for it
            await asyncio.sleep(_READY_INTERVAL_S)
        self.observer.ready()

    async def _connect_to_postgres(self) -> None:
        timeout = self.settings.postgres_connect_timeout_s
        connection = await asyncpg.connect(self.settings.postgres_dsn.get_secret_value(), timeout=timeout)
        await connection.close()

    async def _connect_to_kafka(self) -> None:
        async with open_admin(self.settings):
            pass


async def _run_until(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Await ``work``, and cancel it when ``stop`` is set."""
    work_task, stop_task = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait({work_task, stop_task}, return_when=asyncio.FIRST_COMPLETED)
    for task in (work_task, stop_task):
        task.cancel()
    if work_task.done():
        work_task.result()

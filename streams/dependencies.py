"""Probes the parts that a process needs, Kafka, Postgres and MLflow, every few seconds.

Each probe has a connection and a time limit of its own, so that the state of a part is known also while everything else waits for
it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from sql.database import PostgresProbe
from streams.kafka.broker_probe import BrokerProbe
from streams.kafka.topic_watch import WATCHED_TOPICS
from streams.kafka.topics import needed_topics
from streams.metrics import DEPENDENCY_UP
from streams.outages import OUTAGES, Outages
from streams.settings import Role, Settings

__all__ = ["DependencyMonitor", "MlflowProbe", "PartProbe", "role_probes"]

_OUTAGE_FAILURES = 2
_PAUSE_AFTER_FAILURE_S = 0.5
_CONNECTION_LIFE_S = 10.0
"""A probe connects again after this time: a server may refuse new connections while it serves the old ones."""
_STALL_S = 1.0
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
_WITHOUT_MLFLOW: tuple[Role, ...] = ("fidelity",)


class PartProbe(Protocol):
    """Asks one part for an answer."""

    async def ask(self) -> None:
        """Return when the part has answered; raise when it refuses."""

    def close(self) -> None:
        """Close the connection; the next question opens another one."""


class MlflowProbe:
    """Asks the MLflow of the settings: the health of a server, the file of a local store, or the port of a database."""

    def __init__(self, uri: str, timeout_s: float) -> None:
        self._uri, self._timeout_s = uri, timeout_s

    async def ask(self) -> None:
        """Return when MLflow has answered.

        Raises:
            OSError: when it cannot be reached, or has no file.
            aiohttp.ClientError: when a server answers with an error.
        """
        parts = urlsplit(self._uri)
        scheme = parts.scheme.partition("+")[0]
        if scheme in ("http", "https"):
            await self._ask_server()
        elif parts.hostname:
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or _PORTS.get(scheme, 443))
            writer.close()
        else:
            await asyncio.to_thread(Path(parts.path.removeprefix("/") if scheme == "sqlite" else parts.path).stat)

    def close(self) -> None:
        """Do nothing: no connection is kept."""

    async def _ask_server(self) -> None:
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session:
            await (await session.get(f"{self._uri.rstrip('/')}/health")).read()


def role_probes(settings: Settings, role: Role | None = None) -> dict[str, PartProbe]:
    """The probes of the parts that a role needs; of all parts without a role."""
    broker = BrokerProbe(settings) if role is None else BrokerProbe(settings, needed_topics(role), WATCHED_TOPICS)
    probes: dict[str, PartProbe] = {"kafka": broker, "postgres": PostgresProbe(settings)}
    if settings.mlflow_uri and not settings.mlflow_uri.startswith("databricks") and role not in _WITHOUT_MLFLOW:
        probes["mlflow"] = MlflowProbe(settings.mlflow_uri, settings.probe_timeout_s)
    return probes


def _run_to_its_end(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    with suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


class DependencyMonitor:
    """Runs probes side by side, and records what they find in ``twin_dependency_up`` and in the outages of the process.

    They run in a thread with an event loop of its own: a busy role does not delay them, and a name server that hangs takes no
    thread from the computations of the role.

    Args:
        probes: a probe for each part.
        interval_s: pause between two probes of a part.
        timeout_s: a probe without an answer in this time has failed.
        outages: where failures are recorded.
    """

    def __init__(self, probes: Mapping[str, PartProbe], interval_s: float, timeout_s: float, outages: Outages = OUTAGES) -> None:
        self._probes, self._interval_s, self._timeout_s, self._outages = probes, interval_s, timeout_s, outages
        self._connected_s: dict[str, float] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Probe beside the block."""
        loop = asyncio.new_event_loop()
        probing = loop.create_task(self.run())
        thread = threading.Thread(target=_run_to_its_end, args=(loop, probing), name="probes", daemon=True)
        thread.start()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(probing.cancel)
            thread.join(_STALL_S)

    async def run(self) -> None:
        """Probe until this task is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for part, probe in self._probes.items():
                    group.create_task(self._watch(part, probe))
        finally:
            for part, probe in self._probes.items():
                probe.close()
                self._outages.recover((part, id(self)))

    async def _watch(self, part: str, probe: PartProbe) -> None:
        failures = 0
        while True:
            self._renew_connection(part, probe)
            start_s = monotonic()
            error = await self._ask(probe)
            has_stalled = monotonic() - start_s > self._timeout_s + _STALL_S
            if error is None:
                failures = 0
                self._outages.recover((part, id(self)))
            elif not has_stalled:  # else this process did not run, and the part may answer
                failures += 1
                self._outages.record_failure(part, (part, id(self)), error, threshold=_OUTAGE_FAILURES)
            DEPENDENCY_UP.labels(part=part).set(not self._outages.has(part))
            await asyncio.sleep(min(_PAUSE_AFTER_FAILURE_S, self._interval_s) if failures else self._interval_s)

    def _renew_connection(self, part: str, probe: PartProbe) -> None:
        if monotonic() - self._connected_s.setdefault(part, monotonic()) >= _CONNECTION_LIFE_S:
            probe.close()
            self._connected_s[part] = monotonic()

    async def _ask(self, probe: PartProbe) -> Exception | None:
        """Ask once; the error when it fails, after which the connection is closed."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await probe.ask()
        except TimeoutError:
            error: Exception = TimeoutError(f"no answer within {self._timeout_s:g} s (TWIN_PROBE_TIMEOUT_S)")
        except Exception as failure:  # noqa: BLE001  # whatever fails: the part has not answered
            error = failure
        else:
            return None
        probe.close()
        return error

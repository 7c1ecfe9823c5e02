"""The servers and workers of a chaos run: a broker, Postgres, and workers as processes that are restarted when they end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pydantic import SecretStr

from deploy.stack import fetch_jars, free_port
from deploy.stack.child import TETHER, Steps
from deploy.stack.kafka import Kafka
from deploy.stack.part import HOST
from deploy.stack.postgres import Postgres
from streams.settings import PORTS, Role, Settings
from tests.chaos.proxy import ProxiedKafka, Proxy
from tests.mlflow_server import MlflowServer

__all__ = [
    "ROOT",
    "WORKER_COMMAND",
    "Environment",
    "Worker",
    "environment_variables",
    "is_answered",
    "open_environment",
    "run_steps",
]

SLOTS = 3
ROOT = Path(__file__).resolve().parents[2]
WORKER_COMMAND = ("-m", "streams", "worker")
POLL_S = 0.1


@dataclass
class Worker:
    """``twinstream worker`` in a process group of its own.

    Attributes:
        slot: its number; its proxy, ports and log belong to it.
        is_wanted: whether it is to be started, and restarted whenever it ends.
        n_starts: how often it was started.
    """

    slot: int
    settings: Settings
    roles: Sequence[Role]
    command: Sequence[str]
    log: Path
    is_wanted: bool = False
    n_starts: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether its parent process is alive."""
        return self.process is not None and self.process.poll() is None

    def restart_if_ended(self) -> None:
        """Start it when it is wanted and not running."""
        if self.is_wanted and not self.is_running:
            self.kill()  # children that outlived their parent still hold its ports
            self._start()

    def kill(self) -> None:
        """Send SIGKILL to all of its processes."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def pid_of(self, role: Role) -> int | None:
        """The process that runs a role, identified by the port that it serves on; None while there is none."""
        port = self.settings.port_of(role)
        for process in self.processes():
            with suppress(psutil.Error):
                connections = process.net_connections("tcp")
                if any(connection.status == psutil.CONN_LISTEN and connection.laddr.port == port for connection in connections):
                    return process.pid
        return None

    def processes(self) -> Iterator[psutil.Process]:
        """Its parent process and all descendants."""
        if self.process is not None:
            with suppress(psutil.Error):
                parent = psutil.Process(self.process.pid)
                yield parent
                yield from parent.children(recursive=True)

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        tether = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), "SIGKILL", "same"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*tether, sys.executable, *self.command, "--role", ",".join(self.roles)],
                cwd=ROOT,
                env=os.environ | environment_variables(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.n_starts += 1


@dataclass
class Environment:
    """Everything that a fault can hit.

    Attributes:
        mlflow: the tracking server; None where models are in a local store.
        servers_lock: held while a fault stops and starts a server, so that two faults do not stop the same one.
    """

    settings: Settings
    kafka: Kafka
    postgres: Postgres
    proxies: Sequence[Proxy]
    workers: Sequence[Worker]
    mlflow: MlflowServer | None
    servers_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def processes(self) -> Sequence[tuple[Settings, Role]]:
        """Settings and role of each process that a worker has while it runs."""
        return [(worker.settings, role) for worker in self.workers for role in worker.roles]

    def scale(self, count: int) -> None:
        """Set the number of wanted workers; SIGTERM ends those beyond it."""
        for worker in self.workers:
            worker.is_wanted = worker.slot < count
            if worker.is_running and not worker.is_wanted and worker.process is not None:
                worker.process.terminate()

    async def supervise(self) -> None:
        """Restart workers that ended, until cancelled, as an orchestrator does."""
        while True:
            for worker in self.workers:
                worker.restart_if_ended()
            await asyncio.sleep(POLL_S)

    async def wait_until_ready(self, within_s: float) -> None:
        """Wait until every role of the wanted workers is ready.

        Raises:
            TimeoutError: naming the first role that is not.
        """
        for worker in self.workers:
            for role in worker.roles if worker.is_wanted else ():
                await _wait_until_ready(worker, role, within_s)


@asynccontextmanager
async def open_environment(
    home: Path, settings: Settings, roles: Sequence[Role], command: Sequence[str], mlflow: MlflowServer | None
) -> AsyncIterator[Environment]:
    """Start the servers and create workers that are not wanted yet; all processes end with the block."""
    proxies = [Proxy() for _ in range(SLOTS)]
    kafka = ProxiedKafka(home, (free_port(), free_port()), fetch_jars(lambda _line: None), proxies)
    postgres = Postgres(home, free_port())
    home.mkdir(mode=0o711, parents=True, exist_ok=True)  # noqa: ASYNC240  # a moment
    workers: list[Worker] = []
    try:
        await asyncio.gather(run_steps(kafka.starting()), run_steps(postgres.starting()))
        addresses = {
            "kafka_bootstrap": kafka.bootstrap,
            "postgres_dsn": SecretStr(postgres.dsn),
            "postgres_migrate_dsn": SecretStr(postgres.dsn_of("twinstream_migrate")),
            "home": home,
        }
        connected = settings.model_copy(update=addresses)
        workers += [_worker(slot, proxy, connected, roles, command) for slot, proxy in enumerate(proxies)]
        async with AsyncExitStack() as stack:
            for proxy in proxies:
                await stack.enter_async_context(proxy.listening())
            yield Environment(connected, kafka, postgres, proxies, workers, mlflow)
    finally:
        for worker in workers:
            worker.kill()
        await asyncio.gather(run_steps(kafka.stopping()), run_steps(postgres.stopping()))


async def run_steps(steps: Steps) -> None:
    """Start or stop a server without blocking the event loop."""
    for _ in steps:
        await asyncio.sleep(0.02)


def environment_variables(settings: Settings) -> Mapping[str, str]:
    """Settings as ``TWIN_*`` variables; on a command line every user could read the password."""
    values: dict[str, Any] = settings.model_dump(mode="json", exclude_defaults=True)
    secrets = {name: value.get_secret_value() for name, value in dict(settings).items() if isinstance(value, SecretStr)}
    values |= {name: secret for name, secret in secrets.items() if name in values}  # the dump masks them
    return {f"TWIN_{name.upper()}": str(value) for name, value in values.items()}


def _worker(slot: int, proxy: Proxy, settings: Settings, roles: Sequence[Role], command: Sequence[str]) -> Worker:
    own = {
        "kafka_bootstrap": f"{HOST}:{proxy.public_port}",
        "home": settings.home / f"worker-{slot}",
        "web_port": free_port(in_a_row=PORTS),
    }
    return Worker(slot, settings.model_copy(update=own), roles, command, settings.home / "logs" / f"worker-{slot}.log")


async def _wait_until_ready(worker: Worker, role: Role, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            while not await is_answered(worker.settings, role, "/ready"):  # noqa: ASYNC110  # it is another process that changes
                await asyncio.sleep(POLL_S)
    except TimeoutError as error:
        raise TimeoutError(f"not ready within {within_s:g} s: {role} of {worker.log}") from error


async def is_answered(settings: Settings, role: Role, path: str) -> bool:
    """Whether the process of a role answers this path with status 200."""
    try:
        reader, writer = await asyncio.open_connection(HOST, settings.port_of(role))
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
        status = await asyncio.wait_for(reader.readline(), 2.0)
        writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in status

"""Servers and workers that can be broken one by one: a broker with a door for each worker, Postgres, and workers as processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from deploy.stack import fetch_jars, free_port
from deploy.stack.child import TETHER, Steps
from deploy.stack.kafka import Kafka
from deploy.stack.part import HOST
from deploy.stack.postgres import Postgres
from streams.settings import ROLES, Role, Settings

__all__ = ["Door", "Stage", "Worker", "on_stage"]

SLOTS = 3
ROOT = Path(__file__).resolve().parents[2]
WORKER = ("-m", "streams", "worker")
GLANCE_S = 0.1


class ManyDoored(Kafka):
    """A broker that tells each worker to come back through the worker's own door, see :class:`Door`."""

    def __init__(self, home: Path, ports: tuple[int, int], jars: Path, doors: Sequence[Door]) -> None:
        super().__init__(home, ports, jars)
        self._doors = doors

    def _settings(self, data: Path) -> dict[str, str | int]:
        told = super()._settings(data)
        for number, door in enumerate(self._doors):
            for name, value in {
                "listeners": f"DOOR{number}://{HOST}:{door.behind}",
                "advertised.listeners": f"DOOR{number}://{HOST}:{door.front}",
                "listener.security.protocol.map": f"DOOR{number}:PLAINTEXT",
            }.items():
                told[name] = f"{told[name]},{value}"
        return told | {"inter.broker.listener.name": "PLAINTEXT"}


@dataclass
class Door:
    """A TCP proxy between one worker and the broker's listener at ``behind``."""

    front: int = field(default_factory=free_port)
    behind: int = field(default_factory=free_port)
    _open: bool = True
    _moving: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @asynccontextmanager
    async def standing(self) -> AsyncIterator[None]:
        """Listen while the block runs."""
        self._moving.set()
        server = await asyncio.start_server(self._pass, HOST, self.front)
        try:
            yield
        finally:
            server.close()
            self._drop()

    async def cut(self, seconds: float) -> None:
        """End every connection and refuse new ones for a while."""
        self._open = False
        self._drop()
        await asyncio.sleep(seconds)
        self._open = True

    async def stall(self, seconds: float) -> None:
        """Keep the connections, but let nothing through for a while."""
        self._moving.clear()
        await asyncio.sleep(seconds)
        self._moving.set()

    def _drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(HOST, self.behind)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, back}
        self._writers |= pair
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            self._writers -= pair

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                await self._moving.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@dataclass
class Worker:
    """``twinstream worker`` in a process group of its own, started again when it ended and is still wanted.

    Attributes:
        slot: its number; its door, ports and log go with it.
        wanted: whether it shall run.
        starts: how often it was started.
    """

    slot: int
    settings: Settings
    roles: Sequence[Role]
    command: Sequence[str]
    log: Path
    wanted: bool = False
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """Start it where it is wanted and does not run."""
        if self.wanted and not self.runs:
            self.end()  # children that outlived their parent, and their ports
            self._start()

    @property
    def runs(self) -> bool:
        """Whether its parent process lives."""
        return self.process is not None and self.process.poll() is None

    def end(self) -> None:
        """SIGKILL to every process of it."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def pid_of(self, role: str) -> int | None:
        """The process that plays a role, known by the port that it serves on; None while there is none."""
        port = self.settings.port_of(role)  # type: ignore[arg-type]  # one of its roles
        for process in self.processes():
            with suppress(psutil.Error):
                if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in process.net_connections("tcp")):
                    return process.pid
        return None

    def processes(self) -> Iterator[psutil.Process]:
        """Its parent and everything below."""
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
                env=os.environ | environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.starts += 1


@dataclass
class Stage:
    """Everything that can be broken; ``servers`` is held by whoever stops and starts one."""

    settings: Settings
    kafka: Kafka
    postgres: Postgres
    doors: Sequence[Door]
    workers: Sequence[Worker]
    servers: asyncio.Lock = field(default_factory=asyncio.Lock)

    def scale(self, count: int) -> None:
        """Want so many workers; those beyond are asked to leave."""
        for worker in self.workers:
            worker.wanted = worker.slot < count
            if worker.runs and not worker.wanted and worker.process is not None:
                worker.process.terminate()

    async def keep(self) -> None:
        """What an orchestrator does: start workers that ended, for ever."""
        while True:
            for worker in self.workers:
                worker.keep()
            await asyncio.sleep(GLANCE_S)

    async def all_play(self, within_s: float) -> None:
        """Wait until every wanted role serves.

        Raises:
            TimeoutError: naming the first that does not.
        """
        for worker in self.workers:
            for role in worker.roles if worker.wanted else ():
                await _until(lambda worker=worker, role=role: _is_ready(worker.settings, role), within_s, f"{role} of {worker.log}")


@asynccontextmanager
async def on_stage(home: Path, wanted: Settings, roles: Sequence[Role], command: Sequence[str] = WORKER) -> AsyncIterator[Stage]:
    """Servers that run, and workers that are not yet wanted; all of them end with the block."""
    doors = [Door() for _ in range(SLOTS)]
    kafka = ManyDoored(home, (free_port(), free_port()), fetch_jars(lambda _line: None), doors)
    postgres = Postgres(home, free_port())
    home.mkdir(mode=0o711, parents=True, exist_ok=True)  # noqa: ASYNC240  # a moment
    workers: list[Worker] = []
    try:
        await asyncio.gather(take_steps(kafka.starting()), take_steps(postgres.starting()))
        at = wanted.model_copy(
            update={
                "kafka_bootstrap": kafka.bootstrap,
                "postgres_dsn": type(wanted.postgres_dsn)(postgres.dsn),
                "home": home,
            }
        )
        workers += [_worker(slot, door, at, roles, command) for slot, door in enumerate(doors)]
        async with doors[0].standing(), doors[1].standing(), doors[2].standing():
            yield Stage(at, kafka, postgres, doors, workers)
    finally:
        for worker in workers:
            worker.end()
        await asyncio.gather(take_steps(kafka.stopping()), take_steps(postgres.stopping()))


def _worker(slot: int, door: Door, at: Settings, roles: Sequence[Role], command: Sequence[str]) -> Worker:
    through = at.model_copy(
        update={
            "kafka_bootstrap": f"{HOST}:{door.front}",
            "home": at.home / f"worker-{slot}",
            "web_port": free_port(in_a_row=len(ROLES)),
        }
    )
    return Worker(slot, through, roles, command, at.home / "logs" / f"worker-{slot}.log")


async def take_steps(steps: Steps) -> None:
    """Start or stop a part without holding up the loop."""
    for _ in steps:
        await asyncio.sleep(0.02)


def environment(settings: Settings) -> Mapping[str, str]:
    """Settings as a worker reads them; kept from the command line, where everybody could read the password."""
    told: dict[str, Any] = settings.model_dump(mode="json", exclude_defaults=True) | {
        "postgres_dsn": settings.postgres_dsn.get_secret_value()
    }
    return {f"TWIN_{name.upper()}": str(value) for name, value in told.items()}


async def _until(true: Any, within_s: float, what: str) -> None:
    try:
        async with asyncio.timeout(within_s):
            while not await true():  # noqa: ASYNC110  # it is another process that changes
                await asyncio.sleep(GLANCE_S)
    except TimeoutError as late:
        raise TimeoutError(f"not within {within_s:g} s: {what}") from late


async def _is_ready(settings: Settings, role: Role) -> bool:
    try:
        reader, writer = await asyncio.open_connection(HOST, settings.port_of(role))
        writer.write(b"GET /ready HTTP/1.0\r\n\r\n")
        status = await asyncio.wait_for(reader.readline(), 2.0)
        writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in status

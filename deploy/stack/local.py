"""Kafka, PostgreSQL and a place for MLflow under one folder, as child processes on loopback."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.stack.child import StackError, exclusive, run_together
from deploy.stack.jars import fetch_jars
from deploy.stack.kafka import Kafka
from deploy.stack.part import Part, PortTaken, free_port, is_free
from deploy.stack.postgres import Postgres

__all__ = ["LocalStack", "StackAddresses", "kept_ports", "running_stack"]

LOCK, STATE, PORTS = "stack.lock", "stack.json", "ports.json"
PORT_NAMES = ("kafka", "kafka_controller", "postgres")
GLANCE_S = 1.0
PORT_TRIES = 3


@dataclass(frozen=True)
class StackAddresses:
    """Where the parts of a running stack are, and the process that keeps them."""

    pid: int
    kafka_bootstrap: str
    postgres_dsn: str
    mlflow_uri: str

    def environment(self) -> dict[str, str]:
        """The settings that point a process at this stack."""
        return {
            "TWIN_KAFKA_BOOTSTRAP": self.kafka_bootstrap,
            "TWIN_POSTGRES_DSN": self.postgres_dsn,
            "TWIN_MLFLOW_URI": self.mlflow_uri,
        }


def running_stack(home: Path) -> StackAddresses | None:
    """The stack that runs on ``home`` and is ready, or None.

    Its process holds the lock of the folder for as long as it lives, so a state file left by a crash misleads nobody.
    """
    lock = home / LOCK
    if not lock.exists():
        return None
    descriptor = exclusive(lock)
    if descriptor is not None:
        os.close(descriptor)
        return None
    with suppress(FileNotFoundError):
        return StackAddresses(**json.loads((home / STATE).read_text(encoding="utf-8")))
    return None


class LocalStack:
    """The servers that Twinstream needs, started and stopped by this process, with all data under ``home``.

    They end with this process however it ends, and a start on the same folder goes on with its data and, when still free,
    its ports. Use it from the main thread, as a context manager or with ``start`` and ``stop``.
    """

    def __init__(self, home: Path, progress: Callable[[str], None] = print) -> None:
        self.home = home.expanduser().resolve()
        self.progress = progress
        self.kafka: Kafka
        self.postgres: Postgres
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def kafka_bootstrap(self) -> str:
        """Kafka's address, ``host:port``."""
        return self.kafka.bootstrap

    @property
    def postgres_dsn(self) -> str:
        """PostgreSQL's address, with its password."""
        return self.postgres.dsn

    @property
    def mlflow_uri(self) -> str:
        """MLflow's store: a file, no process."""
        return f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def addresses(self) -> StackAddresses:
        """All of them, as another process learns them from :func:`running_stack`."""
        return StackAddresses(os.getpid(), self.kafka_bootstrap, self.postgres_dsn, self.mlflow_uri)

    def environment(self) -> dict[str, str]:
        """The settings that point a process at this stack."""
        return self.addresses.environment()

    def start(self) -> None:
        """Start what the folder holds, or a fresh stack in an empty one.

        Raises:
            StackError: when a stack runs on this folder already, jars are not the pinned ones, or a part does not start.
        """
        _refuse_other_systems()
        self.home.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._lock = self._take_home()
        try:
            self._start_parts()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all parts in good order; they stop at the same time."""
        (self.home / STATE).unlink(missing_ok=True)
        run_together(part.stopping() for part in self._parts())
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _start_parts(self) -> None:
        began = time.monotonic()
        (self.home / STATE).unlink(missing_ok=True)
        (self.home / "mlflow").mkdir(mode=0o700, exist_ok=True)
        jars = fetch_jars(self.progress)
        self.progress(f"starting Kafka and PostgreSQL in {self.home}")
        for attempt in range(1, PORT_TRIES + 1):
            try:
                self._start_on(kept_ports(self.home / PORTS), jars)
                break
            except PortTaken:  # between our look and the server's
                if attempt == PORT_TRIES:
                    raise
        _write_private(self.home / STATE, asdict(self.addresses))
        took = time.monotonic() - began
        self.progress(f"Kafka on {self.kafka_bootstrap} and PostgreSQL on port {self.postgres.port}, ready in {took:.1f} s")

    def _start_on(self, ports: dict[str, int], jars: Path) -> None:
        run_together(part.stopping() for part in self._parts())
        self.kafka = Kafka(self.home, (ports["kafka"], ports["kafka_controller"]), jars)
        self.postgres = Postgres(self.home, ports["postgres"])
        run_together(part.starting() for part in self._parts())

    def _parts(self) -> Iterable[Part]:
        return [part for part in (getattr(self, "kafka", None), getattr(self, "postgres", None)) if part is not None]

    def _take_home(self) -> int:
        deadline = time.monotonic() + GLANCE_S  # whoever only asks whether a stack runs holds the lock for a moment
        while (lock := exclusive(self.home / LOCK)) is None:
            if time.monotonic() > deadline:
                holder = (self.home / LOCK).read_text(encoding="ascii").strip() or "unknown"
                raise StackError(
                    f"a stack runs on {self.home} already, started by process {holder}: use it, or stop that process first"
                )
            time.sleep(0.05)
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode("ascii"))
        return lock


def _refuse_other_systems() -> None:
    if not sys.platform.startswith(("linux", "darwin")):
        raise StackError(
            f"the local stack runs on Linux and macOS, not on {sys.platform}: use docker compose, or set TWIN_KAFKA_BOOTSTRAP and"
            " TWIN_POSTGRES_DSN to servers of yours"
        )


def kept_ports(path: Path) -> dict[str, int]:
    """The folder's ports: those of its last start, each replaced when it is taken by now."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    ports: dict[str, int] = {}
    for name in PORT_NAMES:
        port = kept.get(name)
        while port is None or port in ports.values() or not is_free(port):
            port = free_port()
        ports[name] = port
    _write_private(path, ports)
    return ports


def _write_private(path: Path, content: dict[str, object] | dict[str, int]) -> None:
    """Write in one go, readable by this user only."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)

"""Runs Kafka and PostgreSQL as child processes on the loopback address, with their data and MLflow's under one folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.stack.child import StackError, run_together, try_lock
from deploy.stack.jars import fetch_jars
from deploy.stack.kafka import Kafka
from deploy.stack.keeper import Keeper
from deploy.stack.part import MIN_FREE_MB, Part, PortTaken, free_port, is_free
from deploy.stack.postgres import Postgres

__all__ = ["LocalStack", "StackAddresses", "choose_ports", "has_stack", "running_stack"]

LOCK, STATE, PORTS = "stack.lock", "stack.json", "ports.json"
PORT_NAMES = ("kafka", "kafka_controller", "postgres")
LOCK_CHECK_S = 1.0
PORT_TRIES = 3


@dataclass(frozen=True)
class StackAddresses:
    """Addresses of the servers of a running stack, and the id of the process that runs them.

    Attributes:
        postgres_dsn: for the service and commands that write.
        postgres_migrate_dsn: for migrations.
        postgres_read_dsn: for commands that only read.
    """

    pid: int
    kafka_bootstrap: str
    postgres_dsn: str
    mlflow_uri: str
    postgres_migrate_dsn: str = ""
    postgres_read_dsn: str = ""

    def environment(self) -> dict[str, str]:
        """Return the environment variables that make a process use this stack."""
        return {
            "TWIN_KAFKA_BOOTSTRAP": self.kafka_bootstrap,
            "TWIN_POSTGRES_DSN": self.postgres_dsn,
            "TWIN_POSTGRES_MIGRATE_DSN": self.postgres_migrate_dsn,
            "TWIN_POSTGRES_READ_DSN": self.postgres_read_dsn,
            "TWIN_MLFLOW_URI": self.mlflow_uri,
        }


def has_stack(home: Path) -> bool:
    """Whether a stack was ever started in ``home``."""
    return (home / PORTS).is_file()


def running_stack(home: Path) -> StackAddresses | None:
    """Return the addresses of the stack that is running in ``home`` and ready, or None.

    Its process holds the lock of the folder for as long as it runs, so the state file of a crashed process is ignored.
    """
    lock = home / LOCK
    if not lock.exists():
        return None
    descriptor = try_lock(lock)
    if descriptor is not None:
        os.close(descriptor)
        return None
    with suppress(FileNotFoundError, ValueError, TypeError):  # it is about to be written, or was damaged
        return StackAddresses(**json.loads((home / STATE).read_text(encoding="utf-8")))
    return None


class LocalStack:
    """The servers that Twinstream needs, started and stopped by this process, with all data under ``home``.

    They end with this process, whatever the reason; one that ends by itself is started again. A start in the same folder continues
    with its data and, if they are free, its ports. It is used in the main thread, as a context manager or with ``start`` and
    ``stop``.
    """

    def __init__(self, home: Path, notify: Callable[[str], None] = print) -> None:
        self.home = home.expanduser().resolve()
        self.notify = notify
        self.kafka: Kafka
        self.postgres: Postgres
        self._lock: int | None = None
        self._keeper: Keeper | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def kafka_bootstrap(self) -> str:
        """Address of Kafka, ``host:port``."""
        return self.kafka.bootstrap

    @property
    def postgres_dsn(self) -> str:
        """Address of PostgreSQL for the service, including the password."""
        return self.postgres.dsn

    @property
    def admin_dsn(self) -> str:
        """Address of PostgreSQL for its superuser, whom no part of the service uses."""
        return self.postgres.admin_dsn

    @property
    def mlflow_uri(self) -> str:
        """Address of MLflow's store, which is a file and needs no process."""
        return f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def addresses(self) -> StackAddresses:
        """All addresses, as :func:`running_stack` returns them in another process."""
        return StackAddresses(
            os.getpid(),
            self.kafka_bootstrap,
            self.postgres_dsn,
            self.mlflow_uri,
            postgres_migrate_dsn=self.postgres.dsn_of("twinstream_migrate"),
            postgres_read_dsn=self.postgres.dsn_of("twinstream_read"),
        )

    def environment(self) -> dict[str, str]:
        """Return the environment variables that make a process use this stack."""
        return self.addresses.environment()

    def problems(self) -> list[str]:
        """What happens to each server that has ended by itself, a line each."""
        return [] if self._keeper is None else self._keeper.problems()

    def start(self) -> None:
        """Start the stack of the folder, or a new one in an empty folder.

        Raises:
            StackError: when a stack is running in this folder, the folder cannot be written or its disk is full, jars are not the
                pinned ones, or a server does not start.
        """
        _require_supported_system()
        with self._folder_errors():
            self.home.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._require_free_disk()
            self._lock = self._lock_home()
            try:
                self._start_parts()
                self._keeper = Keeper(self._parts(), self.notify)
                self._keeper.start()
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Stop all servers cleanly, at the same time."""
        (self.home / STATE).unlink(missing_ok=True)
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
        run_together(part.stopping() for part in self._parts())
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _start_parts(self) -> None:
        started_at = time.monotonic()
        (self.home / STATE).unlink(missing_ok=True)
        (self.home / "mlflow").mkdir(mode=0o700, exist_ok=True)
        jars = fetch_jars(self.notify)
        self.notify(f"starting Kafka and PostgreSQL in {self.home}")
        for attempt in range(1, PORT_TRIES + 1):
            try:
                self._start_on(choose_ports(self.home / PORTS), jars)
                break
            except PortTaken:  # by a program that took it after it was chosen
                if attempt == PORT_TRIES:
                    raise
        _write_private(self.home / STATE, asdict(self.addresses))
        seconds = time.monotonic() - started_at
        self.notify(f"Kafka on {self.kafka_bootstrap} and PostgreSQL on port {self.postgres.port}, ready in {seconds:.1f} s")

    def _start_on(self, ports: dict[str, int], jars: Path) -> None:
        run_together(part.stopping() for part in self._parts())
        self.kafka = Kafka(self.home, (ports["kafka"], ports["kafka_controller"]), jars)
        self.postgres = Postgres(self.home, ports["postgres"])
        for part in self._parts():
            part.notify = self.notify
        run_together(part.starting() for part in self._parts())

    def _parts(self) -> Iterable[Part]:
        return [part for part in (getattr(self, "kafka", None), getattr(self, "postgres", None)) if part is not None]

    @contextmanager
    def _folder_errors(self) -> Iterator[None]:
        """Turn an error of the file system into one that names the folder and the way to choose another one."""
        try:
            yield
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            advice = "make it writable, or choose another one with --home or TWIN_HOME"
            raise StackError(f"the local stack cannot use the folder {self.home} ({reason}): {advice}") from error

    def _require_free_disk(self) -> None:
        free_mb = shutil.disk_usage(self.home).free // 2**20
        if free_mb < MIN_FREE_MB:
            advice = "free some, or choose a folder on another disk with --home or TWIN_HOME"
            raise StackError(
                f"only {free_mb} MB are free on the disk of {self.home}, of {MIN_FREE_MB} MB that are needed: {advice}"
            )

    def _lock_home(self) -> int:
        deadline = time.monotonic() + LOCK_CHECK_S  # running_stack holds the lock for a moment
        while (lock := try_lock(self.home / LOCK)) is None:
            if time.monotonic() > deadline:
                holder = (self.home / LOCK).read_text(encoding="ascii").strip() or "unknown"
                raise StackError(
                    f"a local stack is already running in {self.home}, started by process {holder}: use it or stop that process"
                )
            time.sleep(0.05)
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode("ascii"))
        return lock


def _require_supported_system() -> None:
    if not sys.platform.startswith(("linux", "darwin")):
        raise StackError(
            f"the local stack runs on Linux and macOS, not on {sys.platform}: use docker compose, or set TWIN_KAFKA_BOOTSTRAP and"
            " TWIN_POSTGRES_DSN to other servers"
        )


def choose_ports(path: Path) -> dict[str, int]:
    """Choose the ports of a folder and store them in ``path``: those of its last start, each replaced if it is not free."""
    stored = _read_ports(path)
    ports: dict[str, int] = {}
    for name in PORT_NAMES:
        port = stored.get(name)
        while port is None or port in ports.values() or not is_free(port):
            port = free_port()
        ports[name] = port
    _write_private(path, ports)
    return ports


def _read_ports(path: Path) -> dict[str, int]:
    """Ports of the last start; none where the file was damaged, as by a loss of power."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return {name: port for name, port in stored.items() if isinstance(port, int)} if isinstance(stored, dict) else {}


def _write_private(path: Path, content: dict[str, object] | dict[str, int]) -> None:
    """Write a file atomically, readable by this user only."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    new.replace(path)

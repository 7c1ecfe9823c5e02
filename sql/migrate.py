"""Apply the numbered ``*.sql`` files beside this module, forward only, each in one transaction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from sql.database import Connection, connect, make_partitions

__all__ = ["ChangedMigration", "LateMigration", "Migration", "migrate", "migrations"]

LOCK = 0x7477_696E  # any number that only these migrations use

LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number      integer PRIMARY KEY,
    name        text NOT NULL,
    sha256      text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
)"""


class ChangedMigration(RuntimeError):
    """An applied file is no longer what was applied."""


class LateMigration(RuntimeError):
    """A file has a number below one that is applied already."""


@dataclass(frozen=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Digest of the file's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """The files of this package, by number."""
    found = [file for file in files("sql").iterdir() if file.name.endswith(".sql")]
    return sorted(
        (Migration(int(file.name.partition("_")[0]), file.name, file.read_text(encoding="utf-8")) for file in found),
        key=lambda migration: migration.number,
    )


async def migrate(dsn: str) -> list[str]:
    """Bring the database up to date and return the names of the files applied now; runners at the same time wait for one another.

    Raises:
        ChangedMigration: when an applied file was changed since.
        LateMigration: when a new file's number lies below an applied one.
    """
    connection = await connect(dsn)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        await connection.execute(LEDGER)
        due = _due(migrations(), await _applied(connection))
        for migration in due:
            await _apply(connection, migration)
        await make_partitions(connection)
    finally:
        await connection.close()  # and with it goes the lock
    return [migration.name for migration in due]


def _due(known: list[Migration], applied: dict[int, str]) -> list[Migration]:
    for migration in known:
        if migration.number in applied and applied[migration.number] != migration.sha256:
            raise ChangedMigration(f"{migration.name} was changed after it was applied: put it back and write a new file instead")
    due = [migration for migration in known if migration.number not in applied]
    for migration in due:
        if applied and migration.number < max(applied):
            raise LateMigration(f"{migration.name} comes after number {max(applied)} was applied: give it a higher number")
    return due


async def _applied(connection: Connection) -> dict[int, str]:
    return {row["number"]: row["sha256"] for row in await connection.fetch("SELECT number, sha256 FROM schema_migrations")}


async def _apply(connection: Connection, migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(migration.text)
        await connection.execute(
            "INSERT INTO schema_migrations (number, name, sha256) VALUES ($1, $2, $3)",
            migration.number,
            migration.name,
            migration.sha256,
        )

"""Applies the numbered ``*.sql`` files of this package, forward only, each in one transaction.

No library serves: the files are plain SQL with a digest each, so that a changed one is found, and are applied under one advisory
lock through asyncpg; Alembic and its like need SQLAlchemy and a second driver, and there is no ORM here whose tables they could
compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from sql.database import Connection, connect, make_partitions
from sql.privileges import OWNER, ensure_roles, grant_privileges, take_ownership

__all__ = ["ChangedMigration", "LateMigration", "Migration", "NotPermitted", "migrate", "migrations"]

LOCK = 0x7477_696E  # any number that no other advisory lock uses

MIGRATIONS_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number      integer PRIMARY KEY,
    name        text NOT NULL,
    sha256      text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
)"""


class ChangedMigration(RuntimeError):
    """A file was changed after it was applied."""


class LateMigration(RuntimeError):
    """A file that is not applied has a lower number than one that is."""


class NotPermitted(RuntimeError):
    """The user may not create the roles of the database, or may not become the owner of its tables."""


@dataclass(frozen=True)
class Migration:
    """One numbered file of SQL statements."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Digest of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return the files of this package, sorted by number."""
    paths = [path for path in files("sql").iterdir() if path.name.endswith(".sql") and path.name[0].isdigit()]
    return sorted(
        (Migration(int(path.name.partition("_")[0]), path.name, path.read_text(encoding="utf-8")) for path in paths),
        key=lambda migration: migration.number,
    )


async def migrate(dsn: str, on_apply: Callable[[str], None] = lambda _name: None) -> list[str]:
    """Apply the files that are missing in the database, and return their names; concurrent calls wait for one another.

    ``on_apply`` is called with the name of each file before it is applied.

    The tables belong to the owner role, whatever user applies the files, and the grants are as declared afterwards.

    Raises:
        ChangedMigration: when an applied file was changed.
        LateMigration: when a new file has a lower number than an applied one.
        NotPermitted: when the user may not create the roles or become the owner, and somebody has to do it for this user.
    """
    connection = await connect(dsn)
    try:
        await _become_owner(connection)
        await connection.execute(MIGRATIONS_TABLE)
        missing = _missing(migrations(), await _applied(connection))
        for migration in missing:
            on_apply(migration.name)
            await _apply(connection, migration)
        await make_partitions(connection)
        await grant_privileges(connection)
    finally:
        await connection.close()  # releases the lock
    return [migration.name for migration in missing]


async def _become_owner(connection: Connection) -> None:
    """Wait for other migrations of the database, and become its owner.

    Raises:
        NotPermitted: when the user may not.
    """
    user = await connection.fetchval("SELECT current_user")
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)  # only the roles of the service may
        await ensure_roles(connection)
        await take_ownership(connection)
        await connection.execute(f"SET ROLE {OWNER}")
    except asyncpg.InsufficientPrivilegeError as error:
        raise NotPermitted(
            f"user {user!r} of TWIN_POSTGRES_MIGRATE_DSN may not set up the roles and tables of this database ({error}): run"
            " `twinstream migrate` once as a superuser, then `GRANT twinstream_migrator` to this user"
        ) from error


def _missing(all_migrations: list[Migration], applied: dict[int, str]) -> list[Migration]:
    for migration in all_migrations:
        if migration.number in applied and applied[migration.number] != migration.sha256:
            raise ChangedMigration(f"{migration.name} was changed after it was applied: restore it and add a new file instead")
    missing = [migration for migration in all_migrations if migration.number not in applied]
    for migration in missing:
        if applied and migration.number < max(applied):
            raise LateMigration(f"{migration.name} is new, but number {max(applied)} is already applied: give it a higher number")
    return missing


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

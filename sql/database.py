"""Opens connections and pools, which have the timeouts of the settings and read and write JSON as Python values."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from sql.settings import PostgresSettings

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

__all__ = [
    "Connection",
    "Database",
    "NoPostgresAddress",
    "Pool",
    "PostgresProbe",
    "clock",
    "connect",
    "make_partitions",
    "open_pool",
    "transaction",
]

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Database: TypeAlias = "Pool | Connection"
"""Where a statement runs: on a connection of a pool, or on the connection whose transaction it belongs to."""

# A commit that was acknowledged must survive a crash of the server, whatever the database, its roles or its files set.
_SESSION_SETTINGS = {"timezone": "UTC", "synchronous_commit": "on"}


_NO_ADDRESS = "no Postgres address: set TWIN_POSTGRES_DSN, for example postgresql://user@127.0.0.1:5432/twins"


class NoPostgresAddress(ValueError):
    """No address of Postgres was given."""


async def open_pool(settings: PostgresSettings | None = None, *, dsn: str | None = None) -> Pool:
    """Open a pool on ``dsn``, or on the address in the settings.

    Raises:
        NoPostgresAddress: when there is neither.
    """
    settings = settings or PostgresSettings()
    return await asyncpg.create_pool(
        _address(settings, dsn),
        min_size=1,
        max_size=settings.postgres_pool_size,
        init=_register_json_codecs,
        server_settings=_server_settings(settings),
        timeout=settings.postgres_connect_timeout_s,
    )


async def connect(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    """Open one connection without statement and lock timeouts, for long work.

    Raises:
        NoPostgresAddress: when the address is empty.
    """
    if not dsn:
        raise NoPostgresAddress(_NO_ADDRESS)
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(dsn, server_settings=_SESSION_SETTINGS)
    await _register_json_codecs(connection)
    return connection


class PostgresProbe:
    """Asks the Postgres of the settings whether it answers, on a connection of its own."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def ask(self) -> None:
        """Return when the server has answered.

        Raises:
            OSError: when it cannot be reached.
            asyncpg.PostgresError: when it refuses the connection.
        """
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(_address(self._settings, None))
        await self._connection.execute("SELECT 1")

    def close(self) -> None:
        """Close the connection; the next question opens another one."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


@asynccontextmanager
async def transaction(database: Database) -> AsyncIterator[Connection]:
    """Yield a connection inside a transaction: a new one of a pool, or a savepoint of the transaction that is open already."""
    if isinstance(database, asyncpg.Pool):
        async with database.acquire() as connection, connection.transaction():
            yield connection
    else:
        async with database.transaction():
            yield database


async def clock(database: Database) -> datetime:
    """Return the current time of the Postgres server, also inside a transaction."""
    now: datetime = await database.fetchval("SELECT clock_timestamp()")
    return now


async def make_partitions(database: Database, months_ahead: int = 3) -> int:
    """Create the missing monthly partitions of the outcome table, and return their number. It is called once a day."""
    return int(await database.fetchval("SELECT make_fidelity_partitions($1)", months_ahead) or 0)


def _address(settings: PostgresSettings, dsn: str | None) -> str:
    address = dsn or settings.postgres_dsn.get_secret_value()
    if not address:
        raise NoPostgresAddress(_NO_ADDRESS)
    return address


def _server_settings(settings: PostgresSettings) -> dict[str, str]:
    timeouts_s = {
        "statement_timeout": settings.postgres_statement_timeout_s,
        "lock_timeout": settings.postgres_lock_timeout_s,
        "idle_in_transaction_session_timeout": settings.postgres_idle_in_transaction_timeout_s,
        "tcp_user_timeout": settings.postgres_tcp_user_timeout_s,
    }
    return {name: str(round(seconds * 1000)) for name, seconds in timeouts_s.items()} | _SESSION_SETTINGS


async def _register_json_codecs(connection: Any) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

"""Connections and pools: every one with the timeouts of the settings and JSON as Python values."""

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

__all__ = ["Connection", "Database", "NoAddress", "Pool", "clock", "connect", "make_partitions", "open_pool", "transaction"]

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Database: TypeAlias = "Pool | Connection"
"""Where a statement can run: a pool, or the connection whose transaction it shall be part of."""

# What is acknowledged must not be lost with the server, whatever the database, its roles or its files prefer.
_ALWAYS = {"timezone": "UTC", "synchronous_commit": "on"}


class NoAddress(ValueError):
    """Nobody said where Postgres is."""


async def open_pool(settings: PostgresSettings | None = None, *, dsn: str | None = None) -> Pool:
    """A pool on ``dsn``, or on the address in the settings.

    Raises:
        NoAddress: when neither gives one.
    """
    chosen = settings or PostgresSettings()
    return await asyncpg.create_pool(
        _address(chosen, dsn),
        min_size=1,
        max_size=chosen.postgres_pool_size,
        init=_speak_json,
        server_settings=_limits(chosen),
        timeout=chosen.postgres_connect_timeout_s,
    )


async def connect(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    """One connection for long work: no statement or lock timeout."""
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(dsn, server_settings=_ALWAYS)
    await _speak_json(connection)
    return connection


@asynccontextmanager
async def transaction(database: Database) -> AsyncIterator[Connection]:
    """A connection inside a transaction: a new one of a pool, or a savepoint of the transaction that is open already."""
    if isinstance(database, asyncpg.Pool):
        async with database.acquire() as connection, connection.transaction():
            yield connection
    else:
        async with database.transaction():
            yield database


async def clock(database: Database) -> datetime:
    """Current time of the Postgres server, also inside a transaction."""
    now: datetime = await database.fetchval("SELECT clock_timestamp()")
    return now


async def make_partitions(database: Database, months_ahead: int = 3) -> int:
    """Make the outcome table's missing monthly partitions; returns how many were made. Call it once a day."""
    return int(await database.fetchval("SELECT make_fidelity_partitions($1)", months_ahead) or 0)


def _address(settings: PostgresSettings, dsn: str | None) -> str:
    address = dsn or settings.postgres_dsn.get_secret_value()
    if not address:
        raise NoAddress("no Postgres address: set TWIN_POSTGRES_DSN, for example postgresql://user@127.0.0.1:5432/twins")
    return address


def _limits(settings: PostgresSettings) -> dict[str, str]:
    limits = {
        "statement_timeout": settings.postgres_statement_timeout_s,
        "lock_timeout": settings.postgres_lock_timeout_s,
        "idle_in_transaction_session_timeout": settings.postgres_idle_in_transaction_timeout_s,
        "tcp_user_timeout": settings.postgres_tcp_user_timeout_s,
    }
    return {name: str(round(seconds * 1000)) for name, seconds in limits.items()} | _ALWAYS


async def _speak_json(connection: Any) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

"""Opens connections and pools, which have the timeouts of the settings and read and write JSON as Python values."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
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
    "SlowTransaction",
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

# Whatever the database, its roles or its files set: a commit that was acknowledged survives a crash of the server, and each
# statement sees what was committed before it. A user can change these settings of its own role.
_SESSION_SETTINGS = {
    "timezone": "UTC",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
}


_NO_ADDRESS = "no Postgres address: set TWIN_POSTGRES_DSN, for example postgresql://user@127.0.0.1:5432/twins"


class SlowTransaction(RuntimeError):
    """The work inside a transaction computed for so long that Postgres ended its session, as it ends one that is idle."""

    def __init__(self, computed_s: float, limit_s: float) -> None:
        super().__init__(
            f"a computation of {computed_s:.1f} s inside a transaction was too slow: Postgres ends a session that is idle in a"
            f" transaction for {limit_s:g} s (TWIN_POSTGRES_IDLE_IN_TRANSACTION_TIMEOUT_S)"
        )


class NoPostgresAddress(ValueError):
    """No address of Postgres was given."""


async def open_pool(
    settings: PostgresSettings | None = None, *, dsn: str | None = None, connections: tuple[int, int] | None = None
) -> Pool:
    """Open a pool on ``dsn``, or on the address in the settings.

    Args:
        settings: time limits, and the address.
        dsn: another address.
        connections: number that it opens now, and its most; by default 1, and that of the settings.

    Raises:
        NoPostgresAddress: when there is neither.
    """
    settings = settings or PostgresSettings()
    min_size, max_size = connections or (1, settings.postgres_pool_size)
    return await asyncpg.create_pool(
        _address(settings, dsn),
        min_size=min_size,
        max_size=max_size,
        connection_class=_LimitedConnection,
        init=partial(_prepare, settings.postgres_idle_in_transaction_timeout_s),
        server_settings=_server_settings(settings),
        timeout=settings.postgres_connect_timeout_s,
    )


class _LimitedConnection(asyncpg.Connection):
    """A connection that knows for how long Postgres lets it be idle in a transaction, in seconds.

    Whoever uses it changes nothing of its session: it is released without a statement that resets one.
    """

    idle_limit_s = math.inf

    def get_reset_query(self) -> str:
        """No statement."""
        return ""


async def _prepare(idle_limit_s: float, connection: Any) -> None:
    await _register_json_codecs(connection)
    connection.idle_limit_s = idle_limit_s


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
    """Yield a connection inside a transaction: a new one of a pool, or a savepoint of the transaction that is open already.

    An error because a lock was not granted in time has a note with the session that holds locks others wait for.

    Raises:
        SlowTransaction: when Postgres ended the session because the block computed for too long between two statements.
    """
    if isinstance(database, asyncpg.Pool):
        async with database.acquire() as connection, _timed(connection), _noted(connection), connection.transaction():
            yield connection
    else:
        async with _noted(database), database.transaction():
            yield database


_LEAST_COMPUTED = 0.25
"""Part of the limit that this process must have computed: one that was suspended, or waited, is not slow."""


@asynccontextmanager
async def _timed(connection: Connection) -> AsyncIterator[None]:
    """Tell a session that ended because of a slow computation, which ends again, from one that ended because Postgres is out."""
    limit_s: float = getattr(connection, "idle_limit_s", math.inf)
    start_s, cpu_start_s = time.monotonic(), time.process_time()
    try:
        yield
    except (asyncpg.PostgresConnectionError, asyncpg.IdleInTransactionSessionTimeoutError, asyncpg.InterfaceError) as error:
        computed_s = time.process_time() - cpu_start_s
        if _is_lost(connection) and time.monotonic() - start_s >= limit_s and computed_s >= _LEAST_COMPUTED * limit_s:
            raise SlowTransaction(computed_s, limit_s) from error
        raise


def _is_lost(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has taken it back, because it was closed
        return True


@asynccontextmanager
async def _noted(connection: Connection) -> AsyncIterator[None]:
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        if not getattr(error, "__notes__", ()):
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                error.add_note(await _lock_holder(connection))
        raise


# Of the sessions that hold locks and wait for none: one that others wait for now, else the one whose transaction is the oldest. The
# service does not see the age of another user's session; such a one comes before its own, whose transactions are short.
_HOLDER = """
WITH locks AS (
    SELECT * FROM pg_locks WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database()) OR database IS NULL
), waiting AS (
    SELECT DISTINCT pid FROM locks WHERE NOT granted
), blocking AS (
    SELECT DISTINCT b.pid FROM waiting w CROSS JOIN unnest(pg_blocking_pids(w.pid)) AS b (pid)
), holding AS (
    SELECT l.pid, string_agg(DISTINCT coalesce(l.relation::regclass::text, 'an advisory lock'), ', ') AS objects
    FROM locks l LEFT JOIN pg_class c ON c.oid = l.relation
    WHERE l.granted AND (l.locktype = 'advisory' OR c.relkind IN ('r', 'p'))
      AND (l.mode <> 'AccessShareLock' OR l.pid IN (SELECT pid FROM blocking))
    GROUP BY l.pid
)
SELECT a.pid, a.usename::text AS "user", a.application_name AS program, a.state, coalesce(a.xact_start, a.state_change) AS since,
       h.objects, a.pid IN (SELECT pid FROM blocking) AS is_awaited
FROM pg_stat_activity a JOIN holding h USING (pid)
WHERE a.datname = current_database() AND a.usename IS NOT NULL AND a.pid <> pg_backend_pid()
  AND a.pid NOT IN (SELECT pid FROM waiting)
ORDER BY is_awaited DESC, since NULLS FIRST LIMIT 1"""


async def _lock_holder(connection: Connection) -> str:
    row = await connection.fetchrow(_HOLDER)
    if row is None:
        return "no session holds a lock any more"
    since = f" since {row['since']:%H:%M:%S} UTC" if row["since"] else ""
    program = f", program {row['program']!r}" if row["program"] else ""
    session = "session that others wait for" if row["is_awaited"] else "oldest session that holds locks"
    holder = f"process {row['pid']} of user {row['user']!r}{program}, {row['state'] or 'open'}{since}"
    return f"the {session} is that of {holder}, on {row['objects']}"


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

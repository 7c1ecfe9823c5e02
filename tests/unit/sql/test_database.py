"""Pools and transactions on a real PostgreSQL: no statement waits without a limit."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from sql.database import Pool, connect, open_pool, transaction
from sql.settings import PostgresSettings
from streams.errors import describe_error


async def test_every_connection_has_the_timeouts_of_the_settings_and_uses_utc(fresh_database: str) -> None:
    settings = PostgresSettings(postgres_statement_timeout_s=7.0, postgres_lock_timeout_s=2.5, postgres_tcp_user_timeout_s=9.0)
    async with await open_pool(settings, dsn=fresh_database) as pool:
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "tcp_user_timeout", "TimeZone")
        values = [await pool.fetchval("SELECT current_setting($1)", name) for name in names]
    assert values == ["7s", "2500ms", "8s", "9000", "UTC"]


async def test_a_commit_waits_for_the_disk_also_where_the_database_is_set_not_to(fresh_database: str, owned_database: str) -> None:
    async with await open_pool(dsn=owned_database) as pool:
        await pool.execute(f'ALTER DATABASE "{fresh_database.rpartition("/")[2]}" SET synchronous_commit = off')
    async with await open_pool(dsn=fresh_database) as pool:
        assert await pool.fetchval("SHOW synchronous_commit") == "on"
    connection = await connect(fresh_database)
    try:
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
    finally:
        await connection.close()


async def freeze_until_another_holds_the_lock(pool: Pool) -> None:
    async with transaction(pool) as frozen:
        await frozen.execute("LOCK TABLE seats")
        async with transaction(pool) as successor:
            await successor.execute("LOCK TABLE seats")
        await frozen.execute("INSERT INTO seats VALUES (1)")


async def test_an_idle_transaction_loses_its_locks(owned_database: str) -> None:
    settings = PostgresSettings(postgres_idle_in_transaction_timeout_s=0.1)
    async with await open_pool(settings, dsn=owned_database) as pool:
        await pool.execute("CREATE TABLE seats (seat int)")
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.IdleInTransactionSessionTimeoutError)):
            await freeze_until_another_holds_the_lock(pool)
        assert await pool.fetchval("SELECT count(*) FROM seats") == 0


async def fail_after_an_inner_transaction(pool: Pool) -> None:
    async with transaction(pool) as outer:
        async with transaction(outer) as inner:
            await inner.execute("INSERT INTO seats VALUES (1)")
        raise asyncio.CancelledError


async def test_a_lock_that_is_not_granted_names_the_oldest_session_that_holds_locks_and_its_tables(fresh_database: str) -> None:
    holder = await connect(fresh_database)
    try:
        async with holder.transaction():
            process, user = await holder.fetchrow("SELECT pg_backend_pid(), current_user::text")
            await holder.execute("DELETE FROM simulation_queue")
            await holder.execute("UPDATE simulation_lanes SET reached = 1")
            async with await open_pool(PostgresSettings(postgres_lock_timeout_s=0.05), dsn=fresh_database) as pool:
                with pytest.raises(asyncpg.LockNotAvailableError) as error:
                    async with transaction(pool) as connection, transaction(connection):
                        await connection.execute("UPDATE simulation_lanes SET reached = 2")
    finally:
        await holder.close()
    (note,) = error.value.__notes__
    assert f"is that of process {process} of user '{user}', idle in transaction since " in note
    assert note.endswith("UTC, on simulation_lanes, simulation_queue")
    assert describe_error(error.value) == f"canceling statement due to lock timeout; {note}"


async def test_a_nested_transaction_is_rolled_back_with_the_outer_one(owned_database: str) -> None:
    async with await open_pool(dsn=owned_database) as pool:
        await pool.execute("CREATE TABLE seats (seat int)")
        with pytest.raises(asyncio.CancelledError):
            await fail_after_an_inner_transaction(pool)
        assert await pool.fetchval("SELECT count(*) FROM seats") == 0


async def test_json_is_written_and_read_as_python_values(fresh_database: str) -> None:
    value = {"text": 'né "quoted"', "numbers": [0.1 + 0.2, 1e-300, 2**60], "nothing": None}
    async with await open_pool(dsn=fresh_database) as pool:
        assert await pool.fetchval("SELECT $1::jsonb", value) == value

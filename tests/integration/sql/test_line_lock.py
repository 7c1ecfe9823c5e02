"""An exclusive lock on a line is granted while batches keep sharing the line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from sql.database import Pool, open_pool, transaction
from sql.line_lock import queue_for_line, queue_to_share, share_lines
from sql.window_store import lock_line
from tests.outcomes import LINE, make_line


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    await make_line(fresh_database)
    opened = await open_pool(dsn=fresh_database)
    yield opened
    await opened.close()


async def test_an_exclusive_lock_on_a_line_is_not_overtaken_by_later_shared_ones(pool: Pool):
    order: list[str] = []

    async def share(name: str, leave: asyncio.Event) -> None:
        async with transaction(pool) as connection:
            await share_lines(connection, [LINE])
            order.append(name)
            await leave.wait()

    async def promote() -> None:
        async with transaction(pool) as connection:
            await queue_for_line(connection, LINE)
            await connection.fetchrow("SELECT 1 FROM model_lines WHERE line = $1 FOR UPDATE", LINE)
            order.append("alone")

    first, second = asyncio.Event(), asyncio.Event()
    second.set()
    sharing = asyncio.create_task(share("first", first))
    await until(lambda: order == ["first"])
    alone = asyncio.create_task(promote())
    await waiting(pool, 1)
    late = asyncio.create_task(share("second", second))
    await waiting(pool, 2)
    first.set()
    await asyncio.gather(sharing, alone, late)

    assert order == ["first", "alone", "second"]


async def test_shared_locks_on_a_line_do_not_wait_for_each_other(pool: Pool):
    async with transaction(pool) as first, transaction(pool) as second:
        await queue_to_share(first, [LINE, "another"])
        async with asyncio.timeout(60):
            await queue_to_share(second, ["another", LINE])


async def test_a_floor_is_raised_with_an_exclusive_lock_on_the_line(pool: Pool):
    async with transaction(pool) as sharing, transaction(pool) as alone:
        await sharing.execute("SELECT FROM model_lines FOR SHARE")
        await alone.execute("SET LOCAL lock_timeout = '100ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await lock_line(alone, LINE)


async def until(true: object) -> None:
    async with asyncio.timeout(60):
        while not true():  # type: ignore[operator]  # noqa: ASYNC110  # another task changes it
            await asyncio.sleep(0.01)


async def waiting(pool: Pool, count: int) -> None:
    """Until so many wait for an advisory lock."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with asyncio.timeout(60):
        while await pool.fetchval(query) < count:  # noqa: ASYNC110  # the server changes it
            await asyncio.sleep(0.01)

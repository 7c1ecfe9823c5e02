"""No statement grows with what one record carries: a statement that exceeds its timeout exceeds it again at each attempt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from asyncpg.connection import LoggedQuery

from sql import parts
from sql.database import Pool, transaction
from sql.dead_letter_store import add_refused_once, mark_refused_sent
from tests.audits import make_pipeline
from tests.outcomes import LINE, outcome, poll_batches, record

ROWS = 7


def rows_of(argument: Any) -> int:
    """Number of values of an array, also of one that is written as a literal."""
    if isinstance(argument, str) and argument.startswith("{"):
        return argument.count(",") + 1
    return len(argument) if isinstance(argument, Sequence) and not isinstance(argument, str | bytes) else 1


def array_lengths(queries: Sequence[LoggedQuery]) -> Iterator[tuple[int, str]]:
    return ((rows_of(argument), query.query) for query in queries for argument in query.args)


async def test_whatever_an_array_carries_each_statement_about_it_is_bounded(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "ROWS_A_STATEMENT", ROWS)
    good, bad = [outcome(number) for number in range(30)], [1] * 30
    corrections = [outcome(number, revision=1, actual_value=0.5) for number in range(30)]
    batches = list(poll_batches([record(0, good + bad), record(1, corrections)], 1))
    queries: list[LoggedQuery] = []
    async with pool.acquire() as connection:
        connection.add_query_logger(queries.append)
        async with transaction(connection):
            pipeline = make_pipeline(pool).inside(connection)
            first, second, again = [await pipeline.ingest(batch) for batch in (*batches, batches[0])]
            stored = await connection.fetchrow(
                "SELECT (SELECT count(*) FROM fidelity_tracking), (SELECT sum(n) FROM fidelity_panes WHERE segment = 'all')"
            )
            await mark_refused_sent(connection, [refused.refusal_id for refused in first.refused])
            assert not await add_refused_once(connection, first.refused)
            unsent = await connection.fetchval("SELECT count(*) FROM refused_records WHERE sent_at IS NULL")
        connection.remove_query_logger(queries.append)

    assert max(array_lengths(queries))[0] == ROWS
    assert (len(first.refused), first.fates, second.fates) == (30, {(LINE, "counted"): 30}, {(LINE, "counted"): 30})
    assert (tuple(stored), again.n_replayed, unsent) == ((60, 30), 60, 0)

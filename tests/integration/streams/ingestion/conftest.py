"""A line with a champion and two partitions of outcomes, in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from schemas import SourceId
from sql.database import Pool, open_pool
from sql.source_position_store import begin_source
from tests.outcomes import TOPIC, make_card, make_line


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    """Connections to a database with a line, whose first model is champion, and the sources of two partitions."""
    await make_line(fresh_database, make_card("first"), make_card("second"), pane_s=60.0, window_s=300.0)
    async with await open_pool(dsn=fresh_database) as opened:
        for partition in range(2):
            await begin_source(opened, SourceId(topic=TOPIC, partition=partition))
        yield opened

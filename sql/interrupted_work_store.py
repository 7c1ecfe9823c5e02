"""Records that were in work when the process of their role ended: a record that ends its role again and again is found by them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sql.database import Database

__all__ = ["InterruptedWork", "add_interrupted_work", "interrupted_work"]


class InterruptedWork(NamedTuple):
    """Offsets of a partition that were in work when a process ended, first and last inclusive."""

    partition: int
    first_offset: int
    last_offset: int
    interrupted_at: datetime


_ADD = "INSERT INTO interrupted_work VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"

_FORGET = "DELETE FROM interrupted_work WHERE topic = $1 AND interrupted_at < clock_timestamp() - interval '1 day'"

_SELECT = "SELECT partition, first_offset, last_offset, interrupted_at FROM interrupted_work WHERE topic = $1 ORDER BY 1, 2, 3, 4"


async def add_interrupted_work(database: Database, topic: str, interrupted: Sequence[InterruptedWork]) -> None:
    """Store what was in work on a topic when processes ended; repeated, it changes nothing. Rows older than a day are deleted."""
    await database.execute(_FORGET, topic)
    await database.executemany(_ADD, [(topic, *work) for work in interrupted])


async def interrupted_work(database: Database, topic: str) -> list[InterruptedWork]:
    """What was in work on a topic when processes ended within the last day."""
    return [InterruptedWork(**row) for row in await database.fetch(_SELECT, topic)]

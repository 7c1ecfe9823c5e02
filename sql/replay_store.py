"""Replays of offset ranges: what is stored of a range already, and how long drift alerts of its lines are suppressed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID, uuid4

from sql.database import Database

__all__ = [
    "OffsetRange",
    "begin_suppression",
    "count_stored_outcomes",
    "existing_experiments",
    "extend_suppression",
    "is_suppressed",
]


class OffsetRange(NamedTuple):
    """Offsets of a partition from ``first`` to before ``end``."""

    topic: str
    partition: int
    first: int
    end: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}, offsets {self.first:,} to {self.end:,}"


_COUNT_STORED = """
SELECT count(*) FROM fidelity_tracking
WHERE source = $1 AND source_offset >= $2 AND source_offset < $3"""

_EXISTING_EXPERIMENTS = """
SELECT experiment_id FROM experiments WHERE experiment_id = ANY($1)"""

_BEGIN_SUPPRESSION = """
INSERT INTO replays (replay_id, topic, lines, replayed_by, quiet_until)
VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5))"""

_EXTEND_SUPPRESSION = """
UPDATE replays SET quiet_until = clock_timestamp() + make_interval(secs => $2)
WHERE replay_id = $1"""

_IS_SUPPRESSED = """
SELECT EXISTS (SELECT FROM replays WHERE $1 = ANY(lines) AND quiet_until > clock_timestamp())"""


async def count_stored_outcomes(database: Database, source: str, offsets: OffsetRange) -> int:
    """Number of stored outcomes in the range, whatever their fate."""
    return int(await database.fetchval(_COUNT_STORED, source, offsets.first, offsets.end) or 0)


async def existing_experiments(database: Database, ids: Iterable[str]) -> set[str]:
    """Those of the ids whose experiments are stored."""
    rows = await database.fetch(_EXISTING_EXPERIMENTS, list(ids))
    return {row["experiment_id"] for row in rows}


async def begin_suppression(database: Database, topic: str, lines: Iterable[str], by: str, seconds: float) -> UUID:
    """Suppress drift events and automatic retraining of these lines for so many seconds.

    Returns:
        The id by which :func:`extend_suppression` changes the end.
    """
    replay_id = uuid4()
    await database.execute(_BEGIN_SUPPRESSION, replay_id, topic, sorted(lines), by, seconds)
    return replay_id


async def extend_suppression(database: Database, replay_id: UUID, seconds: float) -> None:
    """Set the end of a suppression to so many seconds from now."""
    await database.execute(_EXTEND_SUPPRESSION, replay_id, seconds)


async def is_suppressed(database: Database, line: str) -> bool:
    """Whether drift events of the line are suppressed because its outcomes are being replayed."""
    return bool(await database.fetchval(_IS_SUPPRESSED, line))

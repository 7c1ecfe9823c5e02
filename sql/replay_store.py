"""Stretches of topics that are worked through again: what is there of them already, and how long their lines stay quiet."""

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
    """Offsets of a partition, from the first to before the end."""

    topic: str
    partition: int
    first: int
    end: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}, offsets {self.first:,} to {self.end:,}"


_STORED = "SELECT count(*) FROM fidelity_tracking WHERE source = $1 AND source_offset >= $2 AND source_offset < $3"


async def count_stored_outcomes(database: Database, source: str, stretch: OffsetRange) -> int:
    """Outcomes of the stretch that are stored, whatever their fate."""
    return int(await database.fetchval(_STORED, source, stretch.first, stretch.end) or 0)


async def existing_experiments(database: Database, ids: Iterable[str]) -> set[str]:
    """Those of the experiments that were learned from."""
    rows = await database.fetch("SELECT experiment_id FROM experiments WHERE experiment_id = ANY($1)", list(ids))
    return {row[0] for row in rows}


_BEGIN = """
INSERT INTO replays (replay_id, topic, lines, replayed_by, quiet_until)
VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5))"""


async def begin_suppression(database: Database, topic: str, lines: Iterable[str], by: str, seconds: float) -> UUID:
    """From now on drift of these lines is told to nobody and trains nothing by itself, for so long unless it is prolonged."""
    replay_id = uuid4()
    await database.execute(_BEGIN, replay_id, topic, sorted(lines), by, seconds)
    return replay_id


async def extend_suppression(database: Database, replay_id: UUID, seconds: float) -> None:
    """Let the quiet of a replay end so long from now."""
    await database.execute(
        "UPDATE replays SET quiet_until = clock_timestamp() + make_interval(secs => $2) WHERE replay_id = $1", replay_id, seconds
    )


_IS_QUIET = "SELECT EXISTS (SELECT FROM replays WHERE $1 = ANY(lines) AND quiet_until > clock_timestamp())"


async def is_suppressed(database: Database, line: str) -> bool:
    """Whether outcomes of the line are replayed now, or were a moment ago."""
    return bool(await database.fetchval(_IS_QUIET, line))

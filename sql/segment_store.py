"""Values of segment dimensions that have series of their own, by model line (docs/exactness.md, Segments).

They are only added, so whatever was read once stays true. A transaction that may add some locks their lines after the rows of the
lines and before heads (rule 9).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sql.database import Connection, Database

__all__ = [
    "DEFAULT_SEGMENT_LIMITS",
    "Dimension",
    "SegmentLimits",
    "SegmentValue",
    "add_segment_values",
    "count_segment_values",
    "lock_segment_values",
]


class SegmentLimits(NamedTuple):
    """Limits on segments: values with series of their own by line and dimension, and characters of a value."""

    values: int = 200
    characters: int = 100


DEFAULT_SEGMENT_LIMITS = SegmentLimits()


class Dimension(NamedTuple):
    """A segment dimension of a model line."""

    line: str
    name: str


class SegmentValue(NamedTuple):
    """A value of a segment dimension, as in the name of its series."""

    dimension: Dimension
    value: str


_LOCK = """
SELECT pg_advisory_xact_lock(hashtextextended('twinstream:segments:' || line, 0)) FROM unnest($1::text[]) AS l (line)"""

_FOLLOWED = "SELECT line, dimension, value FROM segment_values WHERE line = ANY($1) AND followed"


async def lock_segment_values(connection: Connection, lines: Iterable[str]) -> list[SegmentValue]:
    """The values with series of their own; no other transaction adds any to these lines before this one ends."""
    ordered = sorted(set(lines))
    await connection.execute(_LOCK, ordered)
    rows = await connection.fetch(_FOLLOWED, ordered)
    return [SegmentValue(Dimension(row["line"], row["dimension"]), row["value"]) for row in rows]


_ADD = """
INSERT INTO segment_values (line, dimension, value) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT (line, dimension, value) DO UPDATE SET followed = true"""


async def add_segment_values(connection: Connection, values: Iterable[SegmentValue]) -> None:
    """Give these values series of their own; the transaction has locked their lines."""
    rows = [(*dimension, value) for dimension, value in values]
    await connection.execute(_ADD, *(list(column) for column in zip(*rows, strict=True)))


_COUNT = "SELECT dimension, count(*) FROM segment_values WHERE line = $1 AND followed GROUP BY dimension"


async def count_segment_values(database: Database, line: str) -> dict[str, int]:
    """Number of values with series of their own, by dimension."""
    rows = await database.fetch(_COUNT, line)
    return {row["dimension"]: row["count"] for row in rows}

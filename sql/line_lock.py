"""Locks on the row of a model line: shared by batches of outcomes, exclusive for a promotion or a raised floor.

Postgres lets a new sharer of a row overtake a transaction that waits for it exclusively, so a stream of batches could delay a
promotion for seconds. Advisory locks are granted in the order of the requests; every transaction that locks a line queues for one
first. The queue only decides the order: correctness depends on the lock of the row itself, also against transactions that
do not queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sql.database import Connection

__all__ = ["LineGrid", "queue_for_line", "queue_to_share", "share_lines"]

_KEY = "hashtextextended('twinstream:line:' || line, 0)"
_EXCLUSIVE = f"SELECT pg_advisory_xact_lock({_KEY}) FROM (VALUES ($1::text)) AS l (line)"  # noqa: S608  # our own constant
_SHARED = f"SELECT pg_advisory_xact_lock_shared({_KEY}) FROM unnest($1::text[]) AS l (line)"  # noqa: S608  # our own constant


class LineGrid(NamedTuple):
    """A model line as a batch of outcomes needs it: its generation and the panes that its outcomes are counted in.

    Attributes:
        generation: rises with every change of the champion.
        floor: seconds since the epoch; no pane below it changes any more. None while there is no floor.
        pane_s: width of a pane in seconds.
        splits: number of equal cells that a pane of the series ``all`` is split into.
    """

    line: str
    generation: int
    floor: float | None
    pane_s: float
    splits: int


async def queue_for_line(connection: Connection, line: str) -> None:
    """Wait until no transaction that queued shares the line, and make later ones wait until this transaction ends."""
    await connection.execute(_EXCLUSIVE, line)


async def queue_to_share(connection: Connection, lines: Iterable[str]) -> None:
    """Wait behind transactions that queued for one of these lines; the lines are locked in the order of their names."""
    await connection.execute(_SHARED, sorted(set(lines)))


_SHARE_LINES = """
SELECT l.line, l.generation, extract(epoch FROM l.floor)::float8 AS floor, l.pane_s, coalesce(c.splits, 1) AS splits
FROM model_lines l LEFT JOIN detector_cells c USING (line)
WHERE l.line = ANY($1)
ORDER BY l.line
FOR SHARE OF l"""


async def share_lines(connection: Connection, lines: Iterable[str]) -> dict[str, LineGrid]:
    """The rows of these lines, which no other transaction can change before this transaction ends; unknown lines are absent."""
    await queue_to_share(connection, lines)
    rows = await connection.fetch(_SHARE_LINES, sorted(set(lines)))
    return {row["line"]: LineGrid(**row) for row in rows}

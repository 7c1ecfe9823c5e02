"""A fair queue before the row of a model line.

Slices share the row, a promotion and a raised floor want it alone. Postgres lets those who share a row overtake one who waits for
it alone, so that a stream of slices could keep a promotion out for seconds; advisory locks are granted in the order of asking.
The queue decides only who goes first: what is true is guarded by the row's own lock, also against those who do not queue.
"""

from __future__ import annotations

from collections.abc import Iterable

from sql.database import Connection

__all__ = ["queue_for_line", "queue_to_share"]

_PLACE = "hashtextextended('twinstream:line:' || line, 0)"
_ALONE = f"SELECT pg_advisory_xact_lock({_PLACE}) FROM (VALUES ($1::text)) AS l (line)"  # noqa: S608  # our own constant
_SHARED = f"SELECT pg_advisory_xact_lock_shared({_PLACE}) FROM unnest($1::text[]) AS l (line)"  # noqa: S608  # our own constant


async def queue_for_line(connection: Connection, line: str) -> None:
    """Wait until nobody who queued shares the line's row, and hold back who queues later, to the end of the transaction."""
    await connection.execute(_ALONE, line)


async def queue_to_share(connection: Connection, lines: Iterable[str]) -> None:
    """Wait behind those who wait for one of these lines alone; the lines are taken in the order of their names."""
    await connection.execute(_SHARED, sorted(set(lines)))

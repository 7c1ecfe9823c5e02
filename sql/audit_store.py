"""The reads of ``twinstream verify``: everything stored from outcomes, in one snapshot of the database.

Rows are streamed through cursors, as the tables may be larger than memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

import asyncpg

from sql.database import Connection, connect
from sql.pane_store import PANE_COLUMNS

__all__ = [
    "AuditedLine",
    "Rows",
    "aged_events",
    "aged_lines",
    "count_copies",
    "counted_revisions",
    "detector_floors",
    "heads",
    "line_grids",
    "panes",
    "positions",
    "segment_values",
    "snapshot",
    "snapshot_time",
    "snapshots",
    "source_coverage",
]

Rows = AsyncIterator[asyncpg.Record]


class AuditedLine(NamedTuple):
    """Lengths of the panes and windows of a line in seconds; its floor and its horizon of ageing in seconds since the epoch.

    Attributes:
        floor: null before the first.
        horizon: outcomes below it have aged out; -inf before the first.
    """

    pane_s: float
    window_s: float
    floor: float | None
    horizon: float


_PREFETCH = 5000

_POSITIONS = """
SELECT p.source, p.topic, p.partition, p.incarnation, p.last_offset, p.last_time, p.elements, p.watermark
FROM source_positions p ORDER BY p.source"""

# For each source that has or had rows: their number, the last offset, time and watermark, and how many offsets rows and gaps cover.
# An offset inside a gap that also has a row (it arrived later) is counted once. Up to the offset to which rows have aged out every
# offset is covered; the rows that are left there are counted as elements.
_COVERAGE = """
WITH element AS (
    SELECT source, source_offset, tracked_at, observed_at FROM fidelity_tracking WHERE fate <> 'tracked'
    UNION ALL
    SELECT source, source_offset, tracked_at, NULL FROM refused_records r
    WHERE EXISTS (SELECT FROM source_positions p WHERE p.source = r.source)
), counted AS (
    SELECT e.source, count(*) AS elements, count(DISTINCT e.source_offset) FILTER (
               WHERE a.last_offset IS NULL OR e.source_offset > a.last_offset) AS offsets,
           max(e.source_offset) AS last_offset, max(e.tracked_at) FILTER (WHERE e.source_offset = p.last_offset) AS last_time,
           max(e.observed_at) AS watermark
    FROM element e LEFT JOIN aged_sources a USING (source) LEFT JOIN source_positions p USING (source) GROUP BY e.source
), gap AS (
    SELECT g.source, greatest(g.first_offset, coalesce(a.last_offset + 1, 0)) AS first_offset, g.last_offset
    FROM source_gaps g LEFT JOIN aged_sources a USING (source)
), missing AS (
    SELECT source, sum(last_offset - first_offset + 1) AS offsets FROM gap GROUP BY source
), filled AS (
    SELECT g.source, count(DISTINCT e.source_offset) AS offsets
    FROM gap g JOIN element e ON e.source = g.source AND e.source_offset BETWEEN g.first_offset AND g.last_offset
    GROUP BY g.source
)
SELECT source, coalesce(c.elements, 0) + coalesce(a.elements, 0) AS elements, coalesce(a.elements, 0) AS aged,
       greatest(c.last_offset, a.last_offset) AS last_offset, c.last_time,
       greatest(c.watermark, a.watermark) AS watermark,
       coalesce(a.last_offset + 1, 0) + coalesce(c.offsets, 0) + coalesce(m.offsets, 0) - coalesce(f.offsets, 0) AS covered
FROM counted c FULL JOIN missing m USING (source) FULL JOIN aged_sources a USING (source) LEFT JOIN filled f USING (source)"""

_COUNTED_REVISIONS = """
SELECT event_id, revision, digest, fate::text AS fate, line, model_id, segments, pane, width_s, predicted_value, actual_value,
       predicted_lower, predicted_upper, source, source_offset
FROM fidelity_tracking WHERE fate IN ('counted', 'superseded', 'missing')
ORDER BY event_id, revision, digest"""

_HEADS = """
SELECT event_id, revision, digest, line, model_id, segments, pane, width_s, contribution
FROM event_heads ORDER BY event_id"""

_PANES = f"SELECT source, {PANE_COLUMNS} FROM fidelity_panes"  # noqa: S608  # names of columns

_SNAPSHOTS = """
SELECT line, model_id, metric_type, segment, extract(epoch FROM window_start)::float8 AS start,
       extract(epoch FROM window_end)::float8 AS "end", version, sample_size AS n, mae, rmse, bias, correlation, coverage_95pct,
       n_interval, n_skipped, n_outliers, standard_errors, missing
FROM fidelity_snapshots"""

_DETECTOR_FLOORS = """
SELECT line, model_id, segment, floor FROM detector_floors"""

_SEGMENT_VALUES = """
SELECT line, dimension, value FROM segment_values"""

_COUNT_COPIES = """
SELECT count(*) FROM refused_records WHERE sent_at IS NOT NULL"""

_LINE_GRIDS = """
SELECT l.line, l.pane_s, l.window_s, extract(epoch FROM l.floor)::float8 AS floor, coalesce(a.horizon, '-infinity') AS horizon
FROM model_lines l LEFT JOIN aged_lines a USING (line)"""

# What is recorded of aged lines, and the same computed from the panes that are stored.
_AGED_LINES = """
SELECT a.line, a.panes, a.pane_digest, a.events, s.panes AS stored_panes, s.pane_digest AS stored_digest
FROM aged_lines a CROSS JOIN LATERAL (
    SELECT count(*) AS panes, coalesce(sum(pane_digest(p)), 0) AS pane_digest FROM fidelity_panes p
    WHERE p.line = a.line AND p.pane < a.horizon) s"""

_AGED_EVENTS = """
SELECT count(*) AS events, count(h.event_id) AS with_heads FROM aged_events a LEFT JOIN event_heads h USING (event_id)"""


@asynccontextmanager
async def snapshot(dsn: str) -> AsyncIterator[Connection]:
    """A connection in one read-only repeatable-read transaction: all reads see the same state of the database."""
    connection = await connect(dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection
    finally:
        await connection.close()


def positions(connection: Connection) -> Rows:
    """The stored position of every source."""
    return _rows(connection, _POSITIONS)


def source_coverage(connection: Connection) -> Rows:
    """For each source, the position that follows from its rows and gaps."""
    return _rows(connection, _COVERAGE)


def counted_revisions(connection: Connection) -> Rows:
    """Revisions that are counted, or were until a higher one superseded them, ordered by event, revision and digest."""
    return _rows(connection, _COUNTED_REVISIONS)


def heads(connection: Connection) -> Rows:
    """Heads, ordered by event id."""
    return _rows(connection, _HEADS)


def panes(connection: Connection) -> Rows:
    """Rows of ``fidelity_panes``."""
    return _rows(connection, _PANES)


def snapshots(connection: Connection) -> Rows:
    """Stored snapshots of windows."""
    return _rows(connection, _SNAPSHOTS)


def detector_floors(connection: Connection) -> Rows:
    """Series for which the value of the detector at a floor is stored."""
    return _rows(connection, _DETECTOR_FLOORS)


def segment_values(connection: Connection) -> Rows:
    """Segment values that have series of their own, or had before there was a limit."""
    return _rows(connection, _SEGMENT_VALUES)


async def count_copies(connection: Connection) -> int:
    """Number of refused records that have a copy on the topic ``dead-letters``."""
    return int(await connection.fetchval(_COUNT_COPIES))


async def snapshot_time(connection: Connection) -> datetime:
    """The time of the snapshot."""
    now: datetime = await connection.fetchval("SELECT now()")
    return now


async def line_grids(connection: Connection) -> dict[str, AuditedLine]:
    """The grid of each line."""
    rows = await connection.fetch(_LINE_GRIDS)
    return {row["line"]: AuditedLine(row["pane_s"], row["window_s"], row["floor"], row["horizon"]) for row in rows}


async def aged_lines(connection: Connection) -> list[asyncpg.Record]:
    """Lines of which rows have aged out: number and digest of their panes below the horizon, as recorded and as stored."""
    return await connection.fetch(_AGED_LINES)


async def aged_events(connection: Connection) -> tuple[int, int]:
    """The number of events that have aged out, and how many of them have a head all the same."""
    row = await connection.fetchrow(_AGED_EVENTS)
    assert row is not None
    return row["events"], row["with_heads"]


async def _rows(connection: Connection, statement: str) -> Rows:
    async for row in connection.cursor(statement, prefetch=_PREFETCH):
        yield row

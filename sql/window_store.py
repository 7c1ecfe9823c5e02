"""Reads the rows of panes that windows are added up from, and stores snapshots of windows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal, NamedTuple
from uuid import UUID, uuid5

import asyncpg

from schemas import FidelityWindow, PaneRow, SourceId
from schemas.events import SUM_FIELDS
from schemas.thresholds import DEFAULT_THRESHOLDS, LineThresholds
from sql.database import Connection, Database
from sql.line_lock import queue_for_line
from sql.pane_store import PANE_COLUMNS, pane_row
from sql.threshold_store import LATEST_THRESHOLDS, thresholds_from

__all__ = [
    "CellSums",
    "MonitoredLine",
    "Snapshot",
    "SnapshotKey",
    "SourceState",
    "SourcedRow",
    "Span",
    "aged_horizon",
    "cells_between",
    "changed_rows",
    "latest_pane_starts",
    "live_rows",
    "lock_line",
    "model_series",
    "monitored_lines",
    "newest_pane",
    "pane_ranges",
    "rows_within",
    "save_snapshots",
    "snapshots_from",
    "snapshots_within",
    "source_states",
    "stored_rows",
    "version_between",
    "windows_without_snapshot",
]


class MonitoredLine(NamedTuple):
    """Settings and state of a model line that windows depend on; ``floor`` in seconds since the epoch, lengths in seconds."""

    line: str
    champion: UUID | None
    generation: int
    floor: float | None
    pane_s: float
    window_s: float
    thresholds: LineThresholds = DEFAULT_THRESHOLDS


_LINE_STATES = f"""
SELECT line, champion, generation, extract(epoch FROM floor)::float8 AS floor, pane_s, window_s,
       {LATEST_THRESHOLDS.format(line="model_lines.line")} AS thresholds
FROM model_lines"""  # noqa: S608  # our own constant


async def monitored_lines(database: Database) -> list[MonitoredLine]:
    """Return all model lines, ordered by name."""
    return [_monitored_line(row) for row in await database.fetch(f"{_LINE_STATES} ORDER BY line")]


async def lock_line(connection: Connection, line: str) -> MonitoredLine:
    """Lock a line until the transaction ends: no ingestion and no promotion can use it meanwhile.

    Raises:
        LookupError: when there is no such line.
    """
    await queue_for_line(connection, line)
    row = await connection.fetchrow(f"{_LINE_STATES} WHERE line = $1 FOR UPDATE", line)
    if row is None:
        raise LookupError(f"no model line {line!r}")
    return _monitored_line(row)


def _monitored_line(row: asyncpg.Record) -> MonitoredLine:
    return MonitoredLine(**{**row, "thresholds": thresholds_from(row["thresholds"], row["line"])})


class SourcedRow(NamedTuple):
    """A row of ``fidelity_panes`` with its source, ``topic:partition:incarnation``."""

    source: str
    row: PaneRow


_LIVE_ROWS = f"SELECT source, {PANE_COLUMNS} FROM fidelity_panes WHERE line = $1 AND pane >= $2"  # noqa: S608  # names of columns


async def live_rows(database: Database, line: str, lowest: float) -> list[SourcedRow]:
    """Return the rows of a line whose pane is not below ``lowest``."""
    return _sourced(await database.fetch(_LIVE_ROWS, line, lowest))


async def changed_rows(database: Database, line: str, lowest: float, since: datetime) -> list[SourcedRow]:
    """Return the rows of ``live_rows`` that changed after ``since``, by the clock of Postgres."""
    return _sourced(await database.fetch(f"{_LIVE_ROWS} AND changed_at > $3", line, lowest, since))


class Span(NamedTuple):
    """Panes of a series that start in [low, high), in seconds since the epoch."""

    model_id: UUID
    segment: str
    low: float
    high: float


_SPANS = """
unnest($2::uuid[], $3::text[], $4::float8[], $5::float8[]) AS s (model_id, segment, low, high)"""

_ROWS_WITHIN = f"""
SELECT source, {PANE_COLUMNS} FROM fidelity_panes JOIN {_SPANS} USING (model_id, segment)
WHERE line = $1 AND pane >= low AND pane < high"""  # noqa: S608  # names of columns


async def rows_within(database: Database, line: str, spans: Sequence[Span]) -> list[SourcedRow]:
    """Return the rows of a line in spans, which must not overlap."""
    return _sourced(await database.fetch(_ROWS_WITHIN, line, *_span_columns(spans))) if spans else []


_STORED_ROWS = f"""
SELECT {PANE_COLUMNS} FROM fidelity_panes
JOIN unnest($3::uuid[], $4::text[], $5::float8[], $6::float8[]) AS k (model_id, segment, pane, width_s)
    USING (model_id, segment, pane, width_s)
WHERE line = $1 AND source = $2"""  # noqa: S608  # names of columns


async def stored_rows(database: Database, line: str, source: str, rows: Sequence[PaneRow]) -> list[PaneRow]:
    """Return these rows of a line and a source as they are stored; those that are not stored are absent."""
    columns = zip(*((row.model_id, row.segment, row.pane, row.width_s) for row in rows), strict=True)
    records = await database.fetch(_STORED_ROWS, line, source, *map(list, columns)) if rows else []
    return [pane_row(record) for record in records]


_AGED_HORIZON = "SELECT horizon FROM aged_lines WHERE line = $1"


async def aged_horizon(database: Database, line: str) -> float:
    """Seconds since the epoch below which panes of a line may have been deleted, -inf before the first ageing."""
    horizon: float | None = await database.fetchval(_AGED_HORIZON, line)
    return -math.inf if horizon is None else horizon


_NEWEST_PANE = "SELECT max(pane) FROM fidelity_panes WHERE line = $1"


async def newest_pane(database: Database, line: str) -> float | None:
    """Return the start of the latest pane of a line, None when it has no rows."""
    newest: float | None = await database.fetchval(_NEWEST_PANE, line)
    return newest


_BOUNDARIES = """
SELECT DISTINCT pane FROM (
    SELECT pane, row_number() OVER (ORDER BY pane) AS number FROM fidelity_panes WHERE line = $1 AND pane >= $2 AND pane < $3
) AS numbered WHERE number % $4 = 0 ORDER BY pane"""
_ROWS_PER_RANGE = 50_000


async def pane_ranges(
    database: Database, line: str, low: float, high: float, rows: int = _ROWS_PER_RANGE
) -> list[tuple[float, float]]:
    """Split [low, high) into adjacent ranges that each hold about this many rows of a line.

    One statement about all rows of a long history would exceed the statement timeout, whenever it is tried again.
    """
    boundaries = [row["pane"] for row in await database.fetch(_BOUNDARIES, line, low, high, rows)]
    return list(pairwise([low, *(pane for pane in boundaries if pane > low), high]))


class CellSums(NamedTuple):
    """Sums of a cell over all sources, in the order of ``SUM_FIELDS``; fields that the detector does not need are 0."""

    model_id: UUID
    segment: str
    sums: tuple[int, ...]


_FIRST_BET = SUM_FIELDS.index("log_bet_0")
_DETECTOR_FIELDS = ("n", "n_interval", *SUM_FIELDS[_FIRST_BET:])
_CELLS = f"""
SELECT model_id, segment, {", ".join(f"sum({name})::bigint" for name in _DETECTOR_FIELDS)} FROM fidelity_panes p
WHERE line = $1 AND pane >= $2 AND pane < $3
  AND ($4::uuid[] IS NULL OR (model_id, segment) IN (SELECT * FROM unnest($4, $5::text[])))
  AND NOT EXISTS (SELECT FROM detector_restarts r WHERE (r.model_id, r.segment) = (p.model_id, p.segment) AND p.pane < r.pane)
GROUP BY model_id, segment, pane, width_s ORDER BY model_id, segment, pane, width_s"""  # noqa: S608  # names of columns
_OTHER_FIELDS = (0,) * (len(SUM_FIELDS) - len(_DETECTOR_FIELDS))


async def cells_between(
    database: Database, line: str, low: float, high: float, series: Sequence[tuple[UUID, str]] | None = None
) -> list[CellSums]:
    """Return the cells of a line, or of some of its series, that start in [low, high), ordered by series and event time.

    Cells below the restart of a series' detector are left out.
    """
    models, segments = (None, None) if series is None else zip(*series, strict=True) if series else ((), ())
    rows = await database.fetch(_CELLS, line, low, high, models, segments)
    return [CellSums(row[0], row[1], (row[2], row[3], *_OTHER_FIELDS, *row[4:])) for row in map(tuple, rows)]


_LATEST_FROM = """
WITH pane AS (
    SELECT model_id, segment, floor(pane / $3::float8) * $3::float8 AS start, sum(n) AS n FROM fidelity_panes
    WHERE line = $1 AND pane >= $2 AND (model_id, segment) IN (SELECT * FROM unnest($5::uuid[], $6::text[]))
    GROUP BY 1, 2, 3
), counted AS (
    SELECT *, sum(n) OVER (PARTITION BY model_id, segment ORDER BY start DESC) AS reached FROM pane
)
SELECT model_id, segment, coalesce(max(start) FILTER (WHERE reached >= $4), min(start)) AS start FROM counted GROUP BY 1, 2"""


async def latest_pane_starts(
    database: Database, state: MonitoredLine, lowest: float, n: int, series: Sequence[tuple[UUID, str]]
) -> dict[tuple[UUID, str], float]:
    """Return for each series the start of the fewest latest panes that hold ``n`` outcomes, or of all panes if fewer."""
    models, segments = zip(*series, strict=True) if series else ((), ())
    rows = await database.fetch(_LATEST_FROM, state.line, lowest, state.pane_s, n, models, segments)
    return {(row["model_id"], row["segment"]): row["start"] for row in rows}


_SERIES_OF = "SELECT DISTINCT model_id, segment FROM fidelity_panes WHERE line = $1 AND model_id = $2"


async def model_series(database: Database, line: str, model_id: UUID) -> list[tuple[UUID, str]]:
    """Return model and segment of all series of a model in a line."""
    return [(row["model_id"], row["segment"]) for row in await database.fetch(_SERIES_OF, line, model_id)]


# Windows that start in [$2, $3) whose snapshot has another version than the sum of their rows, or that have no snapshot.
_WITHOUT_SNAPSHOT = """
WITH pane AS (
    SELECT model_id, segment, floor(pane / $4::float8)::bigint AS k, sum(version) AS version FROM fidelity_panes
    WHERE line = $1 AND pane >= $2 AND pane < $3::float8 + $5::float8
    GROUP BY 1, 2, 3
), present AS (
    SELECT model_id, segment, (k - back) * $4 AS start, sum(version) AS version
    FROM pane, generate_series(0, round($5::float8 / $4::float8)::int - 1) AS back
    WHERE (k - back) * $4 >= $2 AND (k - back) * $4 < $3
    GROUP BY 1, 2, 3
), stored AS (
    SELECT model_id, segment, round(extract(epoch FROM window_start)::float8 / $4) * $4 AS start, version FROM fidelity_snapshots
    WHERE line = $1 AND window_start >= to_timestamp($2 - $4 / 2) AND window_start < to_timestamp($3)
)
SELECT model_id, segment, p.start FROM present p LEFT JOIN stored s USING (model_id, segment, start)
WHERE s.version IS DISTINCT FROM p.version"""


async def windows_without_snapshot(
    database: Database, state: MonitoredLine, low: float, high: float = math.inf
) -> list[SnapshotKey]:
    """Return the windows of a line that start in [low, high) and have no snapshot of their present version."""
    rows = await database.fetch(_WITHOUT_SNAPSHOT, state.line, low, high, state.pane_s, state.window_s)
    return [SnapshotKey(**row) for row in rows]


_VERSION_BETWEEN = """
SELECT coalesce(sum(version), 0)::bigint FROM fidelity_panes WHERE line = $1 AND pane >= $2 AND pane < $3"""


async def version_between(database: Database, line: str, low: float, high: float) -> int:
    """Return the sum of the versions of a line's rows whose pane starts in [low, high): it rises with every change."""
    return int(await database.fetchval(_VERSION_BETWEEN, line, low, high))


def _span_columns(spans: Sequence[Span]) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*spans, strict=True))


def _sourced(rows: Iterable[asyncpg.Record]) -> list[SourcedRow]:
    return [SourcedRow(row["source"], pane_row(row)) for row in rows]


class SnapshotKey(NamedTuple):
    """Key of a snapshot: a window of a series, its start in seconds since the epoch."""

    model_id: UUID
    segment: str
    start: float


class Snapshot(NamedTuple):
    """Version and status of a stored window."""

    version: int
    status: Literal["open", "final", "restated"]


_SNAPSHOTS = """
SELECT model_id, segment, extract(epoch FROM window_start)::float8 AS start, version, status FROM fidelity_snapshots"""
_SNAPSHOTS_WITHIN = f"""
{_SNAPSHOTS} JOIN {_SPANS} USING (model_id, segment)
WHERE line = $1 AND window_start >= to_timestamp(low) AND window_start < to_timestamp(high)"""


async def snapshots_from(database: Database, line: str, lowest: float) -> dict[SnapshotKey, Snapshot]:
    """Return the snapshots of the windows of a line that start at or after ``lowest``."""
    return _by_key(await database.fetch(f"{_SNAPSHOTS} WHERE line = $1 AND window_start >= to_timestamp($2)", line, lowest))


async def snapshots_within(database: Database, line: str, spans: Sequence[Span]) -> dict[SnapshotKey, Snapshot]:
    """Return the snapshots of the windows of a line that start in spans."""
    return _by_key(await database.fetch(_SNAPSHOTS_WITHIN, line, *_span_columns(spans))) if spans else {}


def _by_key(rows: Iterable[asyncpg.Record]) -> dict[SnapshotKey, Snapshot]:
    return {SnapshotKey(row["model_id"], row["segment"], row["start"]): Snapshot(row["version"], row["status"]) for row in rows}


_SAVE_SNAPSHOTS = """
INSERT INTO fidelity_snapshots AS s (snapshot_id, model_id, mae, rmse, correlation, coverage_95pct, sample_size, snapshot_date,
                                     line, metric_type, segment, window_start, window_end, status, version, state, bias, n_interval,
                                     n_skipped, n_outliers, standard_errors, missing, evidence_ratio, intervals, n_effective)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25)
ON CONFLICT (model_id, metric_type, segment, window_start) DO UPDATE
SET mae = excluded.mae, rmse = excluded.rmse, correlation = excluded.correlation, coverage_95pct = excluded.coverage_95pct,
    sample_size = excluded.sample_size, status = excluded.status, version = excluded.version, state = excluded.state,
    bias = excluded.bias, n_interval = excluded.n_interval, n_skipped = excluded.n_skipped, n_outliers = excluded.n_outliers,
    standard_errors = excluded.standard_errors, missing = excluded.missing, evidence_ratio = excluded.evidence_ratio,
    intervals = excluded.intervals, n_effective = excluded.n_effective
WHERE s.version < excluded.version"""


async def save_snapshots(database: Database, windows: Sequence[FidelityWindow]) -> None:
    """Store closed and restated windows; a lower version never replaces a higher one."""
    if windows:
        await database.executemany(_SAVE_SNAPSHOTS, [_snapshot(window) for window in windows])


def _snapshot(window: FidelityWindow) -> tuple[Any, ...]:
    metrics = window.metrics
    return (
        uuid5(window.model_id, f"{window.metric_type}:{window.segment}:{window.window_start.isoformat()}"),
        window.model_id,
        metrics.mae,
        metrics.rmse,
        metrics.correlation,
        metrics.coverage_95pct,
        metrics.n,
        window.window_start.date(),
        window.line,
        window.metric_type,
        window.segment,
        window.window_start,
        window.window_end,
        window.status,
        window.version,
        window.state.value,
        metrics.bias,
        metrics.n_interval,
        metrics.n_skipped,
        metrics.n_outliers,
        metrics.standard_errors,
        metrics.missing,
        window.evidence_ratio,
        metrics.intervals,
        metrics.n_effective,
    )


class SourceState(NamedTuple):
    """The newest incarnation of a source, its watermark, and when its reader last reached its end."""

    source: SourceId
    watermark: datetime | None
    read_to_end_at: datetime | None


_SOURCE_STATES = """
SELECT DISTINCT ON (topic, partition) topic, partition, incarnation, watermark, read_to_end_at FROM source_positions
WHERE topic = $1 ORDER BY topic, partition, incarnation DESC"""


async def source_states(database: Database, topic: str) -> list[SourceState]:
    """Return the state of every partition of a topic that was ever read."""
    return [
        SourceState(
            SourceId(topic=row["topic"], partition=row["partition"], incarnation=row["incarnation"]),
            row["watermark"],
            row["read_to_end_at"],
        )
        for row in await database.fetch(_SOURCE_STATES, topic)
    ]

"""What windows and their judge keep: live rows of panes, snapshots, states with the latch of the alarm, floors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID, uuid5

import asyncpg

from schemas import DriftEvent, FidelityWindow, SourceId
from schemas.events import SUM_FIELDS
from sql.database import Connection, Database
from sql.line_lock import queue_for_line
from sql.pane_store import PANE_COLUMNS, LinePaneRow, pane_row

__all__ = [
    "CellSums",
    "FloorRow",
    "MonitoredLine",
    "SeriesState",
    "Snapshot",
    "SnapshotKey",
    "SourceState",
    "SourcedRow",
    "Span",
    "alarms",
    "cells_between",
    "changed_rows",
    "detector_floors",
    "latch_alarm",
    "latest_from",
    "live_rows",
    "lock_line",
    "mark_published",
    "monitored_lines",
    "newest_pane",
    "note_attempt",
    "raise_floor",
    "rows_within",
    "save_snapshots",
    "save_state",
    "series_of",
    "series_states",
    "snapshots_from",
    "snapshots_within",
    "source_states",
    "unsettled_windows",
    "version_between",
]


class MonitoredLine(NamedTuple):
    """A model line as windows see it; ``floor`` in seconds since the epoch."""

    line: str
    champion: UUID | None
    generation: int
    floor: float | None
    pane_s: float
    window_s: float


_LINE_STATES = """
SELECT line, champion, generation, extract(epoch FROM floor)::float8 AS floor, pane_s, window_s FROM model_lines"""


async def monitored_lines(database: Database) -> list[MonitoredLine]:
    """All lines."""
    return [MonitoredLine(**row) for row in await database.fetch(f"{_LINE_STATES} ORDER BY line")]


async def lock_line(connection: Connection, line: str) -> MonitoredLine:
    """The line, which nobody else may change or read in a slice before this transaction ends."""
    await queue_for_line(connection, line)
    row = await connection.fetchrow(f"{_LINE_STATES} WHERE line = $1 FOR UPDATE", line)
    if row is None:
        raise LookupError(f"no model line {line!r}")
    return MonitoredLine(**row)


class SourcedRow(NamedTuple):
    """A row of ``fidelity_panes`` and the source that brought it."""

    source: str
    found: LinePaneRow


_LIVE_ROWS = f"SELECT source, {PANE_COLUMNS} FROM fidelity_panes WHERE line = $1 AND pane >= $2"  # noqa: S608  # names of columns


async def live_rows(database: Database, line: str, lowest: float) -> list[SourcedRow]:
    """Rows of a line from a pane on."""
    return _sourced(await database.fetch(_LIVE_ROWS, line, lowest))


async def changed_rows(database: Database, line: str, lowest: float, since: datetime) -> list[SourcedRow]:
    """Rows of a line from a pane on that changed after a time, by Postgres's clock."""
    return _sourced(await database.fetch(f"{_LIVE_ROWS} AND changed_at > $3", line, lowest, since))


class Span(NamedTuple):
    """Panes of a series that begin in [low, high), in seconds since the epoch."""

    model_id: UUID
    segment: str
    low: float
    high: float


_OF_SPANS = """
unnest($2::uuid[], $3::text[], $4::float8[], $5::float8[]) AS s (model_id, segment, low, high)"""

_ROWS_WITHIN = f"""
SELECT source, {PANE_COLUMNS} FROM fidelity_panes JOIN {_OF_SPANS} USING (model_id, segment)
WHERE line = $1 AND pane >= low AND pane < high"""  # noqa: S608  # names of columns


async def rows_within(database: Database, line: str, spans: Sequence[Span]) -> list[SourcedRow]:
    """Rows of a line in spans that do not overlap."""
    return _sourced(await database.fetch(_ROWS_WITHIN, line, *_columns(spans))) if spans else []


_NEWEST_PANE = "SELECT max(pane) FROM fidelity_panes WHERE line = $1"


async def newest_pane(database: Database, line: str) -> float | None:
    """Start of the latest cell of a line."""
    newest: float | None = await database.fetchval(_NEWEST_PANE, line)
    return newest


class CellSums(NamedTuple):
    """What the detector reads of a cell over all sources, ``sums`` in the order of ``SUM_FIELDS`` with zeros for the rest."""

    model_id: UUID
    segment: str
    sums: tuple[int, ...]


_READ_BY_DETECTOR = tuple(name for name in SUM_FIELDS if name == "n" or name.startswith("log_bet"))
_CELLS = f"""
SELECT model_id, segment, {", ".join(f"sum({name})::bigint" for name in _READ_BY_DETECTOR)} FROM fidelity_panes
WHERE line = $1 AND pane >= $2 AND pane < $3
  AND ($4::uuid[] IS NULL OR (model_id, segment) IN (SELECT * FROM unnest($4, $5::text[])))
GROUP BY model_id, segment, pane, width_s ORDER BY model_id, segment, pane, width_s"""  # noqa: S608  # names of columns
_UNREAD = (0,) * (len(SUM_FIELDS) - len(_READ_BY_DETECTOR))


async def cells_between(
    database: Database, line: str, low: float, high: float, series: Sequence[tuple[UUID, str]] | None = None
) -> list[CellSums]:
    """Cells of a line, or of some of its series, that begin in [low, high), series by series in the order of event time."""
    models, segments = (None, None) if series is None else zip(*series, strict=True) if series else ((), ())
    rows = await database.fetch(_CELLS, line, low, high, models, segments)
    return [CellSums(row[0], row[1], (row[2], *_UNREAD, *row[3:])) for row in map(tuple, rows)]


_LATEST_FROM = """
WITH pane AS (
    SELECT model_id, segment, floor(pane / $3::float8) * $3::float8 AS start, sum(n) AS n FROM fidelity_panes
    WHERE line = $1 AND pane >= $2 AND (model_id, segment) IN (SELECT * FROM unnest($5::uuid[], $6::text[]))
    GROUP BY 1, 2, 3
), counted AS (
    SELECT *, sum(n) OVER (PARTITION BY model_id, segment ORDER BY start DESC) AS reached FROM pane
)
SELECT model_id, segment, coalesce(max(start) FILTER (WHERE reached >= $4), min(start)) AS start FROM counted GROUP BY 1, 2"""


async def latest_from(
    database: Database, state: MonitoredLine, lowest: float, n: int, series: Sequence[tuple[UUID, str]]
) -> dict[tuple[UUID, str], float]:
    """Of each of these series, where its fewest latest panes begin that hold ``n`` outcomes, or all of them."""
    models, segments = zip(*series, strict=True) if series else ((), ())
    rows = await database.fetch(_LATEST_FROM, state.line, lowest, state.pane_s, n, models, segments)
    return {(row["model_id"], row["segment"]): row["start"] for row in rows}


_SERIES_OF = "SELECT DISTINCT model_id, segment FROM fidelity_panes WHERE line = $1 AND model_id = $2"


async def series_of(database: Database, line: str, model_id: UUID) -> list[tuple[UUID, str]]:
    """The series that a model has in a line."""
    return [(row["model_id"], row["segment"]) for row in await database.fetch(_SERIES_OF, line, model_id)]


# Windows that begin in [$2, $3), by what their panes add up to and what their snapshots say.
_UNSETTLED = """
WITH pane AS (
    SELECT model_id, segment, floor(pane / $4::float8)::bigint AS k, sum(version) AS version FROM fidelity_panes
    WHERE line = $1 AND pane >= $2 AND pane < $3::float8 + $5::float8
    GROUP BY 1, 2, 3
), owed AS (
    SELECT model_id, segment, (k - back) * $4 AS start, sum(version) AS version
    FROM pane, generate_series(0, round($5::float8 / $4::float8)::int - 1) AS back
    WHERE (k - back) * $4 >= $2 AND (k - back) * $4 < $3
    GROUP BY 1, 2, 3
), kept AS (
    SELECT model_id, segment, round(extract(epoch FROM window_start)::float8 / $4) * $4 AS start, version FROM fidelity_snapshots
    WHERE line = $1 AND window_start >= to_timestamp($2 - $4 / 2) AND window_start < to_timestamp($3)
)
SELECT model_id, segment, o.start FROM owed o LEFT JOIN kept k USING (model_id, segment, start)
WHERE k.version IS DISTINCT FROM o.version"""


async def unsettled_windows(database: Database, state: MonitoredLine, low: float, high: float = math.inf) -> list[SnapshotKey]:
    """Windows of a line that begin in [low, high) and have no snapshot of the version that their rows add up to."""
    rows = await database.fetch(_UNSETTLED, state.line, low, high, state.pane_s, state.window_s)
    return [SnapshotKey(**row) for row in rows]


_VERSION_BETWEEN = """
SELECT coalesce(sum(version), 0)::bigint FROM fidelity_panes WHERE line = $1 AND pane >= $2 AND pane < $3"""


async def version_between(database: Database, line: str, low: float, high: float) -> int:
    """Sum of the versions of a line's rows whose pane begins in [low, high)."""
    return int(await database.fetchval(_VERSION_BETWEEN, line, low, high))


def _columns(spans: Sequence[Span]) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*spans, strict=True))


def _sourced(rows: Iterable[asyncpg.Record]) -> list[SourcedRow]:
    return [SourcedRow(row["source"], LinePaneRow(row["line"], pane_row(row))) for row in rows]


class SnapshotKey(NamedTuple):
    """A window of a series, its start in seconds since the epoch."""

    model_id: UUID
    segment: str
    start: float


class Snapshot(NamedTuple):
    """What a snapshot says of its window."""

    version: int
    status: Literal["open", "final", "restated"]


_SNAPSHOTS = """
SELECT model_id, segment, extract(epoch FROM window_start)::float8 AS start, version, status FROM fidelity_snapshots"""
_SNAPSHOTS_WITHIN = f"""
{_SNAPSHOTS} JOIN {_OF_SPANS} USING (model_id, segment)
WHERE line = $1 AND window_start >= to_timestamp(low) AND window_start < to_timestamp(high)"""


async def snapshots_from(database: Database, line: str, lowest: float) -> dict[SnapshotKey, Snapshot]:
    """Snapshots of the windows of a line that begin at or after a time."""
    return _by_key(await database.fetch(f"{_SNAPSHOTS} WHERE line = $1 AND window_start >= to_timestamp($2)", line, lowest))


async def snapshots_within(database: Database, line: str, spans: Sequence[Span]) -> dict[SnapshotKey, Snapshot]:
    """Snapshots of the windows of a line that begin in spans."""
    return _by_key(await database.fetch(_SNAPSHOTS_WITHIN, line, *_columns(spans))) if spans else {}


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
    """Keep what closed and restated windows said; a lower version never replaces a higher one."""
    if windows:
        await database.executemany(_SAVE_SNAPSHOTS, [_snapshot(window) for window in windows])


def _snapshot(window: FidelityWindow) -> tuple[Any, ...]:
    said = window.metrics
    return (
        uuid5(window.model_id, f"{window.metric_type}:{window.segment}:{window.window_start.isoformat()}"),
        window.model_id,
        said.mae,
        said.rmse,
        said.correlation,
        said.coverage_95pct,
        said.n,
        window.window_start.date(),
        window.line,
        window.metric_type,
        window.segment,
        window.window_start,
        window.window_end,
        window.status,
        window.version,
        window.state.value,
        said.bias,
        said.n_interval,
        said.n_skipped,
        said.n_outliers,
        said.standard_errors,
        said.missing,
        window.evidence_ratio,
        said.intervals,
        said.n_effective,
    )


class SeriesState(NamedTuple):
    """What is known of a series' state; ``event`` told of its last change, and was ``said`` or not."""

    model_id: UUID
    segment: str
    line: str
    state: str
    evidence_ratio: float | None
    alarmed_at: datetime | None
    attempt: int | None
    event: DriftEvent
    said: bool


_SERIES_STATES = """
SELECT model_id, segment, line, state, evidence_ratio, alarmed_at, attempt, event, said FROM drift_states WHERE line = $1"""


async def series_states(database: Database, line: str) -> list[SeriesState]:
    """Of every series of a line that ever had one."""
    rows = await database.fetch(_SERIES_STATES, line)
    return [SeriesState(**{**row, "event": DriftEvent.model_validate(row["event"])}) for row in rows]


_SAVE_STATE = """
INSERT INTO drift_states AS d (model_id, segment, line, state, evidence_ratio, event, alarmed_at)
VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $4 = 'alarm' THEN clock_timestamp() END)
ON CONFLICT (model_id, segment) DO UPDATE
SET state = excluded.state, evidence_ratio = excluded.evidence_ratio, event = excluded.event, said = false,
    changed_at = clock_timestamp(), alarmed_at = coalesce(d.alarmed_at, excluded.alarmed_at)
WHERE d.alarmed_at IS NULL"""


async def save_state(database: Database, event: DriftEvent) -> bool:
    """Keep the change that an event tells of, not yet said; False where the latch of an alarm holds the state."""
    told = (event.model_id, event.segment, event.line, event.state.value, event.evidence, event.model_dump(mode="json"))
    return await database.execute(_SAVE_STATE, *told) != "INSERT 0 0"


async def alarms(database: Database, line: str) -> set[tuple[UUID, str]]:
    """Series of a line whose detector has raised its alarm."""
    return {(row[0], row[1]) for row in await database.fetch("SELECT model_id, segment FROM detector_alarms WHERE line = $1", line)}


async def latch_alarm(connection: Connection, line: str, series: tuple[UUID, str]) -> None:
    """Keep for good that the detector of a series has raised its alarm."""
    await connection.execute(
        "INSERT INTO detector_alarms (model_id, segment, line) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", *series, line
    )


async def mark_published(database: Database, model_id: UUID, segment: str) -> None:
    """Note that the last change of a series' state is on its topic."""
    await database.execute("UPDATE drift_states SET said = true WHERE model_id = $1 AND segment = $2", model_id, segment)


async def note_attempt(database: Database, model_id: UUID, segment: str, attempt: int) -> None:
    """Note that a retrain with this number was asked for."""
    await database.execute(
        "UPDATE drift_states SET attempt = greatest(attempt, $3) WHERE model_id = $1 AND segment = $2", model_id, segment, attempt
    )


class SourceState(NamedTuple):
    """The newest incarnation of a source, its watermark, and when it was last found to have nothing more to read."""

    source: SourceId
    watermark: datetime | None
    read_to_end_at: datetime | None


_SOURCE_STATES = """
SELECT DISTINCT ON (topic, partition) topic, partition, incarnation, watermark, read_to_end_at FROM source_positions
WHERE topic = $1 ORDER BY topic, partition, incarnation DESC"""


async def source_states(database: Database, topic: str) -> list[SourceState]:
    """Of every partition of a topic that was ever begun."""
    return [
        SourceState(
            SourceId(topic=row["topic"], partition=row["partition"], incarnation=row["incarnation"]),
            row["watermark"],
            row["read_to_end_at"],
        )
        for row in await database.fetch(_SOURCE_STATES, topic)
    ]


class FloorRow(NamedTuple):
    """Where the detector of a series stood at the floor of its line, in seconds since the epoch."""

    model_id: UUID
    segment: str
    floor: float
    log_values: Sequence[float]
    last_count: int
    log_peak: float


async def detector_floors(database: Database, line: str) -> list[FloorRow]:
    """Of every series of the line that reached its floor."""
    rows = await database.fetch(
        "SELECT model_id, segment, floor, log_values, last_count, log_peak FROM detector_floors WHERE line = $1", line
    )
    return [FloorRow(**row) for row in rows]


_RAISE_FLOOR = "UPDATE model_lines SET floor = to_timestamp($2) WHERE line = $1 AND (floor IS NULL OR floor < to_timestamp($2))"
_DETECTOR_FLOOR = """
INSERT INTO detector_floors (model_id, segment, floor, log_values, last_count, log_peak, line) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (model_id, segment) DO UPDATE
SET floor = excluded.floor, log_values = excluded.log_values, last_count = excluded.last_count, log_peak = excluded.log_peak"""


async def raise_floor(connection: Connection, line: str, floor: float, detectors: Iterable[FloorRow]) -> None:
    """Raise the floor of a line that this transaction has locked, and keep where its detectors stood there."""
    await connection.execute(_RAISE_FLOOR, line, floor)
    await connection.executemany(_DETECTOR_FLOOR, [(*row, line) for row in detectors])

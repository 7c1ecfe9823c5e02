"""Stores what drift detection has concluded: states of series, detector alarms, retrain attempts and detector floors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from schemas import DriftEvent
from sql.database import Connection, Database

__all__ = [
    "FloorRow",
    "SeriesState",
    "alarmed_series",
    "detector_floors",
    "detector_restarts",
    "latch_alarm",
    "mark_published",
    "raise_floor",
    "record_attempt",
    "restart_detector",
    "save_state",
    "series_states",
]


class SeriesState(NamedTuple):
    """Stored state of a series.

    Attributes:
        alarmed_at: when the state became an alarm; it is final from then on.
        attempt: number of the latest requested retrain.
        event: event of the last change of state; ``published`` once it is on its topic.
    """

    model_id: UUID
    segment: str
    line: str
    state: str
    evidence_ratio: float | None
    alarmed_at: datetime | None
    attempt: int | None
    event: DriftEvent
    published: bool


_SERIES_STATES = """
SELECT model_id, segment, line, state, evidence_ratio, alarmed_at, attempt, event, said AS published
FROM drift_states WHERE line = $1"""


async def series_states(database: Database, line: str) -> list[SeriesState]:
    """Return the states of all series of a line that have one."""
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
    """Store a change of state, not yet published; return False where the stored state is an alarm, which is final."""
    values = (event.model_id, event.segment, event.line, event.state.value, event.evidence, event.model_dump(mode="json"))
    return await database.execute(_SAVE_STATE, *values) != "INSERT 0 0"


async def mark_published(database: Database, model_id: UUID, segment: str) -> None:
    """Record that the last change of a series' state is on its topic."""
    await database.execute("UPDATE drift_states SET said = true WHERE model_id = $1 AND segment = $2", model_id, segment)


async def record_attempt(database: Database, model_id: UUID, segment: str, attempt: int) -> None:
    """Record that the retrain with this number was requested."""
    await database.execute(
        "UPDATE drift_states SET attempt = greatest(attempt, $3) WHERE model_id = $1 AND segment = $2", model_id, segment, attempt
    )


async def alarmed_series(database: Database, line: str) -> set[tuple[UUID, str]]:
    """Return the series of a line whose detector has raised its alarm."""
    return {(row[0], row[1]) for row in await database.fetch("SELECT model_id, segment FROM detector_alarms WHERE line = $1", line)}


async def latch_alarm(connection: Connection, line: str, series: tuple[UUID, str]) -> None:
    """Store for good that the detector of a series has raised its alarm."""
    await connection.execute(
        "INSERT INTO detector_alarms (model_id, segment, line) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", *series, line
    )


_RESTART = """
INSERT INTO detector_restarts AS r (model_id, segment, line, pane, carried_by) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (model_id, segment) DO UPDATE
SET pane = excluded.pane, carried_by = excluded.carried_by, restarted_at = clock_timestamp()
WHERE r.pane < excluded.pane"""


async def restart_detector(database: Database, line: str, series: tuple[UUID, str], pane: float, carried_by: str) -> None:
    """Store that the detector of a series begins anew with a pane, as ``carried_by`` has carried its evidence so far."""
    await database.execute(_RESTART, *series, line, pane, carried_by)


async def detector_restarts(database: Database, line: str) -> dict[tuple[UUID, str], float]:
    """Return the first pane that counts for each restarted detector of a line."""
    rows = await database.fetch("SELECT model_id, segment, pane FROM detector_restarts WHERE line = $1", line)
    return {(row["model_id"], row["segment"]): row["pane"] for row in rows}


class FloorRow(NamedTuple):
    """State of the detector of a series at the floor of its line, the floor in seconds since the epoch.

    One that is restarted above the floor has no values there.
    """

    model_id: UUID
    segment: str
    floor: float
    log_values: Sequence[float]
    last_count: int
    log_peak: float


_DETECTOR_FLOORS = """
SELECT model_id, segment, f.floor, CASE WHEN r.pane > f.floor THEN '{}' ELSE f.log_values END AS log_values, f.last_count,
       CASE WHEN r.pane > f.floor THEN '-Infinity' ELSE f.log_peak END AS log_peak
FROM detector_floors f LEFT JOIN detector_restarts r USING (model_id, segment) WHERE f.line = $1"""


async def detector_floors(database: Database, line: str) -> list[FloorRow]:
    """Return the detector states at the floor of a line."""
    rows = await database.fetch(_DETECTOR_FLOORS, line)
    return [FloorRow(**row) for row in rows]


_RAISE_FLOOR = "UPDATE model_lines SET floor = to_timestamp($2) WHERE line = $1 AND (floor IS NULL OR floor < to_timestamp($2))"
_DETECTOR_FLOOR = """
INSERT INTO detector_floors (model_id, segment, floor, log_values, last_count, log_peak, line) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (model_id, segment) DO UPDATE
SET floor = excluded.floor, log_values = excluded.log_values, last_count = excluded.last_count, log_peak = excluded.log_peak"""


async def raise_floor(connection: Connection, line: str, floor: float, detectors: Iterable[FloorRow]) -> None:
    """Raise the floor of a line that this transaction has locked, and store the states of its detectors there."""
    await connection.execute(_RAISE_FLOOR, line, floor)
    await connection.executemany(_DETECTOR_FLOOR, [(*row, line) for row in detectors])

"""Deletes rows that have aged out, makes partitions ahead and drops aged ones, and records each sweep that did so.

Tables: ``maintenance_runs``; ``aged_sources``, ``aged_lines`` and ``aged_events``, which hold what must be known of deleted rows.
The functions of ``027_ageing.sql`` delete at most a chunk of rows each, in a transaction of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sql.database import Connection, Database, connect

__all__ = [
    "CHUNK_ROWS",
    "MaintenanceRun",
    "PartitionState",
    "age_outcomes",
    "age_rows",
    "begin_run",
    "count_due",
    "drop_partitions",
    "finish_run",
    "is_due",
    "partition_state",
    "sweep_connection",
]

CHUNK_ROWS = 2000
_PAUSE_S = 0.02  # between chunks, so that the batches of outcomes come first
_LOCK = "hashtextextended('twinstream:sweep', 0)"
_SESSION = """
SELECT set_config('lock_timeout', '2s', false), set_config('statement_timeout', '60s', false),
       set_config('idle_in_transaction_session_timeout', '8s', false)"""


@dataclass(frozen=True)
class MaintenanceRun:
    """A sweep: who ran it and when, what it deleted by table, and the partitions that it created and dropped.

    Attributes:
        error: why it ended early; empty when it did not.
    """

    run_id: UUID
    started_at: datetime
    finished_at: datetime | None
    run_by: str
    deleted: Mapping[str, int] = field(default_factory=dict)
    partitions_created: int = 0
    partitions_dropped: Sequence[str] = ()
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The sweep as JSON."""
        lists = {"deleted": dict(self.deleted), "partitions_dropped": list(self.partitions_dropped)}
        return {**vars(self), "run_id": str(self.run_id), **lists}


@asynccontextmanager
async def sweep_connection(dsn: str) -> AsyncIterator[Connection | None]:
    """A connection that holds the lock of sweeps, None when another session holds it. It waits for no lock for long."""
    connection = await connect(dsn)
    try:
        await connection.execute(_SESSION)
        is_locked = await connection.fetchval(f"SELECT pg_try_advisory_lock({_LOCK})")  # our own constant
        yield connection if is_locked else None
    finally:
        await connection.close()


_BEGIN_RUN = "INSERT INTO maintenance_runs (run_by) VALUES ($1) RETURNING *"
_FINISH_RUN = """
UPDATE maintenance_runs
SET finished_at = clock_timestamp(), deleted = $2, partitions_created = $3, partitions_dropped = $4, error = $5
WHERE run_id = $1 RETURNING *"""


async def begin_run(connection: Connection, run_by: str) -> MaintenanceRun:
    """Record the start of a sweep."""
    row = await connection.fetchrow(_BEGIN_RUN, run_by)
    assert row is not None
    return MaintenanceRun(**row)


async def finish_run(connection: Connection, run: MaintenanceRun) -> MaintenanceRun:
    """Record the end of a sweep, with what it did."""
    values = (dict(run.deleted), run.partitions_created, list(run.partitions_dropped), run.error)
    row = await connection.fetchrow(_FINISH_RUN, run.run_id, *values)
    assert row is not None
    return MaintenanceRun(**row)


class PartitionState(NamedTuple):
    """The partitions of the outcome table, and the last sweep without an error.

    Attributes:
        months_ahead: number of consecutive months after the present one that have their partition.
        swept_at: end of that sweep; None before the first.
    """

    months_ahead: int
    swept_at: datetime | None


_PARTITION_STATE = """
SELECT fidelity_partitions_ahead() AS months_ahead, (SELECT max(finished_at) FROM maintenance_runs WHERE error = '') AS swept_at"""


async def partition_state(database: Database) -> PartitionState:
    """Read the state of partitions and sweeps."""
    row = await database.fetchrow(_PARTITION_STATE)
    assert row is not None
    return PartitionState(**row)


_IS_DUE = """
SELECT coalesce(max(started_at) FILTER (WHERE error = '') < clock_timestamp() - make_interval(secs => $1), true)
       AND coalesce(max(finished_at) < clock_timestamp() - make_interval(secs => $2), true)
FROM maintenance_runs WHERE finished_at IS NOT NULL"""


async def is_due(database: Database, every_s: float, retry_s: float) -> bool:
    """Whether the last sweep without an error was started so long ago, and none ended, with an error, within ``retry_s``."""
    return bool(await database.fetchval(_IS_DUE, every_s, retry_s))


_SOURCES = "SELECT source FROM source_positions ORDER BY source"
_AGE_OUTCOMES = "SELECT last_looked_at, deleted FROM age_outcomes($1, $2, $3, $4)"


async def age_outcomes(connection: Connection, before: datetime, chunk: int = CHUNK_ROWS) -> int:
    """Delete the outcomes that were tracked before this time and that nothing needs any more; returns their number."""
    deleted = 0
    for row in await connection.fetch(_SOURCES):
        offset: int | None = -1
        while offset is not None:
            part = await connection.fetchrow(_AGE_OUTCOMES, row["source"], offset, before, chunk)
            assert part is not None
            offset, deleted = part["last_looked_at"], deleted + part["deleted"]
            await asyncio.sleep(_PAUSE_S)
    return deleted


_FUNCTIONS = {
    "publications": "age_publications",
    "refused_records": "age_refused_records",
    "fidelity_panes": "age_panes",
    "fidelity_snapshots": "age_snapshots",
    "drift_states": "age_drift_states",
    "simulation_runs": "age_simulations",
    "entity_history": "age_history",
    "replays": "age_replays",
    "retrain_requests": "age_retrains",
    "maintenance_runs": "age_maintenance_runs",
}


async def age_rows(connection: Connection, table: str, before: datetime, chunk: int = CHUNK_ROWS) -> int:
    """Delete the rows of a table that are older than this time and that nothing needs any more; returns their number."""
    if table == "fidelity_tracking":
        return await age_outcomes(connection, before, chunk)
    deleted, part = 0, chunk
    while part >= chunk:
        part = int(await connection.fetchval(f"SELECT {_FUNCTIONS[table]}($1, $2)", before, chunk))  # our own names
        deleted += part
        await asyncio.sleep(_PAUSE_S)
    return deleted


_DUE = {
    "fidelity_tracking": """
SELECT count(*) FROM fidelity_tracking f JOIN model_lines l USING (line) WHERE f.tracked_at < $1 AND f.observed_at < l.floor""",
    "publications": "SELECT count(*) FROM publications WHERE tried_at < $1",
    "refused_records": "SELECT count(*) FROM refused_records WHERE refused_at < $1 AND tracked_at < $1 AND sent_at IS NOT NULL",
    "fidelity_panes": """
SELECT count(*) FROM fidelity_panes p JOIN model_lines l USING (line)
WHERE p.pane < extract(epoch FROM $1::timestamptz)::float8
  AND p.pane < extract(epoch FROM l.floor)::float8 - l.window_s - l.pane_s""",
    "fidelity_snapshots": """
SELECT count(*) FROM fidelity_snapshots s JOIN model_lines l USING (line) WHERE s.window_end < $1 AND s.window_end <= l.floor""",
    "drift_states": """
SELECT count(*) FROM drift_states d
WHERE d.changed_at < $1 AND NOT EXISTS (SELECT FROM model_lines l WHERE l.champion = d.model_id)
  AND NOT EXISTS (SELECT FROM fidelity_panes p WHERE p.model_id = d.model_id AND p.segment = d.segment)""",
    "simulation_runs": """
SELECT count(*) FROM simulation_runs r
WHERE coalesce(r.completed_at, r.started_at) < $1
  AND NOT EXISTS (SELECT FROM fidelity_tracking f WHERE f.simulation_id = r.simulation_id)""",
    "entity_history": "SELECT count(*) FROM entity_history WHERE observed_at < $1",
    "replays": "SELECT count(*) FROM replays WHERE quiet_until < $1",
    "retrain_requests": """
SELECT count(*) FROM retrain_requests r
WHERE r.finished_at < $1 AND NOT EXISTS (SELECT FROM model_lines l WHERE l.champion = r.model_id)""",
    "maintenance_runs": "SELECT count(*) FROM maintenance_runs WHERE started_at < $1",
}


async def count_due(connection: Connection, table: str, before: datetime) -> int:
    """Number of rows of a table that are old enough; some of them may stay, as another row still needs them."""
    return int(await connection.fetchval(_DUE[table], before))


async def drop_partitions(connection: Connection, before: datetime) -> list[str]:
    """Drop the empty monthly partitions of outcomes that ended before this time; returns their names.

    Raises:
        asyncpg.LockNotAvailableError: when the table is in use all the time; the next sweep drops them.
    """
    return [str(name) for name in await connection.fetchval("SELECT drop_aged_partitions($1)", before)]

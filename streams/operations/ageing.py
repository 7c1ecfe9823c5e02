"""The sweep: makes partitions ahead, deletes rows that have aged out, and drops partitions that are empty by then.

It runs once a day in the trainer, and by ``twinstream sweep``. An advisory lock lets only one sweep run. Rows go in small chunks,
each in a transaction of its own, so that a sweep can end at any time: the next one goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import asyncpg

from sql import ageing_store
from sql.ageing_store import MaintenanceRun
from sql.database import Connection, Database, clock, make_partitions
from sql.population_expiry import count_expired, expire_populations
from sql.retention import RetentionSettings
from sql.training_store import count_aged_trainings, delete_aged_trainings
from sql.upload_store import count_aged_tables, delete_aged_tables
from streams.errors import describe_error
from streams.metrics import AGED_ROWS, LAST_SWEEP, PARTITIONS_AHEAD
from streams.settings import Settings

__all__ = [
    "SWEEP_EVERY_S",
    "DueRows",
    "SweepInProgress",
    "due_rows",
    "format_due_rows",
    "format_run",
    "is_sweep_due",
    "report_state",
    "sweep",
]

LOG = logging.getLogger(__name__)
T = TypeVar("T")

SWEEP_EVERY_S = 86_400.0
_RETRY_SWEEP_S = 3600.0
_MONTHS_AHEAD = 3
_ATTEMPTS = 5
_RETRY_S = 1.0

_SETTING_OF_TABLE = {
    "fidelity_tracking": "keep_outcomes_days",
    "publications": "keep_outcomes_days",
    "refused_records": "keep_refused_days",
    "fidelity_panes": "keep_windows_days",
    "fidelity_snapshots": "keep_windows_days",
    "drift_states": "keep_windows_days",
    "simulation_runs": "keep_simulations_days",
    "entity_history": "keep_history_days",
    "replays": "keep_replays_days",
    "retrain_requests": "keep_retrains_days",
    "maintenance_runs": "keep_sweeps_days",
}
"""The setting with the retention of each table, in the order in which tables are swept."""

_POPULATIONS = "twin_populations"  # which have the time of their expiry


_DIRECTLY_DELETED = {
    "uploaded_tables": ("upload_days", delete_aged_tables, count_aged_tables),
    "trainings": ("keep_retrains_days", delete_aged_trainings, count_aged_trainings),
}
"""Setting of each further table, what deletes its aged rows, and what counts them: nothing else is derived from these rows."""

for _table in (*_SETTING_OF_TABLE, *_DIRECTLY_DELETED, _POPULATIONS):
    AGED_ROWS.labels(table=_table)


class SweepInProgress(RuntimeError):
    """Another process is sweeping."""

    def __init__(self) -> None:
        super().__init__("another process is sweeping: try again when it has ended")


@dataclass(frozen=True)
class DueRows:
    """Rows of a table that a sweep would look at.

    Attributes:
        setting: the environment variable with the retention, or the column with the time itself.
        before: time before which rows have aged out; None when they are stored for ever.
        rows: number of rows that are old enough; a sweep leaves those that another row still needs.
    """

    table: str
    setting: str
    days: int
    before: datetime | None
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """The rows as JSON."""
        return dict(vars(self))


async def sweep(settings: Settings, run_by: str) -> MaintenanceRun:
    """Run one sweep to its end, and record it; an error ends the work on one table, not that on the others.

    Raises:
        SweepInProgress: when another process is sweeping.
    """
    async with ageing_store.sweep_connection(settings.postgres_dsn.get_secret_value()) as connection:
        if connection is None:
            raise SweepInProgress
        run = await ageing_store.begin_run(connection, run_by)
        run = await ageing_store.finish_run(connection, await _Sweep(connection, settings, await clock(connection), run).work())
        await report_state(connection)
    deleted = ", ".join(f"{rows:,} of {table}" for table, rows in run.deleted.items() if rows) or "nothing"
    LOG.log(
        logging.ERROR if run.error else logging.INFO,
        "sweep: deleted %s; partitions: %d created, %d dropped%s",
        deleted,
        run.partitions_created,
        len(run.partitions_dropped),
        f"; {run.error}" if run.error else "",
    )
    return run


@dataclass
class _Sweep:
    """A sweep at work; ``run`` is what it has done so far."""

    connection: Connection
    settings: RetentionSettings
    now: datetime
    run: MaintenanceRun

    async def work(self) -> MaintenanceRun:
        """Do everything that is due; what failed is named in the error of the run."""
        await self._step("partitions", self._make_partitions)
        for table in _SETTING_OF_TABLE:
            await self._step(table, partial(self._age, table))
        for table in _DIRECTLY_DELETED:
            await self._step(table, partial(self._delete, table))
        await self._step(_POPULATIONS, self._expire_populations)
        await self._step("partitions", self._drop_partitions)
        return self.run

    async def _step(self, name: str, action: Callable[[], Awaitable[None]]) -> None:
        try:
            await _retry_locked(action)
        except asyncpg.PostgresError as error:
            if self.connection.is_closed():
                raise
            self.run = replace(self.run, error="; ".join(filter(None, [self.run.error, f"{name}: {describe_error(error)}"])))

    async def _make_partitions(self) -> None:
        created = await make_partitions(self.connection, _MONTHS_AHEAD)
        self.run = replace(self.run, partitions_created=self.run.partitions_created + created)

    async def _age(self, table: str) -> None:
        before = _before(self.settings, _SETTING_OF_TABLE[table], self.now)
        if before is not None:
            self._count(table, await ageing_store.age_rows(self.connection, table, before))

    async def _delete(self, table: str) -> None:
        setting, delete, _ = _DIRECTLY_DELETED[table]
        before = _before(self.settings, setting, self.now)
        if before is not None:
            self._count(table, await delete(self.connection, before))

    async def _expire_populations(self) -> None:
        self._count(_POPULATIONS, await expire_populations(self.connection, self.now))

    def _count(self, table: str, deleted: int) -> None:
        AGED_ROWS.labels(table=table).inc(deleted)
        self.run = replace(self.run, deleted={**self.run.deleted, table: self.run.deleted.get(table, 0) + deleted})

    async def _drop_partitions(self) -> None:
        before = _before(self.settings, _SETTING_OF_TABLE["fidelity_tracking"], self.now)
        if before is not None:
            dropped = await ageing_store.drop_partitions(self.connection, before)
            self.run = replace(self.run, partitions_dropped=[*self.run.partitions_dropped, *dropped])


def _before(settings: RetentionSettings, setting: str, now: datetime) -> datetime | None:
    """The time before which rows have aged out by a setting; None when they are stored for ever."""
    days = getattr(settings, setting)
    return now - timedelta(days=days) if days else None


async def _retry_locked(action: Callable[[], Awaitable[T]]) -> T:
    """Await ``action``, and again where a lock was in use: what it has done so far stays done."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return await action()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(_RETRY_S)
    return await action()


async def due_rows(settings: Settings) -> list[DueRows]:
    """What a sweep would look at now, by table."""
    async with ageing_store.sweep_connection(settings.postgres_dsn.get_secret_value()) as connection:
        if connection is None:
            raise SweepInProgress
        now = await clock(connection)
        due = []
        for table, name in _SETTING_OF_TABLE.items():
            before = _before(settings, name, now)
            rows = 0 if before is None else await ageing_store.count_due(connection, table, before)
            due.append(DueRows(table, f"TWIN_{name.upper()}", getattr(settings, name), before, rows))
        for table, (name, _, count) in _DIRECTLY_DELETED.items():
            before = _before(settings, name, now)
            rows = 0 if before is None else await count(connection, before)
            due.append(DueRows(table, f"TWIN_{name.upper()}", getattr(settings, name), before, rows))
        due.append(DueRows(_POPULATIONS, "expires_at", 0, now, await count_expired(connection, now)))
        return due


def format_due_rows(due: Iterable[DueRows]) -> str:
    """What a sweep would look at, one line for each table."""
    lines = []
    for rows in due:
        aged = f"older than {rows.days} days" if rows.days else "expired"
        limit = "stored for ever" if rows.before is None else aged
        lines.append(f"{rows.table:<20} {rows.rows:>12,} rows  {limit} ({rows.setting})")
    return "\n".join([*lines, "Rows that another row still needs stay: nothing was deleted, a sweep decides row by row."])


def format_run(run: MaintenanceRun) -> str:
    """What a sweep did, one line for each table."""
    lines = [f"{table:<20} {rows:>12,} rows deleted" for table, rows in run.deleted.items()]
    dropped = f" ({', '.join(run.partitions_dropped)})" if run.partitions_dropped else ""
    lines.append(f"partitions: {run.partitions_created} created, {len(run.partitions_dropped)} dropped{dropped}")
    return "\n".join([*lines, f"failed: {run.error}"] if run.error else lines)


async def is_sweep_due(database: Database) -> bool:
    """Whether the last sweep was a day ago, or failed an hour ago, or there was none."""
    return await ageing_store.is_due(database, SWEEP_EVERY_S, _RETRY_SWEEP_S)


async def report_state(database: Database) -> None:
    """Set the metrics of sweeps and partitions."""
    state = await ageing_store.partition_state(database)
    PARTITIONS_AHEAD.set(state.months_ahead)
    LAST_SWEEP.set(state.swept_at.timestamp() if state.swept_at else 0)

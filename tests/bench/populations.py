"""Saving and loading a population on a real PostgreSQL, against COPY of the same rows."""

from __future__ import annotations

import asyncio
import time
from io import BytesIO
from uuid import UUID

from sql.database import Connection, connect
from sql.privileges import OWNER
from sql.twin_repository import TwinRepository
from streams.settings import Settings
from tests.bench.measure import Aim, Figure, interleaved
from tests.bench.tables import ROWS, Measured

__all__ = ["population_figure"]


REPEATS = 5
POPULATION_QUERIES = {
    "digital_twins": "SELECT t.* FROM digital_twins t JOIN twin_population_members USING (twin_id) WHERE population_id = $1",
    "twin_population_members": "SELECT * FROM twin_population_members WHERE population_id = $1",
}
COPY = "asyncpg's COPY of the same rows in and out as bytes: same columns and indexes, no checks, no frame"


def population_figure(measured: Measured, settings: Settings) -> Figure:
    """``ROWS`` twins into the database and out of it again."""
    dsn = settings.postgres_dsn.get_secret_value()
    pending = [measured.model.generate(ROWS, seed=seed) for seed in range(REPEATS + 1)]
    with asyncio.Runner() as runner:
        repository, connection = TwinRepository(dsn), runner.run(connect(settings.migrate_dsn))
        runner.run(connection.execute(f"SET ROLE {OWNER}"))
        first = runner.run(repository.save_population(pending.pop()))
        rows = runner.run(_export_rows(connection, first))
        prefixes = runner.run(_create_empty_tables(connection, REPEATS))

        async def save_and_load() -> None:
            await repository.load_population(await repository.save_population(pending.pop()))

        def copy() -> None:
            runner.run(_copy(connection, prefixes.pop(), rows))

        times = interleaved(lambda: runner.run(save_and_load()), copy, REPEATS, at_most_s=20.0, clock=time.perf_counter)
        runner.run(repository.close())
        runner.run(connection.close())
    return times.figure(f"save and load {ROWS:,} twins", measured.name, COPY, aim=Aim("ours", 1.0))


async def _export_rows(connection: Connection, population_id: UUID) -> dict[str, bytes]:
    return {table: await _export_query(connection, query, population_id) for table, query in POPULATION_QUERIES.items()}


async def _export_query(connection: Connection, query: str, population_id: UUID) -> bytes:
    output = BytesIO()
    await connection.copy_from_query(query, population_id, output=output, format="binary")
    return output.getvalue()


async def _create_empty_tables(connection: Connection, count: int) -> list[str]:
    """Create empty copies of the tables; returns what is before the name of the table in each."""
    prefixes = [f"plain_{number}_" for number in range(count)]
    for prefix in prefixes:
        for table in POPULATION_QUERIES:
            await connection.execute(f"CREATE TABLE {prefix}{table} (LIKE {table} INCLUDING ALL)")
    return prefixes


async def _copy(connection: Connection, prefix: str, rows: dict[str, bytes]) -> None:
    async with connection.transaction():
        for table, content in rows.items():
            await connection.copy_to_table(f"{prefix}{table}", source=BytesIO(content), format="binary")
    for table in rows:
        await connection.copy_from_table(f"{prefix}{table}", output=BytesIO(), format="binary")

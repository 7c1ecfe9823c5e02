"""Migrations on a real database: forward only, each once, also when several processes run them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from sql.database import Connection, connect, make_partitions
from sql.migrate import ChangedMigration, LateMigration, migrate, migrations

REQUIRED_TABLES = {
    "digital_twin_models",
    "digital_twins",
    "twin_populations",
    "twin_population_members",
    "simulation_runs",
    "fidelity_tracking",
    "fidelity_snapshots",
}


@pytest.fixture
async def database(empty_database: str) -> AsyncIterator[Connection]:
    await migrate(empty_database)
    connection = await connect(empty_database)
    yield connection
    await connection.close()


async def test_three_concurrent_calls_apply_each_file_once(empty_database: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_database) for _ in range(3)))
    assert sorted(name for names in applied for name in names) == [migration.name for migration in migrations()]


async def test_a_second_call_applies_nothing(empty_database: str) -> None:
    first = await migrate(empty_database)
    assert first[:2] == ["012_digital_twin_tables.sql", "013_lines_and_ledger.sql"]
    assert await migrate(empty_database) == []


async def test_the_seven_required_tables_exist(database: Connection) -> None:
    tables = {
        row[0] for row in await database.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    }
    assert tables >= REQUIRED_TABLES


async def test_every_time_is_stored_with_its_zone(database: Connection) -> None:
    naive = await database.fetch(
        "SELECT table_name FROM information_schema.columns WHERE data_type = 'timestamp without time zone'"
    )
    assert [row for row in naive if not row[0].startswith("pg_")] == []


async def test_an_applied_file_that_was_changed_is_refused_by_name(empty_database: str, database: Connection) -> None:
    await database.execute("UPDATE schema_migrations SET sha256 = 'other' WHERE number = 13")
    with pytest.raises(ChangedMigration, match=r"013_lines_and_ledger\.sql"):
        await migrate(empty_database)


async def test_a_new_file_below_an_applied_number_is_refused(empty_database: str, database: Connection) -> None:
    await database.execute("DELETE FROM schema_migrations WHERE number = 12")
    with pytest.raises(LateMigration, match=r"012_digital_twin_tables\.sql"):
        await migrate(empty_database)


async def test_a_file_that_fails_leaves_nothing_behind(empty_database: str, database: Connection) -> None:
    last = migrations()[-1]
    await database.execute("DELETE FROM schema_migrations WHERE number = $1", last.number)
    with pytest.raises(asyncpg.PostgresError, match="already exists"):
        await migrate(empty_database)
    assert await database.fetchval("SELECT max(number) FROM schema_migrations") < last.number


async def insert_outcome(database: Connection, tracked_at: datetime) -> None:
    await database.execute(
        """INSERT INTO fidelity_tracking (tracking_id, predicted_value, actual_value, metric_type, tracked_at, event_id, revision,
                                          digest, fate, line, observed_at, source, source_offset, element)
           VALUES ($1, 1, 3.5, 'prescribing_change', $2, $1, 0, '', 'counted', 'line', $2, 't:0:0', 0, 0)""",
        uuid4(),
        tracked_at,
    )


async def test_an_outcome_of_this_month_has_its_own_partition_and_its_error(database: Connection) -> None:
    now = datetime.now(UTC)
    await insert_outcome(database, now)
    row = await database.fetchrow("SELECT tableoid::regclass::text AS partition, error FROM fidelity_tracking")
    assert row is not None
    assert (row["partition"], row["error"]) == (f"fidelity_tracking_{now:%Y_%m}", 2.5)


async def test_outcomes_of_later_months_are_in_the_default_partition_until_theirs_is_created(database: Connection) -> None:
    later = datetime.now(UTC) + timedelta(days=150)
    await insert_outcome(database, later)
    partition = "SELECT tableoid::regclass::text FROM fidelity_tracking"
    assert await database.fetchval(partition) == "fidelity_tracking_default"
    assert await make_partitions(database, 6) == 3
    assert await database.fetchval(partition) == f"fidelity_tracking_{later:%Y_%m}"
    assert await make_partitions(database, 6) == 0

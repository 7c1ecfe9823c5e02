"""Verification recomputes every count: any row that is missing and any figure that is wrong is reported."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from schemas import FidelityWindow, SourceId
from schemas.events import SUM_FIELDS
from sql import audit_store, source_position_store, window_store
from sql.database import Pool, clock, connect, open_pool
from streams.monitoring.line_state import load_line
from streams.monitoring.window_events import window_event
from streams.operations.findings import Findings
from streams.operations.recomputation import Recomputation, recompute
from streams.operations.window_audit import WindowAudit
from tests.audits import audited, make_evaluator, make_pipeline, store_all_windows
from tests.outcomes import START, TOPIC, make_card, make_line, outcome, poll_batches, record

SOURCES = 4


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    """An hour of outcomes of every fate, with a refused record and a gap, all windows published and stored, and a floor."""
    await make_line(fresh_database, make_card(), pane_s=60.0, window_s=300.0)
    pool = await open_pool(dsn=fresh_database)
    for partition in range(SOURCES):
        await source_position_store.begin_source(pool, SourceId(topic=TOPIC, partition=partition))
    values = [outcome(number) for number in range(0, 3600, 40)]
    values += [outcome(3000, revision=2), outcome(3000, revision=1), outcome(3000, revision=2), outcome(7), b"bad", outcome(3590)]
    records = [record(number + 2 * (number > 80), value) for number, value in enumerate(values)]
    pipeline = make_pipeline(pool)
    for batch in poll_batches(records, 50):
        await pipeline.ingest(batch)
    await store_all_windows(pool)
    yield pool
    await pool.close()


TABLES = {
    "fidelity_tracking": "tracking_id",
    "refused_records": "refusal_id",
    "event_heads": "event_id",
    "fidelity_panes": "(model_id, segment, pane, width_s, source)",
    "source_positions": "source",
    "source_gaps": "(source, first_offset)",
    "fidelity_snapshots": "snapshot_id",
    "detector_floors": "(model_id, segment)",
    "segment_values": "(line, dimension, value)",
}


async def test_untouched_tables_agree(fresh_database: str, pool: Pool):
    findings, windows = await audited(fresh_database)

    assert findings.mismatches() == ()
    assert windows.lagging == {}
    fates = {row[0] for row in await pool.fetch("SELECT DISTINCT fate::text FROM fidelity_tracking")}
    assert fates == {"counted", "duplicate", "superseded", "too_late"}
    assert all([await pool.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES])


async def test_a_pane_that_an_outcome_left_within_its_batch_is_not_reported_missing(fresh_database: str, pool: Pool):
    pipeline = make_pipeline(pool)
    moved = outcome(9000, revision=1, observed_at=(START + timedelta(seconds=9100)).isoformat())
    (batch,) = poll_batches([record(2000, outcome(9000)), record(2001, moved)], 2)
    await pipeline.ingest(batch)

    findings, _ = await audited(fresh_database)

    assert findings.mismatches() == ()
    assert await pool.fetchval("SELECT count(*) FROM fidelity_panes WHERE pane >= $1", START.timestamp() + 8900) == 2


async def test_a_verification_sees_one_state_while_outcomes_go_on_arriving(
    fresh_database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
):
    pipeline = make_pipeline(pool)
    check_panes = Recomputation.check_panes

    async def ingest_a_batch_and_check(recomputation: Recomputation) -> None:
        await pipeline.ingest(next(iter(poll_batches([record(2000, outcome(3595))], 1))))
        await check_panes(recomputation)

    monkeypatch.setattr(Recomputation, "check_panes", ingest_a_batch_and_check)
    before = await pool.fetchval("SELECT sum(elements) FROM source_positions")

    findings, _ = await audited(fresh_database)

    assert findings.mismatches() == ()
    assert findings.counts["elements"] == before == await pool.fetchval("SELECT sum(elements) - 1 FROM source_positions")


@pytest.mark.parametrize("table", TABLES)
async def test_the_removal_of_any_single_row_is_reported(owned_database: str, fresh_database: str, pool: Pool, table: str):
    keys = TABLES[table]
    rows = await pool.fetch(f"SELECT ctid, tableoid FROM {table} ORDER BY {keys}")
    floor = (await window_store.monitored_lines(pool))[0].floor
    assert floor is not None
    sample = rows[:: max(len(rows) // 6, 1)]
    connection = await connect(owned_database)
    try:
        for ctid, tableoid in sample:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("SET LOCAL session_replication_role = replica")  # no trigger objects
            removed = await connection.fetchrow(
                f"DELETE FROM {table} WHERE ctid = $1 AND tableoid = $2 RETURNING *", ctid, tableoid
            )
            assert removed is not None
            await transaction.commit()
            findings, windows = await audited(fresh_database)
            assert findings.mismatches() or windows.lagging or is_no_loss(table, removed, floor), removed
            await put_back(connection, table, removed)
        untouched, _ = await audited(fresh_database)
        assert untouched.mismatches() == ()
    finally:
        await connection.close()


def is_no_loss(table: str, row: Any, floor: float) -> bool:
    """Snapshots below the floor are history; a last partition without records gets a new position from its next reader."""
    if table == "fidelity_snapshots":
        return bool(row["window_end"].timestamp() <= floor)
    return table == "source_positions" and row["elements"] == 0 and row["partition"] == SOURCES - 1


async def put_back(connection: Any, table: str, row: Any) -> None:
    values = {name: value for name, value in dict(row).items() if name != "error"}  # a generated column
    columns = ", ".join(values)
    parameters = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    async with connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({parameters})", *values.values())


_PANE = f"model_id, pane, width_s, source, line, last_offset, {', '.join(SUM_FIELDS)}"
_HEAD = "revision, digest, line, model_id, segments, pane, width_s, contribution"
FIGURES = {
    **dict.fromkeys(("rmse", "bias", "sample_size", "n_interval", "n_skipped", "n_outliers"), "{} + 1"),
    **dict.fromkeys(("correlation", "coverage_95pct"), "coalesce({}, 1) / 2"),
    **dict.fromkeys(("standard_errors", "missing"), "'{{}}'"),
}
CHANGES = {
    "a sum": "UPDATE fidelity_panes SET actual = actual + 1 WHERE segment = 'all'",
    "a sum that no window contains": "UPDATE fidelity_panes SET log_bet_0 = log_bet_0 + 1 WHERE segment = 'all'",
    "a fate": "UPDATE fidelity_tracking SET fate = 'superseded' WHERE fate = 'counted' AND revision = 2",
    "a value": "UPDATE fidelity_tracking SET actual_value = actual_value + 0.001 WHERE fate = 'counted'",
    "a head": "UPDATE event_heads SET revision = revision + 1",
    "a head before all others": f"INSERT INTO event_heads SELECT '{UUID(int=0)}', {_HEAD} FROM event_heads LIMIT 1",
    "a head after all others": f"INSERT INTO event_heads SELECT '{UUID(int=2**128 - 1)}', {_HEAD} FROM event_heads LIMIT 1",
    "a pane without outcomes": f"INSERT INTO fidelity_panes (segment, {_PANE}) SELECT 'nobody', {_PANE} FROM fidelity_panes "
    "WHERE segment = 'all' ORDER BY pane DESC LIMIT 1",
    "panes with their snapshots": "WITH gone AS (DELETE FROM fidelity_snapshots) DELETE FROM fidelity_panes WHERE segment = 'all'",
    "a position": "UPDATE source_positions SET elements = elements + 1 WHERE partition = 0",
    "every position": "BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM source_positions; COMMIT",
    "a position beyond the last row": "WITH moved AS (UPDATE source_positions SET last_offset = last_offset + 1 "
    "WHERE partition = 0 RETURNING source, last_offset) "
    "INSERT INTO source_gaps (source, first_offset, last_offset) SELECT source, last_offset, last_offset FROM moved",
    "a position without a row": "UPDATE source_positions SET last_offset = 0 WHERE partition = 1",
    "a time": "UPDATE source_positions SET last_time = last_time + interval '1 second' WHERE partition = 0",
    "a watermark": "UPDATE source_positions SET watermark = watermark + interval '1 second' WHERE partition = 0",
    "a figure": "UPDATE fidelity_snapshots SET mae = mae + 1e-9",
    **{f"a figure, {name}": f"UPDATE fidelity_snapshots SET {name} = {how.format(name)}" for name, how in FIGURES.items()},
    "a snapshot of nothing": "UPDATE fidelity_snapshots SET window_start = window_start + interval '1 day'",
    "a version ahead of its panes": "UPDATE fidelity_snapshots SET version = version + 1",
    "a floor": "UPDATE detector_floors SET floor = floor - 60",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_any_figure_that_does_not_follow_from_the_outcomes_is_reported(
    fresh_database: str, pool: Pool, owner_pool: Pool, change: str
):
    await owner_pool.execute(CHANGES[change])

    findings, _ = await audited(fresh_database)

    assert findings.mismatches()


async def test_a_record_may_be_older_than_the_one_before_it(fresh_database: str, pool: Pool, owner_pool: Pool):
    await owner_pool.execute("UPDATE fidelity_tracking SET tracked_at = tracked_at + interval '1 day' WHERE source_offset = 0")

    findings, _ = await audited(fresh_database)

    assert findings.mismatches() == ()


async def test_a_snapshot_of_an_older_version_only_lags_until_a_newer_one_is_stored(fresh_database: str, pool: Pool):
    await pool.execute(
        "UPDATE fidelity_snapshots SET version = version - 1, mae = 9 WHERE window_start >= $1", START + timedelta(hours=0.9)
    )
    findings, windows = await audited(fresh_database)
    assert findings.mismatches() == ()
    assert windows.lagging

    rows = await pool.fetch("SELECT * FROM fidelity_snapshots WHERE window_start >= $1", START + timedelta(hours=0.9))
    assert all("has a snapshot of version" in lag.reason for lag in windows.lagging.values())
    assert len(rows) == len(windows.lagging)
    lagging = windows.lagging_panes((await recompute(fresh_database, Findings())).panes)
    assert lagging
    assert all(datetime.fromtimestamp(pane.row.pane + 300, START.tzinfo) >= START + timedelta(hours=0.9) for pane in lagging)

    await read_snapshots(fresh_database, windows)
    assert len(rows) == len(windows.lagging)
    await pool.execute("UPDATE fidelity_snapshots SET version = version + 1 WHERE mae = 9")
    await read_snapshots(fresh_database, windows)
    assert windows.lagging == {}
    assert len(findings.mismatches()) == len(rows)
    assert all("mae of" in mismatch for mismatch in findings.mismatches())


async def read_snapshots(dsn: str, windows: WindowAudit) -> None:
    async with audit_store.snapshot(dsn) as connection:
        async for row in audit_store.snapshots(connection):
            windows.on_snapshot(row)


async def test_a_message_about_a_window_is_compared_with_its_panes(fresh_database: str, pool: Pool):
    findings, windows = await audited(fresh_database)
    (state,) = await window_store.monitored_lines(pool)
    line = await load_line(pool, state, make_evaluator(), await clock(pool))
    window = max(line.window_state.windows())
    event: FidelityWindow = window_event(line, window, closed=False)
    windows.on_message(event)
    wrong = event.metrics.model_copy(update={"mae": 99.0})
    windows.on_message(event.model_copy(update={"version": event.version - 1, "metrics": wrong}))
    assert findings.mismatches() == ()

    windows.on_message(event.model_copy(update={"metrics": wrong}))

    (mismatch,) = findings.mismatches()
    assert "mae" in mismatch
    assert "99.0" in mismatch


async def test_a_closed_window_without_a_snapshot_lags_in_spite_of_messages(fresh_database: str, pool: Pool, owner_pool: Pool):
    await owner_pool.execute("DELETE FROM fidelity_snapshots WHERE window_start = $1", START + timedelta(hours=0.9))
    _, windows = await audited(fresh_database)
    (state,) = await window_store.monitored_lines(pool)
    line = await load_line(pool, state, make_evaluator(), await clock(pool))
    lagging = {window for _, window in windows.lagging}
    assert lagging

    for window in lagging:
        windows.on_message(window_event(line, window, closed=False))

    assert {window for _, window in windows.lagging} == lagging

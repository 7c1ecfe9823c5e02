"""Everything that is counted can be counted again: any row that is missing, and any figure that is off, is named."""

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
from streams.ingestion.pipeline import OutcomePipeline
from streams.ingestion.scoring_context import ContextLoader
from streams.monitoring.drift_detection import DriftEvaluator
from streams.monitoring.line_state import load_line
from streams.monitoring.restatement_floor import raise_floor
from streams.monitoring.window_events import window_event
from streams.operations import recomputation as books
from streams.operations.recomputation import Findings, recompute
from streams.operations.verify import WindowAudit
from streams.settings import Settings
from tests.outcomes import START, TOPIC, cut, make_card, make_line, outcome, record

SOURCES = 4
RESTATEMENT_S = 1200.0


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    """An hour of outcomes of every fate, with a refusal and a gap, all windows said and kept, and a floor."""
    await make_line(fresh_database, make_card(), pane_s=60.0, window_s=300.0)
    opened = await open_pool(dsn=fresh_database)
    for partition in range(SOURCES):
        await source_position_store.begin_source(opened, SourceId(topic=TOPIC, partition=partition))
    intake = OutcomePipeline(opened, ContextLoader(opened, None, None), skew_s=300.0, restatement_s=RESTATEMENT_S)  # type: ignore[arg-type]
    said = [outcome(number) for number in range(0, 3600, 40)]
    said += [outcome(3000, revision=2), outcome(3000, revision=1), outcome(3000, revision=2), outcome(7), b"bad", outcome(3590)]
    records = [record(number + 2 * (number > 80), value) for number, value in enumerate(said)]
    for each in cut(records, 50):
        await intake.take(each)
    await keep_all_windows(opened)
    yield opened
    await opened.close()


async def keep_all_windows(pool: Pool) -> None:
    """What the fidelity agent would have done by now."""
    (state,) = await window_store.monitored_lines(pool)
    line = await load_line(pool, state, a_judge(), await clock(pool))
    said = [window_event(line, window, closed=True) for window in line.unsettled]
    await window_store.save_snapshots(pool, said)
    line.unsettled.clear()
    await pool.execute("UPDATE source_positions SET watermark = $1 WHERE partition > 0", START + timedelta(seconds=3590))
    await raise_floor(pool, line, Settings(restatement_s=RESTATEMENT_S))
    await pool.execute("UPDATE source_positions SET watermark = NULL WHERE partition > 0")


def a_judge() -> DriftEvaluator:
    return DriftEvaluator(50, 1e6, {make_card().model_id: make_card()})


async def looked_at(dsn: str) -> tuple[Findings, WindowAudit]:
    findings = Findings()
    found = await recompute(dsn, findings)
    windows = WindowAudit(found.windows, found.grids, findings)
    windows.check_kept(found.snapshots)
    return findings, windows


TABLES = {
    "fidelity_tracking": "tracking_id",
    "refused_records": "refusal_id",
    "event_heads": "event_id",
    "fidelity_panes": "(model_id, segment, pane, width_s, source)",
    "source_positions": "source",
    "source_gaps": "(source, first_offset)",
    "fidelity_snapshots": "snapshot_id",
    "detector_floors": "(model_id, segment)",
}


async def test_what_was_left_alone_agrees(fresh_database: str, pool: Pool):
    findings, windows = await looked_at(fresh_database)

    assert findings.all() == ()
    assert windows.behind == {}
    fates = {row[0] for row in await pool.fetch("SELECT DISTINCT fate::text FROM fidelity_tracking")}
    assert fates == {"counted", "duplicate", "superseded", "too_late"}
    assert all([await pool.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES])


async def test_a_pane_that_an_outcome_left_within_its_slice_is_not_missed(fresh_database: str, pool: Pool):
    intake = OutcomePipeline(pool, ContextLoader(pool, None, None), skew_s=300.0, restatement_s=RESTATEMENT_S)  # type: ignore[arg-type]
    moved = outcome(9000, revision=1, observed_at=(START + timedelta(seconds=9100)).isoformat())
    (taken,) = cut([record(2000, outcome(9000)), record(2001, moved)], 2)
    await intake.take(taken)

    findings, _ = await looked_at(fresh_database)

    assert findings.all() == ()
    assert await pool.fetchval("SELECT count(*) FROM fidelity_panes WHERE pane >= $1", START.timestamp() + 8900) == 2


async def test_an_audit_sees_one_moment_though_outcomes_go_on_coming(
    fresh_database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
):
    intake = OutcomePipeline(pool, ContextLoader(pool, None, None), skew_s=300.0, restatement_s=RESTATEMENT_S)  # type: ignore[arg-type]
    look = books.Recomputation.check_panes

    async def take_a_slice_in_and_look(audit: Any) -> None:
        await intake.take(next(iter(cut([record(2000, outcome(3595))], 1))))
        await look(audit)

    monkeypatch.setattr(books.Recomputation, "check_panes", take_a_slice_in_and_look)
    before = await pool.fetchval("SELECT sum(elements) FROM source_positions")

    findings, _ = await looked_at(fresh_database)

    assert findings.all() == ()
    assert findings.counts["elements"] == before == await pool.fetchval("SELECT sum(elements) - 1 FROM source_positions")


@pytest.mark.parametrize("table", TABLES)
async def test_any_single_row_that_is_removed_is_reported(fresh_database: str, pool: Pool, table: str):
    keys = TABLES[table]
    rows = await pool.fetch(f"SELECT ctid, tableoid FROM {table} ORDER BY {keys}")
    floor = (await window_store.monitored_lines(pool))[0].floor
    assert floor is not None
    chosen = rows[:: max(len(rows) // 6, 1)]
    connection = await connect(fresh_database)
    try:
        for ctid, tableoid in chosen:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("SET LOCAL session_replication_role = replica")  # as a disk loses rows: without asking
            removed = await connection.fetchrow(
                f"DELETE FROM {table} WHERE ctid = $1 AND tableoid = $2 RETURNING *", ctid, tableoid
            )
            assert removed is not None
            await transaction.commit()
            findings, windows = await looked_at(fresh_database)
            assert findings.all() or windows.behind or says_nothing(table, removed, floor), removed
            await put_back(connection, table, removed)
        untouched, _ = await looked_at(fresh_database)
        assert untouched.all() == ()
    finally:
        await connection.close()


def says_nothing(table: str, row: Any, floor: float) -> bool:
    """A window below the floor is history; a last partition that nothing was read from is begun anew by its next reader."""
    if table == "fidelity_snapshots":
        return bool(row["window_end"].timestamp() <= floor)
    return table == "source_positions" and row["elements"] == 0 and row["partition"] == SOURCES - 1


async def put_back(connection: Any, table: str, row: Any) -> None:
    written = {name: value for name, value in dict(row).items() if name != "error"}  # a generated column
    columns = ", ".join(written)
    places = ", ".join(f"${number}" for number in range(1, len(written) + 1))
    async with connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", *written.values())


_PANE = f"model_id, pane, width_s, source, line, last_offset, {', '.join(SUM_FIELDS)}"
_HEAD = "revision, digest, line, model_id, segments, pane, width_s, contribution"
FIGURES = {
    **dict.fromkeys(("rmse", "bias", "sample_size", "n_interval", "n_skipped", "n_outliers"), "{} + 1"),
    **dict.fromkeys(("correlation", "coverage_95pct"), "coalesce({}, 1) / 2"),
    **dict.fromkeys(("standard_errors", "missing"), "'{{}}'"),
}
CHANGES = {
    "a sum": "UPDATE fidelity_panes SET actual = actual + 1 WHERE segment = 'all'",
    "a sum that no window shows": "UPDATE fidelity_panes SET log_bet_0 = log_bet_0 + 1 WHERE segment = 'all'",
    "a fate": "UPDATE fidelity_tracking SET fate = 'superseded' WHERE fate = 'counted' AND revision = 2",
    "a value": "UPDATE fidelity_tracking SET actual_value = actual_value + 0.001 WHERE fate = 'counted'",
    "a head": "UPDATE event_heads SET revision = revision + 1",
    "a head before all others": f"INSERT INTO event_heads SELECT '{UUID(int=0)}', {_HEAD} FROM event_heads LIMIT 1",
    "a head after all others": f"INSERT INTO event_heads SELECT '{UUID(int=2**128 - 1)}', {_HEAD} FROM event_heads LIMIT 1",
    "a pane of nobody": f"INSERT INTO fidelity_panes (segment, {_PANE}) SELECT 'nobody', {_PANE} FROM fidelity_panes "
    "WHERE segment = 'all' ORDER BY pane DESC LIMIT 1",
    "panes without a trace": "WITH gone AS (DELETE FROM fidelity_snapshots) DELETE FROM fidelity_panes WHERE segment = 'all'",
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
async def test_any_figure_that_is_not_what_the_outcomes_say_is_named(fresh_database: str, pool: Pool, change: str):
    await pool.execute(CHANGES[change])

    findings, _ = await looked_at(fresh_database)

    assert findings.all()


async def test_a_snapshot_of_an_older_version_is_only_behind_until_a_newer_one_comes(fresh_database: str, pool: Pool):
    await pool.execute(
        "UPDATE fidelity_snapshots SET version = version - 1, mae = 9 WHERE window_start >= $1", START + timedelta(hours=0.9)
    )
    findings, windows = await looked_at(fresh_database)
    assert findings.all() == ()
    assert windows.behind

    rows = await pool.fetch("SELECT * FROM fidelity_snapshots WHERE window_start >= $1", START + timedelta(hours=0.9))
    assert all("has a snapshot of version" in why for why in windows.behind.values())
    assert len(rows) == len(windows.behind)
    lagging = [row for line, _, row in (await recompute(fresh_database, Findings())).rows if windows.lags(line, row)]
    assert lagging
    assert all(datetime.fromtimestamp(row.pane + 300, START.tzinfo) >= START + timedelta(hours=0.9) for row in lagging)

    await see(fresh_database, windows)
    assert len(rows) == len(windows.behind)
    await pool.execute("UPDATE fidelity_snapshots SET version = version + 1 WHERE mae = 9")
    await see(fresh_database, windows)
    assert windows.behind == {}
    assert len(findings.all()) == len(rows)
    assert all("mae of" in mismatch for mismatch in findings.all())


async def see(dsn: str, windows: WindowAudit) -> None:
    async with audit_store.snapshot(dsn) as connection:
        async for row in audit_store.snapshots(connection):
            windows.see(row)


async def test_what_was_said_of_a_window_is_held_against_its_panes(fresh_database: str, pool: Pool):
    findings, windows = await looked_at(fresh_database)
    (state,) = await window_store.monitored_lines(pool)
    line = await load_line(pool, state, a_judge(), await clock(pool))
    window = max(line.view.windows())
    event: FidelityWindow = window_event(line, window, closed=False)
    windows.hear(event)
    windows.hear(event.model_copy(update={"version": event.version - 1, "metrics": event.metrics.model_copy(update={"mae": 99.0})}))
    assert findings.all() == ()

    windows.hear(event.model_copy(update={"metrics": event.metrics.model_copy(update={"mae": 99.0})}))

    (mismatch,) = findings.all()
    assert "mae" in mismatch
    assert "99.0" in mismatch


async def test_a_closed_window_without_a_snapshot_lags_whatever_was_said_of_it(fresh_database: str, pool: Pool):
    await pool.execute("DELETE FROM fidelity_snapshots WHERE window_start = $1", START + timedelta(hours=0.9))
    _, windows = await looked_at(fresh_database)
    (state,) = await window_store.monitored_lines(pool)
    line = await load_line(pool, state, a_judge(), await clock(pool))
    lagging = {window for _, window in windows.behind}
    assert lagging

    for window in lagging:
        windows.hear(window_event(line, window, closed=False))

    assert {window for _, window in windows.behind} == lagging

"""Rows age out of a real PostgreSQL: what is left still verifies, and nothing that comes again is counted again."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4, uuid5

import asyncpg
import pytest

from schemas import SourceId
from sql import ageing_store, source_position_store, window_store
from sql.database import Pool, connect, open_pool, transaction
from sql.ledger import Ledger
from sql.outcome_store import HeadAgedOut, lock_heads
from sql.park_store import record_state
from streams.operations.ageing import SweepInProgress, due_rows, format_due_rows, is_sweep_due, report_state, sweep
from streams.settings import Settings
from tests.audits import audited, make_pipeline, store_all_windows, store_windows
from tests.outcomes import LINE, START, TOPIC, Record, make_card, make_line, outcome, poll_batches, record

SOURCES = 4
LATER = START + timedelta(days=3)
"""After Kafka's time of every record of these tests."""


def records() -> list[Record]:
    """Outcomes of every fate, with a refused record and a gap."""
    values = [outcome(number) for number in range(0, 3600, 40)]
    values += [outcome(3000, revision=2), outcome(3000, revision=1), outcome(3000, revision=2), outcome(7), b"bad", outcome(3590)]
    values += [outcome(40, revision=1), outcome(80, actual_value=None, revision=3)]
    return [record(number + 2 * (number > 80), value) for number, value in enumerate(values)]


@pytest.fixture
async def owner(owned_database: str) -> AsyncIterator[Pool]:
    """Connections that may change what the service may not; rows of any age may be deleted here."""
    async with await open_pool(dsn=owned_database) as opened:
        await opened.execute("CREATE OR REPLACE FUNCTION least_retention() RETURNS interval RETURN interval '-100 years'")
        yield opened


@pytest.fixture
async def pool(fresh_database: str, owner: Pool) -> AsyncIterator[Pool]:
    """An hour of outcomes, stored, with all windows published and a floor at about 2400 s."""
    await make_line(fresh_database, make_card(), pane_s=60.0, window_s=300.0)
    pool = await open_pool(dsn=fresh_database)
    for partition in range(SOURCES):
        await source_position_store.begin_source(pool, SourceId(topic=TOPIC, partition=partition))
    pipeline = make_pipeline(pool)
    for batch in poll_batches(records(), 50):
        await pipeline.ingest(batch)
    await store_all_windows(pool)
    await pool.execute("UPDATE refused_records SET sent_at = now()")
    yield pool
    await pool.close()


async def age(dsn: str, *tables: str, before: datetime = LATER, chunk: int = 7) -> dict[str, int]:
    connection = await connect(dsn)
    try:
        return {table: await ageing_store.age_rows(connection, table, before, chunk) for table in tables}
    finally:
        await connection.close()


async def state_of(pool: Pool) -> dict[str, Any]:
    """Everything that a count is taken from."""
    return {
        "panes": await pool.fetch("SELECT * FROM fidelity_panes ORDER BY model_id, segment, pane, width_s, source"),
        "outcomes": await pool.fetch("SELECT * FROM fidelity_tracking ORDER BY tracking_id"),
        "heads": await pool.fetch("SELECT * FROM event_heads ORDER BY event_id"),
        "refused": await pool.fetch("SELECT refusal_id FROM refused_records ORDER BY refusal_id"),
        "elements": await pool.fetch("SELECT source, elements, last_offset FROM source_positions ORDER BY source"),
    }


async def test_outcomes_below_the_floor_age_out_and_every_count_agrees(fresh_database: str, pool: Pool):
    before = await state_of(pool)
    (line,) = await window_store.monitored_lines(pool)
    assert line.floor is not None

    deleted = await age(fresh_database, "fidelity_tracking")

    after = await state_of(pool)
    assert deleted["fidelity_tracking"] == len(before["outcomes"]) - len(after["outcomes"]) > 50
    assert after["panes"] == before["panes"]
    assert after["elements"] == before["elements"]
    assert all(row["observed_at"].timestamp() >= line.floor for row in after["outcomes"] if row["fate"] == "counted")
    assert {row["fate"] for row in after["outcomes"]} == {"counted", "superseded"}
    findings, windows = await audited(fresh_database)
    assert findings.mismatches() == ()
    assert windows.lagging == {}
    assert findings.counts["aged elements"] == deleted["fidelity_tracking"]


async def test_a_sweep_again_deletes_nothing_more(fresh_database: str, pool: Pool):
    await age(fresh_database, "fidelity_tracking", "refused_records", "fidelity_panes", "fidelity_snapshots")

    again = await age(fresh_database, "fidelity_tracking", "refused_records", "fidelity_panes", "fidelity_snapshots")

    assert set(again.values()) == {0}


async def test_outcomes_above_the_floor_stay_however_old_they_are(fresh_database: str, owner: Pool, pool: Pool):
    await owner.execute("UPDATE model_lines SET floor = NULL")
    await owner.execute("DELETE FROM detector_floors")

    deleted = await age(fresh_database, "fidelity_tracking", before=LATER + timedelta(days=10_000))

    fates = {row["fate"] for row in await pool.fetch("SELECT fate::text FROM fidelity_tracking")}
    assert deleted["fidelity_tracking"] == 4  # duplicates and late ones, which were never counted
    assert fates == {"counted", "superseded"}
    assert (await audited(fresh_database))[0].mismatches() == ()


@pytest.mark.parametrize("size", [1, 13, 200])
async def test_a_topic_that_is_replayed_after_a_sweep_changes_nothing(fresh_database: str, pool: Pool, size: int):
    await age(fresh_database, "fidelity_tracking", "refused_records")
    before = await state_of(pool)

    for batch in poll_batches(records(), size):
        result = await make_pipeline(pool).ingest(batch)
        assert not result.fates
        assert not result.refused

    assert await state_of(pool) == before
    assert (await audited(fresh_database))[0].mismatches() == ()


async def test_no_revision_of_an_event_that_has_aged_out_counts(fresh_database: str, pool: Pool):
    await age(fresh_database, "fidelity_tracking")
    before = await state_of(pool)
    moved = (START + timedelta(seconds=3595)).isoformat()
    late = [
        outcome(40),
        outcome(40, revision=9, observed_at=moved),
        outcome(120, revision=1, observed_at=moved),
        outcome(120, revision=2, observed_at=moved),
        outcome(80, revision=4, observed_at=moved),
    ]

    (batch,) = poll_batches([record(500 + number, value) for number, value in enumerate(late)], 50)
    result = await make_pipeline(pool).ingest(batch)

    assert result.fates == {(LINE, "too_late"): len(late)}
    after = await state_of(pool)
    assert (after["panes"], after["heads"]) == (before["panes"], before["heads"])
    assert (await audited(fresh_database))[0].mismatches() == ()


async def test_an_event_ages_only_with_all_the_outcomes_by_which_it_was_counted(fresh_database: str, owner: Pool, pool: Pool):
    younger = START + timedelta(days=20)
    (batch,) = poll_batches([record(0, outcome(2000, revision=1), partition=1, at=younger)], 1)
    await owner.execute("UPDATE model_lines SET floor = NULL")
    await make_pipeline(pool).ingest(batch)
    await raise_floor_of(pool)

    await age(fresh_database, "fidelity_tracking")

    kept = await pool.fetch("SELECT revision FROM fidelity_tracking WHERE event_id = $1 ORDER BY 1", outcome(2000)["event_id"])
    assert [row[0] for row in kept] == [0, 1]
    assert (await audited(fresh_database))[0].mismatches() == ()
    await age(fresh_database, "fidelity_tracking", before=younger + timedelta(days=2))
    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE event_id = $1", outcome(2000)["event_id"]) == 0
    assert (await audited(fresh_database))[0].mismatches() == ()


async def test_panes_and_snapshots_age_out_and_the_windows_that_are_left_agree(fresh_database: str, pool: Pool):
    before = await pool.fetchval("SELECT count(*) FROM fidelity_panes")
    cutoff = START + timedelta(seconds=1500)

    deleted = await age(fresh_database, "fidelity_panes", "fidelity_snapshots", before=cutoff)

    assert 0 < deleted["fidelity_panes"] < before
    assert deleted["fidelity_snapshots"] > 0
    assert await pool.fetchval("SELECT min(pane) FROM fidelity_panes") >= cutoff.timestamp() - 60
    findings, windows = await audited(fresh_database)
    assert findings.mismatches() == ()
    assert windows.lagging == {}
    await age(fresh_database, "fidelity_tracking", "fidelity_panes", "fidelity_snapshots")
    findings, windows = await audited(fresh_database)
    assert findings.mismatches() == ()
    assert windows.lagging == {}


TABLES = {
    "fidelity_tracking": "tracking_id",
    "event_heads": "event_id",
    "fidelity_panes": "(model_id, segment, pane, width_s, source)",
    "source_positions": "source",
    "source_gaps": "(source, first_offset)",
    "detector_floors": "(model_id, segment)",
    "aged_sources": "source",
    "aged_lines": "line",
    "aged_events": "event_id",
}


@pytest.mark.parametrize("table", TABLES)
async def test_after_a_sweep_the_removal_of_any_single_row_is_reported(
    fresh_database: str, owned_database: str, pool: Pool, table: str
):
    (batch,) = poll_batches([record(300, outcome(3596))], 1)  # a gap above what ages out
    await make_pipeline(pool).ingest(batch)
    await age(fresh_database, "fidelity_tracking", "refused_records", "fidelity_snapshots")
    await age(fresh_database, "fidelity_panes", before=START + timedelta(seconds=900))
    rows = await pool.fetch(f"SELECT ctid, tableoid FROM {table} ORDER BY {TABLES[table]}")
    assert rows
    connection = await connect(owned_database)
    try:
        await connection.execute("SET session_replication_role = replica")  # no trigger objects
        for ctid, tableoid in rows[:: max(len(rows) // 5, 1)]:
            remove = f"DELETE FROM {table} WHERE ctid = $1 AND tableoid = $2 RETURNING *"
            removed = await connection.fetchrow(remove, ctid, tableoid)
            assert removed is not None
            findings, _ = await audited(fresh_database)
            never_read = table == "source_positions" and removed["elements"] == 0
            assert findings.mismatches() or never_read, removed
            await put_back(connection, table, removed)
    finally:
        await connection.close()
    assert (await audited(fresh_database))[0].mismatches() == ()


async def put_back(connection: Any, table: str, row: Any) -> None:
    values = {name: value for name, value in dict(row).items() if name != "error"}  # a generated column
    parameters = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    await connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({parameters})", *values.values())


async def test_a_changed_pane_below_the_horizon_is_reported(fresh_database: str, owner: Pool, pool: Pool):
    await age(fresh_database, "fidelity_tracking")
    await owner.execute("UPDATE fidelity_panes SET actual = actual + 1 WHERE pane = (SELECT min(pane) FROM fidelity_panes)")

    findings, _ = await audited(fresh_database)

    assert any("digest of the panes" in mismatch for mismatch in findings.mismatches())


async def test_a_batch_whose_head_has_aged_out_meanwhile_is_tried_again(fresh_database: str, pool: Pool):
    event = await pool.fetchval("SELECT event_id FROM event_heads ORDER BY pane LIMIT 1")
    await age(fresh_database, "fidelity_tracking")

    async with transaction(pool) as connection:
        with pytest.raises(HeadAgedOut):
            await lock_heads(connection, [event])


async def test_a_sweep_leaves_an_event_that_a_batch_is_correcting(fresh_database: str, pool: Pool):
    event = await pool.fetchval("SELECT event_id FROM event_heads ORDER BY pane LIMIT 1")
    async with transaction(pool) as connection:
        await lock_heads(connection, [event])
        await age(fresh_database, "fidelity_tracking")

    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE event_id = $1 AND fate <> 'too_late'", event) > 0
    assert await pool.fetchval("SELECT count(*) FROM event_heads WHERE event_id = $1", event) == 1
    assert (await audited(fresh_database))[0].mismatches() == ()


@pytest.mark.parametrize("seed", range(6))
async def test_a_sweep_at_any_time_followed_by_a_replay_of_any_range_changes_no_count(fresh_database: str, pool: Pool, seed: int):
    rng = random.Random(seed)
    pipeline = make_pipeline(pool)
    sent = {partition: records() if partition == 0 else [] for partition in range(2)}
    for step in range(12):
        partition = rng.randrange(2)
        first = (sent[partition][-1].offset if sent[partition] else -1) + 1 + (rng.random() < 0.2)
        at = START + timedelta(days=step)
        values = [
            b"{"
            if rng.random() < 0.05
            else outcome(
                number := rng.randrange(3600 + 600 * step),
                revision=rng.randrange(3),
                observed_at=(START + timedelta(seconds=max(0, number + rng.randrange(-900, 900)))).isoformat(),
                **({"actual_value": None} if rng.random() < 0.1 else {}),
            )
            for _ in range(rng.randrange(1, 30))
        ]
        new = [record(first + index, value, partition=partition, at=at) for index, value in enumerate(values)]
        for batch in poll_batches(new, rng.randrange(1, 40)):
            await pipeline.ingest(batch)
        sent[partition] += new
        await pool.execute("UPDATE refused_records SET sent_at = now()")
        await raise_floor_of(pool)
        before = await state_of(pool)
        cutoff = START + timedelta(days=rng.uniform(0, step + 2))
        await age(
            fresh_database, *rng.sample(["fidelity_tracking", "refused_records"], 2), before=cutoff, chunk=rng.choice([1, 5, 100])
        )
        swept = await state_of(pool)
        low = rng.randrange(len(sent[partition]))
        for batch in poll_batches(sent[partition][low : low + rng.randrange(1, 200)], rng.randrange(1, 60)):
            result = await pipeline.ingest(batch)
            assert not result.fates
            assert not result.refused
        assert await state_of(pool) == swept
        assert (swept["panes"], swept["elements"]) == (before["panes"], before["elements"])
        findings, _ = await audited(fresh_database)
        assert findings.mismatches() == ()
    assert findings.counts["aged elements"] > 0


async def raise_floor_of(pool: Pool) -> None:
    """Raise the floor to the limit of the source that was read furthest."""
    await pool.execute("UPDATE source_positions SET read_to_end_at = clock_timestamp()")
    await store_windows(pool)


async def test_empty_partitions_of_aged_months_are_dropped_and_later_ones_stay(owner: Pool, pool: Pool):
    for month in ("2024_01", "2024_02"):
        begin = datetime.strptime(month, "%Y_%m").replace(tzinfo=UTC)
        await owner.execute(
            f"CREATE TABLE fidelity_tracking_{month} PARTITION OF fidelity_tracking FOR VALUES FROM ('{begin}') TO "
            f"('{(begin + timedelta(days=32)).replace(day=1)}')"
        )
        await owner.execute(f"ALTER TABLE fidelity_tracking_{month} OWNER TO twinstream_owner")
    await pool.execute(
        "INSERT INTO fidelity_tracking (tracking_id, metric_type, tracked_at, event_id, revision, digest, fate, line, observed_at,"
        " source, source_offset, element) VALUES (gen_random_uuid(), 'm', '2024-02-10', gen_random_uuid(), 0, '', 'counted', $1,"
        " '2024-02-10', 'x:0:0', 0, 0)",
        LINE,
    )
    async with pool.acquire() as connection:
        assert await ageing_store.drop_partitions(connection, datetime(2024, 1, 31, tzinfo=UTC)) == []
        assert await ageing_store.drop_partitions(connection, datetime(2024, 6, 1, tzinfo=UTC)) == ["fidelity_tracking_2024_01"]


async def test_nothing_younger_than_kafka_holds_records_ages_out_whoever_asks(fresh_database: str, owner: Pool, pool: Pool):
    await owner.execute("CREATE OR REPLACE FUNCTION least_retention() RETURNS interval RETURN now() - timestamptz '2026-03-01'")

    assert await age(fresh_database, "fidelity_tracking", before=datetime.max.replace(tzinfo=UTC)) == {"fidelity_tracking": 0}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE fidelity_tracking SET features = NULL",
        "DELETE FROM fidelity_tracking",
        "DELETE FROM aged_events",
        "UPDATE aged_sources SET elements = 0",
        "SELECT salt FROM erasure_salt",
        "DELETE FROM erasures",
        "SELECT raise_aged_horizon('x', 0)",
        "SELECT add_aged_elements('{}')",
    ],
)
async def test_the_service_cannot_do_by_itself_what_only_the_functions_may(pool: Pool, statement: str):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pool.execute(statement)


async def test_a_sweep_makes_partitions_deletes_what_is_due_and_is_recorded(fresh_database: str, owner: Pool, pool: Pool):
    settings = Settings(postgres_dsn=fresh_database, restatement_s=1200.0)
    await pool.execute(
        "INSERT INTO replays (replay_id, topic, lines, replayed_by, quiet_until) "
        "VALUES (gen_random_uuid(), 't', '{}', 'me', now() - interval '2 years')"
    )
    newest = await pool.fetchval(
        "SELECT max(c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE inhparent = 'fidelity_tracking'::regclass AND c.relname ~ '[0-9]$'"
    )
    await owner.execute(f"DROP TABLE {newest}")
    for expires_at in (datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(days=1)):
        await pool.execute(
            "INSERT INTO twin_populations (population_id, model_id, name, twin_count, seed, expires_at, columns)"
            " VALUES (gen_random_uuid(), $1, 'p', 1, 0, $2, '[]')",
            make_card().model_id,
            expires_at,
        )
    assert await is_sweep_due(pool)
    due = {rows.table: rows for rows in await due_rows(settings)}
    assert (due["replays"].rows, due["twin_populations"].rows) == (1, 1)
    assert "1 rows  expired (expires_at)" in format_due_rows(due.values())

    run = await sweep(settings, "a test")

    assert run.error == ""
    assert run.deleted["twin_populations"] == 1
    assert await pool.fetchval("SELECT count(*) FROM twin_populations WHERE expires_at > now()") == 1
    assert run.partitions_created == 1
    assert run.deleted["replays"] == 1
    assert "entity_history" not in run.deleted
    assert not await is_sweep_due(pool)
    state = await ageing_store.partition_state(pool)
    assert (state.months_ahead, state.swept_at) == (3, run.finished_at)
    await report_state(pool)
    assert (await audited(fresh_database))[0].mismatches() == ()


async def test_the_record_of_rows_that_have_aged_out_counts_as_stored(fresh_database: str, pool: Pool):
    source = SourceId(topic=TOPIC, partition=0)
    await age(fresh_database, "fidelity_tracking")

    assert (await record_state(pool, source, 3)).fates == ("aged out",)
    assert "counted" in (await record_state(pool, source, 80)).fates
    assert (await record_state(pool, source, 9999)).fates == ()


LONG_AGO = START - timedelta(days=1000)
_RUN = """
INSERT INTO simulation_runs (simulation_id, body_hash, line, population_id, status, started_at, completed_at)
VALUES ($1, '', $2, $3, 'completed', $4, $4)"""
_RECIPE = """
INSERT INTO twin_populations (population_id, model_id, name, twin_count, seed, created_at) VALUES ($1, $2, 'p', 1, 0, $3)"""
_NAMING_OUTCOME = """
INSERT INTO fidelity_tracking (tracking_id, metric_type, tracked_at, event_id, revision, digest, fate, line, observed_at, source,
                               source_offset, element, simulation_id, population_id)
VALUES (gen_random_uuid(), 'm', now(), gen_random_uuid(), 0, '', 'too_late', $1, now(), 'x:0:0', 0, 0, $2, $3)"""


async def test_simulations_age_with_their_recipes_unless_an_outcome_names_them(fresh_database: str, owner: Pool, pool: Pool):
    forgotten, named, young = uuid4(), uuid4(), uuid4()
    for run, at in ((forgotten, LONG_AGO), (named, LONG_AGO), (young, LATER)):
        await owner.execute(_RECIPE, uuid5(run, "population"), make_card().model_id, LONG_AGO)
        await owner.execute(_RUN, run, LINE, uuid5(run, "population"), at)
    await owner.execute(_NAMING_OUTCOME, LINE, named, uuid5(named, "population"))

    assert await age(fresh_database, "simulation_runs", before=START, chunk=1) == {"simulation_runs": 1}

    assert {row[0] for row in await pool.fetch("SELECT simulation_id FROM simulation_runs")} == {named, young}
    left = {row[0] for row in await pool.fetch("SELECT population_id FROM twin_populations")}
    assert left == {uuid5(named, "population"), uuid5(young, "population")}


_RETRAIN = """
INSERT INTO retrain_requests (retrain_id, line, model_id, attempt, cause, reason, requested_at, queued_at, status, finished_at)
VALUES ($1, $2, $3, 0, 'drift', '', $4, $4, $5, $6)"""


async def test_only_closed_retrains_about_former_champions_age(fresh_database: str, owner: Pool, pool: Pool):
    former = make_card("former")
    await Ledger(pool).register_model(former, "0" * 64, pane_s=60.0, window_s=300.0)
    closed, champions, still_open = uuid4(), uuid4(), uuid4()
    await owner.execute(_RETRAIN, closed, LINE, former.model_id, LONG_AGO, "rejected", LONG_AGO)
    await owner.execute(_RETRAIN, champions, LINE, make_card().model_id, LONG_AGO, "rejected", LONG_AGO)
    await owner.execute(_RETRAIN, still_open, LINE, former.model_id, LONG_AGO, "queued", None)
    decision = "INSERT INTO retrain_decisions VALUES ($1, $2, $3)"
    await owner.executemany(decision, [(retrain_id, b"digest", LONG_AGO) for retrain_id in (closed, champions, still_open)])
    await owner.execute(decision, young := uuid4(), b"digest", datetime.now(UTC))

    assert await age(fresh_database, "retrain_requests", before=START) == {"retrain_requests": 1}

    assert {row[0] for row in await pool.fetch("SELECT retrain_id FROM retrain_requests")} == {champions, still_open}
    assert {row[0] for row in await pool.fetch("SELECT retrain_id FROM retrain_decisions")} == {champions, still_open, young}


async def test_a_suppression_stays_while_a_retrain_that_it_delays_is_open(fresh_database: str, owner: Pool, pool: Pool):
    await owner.execute(_RETRAIN, uuid4(), LINE, make_card().model_id, LONG_AGO, "queued", None)
    suppress = (
        "INSERT INTO replays (replay_id, topic, lines, replayed_by, begun_at, quiet_until) VALUES ($1, 't', $2, 'me', $3, $3)"
    )
    delaying, ended = uuid4(), uuid4()
    await owner.execute(suppress, delaying, [LINE], LONG_AGO)
    await owner.execute(suppress, ended, ["another line"], LONG_AGO)

    assert await age(fresh_database, "replays", before=START) == {"replays": 1}

    assert await pool.fetchval("SELECT replay_id FROM replays") == delaying


async def test_drift_states_of_series_without_panes_age_unless_their_model_is_champion(
    fresh_database: str, owner: Pool, pool: Pool
):
    former = make_card("former").model_id
    for model_id in (former, make_card().model_id):
        await owner.execute(
            "INSERT INTO drift_states (model_id, segment, line, state, event, changed_at, said)"
            " VALUES ($1, 'x', $2, 'ok', '{}', $3, true)",
            model_id,
            LINE,
            LONG_AGO,
        )
        await owner.execute(
            "INSERT INTO detector_alarms (model_id, segment, line, raised_at) VALUES ($1, 'x', $2, $3)", model_id, LINE, LONG_AGO
        )

    assert await age(fresh_database, "drift_states", before=START) == {"drift_states": 1}

    assert await pool.fetchval("SELECT array_agg(model_id) FROM drift_states") == [make_card().model_id]
    assert await pool.fetchval("SELECT array_agg(model_id) FROM detector_alarms") == [make_card().model_id]


async def test_training_rows_stay_while_their_line_is_in_training(fresh_database: str, owner: Pool, pool: Pool):
    await owner.execute(
        "INSERT INTO entity_history (line, entity_id, observed_at, features, target, source) VALUES ($1, 'a', $2, '{}', 1, 's')",
        LINE,
        LONG_AGO,
    )
    await owner.execute("UPDATE fidelity_tracking SET features = '{}'")
    await owner.execute("INSERT INTO training_leases (line, heartbeat_at) VALUES ($1, now())", LINE)
    in_training = await age(fresh_database, "entity_history", "fidelity_tracking")
    await owner.execute("UPDATE training_leases SET heartbeat_at = NULL")

    afterwards = await age(fresh_database, "entity_history", "fidelity_tracking")

    assert in_training == {"entity_history": 0, "fidelity_tracking": 4}  # those that were never counted are no training rows
    assert afterwards["entity_history"] == 1
    assert afterwards["fidelity_tracking"] > 50
    assert (await audited(fresh_database))[0].mismatches() == ()


async def test_a_refused_record_without_its_dead_letter_stays(fresh_database: str, owner: Pool, pool: Pool):
    await owner.execute("UPDATE refused_records SET sent_at = NULL, refused_at = $1", LATER)

    assert await age(fresh_database, "refused_records", before=LATER + timedelta(days=1)) == {"refused_records": 0}
    await owner.execute("UPDATE refused_records SET sent_at = now()")
    assert await age(fresh_database, "refused_records", before=LATER + timedelta(days=1)) == {"refused_records": 1}
    assert (await audited(fresh_database))[0].mismatches() == ()


async def test_one_sweep_runs_while_others_give_way(fresh_database: str, pool: Pool):
    settings = Settings(postgres_dsn=fresh_database)
    async with ageing_store.sweep_connection(fresh_database) as connection:
        assert connection is not None
        with pytest.raises(SweepInProgress, match="another process is sweeping"):
            await sweep(settings, "a test")

    assert (await sweep(settings, "a test")).error == ""


async def test_a_sweep_that_fails_in_one_table_does_the_others_and_is_due_again_in_an_hour(
    fresh_database: str, owner: Pool, pool: Pool
):
    await owner.execute("DROP FUNCTION age_refused_records")

    run = await sweep(Settings(postgres_dsn=fresh_database), "a test")

    assert run.error.startswith("refused_records: function age_refused_records")
    assert {"fidelity_tracking", "maintenance_runs"} <= run.deleted.keys()
    assert not await is_sweep_due(pool)
    await owner.execute(
        "UPDATE maintenance_runs SET started_at = started_at - interval '2 h', finished_at = finished_at - interval '2 h'"
    )
    assert await is_sweep_due(pool)

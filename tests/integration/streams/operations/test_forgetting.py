"""A person is erased from a real PostgreSQL: nothing names them any more, and every count stays as it was."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import numpy as np
import pandas as pd
import pytest

from engine.twins import FeatureGaps
from schemas import SourceId, TwinType
from schemas.redaction import ERASED_VALUE
from sql import erasure_store, source_position_store
from sql.database import Pool, connect, open_pool
from sql.dead_letter_store import NewReplay, add_replays
from sql.ledger import Ledger
from sql.training_data_store import add_history, training_rows
from streams.ingestion import ContextLoader, OutcomePipeline
from streams.operations.forgetting import ForgetReport, forget
from streams.settings import Settings
from tests.audits import audited
from tests.outcomes import LINE, START, TOPIC, make_card, make_line, outcome, poll_batches, record

PERSON = "hcp-7'\"%_é\\x"
OTHER = "hcp-8"


class Champion:
    """Predicts the decile."""

    def predict_rows(self, frame: pd.DataFrame) -> tuple[Any, Any, Any, FeatureGaps]:
        predicted = frame["decile"].to_numpy(dtype=float)
        missing = np.isnan(predicted)[:, None]
        return predicted, predicted - 2, predicted + 2, FeatureGaps(("decile",), missing, np.zeros_like(missing))


async def load_champion(model_id: UUID) -> Any:
    return Champion()


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    card = make_card().model_copy(update={"features": ("decile", "email")})
    await make_line(fresh_database, card, pane_s=60.0, window_s=300.0)
    pool = await open_pool(dsn=fresh_database)
    await source_position_store.begin_source(pool, SourceId(topic=TOPIC, partition=0))
    yield pool
    await pool.close()


@pytest.fixture
async def owner(owned_database: str) -> AsyncIterator[Pool]:
    """Connections that may read everything."""
    async with await open_pool(dsn=owned_database) as opened:
        yield opened


def make_pipeline(pool: Pool) -> OutcomePipeline:
    return OutcomePipeline(pool, ContextLoader(pool, load_champion, None), skew_s=300.0, restatement_s=1200.0)  # type: ignore[arg-type]


def entity_outcome(number: int, entity: str, **fields: Any) -> dict[str, Any]:
    event = outcome(number, entity_id=entity, features={"decile": number % 10, "email": f"{entity}@example.org"}, **fields)
    return {name: value for name, value in event.items() if not name.startswith("predicted")}


def values() -> list[Any]:
    """Outcomes of two persons, and refused records that name them in several ways."""
    bad = entity_outcome(50, PERSON) | {"surprise": 1}
    return [
        *(entity_outcome(number, PERSON if number % 2 else OTHER) for number in range(20)),
        bad,
        [entity_outcome(51, PERSON) | {"actual_value": "x"}, entity_outcome(52, OTHER) | {"actual_value": "x"}],
        json.dumps({"event_id": PERSON}).encode(),
        b"{broken " + PERSON.encode(),
        b"{broken " + OTHER.encode(),
        entity_outcome(53, OTHER) | {"surprise": 1},
    ]


async def ingest(pool: Pool, items: list[Any], first: int = 0) -> None:
    for batch in poll_batches([record(first + number, value) for number, value in enumerate(items)], 100):
        await make_pipeline(pool).ingest(batch)


async def erase(dsn: str, entity: str = PERSON, twin_type: TwinType | None = None, *, dry_run: bool = False) -> ForgetReport:
    return await forget(Settings(postgres_dsn=dsn), entity, twin_type, "a test", dry_run=dry_run)


async def stored_text(owner: Pool) -> str:
    """Every row of every table as text, and the bytes of refused records as text."""
    tables = [row[0] for row in await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    rows = [row[0] for table in tables for row in await owner.fetch(f'SELECT t::text FROM "{table}" t')]
    raw = await owner.fetch("SELECT key, value, headers::text FROM refused_records")
    return "\n".join(
        [*rows, *((item or b"").decode(errors="replace") for row in raw for item in row[:2]), *(row[2] for row in raw)]
    )


async def test_nothing_names_a_person_who_was_erased_and_every_count_stays(fresh_database: str, owner: Pool, pool: Pool):
    await ingest(pool, values())
    history = pd.DataFrame(
        {"entity_id": [PERSON, OTHER], "observed_at": [pd.Timestamp(START)] * 2, "decile": [1, 2], "prescribing_change": [0.1, 0.2]}
    )
    await add_history(pool, LINE, history, source="a test")
    (refusal,) = await pool.fetch("SELECT refusal_id FROM refused_records WHERE source_offset = 20")
    await add_replays(pool, [NewReplay(refusal[0], TOPIC, 0, 99, "me@here", f"entity_id = {json.dumps(PERSON)}")])
    await pool.execute(
        "INSERT INTO simulation_runs (simulation_id, body_hash, line, filters, request) VALUES (gen_random_uuid(), '', $1, $2, $3)",
        LINE,
        {"region": [PERSON, "west"]},
        {"requested_by": PERSON, "brand": "kisqali"},
    )
    card = make_card()
    for metadata in ({"external_id": PERSON}, {"external_id": OTHER}):
        await pool.execute(
            "INSERT INTO digital_twins (twin_id, model_id, twin_type, features, baseline_behavior, metadata)"
            " VALUES ($1, $2, 'hcp', '{}', 0, $3)",
            uuid4(),
            card.model_id,
            metadata,
        )
    sums = await pool.fetch("SELECT * FROM fidelity_panes ORDER BY model_id, segment, pane, source")
    n_outcomes = await pool.fetchval("SELECT count(*) FROM fidelity_tracking")
    await Ledger(pool).register_model(make_card("later"), "0" * 64, pane_s=60.0, window_s=300.0)

    expected = await erase(fresh_database, dry_run=True)
    assert "hcp-7" in await stored_text(owner)
    report = await erase(fresh_database)

    text = await stored_text(owner)
    assert "hcp-7" not in text
    assert OTHER in text
    assert {**report.counts, "notes": 0} == {**expected.counts, "notes": 0}
    assert report.counts == {
        "fidelity_tracking": 10,
        "entity_history": 1,
        "digital_twins": 1,
        "simulation_runs": 1,
        "twin_populations": 0,
        "experiments": 0,
        "retrain_requests": 0,
        "notes": 0,
        "refused_records": 4,
    }
    assert await pool.fetch("SELECT * FROM fidelity_panes ORDER BY model_id, segment, pane, source") == sums
    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking") == n_outcomes
    assert (await audited(fresh_database))[0].mismatches() == ()
    assert {str(card.model_id), str(make_card("later").model_id)} == {model["model_id"] for model in report.models}
    assert set(training_rows_of(await training_rows(pool, LINE, datetime.now(UTC)))) == {OTHER}


def training_rows_of(rows: pd.DataFrame) -> list[str]:
    entities: list[str] = rows["entity_id"].tolist()
    return entities


async def test_in_an_array_only_the_element_of_the_person_is_redacted(fresh_database: str, pool: Pool):
    whole = [{"entity_id": PERSON, "a": 1.50}, {"entity_id": OTHER, "a": 1.50}]
    await ingest(pool, [{"rows": whole}, {"event_id": 1, "people": [PERSON, OTHER]}])

    await erase(fresh_database)

    stored = [json.loads(row[0]) for row in await pool.fetch("SELECT value FROM refused_records ORDER BY source_offset")]
    assert stored == [{"rows": ["[erased]", whole[1]]}, {"event_id": 1, "people": ["[erased]", OTHER]}]


async def test_a_replay_of_the_records_brings_the_person_not_back_and_counts_nothing_twice(
    fresh_database: str, owner: Pool, pool: Pool
):
    await ingest(pool, values())
    await erase(fresh_database)
    before = await pool.fetch("SELECT * FROM fidelity_tracking ORDER BY tracking_id")

    await ingest(pool, values())

    assert await pool.fetch("SELECT * FROM fidelity_tracking ORDER BY tracking_id") == before
    assert "hcp-7" not in await stored_text(owner)
    assert (await audited(fresh_database))[0].mismatches() == ()


async def test_records_of_an_erased_person_that_arrive_later_are_stored_without_the_id(
    fresh_database: str, owner: Pool, pool: Pool
):
    await erase(fresh_database)

    await ingest(pool, [value for value in values() if not isinstance(value, bytes) or b"broken hcp-7" not in value])
    history = pd.DataFrame(
        {"entity_id": [PERSON, OTHER], "observed_at": [pd.Timestamp(START)] * 2, "decile": [1, 2], "prescribing_change": [0.1, 0.2]}
    )
    await add_history(pool, LINE, history, source="a test")

    text = await stored_text(owner)
    assert "hcp-7" not in text
    assert OTHER in text
    assert await pool.fetchval("SELECT sum(n) FROM fidelity_panes WHERE segment = 'all'") == 20
    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE entity_id = $1 AND features IS NOT NULL", OTHER) == 10
    assert (await audited(fresh_database))[0].mismatches() == ()


async def test_an_erasure_of_one_twin_type_leaves_the_entity_of_another_type(fresh_database: str, pool: Pool):
    await ingest(pool, values())

    patient = await erase(fresh_database, twin_type=TwinType.PATIENT)
    hcp = await erase(fresh_database, twin_type=TwinType.HCP)

    assert (patient.counts["fidelity_tracking"], hcp.counts["fidelity_tracking"]) == (0, 10)


async def test_erasing_again_finds_nothing_and_still_names_models_and_date(fresh_database: str, pool: Pool):
    await ingest(pool, values())
    first = await erase(fresh_database)

    again = await erase(fresh_database)

    assert set(again.counts.values()) == {0}
    assert again.models == first.models
    assert first.erased_before is None
    assert again.erased_before is not None
    stored = await pool.fetchval("SELECT report FROM erasures")
    assert stored["counts"]["fidelity_tracking"] == 10
    assert "until 20" in again.format_text()


async def test_an_erasure_that_was_killed_is_finished_by_the_next_one(
    fresh_database: str, owner: Pool, pool: Pool, monkeypatch: pytest.MonkeyPatch
):
    await ingest(pool, values())

    async def kill(*_: Any) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(erasure_store, "finish_erasure", kill)
        with pytest.raises(ConnectionResetError):
            await erase(fresh_database)
    assert "hcp-7" in await stored_text(owner)
    assert await pool.fetchval("SELECT finished_at FROM erasures") is None

    await erase(fresh_database)

    assert "hcp-7" not in await stored_text(owner)
    assert await pool.fetchval("SELECT finished_at FROM erasures") is not None


@pytest.mark.parametrize("entity", ["%", "%_", "hcp-", "hcp", "' OR true --", "x" * 100_000, "e\u0301"])
async def test_an_id_is_matched_as_a_whole_and_literally(fresh_database: str, pool: Pool, entity: str):
    await ingest(pool, values())

    report = await erase(fresh_database, entity)

    assert sum(report.counts.values()) == 0


@pytest.mark.parametrize(("entity", "reason"), [("", "empty"), (" \t", "empty"), ("a\0b", "NUL"), ("a\udc80", "UTF-8")])
async def test_what_cannot_be_an_id_is_refused(fresh_database: str, entity: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        await erase(fresh_database, entity)


async def test_a_value_that_postgres_cannot_read_as_json_is_redacted_as_a_whole(fresh_database: str, pool: Pool):
    await ingest(pool, [b'[{"entity_id": "p"}, {"a": "\\u0000"}]', b'[[{"entity_id": "p"}, {"a": "\\u0000", "b": 1}], 1'])

    await erase(fresh_database, "p")

    stored = {row[0] for row in await pool.fetch("SELECT value FROM refused_records WHERE value <> $1", b'{"a": "\\u0000"}')}
    assert stored == {ERASED_VALUE}


async def test_the_function_that_redacts_takes_no_other_value(fresh_database: str, pool: Pool):
    await ingest(pool, [{"event_id": 1, "people": [1, 2]}])
    (refusal,) = await pool.fetch("SELECT refusal_id FROM refused_records")
    statement = "SELECT redact_refused_record($1, false, $2, '{}')"

    for forged in (b'{"event_id": 2, "people": [1, 2]}', b'{"event_id": 1, "people": [1]}', b'{"event_id": 1}', b"junk", None):
        with pytest.raises((asyncpg.CheckViolationError, asyncpg.DataError)):
            await pool.execute(statement, refusal[0], forged)
    await pool.execute(statement, refusal[0], b'{"event_id": 1, "people": ["[erased]", 2]}')


async def test_an_erasure_waits_for_a_batch_that_has_read_the_list(fresh_database: str, pool: Pool):
    connection = await connect(fresh_database)
    try:
        async with connection.transaction():
            assert not await erasure_store.erased_entities(connection, [PERSON])
            await pool.execute("SET lock_timeout = '100ms'")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await erasure_store.begin_erasure(pool, PERSON, "", "me")
    finally:
        await connection.close()


async def test_a_training_that_is_running_is_named(fresh_database: str, owner: Pool, pool: Pool):
    await ingest(pool, values())
    training = uuid4()
    await owner.execute(
        "INSERT INTO retrain_requests (retrain_id, line, model_id, attempt, cause, reason, requested_at, status)"
        " VALUES ($1, $2, $3, 0, 'drift', '', now(), 'running')",
        training,
        LINE,
        make_card().model_id,
    )

    report = await erase(fresh_database)

    assert report.trainings == [str(training)]
    assert f"training {training} is running" in report.format_text()

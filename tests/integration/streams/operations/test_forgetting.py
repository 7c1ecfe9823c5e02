"""A person is erased from a real PostgreSQL: nothing names them any more, and every count stays as it was."""

from __future__ import annotations

import asyncio
import json
import unicodedata
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import numpy as np
import pandas as pd
import pytest

from engine.twins import FeatureGaps
from schemas import ExperimentResult, InterventionConfig, SourceId, TwinType
from schemas.redaction import ERASED_VALUE
from sql import erasure_scan, erasure_store, source_position_store
from sql.database import Pool, connect, open_pool
from sql.dead_letter_store import NewReplay, add_replays
from sql.erasure_store import NamesErased
from sql.experiment_store import add_experiment, current_priors, current_version, effects_of_erased, experiments
from sql.ledger import Ledger
from sql.settings import PostgresSettings
from sql.training_data_store import add_history, training_rows
from streams.ingestion import ContextLoader, OutcomePipeline
from streams.operations.erasing import StoringTransactionOpen
from streams.operations.erasure_report import ForgetReport
from streams.operations.forgetting import erase_rows
from streams.settings import Settings
from streams.simulation.effect_updates import calibrated_prior
from tests.audits import audited
from tests.outcomes import LINE, START, TOPIC, make_card, make_line, outcome, poll_batches, record
from tests.polling import until

PERSON = "hcp-7'\"%_é\\x"
OTHER = "hcp-8"
EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)


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
    return await erase_rows(Settings(postgres_dsn=dsn), entity, twin_type, "a test", dry_run=dry_run)


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
    assert report.counts == expected.counts
    assert {table: rows for table, rows in report.counts.items() if rows} == {
        "fidelity_tracking": 10,
        "entity_history": 1,
        "digital_twins": 1,
        "simulation_runs": 1,
        "refused_replays": 1,
        "refused_records": 4,
    }
    assert list(report.remains) == []
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


async def test_a_person_is_erased_in_every_spelling_and_encoding(fresh_database: str, owner: Pool, pool: Pool):
    person = "José-7"
    decomposed = unicodedata.normalize("NFD", person)
    encoded = [
        quote(person),
        quote(decomposed).replace("%CC%81", "%cc%81"),
        b64encode(f"id {person}".encode()).decode(),
        b64encode(decomposed.encode()).decode(),
    ]
    await ingest(pool, [entity_outcome(1, person), entity_outcome(2, decomposed), entity_outcome(3, OTHER)])
    wide = [json.dumps({"note": person}).encode("utf-16"), json.dumps([{"who": person}, {"who": OTHER}]).encode("utf-16-le")]
    texts = [f"who={text}".encode() for text in encoded]
    await ingest(
        pool, [b"{ " + person.encode("latin-1"), person.encode("utf-16-be"), *wide, *texts, b"{ " + OTHER.encode()], first=3
    )
    for text in [*encoded, OTHER]:
        await pool.execute(
            "INSERT INTO simulation_runs (simulation_id, body_hash, line, request) VALUES (gen_random_uuid(), '', $1, $2)",
            LINE,
            {"requested_by": text},
        )
    expected = await erase(fresh_database, person, dry_run=True)

    report = await erase(fresh_database, person)
    await ingest(pool, [entity_outcome(4, decomposed), b"{ " + person.encode("latin-1"), b"who=" + encoded[1].encode()], first=12)

    stored = await stored_text(owner)
    assert [text for text in [person, decomposed, "Jos", *encoded] if text in stored] == []
    values = [row[0] for row in await pool.fetch("SELECT value FROM refused_records")]
    assert not any(
        person.encode(encoding) in (value or b"") for value in values for encoding in ("latin-1", "utf-16-le", "utf-16-be")
    )
    assert OTHER in stored
    assert report.counts == expected.counts
    assert {table: rows for table, rows in report.counts.items() if rows} == {
        "fidelity_tracking": 2,
        "refused_records": 8,
        "simulation_runs": 4,
    }
    assert (await erase(fresh_database, decomposed)).erased_before is not None
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


async def test_an_erasure_that_was_killed_is_finished_by_the_next_one(
    fresh_database: str, owner: Pool, pool: Pool, monkeypatch: pytest.MonkeyPatch
):
    await ingest(pool, values())

    async def kill(*_: Any, **__: Any) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(erasure_store, "redact_refused", kill)
        with pytest.raises(ConnectionResetError):
            await erase(fresh_database)
    assert "hcp-7" in await stored_text(owner)
    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE entity_id = $1", PERSON) == 0
    assert await pool.fetchval("SELECT finished_at FROM erasures") is None

    await erase(fresh_database)

    assert "hcp-7" not in await stored_text(owner)
    row = await pool.fetchrow("SELECT finished_at, report FROM erasures")
    assert row["finished_at"] is not None
    assert (row["report"]["counts"]["fidelity_tracking"], row["report"]["counts"]["refused_records"]) == (10, 4)


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


async def test_an_erasure_waits_for_a_transaction_that_did_not_find_the_id_and_then_erases_what_it_stored(
    fresh_database: str, owner: Pool, pool: Pool
):
    connection = await connect(fresh_database)
    try:
        async with connection.transaction():
            assert not await erasure_store.erased_entities(connection, [PERSON])
            erasing = asyncio.create_task(erase(fresh_database))
            await until(lambda: is_entered(pool))
            await connection.execute(
                "INSERT INTO entity_history (line, entity_id, observed_at, features, target, source)"
                " VALUES ($1, $2, now(), '{}', 0, '')",
                LINE,
                PERSON,
            )
            assert not erasing.done()
        report = await erasing
    finally:
        await connection.close()
    assert report.counts["entity_history"] == 1
    assert "hcp-7" not in await stored_text(owner)


async def is_entered(pool: Pool) -> bool:
    return bool(await pool.fetchval("SELECT EXISTS (SELECT FROM erasures)"))


async def test_an_erasure_that_waits_too_long_names_the_transaction_and_holds_nobody_up(fresh_database: str, pool: Pool):
    settings = Settings(postgres_dsn=fresh_database, postgres_statement_timeout_s=0.1, postgres_idle_in_transaction_timeout_s=0.1)
    connection = await connect(fresh_database)
    try:
        async with connection.transaction():
            await erasure_store.has_erasures(connection)
            process = await connection.fetchval("SELECT pg_backend_pid()")
            erasing = asyncio.create_task(erase_rows(settings, PERSON, None, "a test", dry_run=False))
            await ingest(pool, values()[:1])
            with pytest.raises(StoringTransactionOpen, match=rf"within 0.2 s .*process {process} of user .*, open since "):
                await erasing
    finally:
        await connection.close()


async def test_outcomes_do_not_wait_for_an_erasure_whose_transaction_stays_open(fresh_database: str, pool: Pool):
    await ingest(pool, values())
    await pool.execute(
        "INSERT INTO digital_twins (twin_id, model_id, twin_type, features, baseline_behavior) VALUES ($1, $2, 'hcp', $3, 0)",
        uuid4(),
        make_card().model_id,
        {"npi": PERSON},
    )
    async with await open_pool(PostgresSettings(postgres_dsn=fresh_database, postgres_lock_timeout_s=0.1)) as impatient:
        connection = await connect(fresh_database)
        transaction = connection.transaction()
        await transaction.start()
        try:
            await erasure_store.begin_erasure(connection, PERSON, "", "me")
            for table in erasure_store.OWN_ROWS:
                await erasure_store.erase_own_rows(connection, PERSON, "", table)
            await ingest(impatient, [entity_outcome(100, PERSON), entity_outcome(101, OTHER) | {"surprise": 1}], first=100)
        finally:
            await transaction.rollback()
            await connection.close()
    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE source_offset >= 100") == 1


TEXTS = {"text": PERSON, "_text": [PERSON], "jsonb": {"a": [PERSON]}, "json": [], "bytea": PERSON.encode()}
NESTED = json.dumps({"body": json.dumps({"rows": [json.dumps({"who": PERSON})], "note": f"line\n{PERSON}"})})
NESTED_TEXTS = {"text": NESTED, "_text": [NESTED], "jsonb": {"npi": NESTED}, "json": [], "bytea": NESTED.encode()}
OTHER_VALUES = (
    "uuid gen_random_uuid() timestamptz now() date now() int4 1 int8 1 float8 0.5 numeric 1 bool true _int8 '{1}' _float8 '{1}'"
    " brand 'kisqali'"
)
NOT_PLANTED = {"erasure_salt", "schema_migrations"}  # random bytes; files of this project
PINNED = ("digital_twin_models", "model_ledger", "catalogue_versions", "effect_pins")  # tables that only grow: the report says so


async def plant(owner: Pool, texts: dict[str, Any]) -> set[str]:
    """Store a row in every table of the schema with these values in every column of their types; returns these columns."""
    types = OTHER_VALUES.split()
    expressions = dict(zip(types[::2], types[1::2], strict=True))
    columns = await owner.fetch(
        "SELECT c.relname AS table, a.attname AS name, t.typname AS type, t.typtype = 'e' AS is_enum FROM pg_class c"
        " JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0"
        " AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY 1, a.attnum"
    )
    planted = set()
    async with owner.acquire() as connection:
        await connection.execute("SET session_replication_role = replica")  # neither foreign keys nor triggers
        for check in await connection.fetch(
            "SELECT conrelid::regclass::text AS table, quote_ident(conname) AS conname FROM pg_constraint"
            " WHERE contype = 'c' AND conrelid <> 0 AND conparentid = 0 AND connamespace = 'public'::regnamespace"
        ):
            await connection.execute(f"ALTER TABLE {check['table']} DROP CONSTRAINT {check['conname']}")
        for table in {column["table"] for column in columns} - NOT_PLANTED:
            names, values, arguments = [], [], []
            for column in (column for column in columns if column["table"] == table):
                names.append(column["name"])
                if column["type"] in texts:
                    planted.add(f"{table}.{column['name']}")
                    arguments.append(texts[column["type"]])
                    values.append(f"${len(arguments)}")
                elif column["is_enum"]:
                    values.append(f"enum_first(NULL::{column['type']})")
                else:
                    values.append(expressions[column["type"]])
            await connection.execute(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(values)})", *arguments)
    return planted


async def columns_with(owner: Pool, text: str) -> set[str]:
    """Every column of every table that has a text in it, also as bytes."""
    tables = [row[0] for row in await owner.fetch("SELECT DISTINCT tablename FROM pg_tables WHERE schemaname = 'public'")]
    found = set()
    for table in tables:
        parent = "fidelity_tracking" if table.startswith("fidelity_tracking") else table
        for row in await owner.fetch(f"SELECT * FROM {table}"):
            for name, value in row.items():
                written = value.decode(errors="replace") if isinstance(value, bytes) else json.dumps(value, default=str)
                found |= {f"{parent}.{name}"} if text in written else set()
    return found


@pytest.mark.parametrize("texts", [TEXTS, NESTED_TEXTS], ids=["as it is", "in JSON within JSON"])
async def test_an_id_is_gone_from_every_column_of_the_database_or_the_report_says_why_it_stays(
    fresh_database: str, owner: Pool, pool: Pool, texts: dict[str, Any]
):
    planted = await plant(owner, texts)
    assert await columns_with(owner, "hcp-7") >= {column for column in planted if not column.endswith(".headers")}

    await erase(fresh_database, dry_run=True)
    report = await erase(fresh_database)

    remaining = await columns_with(owner, "hcp-7")
    assert remaining - {values.column for values in report.remains} <= {
        *("fidelity_tracking.entity_id", "entity_history.entity_id"),  # as a whole another id, that of the JSON text
        "erasures.report",  # the line of a model that was trained with rows of the person, which is called so here
    }
    assert all(values.reason and values.rows for values in report.remains)
    assert {column.partition(".")[2] for column in remaining if not column.startswith(PINNED)} & {
        *("features", "metadata", "name", "description", "filters_applied", "realism", "columns", "filters", "request", "results"),
        *("intervention_config", "recommendation_reason", "error_message", "flow", "experiment_id", "body", "experiments", "prior"),
        *("evidence", "learned", "reason", "outcome", "comparison", "estimate", "change", "replayed_by", "why", "requested_by"),
        *("key", "traceback", "run_by", "error"),
    } == set()
    assert "refused_records.value" not in remaining


async def test_a_record_that_names_an_erased_person_is_recognised_whatever_it_is(pool: Pool):
    values = [json.dumps({"requested_by": PERSON}).encode(), json.dumps({"requested_by": OTHER}).encode(), None, NESTED.encode()]
    assert await erasure_store.names_erased(pool, values) == [False] * 4

    await erasure_store.begin_erasure(pool, PERSON, "", "a test")

    assert await erasure_store.names_erased(pool, values) == [True, False, False, True]


async def test_every_column_is_erasable_or_has_a_reason_why_an_id_stays_in_it(pool: Pool):
    async with pool.acquire() as connection:
        columns = await erasure_scan.text_columns(connection)

    assert columns.keys() >= {"fidelity_tracking", "refused_records", "experiments", "simulation_runs"}
    stays = {column: erasure_scan.reason_to_stay(column) for table in columns.values() for column in table}
    assert [column for column, reason in stays.items() if reason == erasure_scan.UNDECLARED] == []
    assert {column.name for column, reason in stays.items() if not reason} >= {"features", "entity_id", "experiments", "why"}


async def test_an_experiment_keeps_its_effect_under_a_name_that_leads_to_nobody(fresh_database: str, owner: Pool, pool: Pool):
    def experiment(name: str, region: str) -> ExperimentResult:
        return ExperimentResult(
            experiment_id=name,
            observed_at=START,
            twin_type="hcp",
            brand="kisqali",
            intervention=EMAIL,
            filters={"region": [region]},
            effect=0.05,
            standard_error=0.01,
            n_treated=100,
            n_control=100,
        )

    first, second = experiment(PERSON, "west"), experiment("trial 2", PERSON)
    for each in (first, second):
        await add_experiment(pool, each, calibrated_prior)
    before = await current_priors(pool, LINE)

    await erase(fresh_database)

    assert "hcp-7" not in await stored_text(owner)
    assert await current_priors(pool, LINE) == before
    (renamed,) = [row[0] for row in await pool.fetch("SELECT experiment_id FROM experiments WHERE experiment_id LIKE '[erased %'")]
    (event,) = await effects_of_erased(pool)
    assert set(event.experiments) == {renamed, "trial 2"}
    for each in (first, second):
        with pytest.raises(NamesErased, match="the experiment names a person who was erased, in"):
            await add_experiment(pool, each, calibrated_prior)
    assert await current_version(pool, LINE) == 2
    for stored in await experiments(pool, LINE):
        withdrawn = stored.experiment.model_copy(update={"withdrawn": True})
        await add_experiment(pool, withdrawn, calibrated_prior)
    assert await current_version(pool, LINE) == 4


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

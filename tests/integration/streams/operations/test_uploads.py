"""Uploaded tables on a real PostgreSQL: what becomes of each column, who is forgotten with a table, and when a table is deleted."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from engine.sample_tables import sample_hcps
from schemas import TwinType
from sql.database import Pool
from sql.upload_store import UnknownTable, UploadedTable, add_table, list_tables
from streams.operations.ageing import due_rows, sweep
from streams.operations.forgetting import erase_rows
from streams.operations.learning import TableLine, checked_mapping, view_table
from streams.settings import Settings

LINE = TableLine(TwinType.HCP, "kisqali")


def hcps(n: int = 400) -> pd.DataFrame:
    """Prescribers under headers of somebody's own."""
    table = sample_hcps(n, np.random.default_rng(3))
    table.insert(0, "NPI", [f"hcp-{number}" for number in range(n)])
    return table.rename(columns={"specialty": "Fach", "decile": "Decile "})


async def store(pool: Pool, folder: Path, table: pd.DataFrame, name: str, *, age: timedelta = timedelta(0)) -> UUID:
    file = folder / name
    if name.endswith(".csv"):
        table.to_csv(file, index=False)
    else:
        table.to_parquet(file, index=False)
    content = file.read_bytes()
    digest = hashlib.sha256(content).digest()
    table_id, at = UUID(bytes=digest[:16]), datetime.now(UTC) - age
    row = UploadedTable(table_id, name, "hcp", file.suffix, {}, len(table), len(content), digest, "ann", at)
    await add_table(pool, row, file, ())
    return table_id


async def test_columns_are_guessed_answers_change_them_and_the_check_follows(pool: Pool, tmp_path: Path):
    table_id = await store(pool, tmp_path, hcps(), "hcps.csv")

    guessed = await view_table(pool, table_id, LINE, ())
    answered = await view_table(pool, table_id, LINE, ["Fach=specialty", "prescribing_change="])

    uses = {guess.profile.name: guess.use.feature if guess.use else None for guess in guessed.guesses}
    assert (uses["NPI"], uses["prescribing_change"]) == ("entity_id", "prescribing_change")
    assert guessed.report is not None
    assert answered.mapping is not None
    assert answered.mapping.columns["specialty"].column == "Fach"
    assert answered.report is not None
    assert "no column 'prescribing_change', the target" in " ".join(map(str, answered.report.check.problems))
    with pytest.raises(ValueError, match=r"feature .*'speciality'"):
        await view_table(pool, table_id, LINE, ["Fach=speciality"])


async def test_a_table_is_checked_as_a_training_would_before_one_is_asked_for(pool: Pool, tmp_path: Path):
    table_id = await store(pool, tmp_path, hcps(20), "few.parquet")
    checked = await checked_mapping(pool, table_id, LINE, ["Fach=specialty"], None)
    assert "are too few" in " ".join(map(str, checked.report.check.problems))
    same = await checked_mapping(pool, table_id, LINE, (), checked.mapping.model_dump(mode="json"))
    assert same.mapping == checked.mapping
    with pytest.raises(ValueError, match="mapping: columns"):
        await checked_mapping(pool, table_id, LINE, (), {"name": "x", "twin_type": "hcp", "columns": {}})
    with pytest.raises(ValueError, match="is of patient twins, not of hcp twins"):
        await checked_mapping(pool, table_id, LINE, (), {**checked.mapping.model_dump(mode="json"), "twin_type": "patient"})


@pytest.mark.parametrize("name", ["hcps.csv", "hcps.parquet"])
async def test_a_table_that_names_a_person_is_deleted_with_them_and_the_report_says_so(
    fresh_database: str, pool: Pool, tmp_path: Path, name: str
):
    naming = await store(pool, tmp_path, hcps(300), name)
    other = await store(pool, tmp_path, hcps(200), f"other_{name}")
    settings = Settings(postgres_dsn=fresh_database)

    counted = await erase_rows(settings, "hcp-250", None, "a test", dry_run=True)
    assert (counted.uploads, counted.counts["uploaded_tables"]) == ([str(naming)], 1)
    assert len(await list_tables(pool, 10)) == 2
    other_type = await erase_rows(settings, "hcp-250", TwinType.PATIENT, "a test", dry_run=True)
    assert list(other_type.uploads) == []

    report = await erase_rows(settings, "hcp-250", None, "a test", dry_run=False)

    assert [table.table_id for table in await list_tables(pool, 10)] == [other]
    assert await pool.fetchval("SELECT count(*) FROM uploaded_blocks WHERE table_id = $1", naming) == 0
    assert f"the uploaded table {naming} names this id: it is deleted as a whole" in report.format_text()
    with pytest.raises(UnknownTable):
        await view_table(pool, naming, LINE, ())


async def test_the_daily_sweep_deletes_tables_that_are_older_than_a_setting(fresh_database: str, pool: Pool, tmp_path: Path):
    await store(pool, tmp_path, hcps(100), "old.csv", age=timedelta(days=8))
    young = await store(pool, tmp_path, hcps(101), "young.csv", age=timedelta(days=6))
    settings = Settings(postgres_dsn=fresh_database)
    due = {rows.table: rows for rows in await due_rows(settings)}
    assert (due["uploaded_tables"].rows, due["uploaded_tables"].setting, due["uploaded_tables"].days) == (1, "TWIN_UPLOAD_DAYS", 7)

    run = await sweep(settings, "a test")

    assert (run.error, run.deleted["uploaded_tables"]) == ("", 1)
    assert [table.table_id for table in await list_tables(pool, 10)] == [young]

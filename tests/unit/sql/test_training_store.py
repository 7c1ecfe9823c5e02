"""Uploaded tables and trainings on a real PostgreSQL: each training once, by one worker at a time, and ended exactly once."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from schemas import TrainingRequest
from sql.database import Pool
from sql.erasure_store import NamesErased, begin_erasure
from sql.retrain_store import LostLease
from sql.training_store import (
    UnknownTraining,
    add_training,
    beat_training,
    delete_aged_trainings,
    find_training,
    finish_training,
    lease_table_training,
    list_trainings,
    put_back_training,
)
from sql.upload_store import (
    BLOCK_BYTES,
    ErasedInTable,
    UnknownTable,
    UploadedTable,
    add_table,
    copy_table,
    delete_aged_tables,
    delete_table,
    find_table,
    list_tables,
    table_bytes,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CONTENT = b"NPI,decile\n" + b"hcp-7,3\n" * (2 * BLOCK_BYTES // 8) + b"hcp-8,4\n"
LEASE_S = 30.0


async def store(pool: Pool, folder: Path, number: int = 1, content: bytes = CONTENT) -> UploadedTable:
    file = folder / "hcps.csv"
    file.write_bytes(content)
    digest = hashlib.sha256(content).digest()
    table = UploadedTable(UUID(int=number), "hcps.csv", "hcp", ".csv", {}, 2, len(content), digest, "ann", NOW)
    await add_table(pool, table, file, {"hcp-7", "hcp-8", "decile"})
    return table


def request(table: UUID, number: int = 1, **fields: str) -> TrainingRequest:
    return TrainingRequest(
        training_id=UUID(int=100 + number),
        requested_at=NOW,
        table_id=table,
        twin_type="hcp",
        brand="kisqali",
        mapping={"name": "hcps", "twin_type": "hcp", "columns": {"entity_id": {"column": "NPI"}}},
        **fields,
    )


async def lose_heartbeats(pool: Pool) -> None:
    await pool.execute("UPDATE trainings SET heartbeat_at = heartbeat_at - interval '1 hour'")


async def test_the_bytes_of_a_table_come_back_as_they_were(pool: Pool, tmp_path: Path):
    table = await store(pool, tmp_path)
    assert await pool.fetchval("SELECT count(*) FROM uploaded_blocks") == 3

    await copy_table(pool, table, tmp_path / "copy.csv")

    assert (tmp_path / "copy.csv").read_bytes() == await table_bytes(pool, table.table_id) == CONTENT
    assert await find_table(pool, table.table_id) == table


async def test_a_table_that_is_uploaded_again_is_one_and_counts_as_uploaded_then(pool: Pool, tmp_path: Path):
    await store(pool, tmp_path)
    (tmp_path / "again.csv").write_bytes(b"other bytes")
    later = (await find_table(pool, UUID(int=1)))._replace(uploaded_at=NOW + timedelta(days=1))
    await add_table(pool, later, tmp_path / "again.csv", ())

    assert await table_bytes(pool, UUID(int=1)) == CONTENT
    assert [table.uploaded_at for table in await list_tables(pool, 10)] == [later.uploaded_at]


async def test_tables_are_listed_page_by_page_the_newest_first(pool: Pool, tmp_path: Path):
    for number in (1, 2, 3):
        await store(pool, tmp_path, number, b"a\n")
    first = await list_tables(pool, 2)
    second = await list_tables(pool, 2, (first[-1].uploaded_at, first[-1].table_id))
    assert [table.table_id.int for table in (*first, *second)] == [3, 2, 1]


async def test_a_table_that_names_an_erased_person_is_not_stored(pool: Pool, tmp_path: Path):
    await begin_erasure(pool, "hcp-8", "", "a test")
    with pytest.raises(ErasedInTable, match="names a person who was erased"):
        await store(pool, tmp_path)
    assert await list_tables(pool, 10) == []


async def test_a_deleted_table_is_gone_with_its_blocks(pool: Pool, tmp_path: Path):
    table = await store(pool, tmp_path)
    await delete_table(pool, table.table_id)
    assert await table_bytes(pool, table.table_id) == b""
    with pytest.raises(UnknownTable, match="upload it again"):
        await find_table(pool, table.table_id)
    with pytest.raises(UnknownTable, match="upload it again"):
        await delete_table(pool, table.table_id)
    with pytest.raises(UnknownTable, match="upload it again"):
        await copy_table(pool, table, tmp_path / "copy.csv")


async def test_a_request_that_comes_twice_is_one_training(pool: Pool, tmp_path: Path):
    table = await store(pool, tmp_path)
    first = await add_training(pool, request(table.table_id, requested_by="ann"))
    assert (first.status, first.line, first.table_name) == ("queued", "hcp:kisqali:prescribing_change", "hcps.csv")
    job = await lease_table_training(pool, "worker", LEASE_S)
    assert job is not None
    await finish_training(pool, job, "rejected", "no better")

    again = await add_training(pool, request(table.table_id, requested_by="ann"))

    assert (again.status, again.reason) == ("rejected", "no better")
    assert await lease_table_training(pool, "worker", LEASE_S) is None


async def test_a_request_for_a_table_that_is_not_stored_or_that_names_an_erased_person_is_refused(pool: Pool, tmp_path: Path):
    with pytest.raises(UnknownTable):
        await add_training(pool, request(uuid4()))
    table = await store(pool, tmp_path)
    await begin_erasure(pool, "ann", "", "a test")
    with pytest.raises(NamesErased, match="requested_by"):
        await add_training(pool, request(table.table_id, requested_by="ann"))
    with pytest.raises(UnknownTraining):
        await find_training(pool, UUID(int=101))


async def test_a_training_is_leased_to_one_worker_and_taken_over_when_its_heartbeat_stops(pool: Pool, tmp_path: Path):
    table = await store(pool, tmp_path)
    await add_training(pool, request(table.table_id))
    job = await lease_table_training(pool, "first", LEASE_S)
    assert job is not None
    assert (job.tries, job.fence, await lease_table_training(pool, "second", LEASE_S)) == (1, 1, None)
    await beat_training(pool, job)

    await lose_heartbeats(pool)
    taken = await lease_table_training(pool, "second", LEASE_S)

    assert taken is not None
    assert (taken.training_id, taken.tries, taken.fence, taken.started_at) == (job.training_id, 2, 2, job.started_at)
    with pytest.raises(LostLease, match="no longer leased with fencing number 1"):
        await beat_training(pool, job)
    with pytest.raises(LostLease):
        await put_back_training(pool, job)
    with pytest.raises(LostLease):
        await finish_training(pool, job, "failed", "late")
    await finish_training(pool, taken, "promoted", "first champion", UUID(int=7), ["a note"])
    ended = await find_training(pool, job.training_id)
    assert (ended.status, ended.reason, ended.model_id, ended.notes) == ("promoted", "first champion", UUID(int=7), ["a note"])
    assert ended.finished_at is not None


async def test_a_worker_that_leases_its_own_training_again_uses_no_try(pool: Pool, tmp_path: Path):
    await add_training(pool, request((await store(pool, tmp_path)).table_id))
    await lease_table_training(pool, "first", LEASE_S)
    await lose_heartbeats(pool)
    again = await lease_table_training(pool, "first", LEASE_S)
    assert again is not None
    assert (again.tries, again.fence) == (1, 2)


async def test_a_training_that_is_put_back_is_leased_as_if_it_had_not_been_started(pool: Pool, tmp_path: Path):
    await add_training(pool, request((await store(pool, tmp_path)).table_id))
    job = await lease_table_training(pool, "first", LEASE_S)
    assert job is not None
    await put_back_training(pool, job)
    again = await lease_table_training(pool, "second", LEASE_S)
    assert again is not None
    assert (again.tries, again.fence) == (1, 2)


async def test_an_aged_table_stays_while_a_training_waits_for_it_and_an_ended_training_outlives_its_table(
    pool: Pool, tmp_path: Path
):
    first, second = await store(pool, tmp_path, 1), await store(pool, tmp_path, 2)
    await add_training(pool, request(first.table_id))
    assert await delete_aged_tables(pool, NOW) == 0
    assert await delete_aged_tables(pool, NOW + timedelta(days=1)) == 1
    assert [table.table_id for table in await list_tables(pool, 10)] == [first.table_id]
    assert second.table_id != first.table_id

    job = await lease_table_training(pool, "worker", LEASE_S)
    assert job is not None
    await finish_training(pool, job, "failed", "a test")
    assert await delete_aged_tables(pool, NOW + timedelta(days=1)) == 1
    (training,) = await list_trainings(pool, 10, table_id=first.table_id)
    assert training.finished_at is not None
    assert await delete_aged_trainings(pool, training.finished_at) == 0
    assert await delete_aged_trainings(pool, training.finished_at + timedelta(seconds=1)) == 1

"""The entities of models' training rows on a real PostgreSQL."""

from __future__ import annotations

from uuid import uuid4

from sql.database import Pool
from sql.model_row_store import entity_keys, model_row_keys, record_model_rows


async def test_an_entity_has_one_key_and_its_id_is_not_stored(pool: Pool) -> None:
    model_id = uuid4()
    await record_model_rows(pool, model_id, ["1234567890", "b", "1234567890"])
    keys = await model_row_keys(pool, model_id)
    assert keys is not None
    assert keys[0] == keys[2] != keys[1]
    assert keys.tolist() == (await entity_keys(pool, ["1234567890", "b", "1234567890"])).tolist()
    assert b"1234567890" not in await pool.fetchval("SELECT entities FROM model_training_rows")


async def test_a_model_is_recorded_once(pool: Pool) -> None:
    model_id = uuid4()
    await record_model_rows(pool, model_id, ["a"])
    await record_model_rows(pool, model_id, ["a", "b"])
    assert len(await model_row_keys(pool, model_id) or ()) == 1


async def test_a_model_without_record_and_no_entities_are_told_apart(pool: Pool) -> None:
    assert await model_row_keys(pool, uuid4()) is None
    assert (await entity_keys(pool, [])).tolist() == []

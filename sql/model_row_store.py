"""Stores whose rows each model was trained on, so that the promotion gate judges on rows of others.

An entity is a 64-bit key, a salted hash of its id: who reads the table finds no ids in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import numpy as np

from schemas.arrays import Integers
from sql.database import Database

__all__ = ["entity_keys", "model_row_keys", "record_model_rows"]

_KEYS = "SELECT entity_keys($1)"
_RECORD = "INSERT INTO model_training_rows (model_id, entities) VALUES ($1, entity_keys($2)) ON CONFLICT (model_id) DO NOTHING"
_READ = "SELECT entities FROM model_training_rows WHERE model_id = $1"


async def entity_keys(database: Database, entities: Sequence[str]) -> Integers:
    """The key of each entity id, shape ``(n,)``."""
    return _integers(await database.fetchval(_KEYS, list(entities)))


async def record_model_rows(database: Database, model_id: UUID, entities: Sequence[str]) -> None:
    """Store the entities of a model's training rows, in their order; storing them again has no effect."""
    await database.execute(_RECORD, model_id, list(entities))


async def model_row_keys(database: Database, model_id: UUID) -> Integers | None:
    """The entity of each training row of a model, ``(rows,)``; None for a model that was trained before they were stored."""
    stored: bytes | None = await database.fetchval(_READ, model_id)
    return None if stored is None else _integers(stored)


def _integers(keys: bytes) -> Integers:
    return np.frombuffer(keys, dtype=">i8").astype(np.int64)

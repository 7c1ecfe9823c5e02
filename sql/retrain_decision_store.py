"""Stores which retrain events the fidelity role has decided, by the digest of their content, so that no forged one is trained."""

from __future__ import annotations

import hashlib

from schemas.events import RetrainEvent
from sql.database import Database

__all__ = ["add_decision", "is_decided"]


async def add_decision(database: Database, event: RetrainEvent) -> None:
    """Store a retrain event as decided; twice is once."""
    await database.execute(
        "INSERT INTO retrain_decisions (retrain_id, digest) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        event.retrain_id,
        _digest(event),
    )


async def is_decided(database: Database, event: RetrainEvent) -> bool:
    """Whether exactly this event was stored as decided."""
    decided = "SELECT EXISTS (SELECT FROM retrain_decisions WHERE retrain_id = $1 AND digest = $2)"
    return bool(await database.fetchval(decided, event.retrain_id, _digest(event)))


def _digest(event: RetrainEvent) -> bytes:
    return hashlib.sha256(event.model_dump_json().encode()).digest()

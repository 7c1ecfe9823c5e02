"""Checks retrain events before they are stored: anyone who may write to the topic can state any model, attempt and evidence."""

from __future__ import annotations

from schemas import RetrainEvent
from schemas.base import shorten
from sql.database import Database
from sql.retrain_decision_store import is_decided

__all__ = ["ForgedRetrain", "check_retrain"]


class ForgedRetrain(ValueError):
    """The event states what no fidelity worker has decided."""


async def check_retrain(database: Database, event: RetrainEvent) -> None:
    """Check that a fidelity worker has decided a retrain, and sent exactly this event.

    Raises:
        ForgedRetrain: when it has not.
    """
    if not await is_decided(database, event):
        name = f"retrain {event.retrain_id} of model {event.model_id} on {shorten(event.line)}, attempt {event.attempt}"
        raise ForgedRetrain(f"{name}, was decided by no fidelity worker, or with another content: its decision is not stored")

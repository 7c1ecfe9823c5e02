"""What people decide about the models of a line, and what follows from it outside of the ledger.

A decision counts as soon as it is stored. Publishing it, and setting the alias in MLflow, is done by whoever has decided, else by
the role trainer, which compares both with the ledger every second.
"""

from __future__ import annotations

from uuid import UUID

from schemas import ModelEvent
from sql.database import Pool
from sql.ledger import JudgedAgainst, Ledger

__all__ = ["ALIAS", "ANNOUNCEMENT", "consequences", "promote_model", "roll_back"]

ANNOUNCEMENT = "published on the topic model-events"
ALIAS = "shown by the alias champion in MLflow"


def consequences(event: ModelEvent) -> list[str]:
    """What is left to be done once an event is stored: ``ANNOUNCEMENT``, and ``ALIAS`` where the champion is another one."""
    moves_alias = event.happened in ("promoted", "rolled_back") and event.champion is not None
    return [ANNOUNCEMENT, ALIAS] if moves_alias else [ANNOUNCEMENT]


async def promote_model(
    pool: Pool, line: str, model_id: UUID, *, by: str, reason: str = "", judged: JudgedAgainst | None = None
) -> ModelEvent:
    """Make a model whose files are stored the champion of a line.

    Args:
        pool: where the ledger is stored.
        line: the model line.
        model_id: a model of it.
        by: who decides it.
        reason: why.
        judged: the champion that the line must still have.

    Raises:
        UnknownLine: when there is no such line.
        UnknownModel: when the line has no such model, or it was stored without files.
        ChampionChanged: when another model than that of ``judged`` is champion.
    """
    ledger = Ledger(pool)
    await ledger.policy(line)  # raises for an unknown line
    await ledger.artifact(model_id)
    return await ledger.promote(line, model_id, reason=reason or "promoted by a person", decided_by=by, judged=judged)


async def roll_back(
    pool: Pool, line: str, *, by: str, reason: str = "", to: UUID | None = None, judged: JudgedAgainst | None = None
) -> ModelEvent:
    """Make an earlier champion of a line its champion again: the one before the present one, unless ``to`` names another.

    Args:
        pool: where the ledger is stored.
        line: the model line.
        by: who decides it.
        reason: why.
        to: the earlier champion.
        judged: the champion that the line must still have.

    Raises:
        UnknownLine: when there is no such line.
        UnknownModel: when the line has no such model.
        NoPredecessor: when there was no champion before.
        ChampionChanged: when another model than that of ``judged`` is champion.
    """
    return await Ledger(pool).roll_back(line, reason or "rolled back by a person", to=to, judged=judged, decided_by=by)

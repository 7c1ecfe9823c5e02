"""Stores what people decide about a retrain that was requested: each approval and each refusal is an event of the ledger."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from sql.database import Connection, Database, transaction
from sql.ledger_rows import Cause, LockedLine, append_event, lock_line
from sql.retrain_store import RetrainRequest, find_retrain

__all__ = ["NotWaiting", "approve", "refuse"]

_APPROVE = """
UPDATE retrain_requests
SET status = 'queued', approved_at = clock_timestamp(), finished_at = NULL, outcome = ''
WHERE retrain_id = $1"""

_REFUSE = """
UPDATE retrain_requests
SET status = 'refused', approved_at = NULL, finished_at = clock_timestamp(), outcome = $2
WHERE retrain_id = $1"""


class NotWaiting(ValueError):
    """The request waits for no decision."""


async def approve(database: Database, retrain_id: UUID, *, by: str = "", reason: str = "") -> RetrainRequest:
    """Let a request start, whatever it waits for, also one that was refused; approving twice changes nothing.

    Args:
        database: where it is stored.
        retrain_id: the request.
        by: who approves it.
        reason: why.

    Raises:
        UnknownRequest: when there is none.
        NotWaiting: when it is running or has ended, its model is no longer champion, or the line's policy is off.
    """
    async with transaction(database) as connection:
        state, retrain = await _locked(connection, retrain_id, "approval")
        if await connection.fetchval("SELECT policy FROM model_lines WHERE line = $1", retrain.line) == "off":
            raise NotWaiting(
                f"the policy of {retrain.line} is off: choose another one first, twinstream models policy {retrain.line} approve"
            )
        if retrain.approved_at is not None:
            return retrain
        await connection.execute(_APPROVE, retrain_id)
        return await _decided(connection, state, "approved", Cause(reason, retrain_id, decided_by=by))


async def refuse(database: Database, retrain_id: UUID, *, by: str = "", reason: str = "") -> RetrainRequest:
    """Let a request start no training; refusing twice changes nothing. Drift of the same champion requests no other one.

    Args:
        database: where it is stored.
        retrain_id: the request.
        by: who refuses it.
        reason: why.

    Raises:
        UnknownRequest: when there is none.
        NotWaiting: when it is running or has ended, or its model is no longer champion.
    """
    async with transaction(database) as connection:
        state, retrain = await _locked(connection, retrain_id, "a refusal")
        if retrain.status == "refused":
            return retrain
        await connection.execute(_REFUSE, retrain_id, "; ".join(filter(None, ["refused", by and f"by {by}", reason])))
        return await _decided(connection, state, "refused", Cause(reason, retrain_id, decided_by=by))


async def _locked(connection: Connection, retrain_id: UUID, awaited: str) -> tuple[LockedLine, RetrainRequest]:
    """A request that a person may decide about, with its line, both locked.

    Raises:
        UnknownRequest: when there is none.
        NotWaiting: when it is running or has ended, or its model is no longer champion.
    """
    state = await lock_line(connection, (await find_retrain(connection, retrain_id)).line)
    await connection.execute("SELECT FROM retrain_requests WHERE retrain_id = $1 FOR UPDATE", retrain_id)
    retrain = await find_retrain(connection, retrain_id)
    if retrain.status not in ("queued", "refused"):
        raise NotWaiting(f"retrain {retrain_id} is {retrain.status} and does not wait for {awaited}")
    if retrain.model_id != state.champion:
        raise NotWaiting(f"retrain {retrain_id} was requested against {retrain.model_id}, which is no longer champion")
    return state, retrain


async def _decided(
    connection: Connection, state: LockedLine, decision: Literal["approved", "refused"], cause: Cause
) -> RetrainRequest:
    """Append a decision to the ledger, under the champion that the request was made against."""
    assert state.champion is not None  # a request is made against one
    assert cause.retrain_id is not None
    await append_event(connection, state, decision, state.champion, cause)
    return await find_retrain(connection, cause.retrain_id)

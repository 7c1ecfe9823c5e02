"""The ledger of model lines: which model is champion since when, and the append-only list of events that led to it.

A promotion takes effect just above the highest watermark of any source, so that no outcome that was scored before it would be
scored by another model after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Literal, get_args
from uuid import UUID

from schemas.base import require_one_of
from schemas.events import ModelEvent
from schemas.twin_models import ModelCard
from sql.database import Connection, Database, transaction
from sql.ledger_rows import (
    EVENTS,
    Cause,
    ChampionChanged,
    JudgedAgainst,
    LockedLine,
    NoPredecessor,
    StaleRetrain,
    UnknownLine,
    append_event,
    change_champion,
    check_judged_against,
    check_model,
    check_still_champion,
    close_retrain,
    find_event,
    line_names,
    lock_line,
)
from sql.model_card_rows import Artifact, insert_model, load_artifact, load_card
from sql.promotion_effect_store import Promotion, PromotionEffect, latest_retrain_gains, save_effect

__all__ = [
    "MAX_RETRAINS_WITHOUT_GAIN",
    "POLICIES",
    "ChampionChanged",
    "JudgedAgainst",
    "Ledger",
    "NoPredecessor",
    "Policy",
    "StaleRetrain",
    "UnknownLine",
]

Policy = Literal["off", "suggest", "approve", "auto"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
"""How much a line does by itself when its champion drifts: nothing; train a challenger and suggest it; train after a person's
approval and promote; train and promote."""

MAX_RETRAINS_WITHOUT_GAIN = 2
"""Retrains in a row without a gain, after which a line waits for approval."""

ADD_LINE = """
INSERT INTO model_lines (line, twin_type, brand, target, pane_s, window_s)
VALUES ($1, $2::text::twin_type, $3::text::brand, $4, $5, $6)
ON CONFLICT (line) DO NOTHING"""

GENERATIONS = "SELECT line, generation FROM model_lines WHERE generation > 0 ORDER BY line"

ADD_PUBLISHED = "INSERT INTO ledger_tellings (line) VALUES ($1) ON CONFLICT (line) DO NOTHING"

LOCK_PUBLISHED = "SELECT generation FROM ledger_tellings WHERE line = $1 FOR UPDATE SKIP LOCKED"

SET_PUBLISHED = "UPDATE ledger_tellings SET generation = $2 WHERE line = $1"

PREDECESSOR = """
SELECT champion FROM model_ledger
WHERE line = $1 AND generation < (SELECT min(generation) FROM model_ledger WHERE line = $1 AND champion = $2)
ORDER BY generation DESC LIMIT 1"""


_CHAMPIONS = """
SELECT champion FROM model_lines l WHERE champion IS NOT NULL
ORDER BY (SELECT max(started_at) FROM simulation_runs r WHERE r.line = l.line) DESC NULLS LAST, line LIMIT $1"""


class Ledger:
    """The events of all lines.

    Each change is one transaction. It can be repeated when its result was lost: what is stored already is found and returned.

    Args:
        database: a pool, or the connection whose transaction every statement is part of.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lines(self) -> list[str]:
        """Names of all lines."""
        return await line_names(self._database)

    async def generations(self) -> dict[str, int]:
        """Number of events of each line that has any."""
        return {row["line"]: row["generation"] for row in await self._database.fetch(GENERATIONS)}

    async def publish_events(self, line: str, publish: Callable[[ModelEvent], Awaitable[None]]) -> None:
        """Pass the line's events that were not published yet to ``publish``, in order; one process at a time does this for a line.

        Events are published again when the process ends, or ``publish`` raises, before the transaction ends.
        """
        async with transaction(self._database) as connection:
            await connection.execute(ADD_PUBLISHED, line)
            published = await connection.fetchval(LOCK_PUBLISHED, line)
            if published is None:
                return
            rows = await connection.fetch(f"{EVENTS} WHERE line = $1 AND generation > $2 ORDER BY generation", line, published)
            for event in [ModelEvent(**row) for row in rows]:
                await publish(event)
                published = event.generation
            await connection.execute(SET_PUBLISHED, line, published)

    async def champion(self, line: str) -> UUID | None:
        """The line's champion now; None while none was promoted, and for an unknown line."""
        champion: UUID | None = await self._database.fetchval("SELECT champion FROM model_lines WHERE line = $1", line)
        return champion

    async def champions(self, at_most: int) -> list[UUID]:
        """The champions of the lines that were simulated on last, newest first, then those of other lines."""
        return [row["champion"] for row in await self._database.fetch(_CHAMPIONS, at_most)]

    async def history(self, line: str) -> list[ModelEvent]:
        """All events of the line, oldest first."""
        rows = await self._database.fetch(f"{EVENTS} WHERE line = $1 ORDER BY generation", line)
        return [ModelEvent(**row) for row in rows]

    async def state(self, line: str) -> ModelEvent:
        """The last event of the line, which repeats its whole state.

        Raises:
            UnknownLine: when it has no event.
        """
        row = await self._database.fetchrow(f"{EVENTS} WHERE line = $1 ORDER BY generation DESC LIMIT 1", line)
        if row is None:
            raise UnknownLine(line, await self.lines())
        return ModelEvent(**row)

    async def card(self, model_id: UUID) -> ModelCard:
        """The card of a registered model.

        Raises:
            UnknownModel: when there is none.
        """
        return await load_card(self._database, model_id)

    async def artifact(self, model_id: UUID) -> Artifact:
        """The stored files of a registered model.

        Raises:
            UnknownModel: when there is no such model, or it was stored without files.
        """
        return await load_artifact(self._database, model_id)

    async def policy(self, line: str) -> Policy:
        """How much the line does by itself, one of ``POLICIES``.

        Raises:
            UnknownLine: when there is no such line.
        """
        policy: Policy | None = await self._database.fetchval("SELECT policy FROM model_lines WHERE line = $1", line)
        if policy is None:
            raise UnknownLine(line, await self.lines())
        return policy

    async def stopped(self, line: str) -> ModelEvent | None:
        """The event by which the line stopped retraining by itself; None when it did not, or a person chose its policy since."""
        row = await self._database.fetchrow(
            f"{EVENTS} WHERE line = $1 AND happened IN ('policy', 'stopped') ORDER BY generation DESC LIMIT 1", line
        )
        return ModelEvent(**row) if row is not None and row["happened"] == "stopped" else None

    async def set_policy(self, line: str, policy: str, reason: str = "", *, decided_by: str = "") -> ModelEvent:
        """Choose how much the line does by itself; earlier retrains without a gain no longer count.

        Raises:
            ValueError: for a policy that is none of ``POLICIES``.
            UnknownLine: when there is no such line.
        """
        require_one_of("policy", policy, POLICIES)
        async with transaction(self._database) as connection:
            state = await lock_line(connection, line)
            change = f"{await Ledger(connection).policy(line)} -> {policy}"
            cause = Cause("; ".join(filter(None, [change, reason])), decided_by=decided_by)
            return await _set_policy(connection, state, "policy", policy, cause)

    async def register_model(
        self, card: ModelCard, sha256: str, *, retrain_id: UUID | None = None, pane_s: float = 300.0, window_s: float = 3600.0
    ) -> ModelEvent:
        """Store a trained model; its line is added, with these panes and windows, when it is the line's first."""
        async with transaction(self._database) as connection:
            kind = (card.twin_type.value, str(card.brand), card.target)
            await connection.execute(ADD_LINE, card.line, *kind, pane_s, window_s)
            state = await lock_line(connection, card.line)
            await insert_model(connection, card, sha256)
            stored = await find_event(connection, card.line, "trained", card.model_id)
            return stored or await append_event(connection, state, "trained", card.model_id, Cause("trained", retrain_id))

    async def promote(
        self,
        line: str,
        model_id: UUID,
        *,
        retrain_id: UUID | None = None,
        fence: int | None = None,
        reason: str = "",
        comparison: Mapping[str, Any] | None = None,
        not_before: datetime | None = None,
        judged: JudgedAgainst | None = None,
        decided_by: str = "",
    ) -> ModelEvent:
        """Make a model champion from now on, but not before ``not_before``, nor before any source's watermark.

        The retrain behind it, if any, is closed in the same transaction. With ``judged`` the line must still have that champion.

        Raises:
            UnknownLine: when there is no such line.
            UnknownModel: when the line has no such model.
            LostLease: when ``fence`` is not the newest.
            StaleRetrain: when the model that the retrain was requested against is no longer champion.
            ChampionChanged: when another model than that of ``judged`` is champion.
        """
        cause = Cause(reason, retrain_id, fence, comparison or {}, decided_by)
        async with transaction(self._database) as connection:
            state = await lock_line(connection, line)
            if retrain_id is None and state.champion == model_id:
                return await Ledger(connection).state(line)
            if retrain_id and (stored := await find_event(connection, line, "promoted", model_id, retrain_id)):
                return stored
            await check_model(connection, line, model_id)
            check_judged_against(state, judged)
            await check_still_champion(connection, state, cause)
            await close_retrain(connection, line, cause, "promoted")
            return await change_champion(connection, state, "promoted", model_id, cause, not_before)

    async def conclude(
        self,
        happened: Literal["promoted", "suggested", "rejected", "failed"],
        line: str,
        model_id: UUID,
        *,
        retrain_id: UUID | None = None,
        fence: int | None = None,
        reason: str = "",
        comparison: Mapping[str, Any] | None = None,
        judged: JudgedAgainst | None = None,
    ) -> ModelEvent:
        """Store the result of a training and close its retrain; ``promoted`` is :meth:`promote`.

        ``model_id`` is the challenger that the gate has judged, or the incumbent when the training failed.

        Raises:
            UnknownLine: when there is no such line.
            LostLease: when ``fence`` is not the newest.
            ChampionChanged: when another model than that of ``judged`` is champion.
        """
        if happened == "promoted":
            return await self.promote(
                line, model_id, retrain_id=retrain_id, fence=fence, reason=reason, comparison=comparison, judged=judged
            )
        cause = Cause(reason, retrain_id, fence, comparison or {})
        async with transaction(self._database) as connection:
            state = await lock_line(connection, line)
            if retrain_id and (stored := await find_event(connection, line, happened, model_id, retrain_id)):
                return stored
            check_judged_against(state, judged)
            await close_retrain(connection, line, cause, happened)
            event = await append_event(connection, state, happened, model_id, cause)
            await _stop_without_gain(connection, line)
            return event

    async def roll_back(
        self,
        line: str,
        reason: str,
        *,
        to: UUID | None = None,
        judged: JudgedAgainst | None = None,
        decided_by: str = "",
    ) -> ModelEvent:
        """Make an earlier model champion again: the one before the present champion, unless ``to`` names another.

        With ``judged`` the line must still have that champion.

        Raises:
            ChampionChanged: when another model than that of ``judged`` is champion.
            UnknownLine: when there is no such line.
            UnknownModel: when the line has no such model.
            NoPredecessor: when there was no champion before.
        """
        async with transaction(self._database) as connection:
            state = await lock_line(connection, line)
            check_judged_against(state, judged)
            earlier = to or await connection.fetchval(PREDECESSOR, line, state.champion)
            if earlier is None or earlier == state.champion:
                raise NoPredecessor(f"{line} has no champion before {state.champion} to go back to")
            await check_model(connection, line, earlier)
            return await change_champion(connection, state, "rolled_back", earlier, Cause(reason, decided_by=decided_by))

    async def record_effect(self, promotion: Promotion, effect: PromotionEffect) -> ModelEvent | None:
        """Store a measured effect of a promotion, and return the event that follows from it for the line, if any.

        A champion that does harm is rolled back, unless a person has promoted it. A line whose last retrains brought no gain
        waits for approval from then on.
        """
        async with transaction(self._database) as connection:
            state = await lock_line(connection, promotion.line)
            if not await save_effect(connection, effect):
                return None
            event = None
            if effect.verdict == "harm" and promotion.by_gate and state.champion == promotion.model_id:
                reason = f"worse than its predecessor: {effect.comparison.get('reason', '')}"
                cause = Cause(reason, promotion.retrain_id, comparison=effect.comparison)
                event = await change_champion(connection, state, "rolled_back", promotion.predecessor, cause)
            return await _stop_without_gain(connection, promotion.line) or event


async def _stop_without_gain(connection: Connection, line: str) -> ModelEvent | None:
    """Let a line wait for approval when none of its last retrains brought a gain."""
    gains = await latest_retrain_gains(connection, line, MAX_RETRAINS_WITHOUT_GAIN)
    without_gain = len(gains) == MAX_RETRAINS_WITHOUT_GAIN and all(gain.gained is False for gain in gains)
    if not without_gain or await Ledger(connection).policy(line) not in ("auto", "suggest"):
        return None
    reason = (
        f"{MAX_RETRAINS_WITHOUT_GAIN} retrains in a row brought no gain ({', '.join(str(gain.retrain_id) for gain in gains)}): "
        f"the next ones wait for approval, until a person chooses the policy again"
    )
    return await _set_policy(connection, await lock_line(connection, line), "stopped", "approve", Cause(reason))


async def _set_policy(
    connection: Connection, state: LockedLine, happened: Literal["policy", "stopped"], policy: str, cause: Cause
) -> ModelEvent:
    await connection.execute("UPDATE model_lines SET policy = $2 WHERE line = $1", state.line, policy)
    last = await Ledger(connection).state(state.line)
    return await append_event(connection, state, happened, state.champion or last.model_id, cause)

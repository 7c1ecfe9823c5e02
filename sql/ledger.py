"""Who is champion of a model line and since when: one row that is the truth, and an append-only account of how it came about.

A promotion takes effect just above everything that any source has reached by then, so that no outcome that was scored before it
would be scored otherwise after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args
from uuid import UUID

import asyncpg

from schemas.base import require_one_of
from schemas.events import ModelEvent
from schemas.twin_models import ModelCard
from sql.database import Connection, Database, transaction
from sql.line_lock import queue_for_line
from sql.model_card_rows import UnknownModel, insert_model, load_card
from sql.retrain_store import LostLease, Outcome, close_request

__all__ = [
    "POLICIES",
    "Artifact",
    "Ledger",
    "LostLease",
    "NoPredecessor",
    "Policy",
    "Promotion",
    "PromotionEffect",
    "StaleRetrain",
    "UnknownLine",
    "UnknownModel",
]

Policy = Literal["off", "suggest", "approve", "auto"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
"""How much a line does by itself when drift accuses its champion: nothing; train a challenger and suggest it; train after a
person's word and promote; train and promote."""

MAX_FRUITLESS_RETRAINS = 2
"""Retrains in a row that bought nothing, after which a line begins none by itself."""

ADD_LINE = """
INSERT INTO model_lines (line, twin_type, brand, target, pane_s, window_s)
VALUES ($1, $2::text::twin_type, $3::text::brand, $4, $5, $6)
ON CONFLICT (line) DO NOTHING"""

GENERATIONS = "SELECT line, generation FROM model_lines WHERE generation > 0 ORDER BY line"

LOCK_LINE = "SELECT champion, generation FROM model_lines WHERE line = $1 FOR UPDATE"

_EVENT = "line, generation, happened, at, model_id, champion, effective_from, retrain_id, reason, comparison"

EVENTS = f"SELECT {_EVENT} FROM model_ledger"  # noqa: S608  # our own constant

CHAMPION_SINCE = """
SELECT effective_from FROM model_ledger
WHERE line = $1 AND happened IN ('promoted', 'rolled_back') ORDER BY generation DESC LIMIT 1"""

TAKES_EFFECT = """
SELECT greatest(clock_timestamp(), $2::timestamptz, (SELECT max(watermark) FROM source_positions) + interval '1 microsecond',
                (SELECT max(effective_from) FROM model_ledger WHERE line = $1) + interval '1 microsecond')"""

WRITE = f"""
INSERT INTO model_ledger (line, generation, happened, model_id, champion, effective_from, retrain_id, reason, comparison)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
RETURNING {_EVENT}"""  # noqa: S608  # our own constant

MOVE_LINE = """
UPDATE model_lines
SET generation = $2, champion = $3, first_effective_from = coalesce(first_effective_from, $4)
WHERE line = $1"""

SUCCEED = """
UPDATE digital_twin_models SET deprecated_at = CASE WHEN model_id = $1 THEN NULL ELSE $3::timestamptz END
WHERE model_id = $1 OR model_id = $2"""

CHAMPION_AT = """
SELECT coalesce(
    (SELECT champion FROM model_ledger
     WHERE line = $1 AND happened IN ('promoted', 'rolled_back') AND effective_from <= $2 ORDER BY generation DESC LIMIT 1),
    (SELECT champion FROM model_ledger
     WHERE line = $1 AND happened IN ('promoted', 'rolled_back') ORDER BY generation LIMIT 1))"""

PREDECESSOR = """
SELECT champion FROM model_ledger
WHERE line = $1 AND generation < (SELECT min(generation) FROM model_ledger WHERE line = $1 AND champion = $2)
ORDER BY generation DESC LIMIT 1"""

# Promotions whose effect is not final yet: the new champion against the one before it, from its first moment to its last.
_REIGNS = """
SELECT line, generation, happened, champion AS model_id, effective_from AS since, retrain_id,
       retrain_id IS NOT NULL OR comparison <> '{}' AS by_gate,
       lag(champion) OVER reigns AS against, lead(effective_from) OVER reigns AS until
FROM model_ledger
WHERE happened IN ('promoted', 'rolled_back')
WINDOW reigns AS (PARTITION BY line ORDER BY generation)"""

WATCHED = f"""
SELECT r.line, r.generation, r.model_id, r.against, r.since, r.until, r.retrain_id, r.by_gate, coalesce(e.n, 0) AS seen
FROM ({_REIGNS}) r LEFT JOIN promotion_effects e USING (line, generation)
WHERE r.happened = 'promoted' AND r.against IS NOT NULL AND e.final IS NOT TRUE
ORDER BY r.line, r.generation"""  # noqa: S608  # our own constant

SAVE_EFFECT = """
INSERT INTO promotion_effects AS e (line, generation, n, verdict, final, comparison) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (line, generation) DO UPDATE
SET n = excluded.n, verdict = excluded.verdict, final = excluded.final, comparison = excluded.comparison,
    measured_at = clock_timestamp()
WHERE NOT e.final"""

EFFECT = """
SELECT e.line, e.generation, e.n, e.verdict, e.final, e.comparison, e.measured_at
FROM promotion_effects e JOIN model_ledger g USING (line, generation)
WHERE g.retrain_id = $1"""

# What the last retrains of a line bought since a person last chose its policy, the newest first; null while that is not known.
BOUGHT = """
SELECT r.retrain_id,
       CASE WHEN r.status = 'rejected' THEN false WHEN e.final AND e.verdict <> 'unknown' THEN e.verdict = 'gain' END AS gained
FROM retrain_requests r
LEFT JOIN model_ledger g ON g.retrain_id = r.retrain_id AND g.happened = 'promoted'
LEFT JOIN promotion_effects e ON e.line = g.line AND e.generation = g.generation
WHERE r.line = $1 AND r.cause = 'drift' AND r.status IN ('promoted', 'rejected')
  AND r.finished_at > coalesce((SELECT max(at) FROM model_ledger WHERE line = $1 AND happened = 'policy'), '-infinity')
ORDER BY r.finished_at DESC LIMIT $2"""


class UnknownLine(LookupError):
    """No model of this line was ever registered."""

    def __init__(self, line: str, known: list[str]) -> None:
        others = f"there is {', '.join(known)}" if known else "train a model of it first"
        super().__init__(f"no model line {line!r} yet: {others}")


class StaleRetrain(RuntimeError):
    """The model that a retrain accuses is no longer champion."""


class NoPredecessor(LookupError):
    """There is no earlier champion to go back to."""


@dataclass(frozen=True)
class Artifact:
    """Where a model's files are, and the SHA-256 over them."""

    mlflow_run_id: str
    sha256: str


class Promotion(NamedTuple):
    """A promotion over an earlier champion, whose effect is still being measured.

    Attributes:
        against: champion before it.
        since, until: when it took effect, and when its successor did; None while it reigns.
        by_gate: whether the gate decided it, not a person.
        seen: outcomes it was measured on so far.
    """

    line: str
    generation: int
    model_id: UUID
    against: UUID
    since: datetime
    until: datetime | None
    retrain_id: UUID | None
    by_gate: bool
    seen: int


class PromotionEffect(NamedTuple):
    """What a promotion bought, on ``n`` outcomes that came after it.

    Attributes:
        verdict: of the new champion against the one before it; ``unknown`` when too few outcomes came.
        final: whether it is looked at no more.
        comparison: of both on the same outcomes, as the gate's.
    """

    line: str
    generation: int
    n: int
    verdict: Literal["gain", "nothing", "harm", "unknown"]
    final: bool
    comparison: dict[str, Any]
    measured_at: datetime | None = None


@dataclass(frozen=True)
class _Cause:
    """Why something happens to a line: in words, the evidence, and the retrain behind it with its holder's fencing number."""

    reason: str = ""
    retrain_id: UUID | None = None
    fence: int | None = None
    comparison: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Standing:
    """A line's row while it is locked."""

    line: str
    champion: UUID | None
    generation: int
    since: datetime | None


class Ledger:
    """The account of all lines.

    What changes a line is one transaction, and may be asked for again when its answer was lost: what has happened already is
    found again and returned.

    Args:
        database: a pool, or the connection whose transaction this shall be part of.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lines(self) -> list[str]:
        """Names of all lines."""
        return [row[0] for row in await self._database.fetch("SELECT line FROM model_lines ORDER BY line")]

    async def generations(self) -> dict[str, int]:
        """Of every line, how many things happened to it."""
        return {row["line"]: row["generation"] for row in await self._database.fetch(GENERATIONS)}

    async def tell(self, line: str, say: Callable[[ModelEvent], Awaitable[None]]) -> None:
        """Let ``say`` tell everything that happened to the line and was not told yet, in order, whoever asks at the same time.

        What was told when the process dies, or ``say`` raises, is told again.
        """
        async with transaction(self._database) as connection:
            await connection.execute("INSERT INTO ledger_tellings (line) VALUES ($1) ON CONFLICT (line) DO NOTHING", line)
            told = await connection.fetchval("SELECT generation FROM ledger_tellings WHERE line = $1 FOR UPDATE SKIP LOCKED", line)
            if told is None:
                return
            rows = await connection.fetch(f"{EVENTS} WHERE line = $1 AND generation > $2 ORDER BY generation", line, told)
            for event in [ModelEvent(**row) for row in rows]:
                await say(event)
                told = event.generation
            await connection.execute("UPDATE ledger_tellings SET generation = $2 WHERE line = $1", line, told)

    async def champion(self, line: str) -> UUID | None:
        """Model that answers for the line now; None while none was promoted, and for a line that nobody knows."""
        found: UUID | None = await self._database.fetchval("SELECT champion FROM model_lines WHERE line = $1", line)
        return found

    async def champion_at(self, line: str, observed_at: datetime) -> UUID | None:
        """Champion at a time; the first one also for the time before it."""
        found: UUID | None = await self._database.fetchval(CHAMPION_AT, line, observed_at)
        return found

    async def history(self, line: str) -> list[ModelEvent]:
        """Everything that happened to the line, oldest first."""
        rows = await self._database.fetch(f"{EVENTS} WHERE line = $1 ORDER BY generation", line)
        return [ModelEvent(**row) for row in rows]

    async def state(self, line: str) -> ModelEvent:
        """What happened last, and with it the whole state of the line.

        Raises:
            UnknownLine: when nothing ever happened to it.
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
        """Where a registered model's files are.

        Raises:
            UnknownModel: when there is none, or it was stored without files.
        """
        row = await self._database.fetchrow(
            "SELECT mlflow_run_id, artifact_sha256 FROM digital_twin_models WHERE model_id = $1", model_id
        )
        if row is None or row["mlflow_run_id"] is None or row["artifact_sha256"] is None:
            raise UnknownModel(model_id)
        return Artifact(row["mlflow_run_id"], row["artifact_sha256"])

    async def policy(self, line: str) -> Policy:
        """How much the line does by itself, one of ``POLICIES``.

        Raises:
            UnknownLine: for a line that nobody knows.
        """
        policy: Policy | None = await self._database.fetchval("SELECT policy FROM model_lines WHERE line = $1", line)
        if policy is None:
            raise UnknownLine(line, await self.lines())
        return policy

    async def stopped(self, line: str) -> ModelEvent | None:
        """How the line stopped retraining by itself, None when it did not, or a person has chosen its policy since."""
        row = await self._database.fetchrow(
            f"{EVENTS} WHERE line = $1 AND happened IN ('policy', 'stopped') ORDER BY generation DESC LIMIT 1", line
        )
        return ModelEvent(**row) if row is not None and row["happened"] == "stopped" else None

    async def set_policy(self, line: str, policy: str, reason: str = "") -> ModelEvent:
        """Choose how much the line does by itself; what its retrains bought is counted anew from here.

        Raises:
            ValueError: for a policy that is none of ``POLICIES``.
            UnknownLine: for a line that nobody knows.
        """
        require_one_of("policy", policy, POLICIES)
        async with transaction(self._database) as connection:
            standing = await self._lock(connection, line)
            before = await Ledger(connection).policy(line)
            return await _set_policy(
                connection, standing, "policy", policy, "; ".join(filter(None, [f"{before} -> {policy}", reason]))
            )

    async def register_model(
        self, card: ModelCard, sha256: str, *, retrain_id: UUID | None = None, pane_s: float = 300.0, window_s: float = 3600.0
    ) -> ModelEvent:
        """Write down that a model was trained; its line is made, with these panes and windows, when it is the first."""
        async with transaction(self._database) as connection:
            kind = (card.twin_type.value, card.brand.value, card.target)
            await connection.execute(ADD_LINE, card.line, *kind, pane_s, window_s)
            standing = await self._lock(connection, card.line)
            await insert_model(connection, card, sha256)
            told = await _told(connection, card.line, "trained", card.model_id, None)
            return told or await _write(connection, standing, "trained", card.model_id, _Cause("trained", retrain_id))

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
    ) -> ModelEvent:
        """Make a model champion from the later of the clock, ``not_before``, and just above the highest watermark of any source.

        With a retrain behind it the retrain is closed in the same transaction.

        Raises:
            UnknownLine: for a line that nobody knows.
            UnknownModel: when the line has no such model.
            LostLease: when ``fence`` is not the newest.
            StaleRetrain: when the model that the retrain accuses is no longer champion.
        """
        cause = _Cause(reason, retrain_id, fence, comparison or {})
        async with transaction(self._database) as connection:
            standing = await self._lock(connection, line)
            if cause.retrain_id is None and standing.champion == model_id:
                return await Ledger(connection).state(line)
            if cause.retrain_id and (told := await _told(connection, line, "promoted", model_id, cause.retrain_id)):
                return told
            await _check_model(connection, line, model_id)
            await _check_accused(connection, standing, cause)
            await _close(connection, line, cause, "promoted")
            return await _crown(connection, standing, "promoted", model_id, cause, not_before)

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
    ) -> ModelEvent:
        """Write down how it ended, and close its retrain; ``promoted`` is what ``promote`` does.

        ``model_id`` is the challenger that passed the gate or did not, or the accused model whose training came to nothing.

        Raises:
            UnknownLine: for a line that nobody knows.
            LostLease: when ``fence`` is not the newest.
        """
        if happened == "promoted":
            return await self.promote(line, model_id, retrain_id=retrain_id, fence=fence, reason=reason, comparison=comparison)
        cause = _Cause(reason, retrain_id, fence, comparison or {})
        async with transaction(self._database) as connection:
            standing = await self._lock(connection, line)
            if cause.retrain_id and (told := await _told(connection, line, happened, model_id, cause.retrain_id)):
                return told
            await _close(connection, line, cause, happened)
            event = await _write(connection, standing, happened, model_id, cause)
            await self._stop_in_vain(connection, line)
            return event

    async def roll_back(self, line: str, reason: str, *, to: UUID | None = None) -> ModelEvent:
        """Make an earlier model champion again: the one before the present champion, unless ``to`` names another.

        Raises:
            UnknownLine: for a line that nobody knows.
            UnknownModel: when the line has no such model.
            NoPredecessor: when there was no champion before.
        """
        async with transaction(self._database) as connection:
            standing = await self._lock(connection, line)
            earlier = to or await connection.fetchval(PREDECESSOR, line, standing.champion)
            if earlier is None or earlier == standing.champion:
                raise NoPredecessor(f"{line} has no champion before {standing.champion} to go back to")
            await _check_model(connection, line, earlier)
            return await _crown(connection, standing, "rolled_back", earlier, _Cause(reason), None)

    async def watched(self) -> list[Promotion]:
        """Promotions whose effect is not final yet."""
        return [Promotion(**row) for row in await self._database.fetch(WATCHED)]

    async def effect(self, retrain_id: UUID) -> PromotionEffect | None:
        """What the promotion that a retrain led to bought, None while nothing was measured."""
        row = await self._database.fetchrow(EFFECT, retrain_id)
        return PromotionEffect(**row) if row is not None else None

    async def record_effect(self, promotion: Promotion, effect: PromotionEffect) -> ModelEvent | None:
        """Write down what a promotion bought, and return what follows from it for the line, if anything.

        A champion that does harm is rolled back, unless a person has promoted it; a line whose retrains bought nothing begins none
        by itself any more.
        """
        async with transaction(self._database) as connection:
            standing = await self._lock(connection, promotion.line)
            told = (effect.n, effect.verdict, effect.final, effect.comparison)
            if await connection.execute(SAVE_EFFECT, promotion.line, promotion.generation, *told) == "INSERT 0 0":
                return None
            followed = None
            if effect.verdict == "harm" and promotion.by_gate and standing.champion == promotion.model_id:
                cause = _Cause(
                    f"worse than its predecessor: {effect.comparison.get('reason', '')}",
                    comparison=effect.comparison,
                    retrain_id=promotion.retrain_id,
                )
                followed = await _crown(connection, standing, "rolled_back", promotion.against, cause, None)
            return await self._stop_in_vain(connection, promotion.line) or followed

    async def _stop_in_vain(self, connection: Connection, line: str) -> ModelEvent | None:
        """Let a line wait for a person when its last retrains bought nothing."""
        found = await connection.fetch(BOUGHT, line, MAX_FRUITLESS_RETRAINS)
        policy = await Ledger(connection).policy(line)
        if (
            policy not in ("auto", "suggest")
            or len(found) < MAX_FRUITLESS_RETRAINS
            or any(row["gained"] is not False for row in found)
        ):
            return None
        reason = (
            f"{MAX_FRUITLESS_RETRAINS} retrains in a row bought nothing ({', '.join(str(row['retrain_id']) for row in found)}): "
            f"the next ones wait for approval, until a person chooses the policy again"
        )
        return await _set_policy(connection, await self._lock(connection, line), "stopped", "approve", reason)

    async def _lock(self, connection: Connection, line: str) -> _Standing:
        await queue_for_line(connection, line)
        row = await connection.fetchrow(LOCK_LINE, line)
        if row is None:
            raise UnknownLine(line, await self.lines())
        return _Standing(line, row["champion"], row["generation"], await connection.fetchval(CHAMPION_SINCE, line))


async def _set_policy(
    connection: Connection, standing: _Standing, happened: Literal["policy", "stopped"], policy: str, reason: str
) -> ModelEvent:
    await connection.execute("UPDATE model_lines SET policy = $2 WHERE line = $1", standing.line, policy)
    last = await Ledger(connection).state(standing.line)
    return await _write(connection, standing, happened, standing.champion or last.model_id, _Cause(reason))


async def _told(connection: Connection, line: str, happened: str, model_id: UUID, retrain_id: UUID | None) -> ModelEvent | None:
    """The event, if just this is written already; by this retrain, where there is one."""
    row = await connection.fetchrow(
        f"{EVENTS} WHERE line = $1 AND happened = $2 AND model_id = $3 AND ($4::uuid IS NULL OR retrain_id = $4)"
        " ORDER BY generation DESC LIMIT 1",
        line,
        happened,
        model_id,
        retrain_id,
    )
    return ModelEvent(**row) if row is not None else None


async def _check_model(connection: Connection, line: str, model_id: UUID) -> None:
    if await connection.fetchval("SELECT line FROM digital_twin_models WHERE model_id = $1", model_id) != line:
        raise UnknownModel(model_id)


async def _check_accused(connection: Connection, standing: _Standing, cause: _Cause) -> None:
    if cause.retrain_id is None:
        return
    accused = await connection.fetchval("SELECT model_id FROM retrain_requests WHERE retrain_id = $1", cause.retrain_id)
    if accused != standing.champion:
        raise StaleRetrain(f"retrain {cause.retrain_id} accuses {accused}, but {standing.champion} is champion of {standing.line}")


async def _close(connection: Connection, line: str, cause: _Cause, outcome: Outcome) -> None:
    if (cause.retrain_id is None) != (cause.fence is None):
        raise ValueError("retrain_id and fence belong together")
    if cause.retrain_id is not None and cause.fence is not None:
        await close_request(connection, line, cause.retrain_id, cause.fence, outcome, cause.reason)


async def _crown(
    connection: Connection, standing: _Standing, happened: str, model_id: UUID, cause: _Cause, not_before: datetime | None
) -> ModelEvent:
    since = await connection.fetchval(TAKES_EFFECT, standing.line, not_before)
    await connection.execute(SUCCEED, model_id, standing.champion, since)
    return await _write(connection, _Standing(standing.line, model_id, standing.generation, since), happened, model_id, cause)


async def _write(connection: Connection, standing: _Standing, happened: str, model_id: UUID, cause: _Cause) -> ModelEvent:
    """One row more, with what the line is after it."""
    generation = standing.generation + 1
    await connection.execute(MOVE_LINE, standing.line, generation, standing.champion, standing.since)
    after = (standing.champion, standing.since, cause.retrain_id, cause.reason, dict(cause.comparison))
    try:
        rows = await connection.fetch(WRITE, standing.line, generation, happened, model_id, *after)
    except asyncpg.ForeignKeyViolationError:
        raise UnknownModel(model_id) from None
    return ModelEvent(**rows[0])

"""Stores the effect of each promotion: the new champion against its predecessor, on outcomes observed after the promotion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from sql.database import Connection, Database

__all__ = [
    "Promotion",
    "PromotionEffect",
    "RetrainGain",
    "Verdict",
    "latest_retrain_gains",
    "promotion_effect",
    "save_effect",
    "watched_promotions",
]

Verdict = Literal["gain", "nothing", "harm", "unknown"]
"""The new champion against its predecessor; ``unknown`` when too few outcomes were observed."""

# Every promotion and rollback with the champion before it and the time at which the next champion took effect.
_CHAMPIONS = """
SELECT line, generation, happened, champion AS model_id, effective_from AS since, retrain_id,
       retrain_id IS NOT NULL OR comparison <> '{}' AS by_gate,
       lag(champion) OVER champions AS predecessor, lead(effective_from) OVER champions AS until
FROM model_ledger
WHERE happened IN ('promoted', 'rolled_back')
WINDOW champions AS (PARTITION BY line ORDER BY generation)"""

WATCHED = f"""
SELECT c.line, c.generation, c.model_id, c.predecessor, c.since, c.until, c.retrain_id, c.by_gate, coalesce(e.n, 0) AS n_evaluated
FROM ({_CHAMPIONS}) c LEFT JOIN promotion_effects e USING (line, generation)
WHERE c.happened = 'promoted' AND c.predecessor IS NOT NULL AND e.final IS NOT TRUE
ORDER BY c.line, c.generation"""  # noqa: S608  # our own constant

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

# The last retrains that drift caused since a person last chose the line's policy, newest first; gained is null while unknown.
LATEST_GAINS = """
SELECT r.retrain_id,
       CASE WHEN r.status = 'rejected' THEN false WHEN e.final AND e.verdict <> 'unknown' THEN e.verdict = 'gain' END AS gained
FROM retrain_requests r
LEFT JOIN model_ledger g ON g.retrain_id = r.retrain_id AND g.happened = 'promoted'
LEFT JOIN promotion_effects e ON e.line = g.line AND e.generation = g.generation
WHERE r.line = $1 AND r.cause = 'drift' AND r.status IN ('promoted', 'rejected')
  AND r.finished_at > coalesce((SELECT max(at) FROM model_ledger WHERE line = $1 AND happened = 'policy'), '-infinity')
ORDER BY r.finished_at DESC LIMIT $2"""


class Promotion(NamedTuple):
    """A promotion over an earlier champion, whose effect is not final yet.

    Attributes:
        predecessor: champion before it.
        since, until: when it took effect, and when the next champion did; None while it is champion.
        by_gate: whether the gate decided it, not a person.
        n_evaluated: outcomes that its effect was measured on so far.
    """

    line: str
    generation: int
    model_id: UUID
    predecessor: UUID
    since: datetime
    until: datetime | None
    retrain_id: UUID | None
    by_gate: bool
    n_evaluated: int


class PromotionEffect(NamedTuple):
    """The measured effect of a promotion on ``n`` outcomes observed after it.

    Attributes:
        final: whether it is not measured again.
        comparison: both models on the same outcomes, with the numbers of the gate.
    """

    line: str
    generation: int
    n: int
    verdict: Verdict
    final: bool
    comparison: dict[str, Any]
    measured_at: datetime | None = None


class RetrainGain(NamedTuple):
    """Whether a retrain led to a better champion; None while that is not known."""

    retrain_id: UUID
    gained: bool | None


async def watched_promotions(database: Database) -> list[Promotion]:
    """Promotions whose effect is not final yet."""
    return [Promotion(**row) for row in await database.fetch(WATCHED)]


async def promotion_effect(database: Database, retrain_id: UUID) -> PromotionEffect | None:
    """The effect of the promotion that a retrain led to; None while nothing was measured."""
    row = await database.fetchrow(EFFECT, retrain_id)
    return PromotionEffect(**row) if row is not None else None


async def save_effect(connection: Connection, effect: PromotionEffect) -> bool:
    """Store a measurement; returns whether it was stored, which it is not when a final one is there already."""
    fields = (effect.line, effect.generation, effect.n, effect.verdict, effect.final, effect.comparison)
    return bool(await connection.execute(SAVE_EFFECT, *fields) != "INSERT 0 0")


async def latest_retrain_gains(connection: Connection, line: str, limit: int) -> Sequence[RetrainGain]:
    """The last retrains that drift caused since a person last chose the line's policy, newest first."""
    return [RetrainGain(**row) for row in await connection.fetch(LATEST_GAINS, line, limit)]

"""Measures what each promotion changed: the new champion and its predecessor on the same outcomes, observed after the promotion.

A promotion is evaluated after 500, 1,000 and 2,000 outcomes, and for the last time then or when the next champion takes over. A new
champion that proves worse at any of these interim analyses is rolled back. They share a one-sided error of 5 % (Bonferroni).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Self
from uuid import UUID

from engine.promotion import GATE_ROWS, Comparison, Difference
from engine.twins import TwinModel
from sql.database import Database
from sql.ledger import Ledger
from sql.promotion_effect_store import Promotion, PromotionEffect, watched_promotions
from sql.training_data_store import OBSERVED, count_since
from streams.registry import MlflowRegistry, ModelLoader
from streams.settings import Settings
from streams.training.retraining import latest_observable
from streams.training.shadow_evaluation import gate, later_rows

__all__ = ["PromotionEvaluator"]

LOG = logging.getLogger(__name__)

INTERIM_ROWS = (GATE_ROWS, 2 * GATE_ROWS, 4 * GATE_ROWS)
"""Numbers of outcomes after a promotion at which its effect is measured."""

_LEVEL = 0.05 / len(INTERIM_ROWS)


@dataclass(frozen=True)
class PromotionEvaluator:
    """Measures promotions.

    Attributes:
        load_model: loads a registered model by its id.
    """

    database: Database
    load_model: Callable[[UUID], Awaitable[TwinModel]]
    settings: Settings

    @classmethod
    def create(cls, database: Database, registry: MlflowRegistry, settings: Settings) -> Self:
        """An evaluator that keeps two models in memory: the last champion that it measured, and its predecessor."""
        return cls(database, ModelLoader(database, registry, size=2).load, settings)

    async def evaluate_promotions(self) -> None:
        """Measure every promotion that has reached its next number of outcomes, and roll back or stop where that follows."""
        ledger = Ledger(self.database)
        for promotion in await watched_promotions(self.database):
            effect = await self._evaluate(promotion)
            event = await ledger.record_effect(promotion, effect) if effect is not None else None
            if event is not None:
                LOG.warning("%s: %s, %s", event.line, event.happened, event.reason)

    async def _evaluate(self, promotion: Promotion) -> PromotionEffect | None:
        """The effect of a promotion; None while too few new outcomes came since it was last measured."""
        until = promotion.until or latest_observable(self.settings)
        n = await count_since(self.database, promotion.line, promotion.since, until)
        is_over = promotion.until is not None
        next_rows = next((rows for rows in INTERIM_ROWS if rows > promotion.n_evaluated), float("inf"))
        if not is_over and n < next_rows:
            return None
        if n < GATE_ROWS:
            return PromotionEffect(promotion.line, promotion.generation, n, "unknown", final=True, comparison={})
        return await self._compare(promotion, is_over=is_over)

    async def _compare(self, promotion: Promotion, *, is_over: bool) -> PromotionEffect:
        rows = await later_rows(self.database, promotion.line, latest_observable(self.settings), promotion.since)
        if promotion.until is not None:
            rows = rows[rows[OBSERVED] < promotion.until]
        rows = rows.iloc[: INTERIM_ROWS[-1]]
        predecessor, new = await self.load_model(promotion.predecessor), await self.load_model(promotion.model_id)
        comparison = await asyncio.to_thread(gate, rows, predecessor, new)
        verdict = _verdict(comparison.mae)
        final = is_over or verdict == "harm" or len(rows) >= INTERIM_ROWS[-1]
        numbers = comparison.to_dict() | {"reason": _reason(comparison)}
        return PromotionEffect(promotion.line, promotion.generation, len(rows), verdict, final, numbers)


def _verdict(mae: Difference) -> Literal["gain", "nothing", "harm"]:
    if mae.is_higher(_LEVEL):
        return "harm"
    return "gain" if mae.is_lower(_LEVEL) else "nothing"


def _reason(comparison: Comparison) -> str:
    mae = comparison.mae
    return f"MAE {mae.challenger:.4g} where its predecessor had {mae.champion:.4g} on the same {comparison.n:,} outcomes after it"

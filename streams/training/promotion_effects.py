"""What promotions buy: the new champion and the one before it, on the same outcomes that came after.

It is looked at when 500, 1,000 and 2,000 outcomes are in, and for the last time then or when the next champion takes over. A new
champion that proves worse at any look is rolled back. The looks share a one-sided error of 5 % among them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from engine.promotion.promotion_gate import GATE_ROWS, Comparison, Difference
from engine.twins.twin_model import TwinModel
from sql.database import Database
from sql.ledger import Ledger, Promotion, PromotionEffect
from sql.training_data_store import OBSERVED, count_since
from streams.settings import Settings
from streams.training.retraining import latest_observable
from streams.training.shadow_evaluation import gate, later_rows

__all__ = ["LOOKS", "PromotionEvaluator"]

LOG = logging.getLogger(__name__)

LOOKS = (GATE_ROWS, 2 * GATE_ROWS, 4 * GATE_ROWS)
"""Outcomes after a promotion at which its effect is measured."""

_LEVEL = 0.05 / len(LOOKS)


@dataclass(frozen=True)
class PromotionEvaluator:
    """Measures promotions.

    Attributes:
        load: gives a registered model by its id.
    """

    database: Database
    load: Callable[[UUID], Awaitable[TwinModel]]
    settings: Settings

    async def look(self) -> None:
        """Measure every promotion that has come to its next look, with everything that follows from it."""
        ledger = Ledger(self.database)
        for promotion in await ledger.watched():
            effect = await self._measured(promotion)
            event = await ledger.record_effect(promotion, effect) if effect is not None else None
            if event is not None:
                LOG.warning("%s: %s, %s", event.line, event.happened, event.reason)

    async def _measured(self, promotion: Promotion) -> PromotionEffect | None:
        until = promotion.until or latest_observable(self.settings)
        n = await count_since(self.database, promotion.line, promotion.since, until)
        over = promotion.until is not None
        if not over and n < next(look for look in (*LOOKS, float("inf")) if look > promotion.seen):
            return None
        if n < GATE_ROWS:
            return PromotionEffect(promotion.line, promotion.generation, n, "unknown", final=True, comparison={})
        return await self._compared(promotion, over=over)

    async def _compared(self, promotion: Promotion, *, over: bool) -> PromotionEffect:
        rows = await later_rows(self.database, promotion.line, latest_observable(self.settings), promotion.since)
        if promotion.until is not None:
            rows = rows[rows[OBSERVED] < promotion.until]
        rows = rows.iloc[: LOOKS[-1]]
        before, new = await self.load(promotion.against), await self.load(promotion.model_id)
        comparison = await asyncio.to_thread(gate, rows, before, new)
        verdict = _verdict(comparison.mae)
        final = over or verdict == "harm" or len(rows) >= LOOKS[-1]
        told = comparison.numbers() | {"reason": _in_words(comparison)}
        return PromotionEffect(promotion.line, promotion.generation, len(rows), verdict, final, told)


def _verdict(mae: Difference) -> Literal["gain", "nothing", "harm"]:
    if mae.is_higher(_LEVEL):
        return "harm"
    return "gain" if mae.is_lower(_LEVEL) else "nothing"


def _in_words(comparison: Comparison) -> str:
    mae = comparison.mae
    return f"MAE {mae.challenger:.4g} where its predecessor had {mae.champion:.4g} on the same {comparison.n} outcomes after it"

"""What scoring has to know, fetched once and kept: champions while their line does not change, cards and simulations for good."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

from engine.model_cache import ModelCache
from schemas.twin_models import ModelCard
from sql.database import Pool
from sql.model_card_rows import UnknownModel, load_card
from sql.outcome_store import ChampionPeriods, champion_periods
from streams.ingestion.outcome_batch import OutcomeBatch
from streams.ingestion.scoring import Predictor, ScoringContext, SimulatedTwins

__all__ = ["ContextLoader", "FindSimulation", "LoadModel"]

LoadModel = Callable[[UUID], Awaitable[Predictor]]
FindSimulation = Callable[[UUID], Awaitable[SimulatedTwins | None]]

_SIMULATIONS_KEPT = 16
_CARDS_KEPT = 1000


class ContextLoader:
    """Knowledge for scoring.

    Args:
        pool: of the database.
        models: loads a model by its id.
        simulations: finds the twins of a completed simulation, null for an unknown one.
    """

    def __init__(self, pool: Pool, models: LoadModel, simulations: FindSimulation) -> None:
        self._pool = pool
        self._load_model = models
        self._find_simulation = simulations
        self._reigns: dict[str, ChampionPeriods] = {}
        self._cards = ModelCache[ModelCard](_CARDS_KEPT)
        self._simulations = ModelCache[SimulatedTwins](_SIMULATIONS_KEPT)

    async def know(self, outcomes: OutcomeBatch) -> ScoringContext:
        """Everything that is needed to score these."""
        await self._learn_reigns({words.line for words in outcomes.words})
        simulations = await self._simulated({simulation_id for simulation_id, _ in outcomes.twins.values()})
        known = ScoringContext(champions={line: reign.champions for line, reign in self._reigns.items() if reign.champions})
        predicting = {champion for _, champion, _ in known.predicting(outcomes)} - {None}
        named = {words.model_id for words in outcomes.words if words.model_id is not None}
        reigning = {champion for reign in self._reigns.values() for _, champion in reign.champions}
        pinned = {twins.model_id for twins in simulations.values()}
        return ScoringContext(
            champions=known.champions,
            cards=await self._know_cards(named | reigning | pinned),
            models={model_id: await self._load_model(model_id) for model_id in predicting if model_id is not None},
            simulations=simulations,
        )

    def generation(self, line: str) -> int | None:
        """Generation of the line that scoring went by, null for an unknown line."""
        reign = self._reigns.get(line)
        return reign.generation if reign else None

    def forget(self, lines: Iterable[str]) -> None:
        """Ask for these lines again: somebody changed them."""
        for line in lines:
            self._reigns.pop(line, None)

    async def _learn_reigns(self, lines: set[str]) -> None:
        missing = lines - self._reigns.keys()
        if missing:
            self._reigns.update(await champion_periods(self._pool, missing))

    async def _know_cards(self, ids: set[UUID]) -> dict[UUID, ModelCard]:
        cards = {}
        for model_id in ids:
            card = self._cards.get(model_id)
            if card is None:
                try:
                    card = await load_card(self._pool, model_id)
                except UnknownModel:
                    continue
                self._cards.put(model_id, card)
            cards[model_id] = card
        return cards

    async def _simulated(self, ids: set[UUID]) -> dict[UUID, SimulatedTwins]:
        found = {}
        for simulation_id in ids:
            twins = self._simulations.get(simulation_id) or await self._find_simulation(simulation_id)
            if twins is not None:
                self._simulations.put(simulation_id, twins)
                found[simulation_id] = twins
        return found

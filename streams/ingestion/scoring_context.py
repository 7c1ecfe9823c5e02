"""Loads what scoring needs from Postgres and the registry, and caches it: champions while their line stays unchanged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

from cachetools import LRUCache

from schemas.twin_models import ModelCard
from sql.database import Pool
from sql.model_card_rows import UnknownModel, load_card
from sql.outcome_store import ChampionPeriods, champion_periods
from streams.ingestion.outcome_batch import OutcomeBatch
from streams.ingestion.scoring import Predictor, ScoringContext, SimulatedTwins

__all__ = ["ContextLoader", "FindSimulation", "LoadModel"]

LoadModel = Callable[[UUID], Awaitable[Predictor]]
FindSimulation = Callable[[UUID], Awaitable[SimulatedTwins | None]]

_MAX_SIMULATIONS = 16
_MAX_CARDS = 1000


class ContextLoader:
    """Loads the scoring context of batches.

    Args:
        pool: of the database.
        models: loads a model by its id.
        simulations: finds the twins of a completed simulation, None for an unknown one.
    """

    def __init__(self, pool: Pool, models: LoadModel, simulations: FindSimulation) -> None:
        self._pool = pool
        self._load_model = models
        self._find_simulation = simulations
        self._periods: dict[str, ChampionPeriods] = {}
        self._cards: LRUCache[UUID, ModelCard] = LRUCache(_MAX_CARDS)
        self._simulations: LRUCache[UUID, SimulatedTwins] = LRUCache(_MAX_SIMULATIONS)

    async def load(self, outcomes: OutcomeBatch) -> ScoringContext:
        """Load everything that is needed to score these outcomes."""
        await self._load_periods({shared.line for shared in outcomes.shared_fields})
        simulations = await self._load_simulations({simulation_id for simulation_id, _ in outcomes.twins.values()})
        champions = {line: periods.champions for line, periods in self._periods.items() if periods.champions}
        predicting = ScoringContext(champions=champions).predicting_models(outcomes)
        models = {shared.model_id for shared in outcomes.shared_fields if shared.model_id is not None}
        models |= {model_id for periods in champions.values() for _, model_id in periods}
        models |= {twins.model_id for twins in simulations.values()}
        return ScoringContext(
            champions=champions,
            cards=await self._load_cards(models),
            models={model_id: await self._load_model(model_id) for model_id in predicting},
            simulations=simulations,
        )

    def generation(self, line: str) -> int | None:
        """Generation of the line by which outcomes are scored, None for an unknown line."""
        periods = self._periods.get(line)
        return periods.generation if periods else None

    def invalidate(self, lines: Iterable[str]) -> None:
        """Load these lines again next time, because their champion has changed."""
        for line in lines:
            self._periods.pop(line, None)

    async def _load_periods(self, lines: set[str]) -> None:
        missing = lines - self._periods.keys()
        if missing:
            self._periods.update(await champion_periods(self._pool, missing))

    async def _load_cards(self, ids: set[UUID]) -> dict[UUID, ModelCard]:
        cards = {}
        for model_id in ids:
            card = self._cards.get(model_id)
            if card is None:
                try:
                    card = await load_card(self._pool, model_id)
                except UnknownModel:
                    continue
                self._cards[model_id] = card
            cards[model_id] = card
        return cards

    async def _load_simulations(self, ids: set[UUID]) -> dict[UUID, SimulatedTwins]:
        simulations = {}
        for simulation_id in ids:
            twins = self._simulations.get(simulation_id) or await self._find_simulation(simulation_id)
            if twins is not None:
                self._simulations[simulation_id] = twins
                simulations[simulation_id] = twins
        return simulations

"""Simulates from pinned inputs, so that a request has the same result whenever it is computed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from engine import SimulationEngine
from engine.effects import ComparedSimulation, EmptyPopulation, compute_track_record
from engine.twins import EmptyFilter, TwinModel
from schemas import (
    AnswerStatus,
    ExperimentResult,
    ModelCard,
    Reach,
    SimulationAnswer,
    SimulationRequest,
    SimulationResult,
    TwinPopulation,
    conditions,
)
from schemas.events import canonical_digest
from schemas.filters import Filters
from sql.database import Pool
from sql.experiment_store import answered_simulations, priors_at_version
from sql.ledger import Ledger
from sql.simulation_store import DifferentBody, NoChampion, Pins, Recipe, WrongLine, find_runs, pin
from sql.twin_repository import TwinRepository, UnknownPopulation
from streams.errors import describe_error
from streams.ingestion import SimulatedTwins
from streams.registry import ModelLoader

__all__ = ["Simulator", "rejected"]

LOG = logging.getLogger(__name__)

DEFAULT_TWIN_COUNT = 10_000
"""Number of twins for a request that names neither a population nor a number."""


class MissingFeature(ValueError):
    """The filter is on a feature that the model of the line was not trained on."""


_REJECTIONS = (DifferentBody, EmptyFilter, EmptyPopulation, MissingFeature, NoChampion, UnknownPopulation, WrongLine)


class _NotLoaded(Exception):
    """The champion is not in memory, so a transaction cannot compute with it."""

    def __init__(self, model_id: UUID) -> None:
        super().__init__(f"model {model_id} is not in memory")
        self.model_id = model_id


class Simulator:
    """Pins the inputs of requests, computes their results, and loads the twins of completed simulations.

    Computations run on worker threads.
    """

    def __init__(self, pool: Pool, models: ModelLoader) -> None:
        self._pool = pool
        self._models = models
        self._repository = TwinRepository(pool=pool)

    async def answer(self, request: SimulationRequest) -> SimulationAnswer:
        """The answer to a request: the stored one if there is one, else completed, or rejected with the reason."""
        try:
            pins = await self.pin(request)
            if pins.answer is not None:
                return pins.answer
            LOG.debug("simulation %s is pinned to model %s, effects %s", pins.simulation_id, pins.model_id, pins.effects_version)
            result = await self.compute(pins, request)
        except _REJECTIONS as error:
            return rejected(request.simulation_id, describe_error(error))
        for warning in result.warnings:
            LOG.warning("simulation %s: %s", request.simulation_id, warning)
        return SimulationAnswer(
            simulation_id=request.simulation_id,
            status=AnswerStatus.COMPLETED,
            result=result,
            model_id=pins.model_id,
            effects_version=pins.effects_version,
        )

    async def pin(self, request: SimulationRequest) -> Pins:
        """Pin champion, effects version and population of a request, or find what was pinned before.

        Raises:
            DifferentBody, NoChampion, UnknownPopulation, WrongLine: as :func:`sql.simulation_store.pin`.
        """
        while True:
            try:
                return await pin(self._pool, request, canonical_digest(request), self._recipe_for(request))
            except _NotLoaded as missing:  # the champion computes the population's id, inside the transaction
                await self._models.load(missing.model_id)

    async def compute(self, pins: Pins, request: SimulationRequest) -> SimulationResult:
        """The result of a pinned request; the same pins give the same result, except for the time in it.

        Raises:
            EmptyFilter, EmptyPopulation: when no twin satisfies the filters; with filters that some satisfy.
            MissingFeature: when a filter is on a feature that these twins do not have.
        """
        engine = await self._engine(pins, request)
        _check_features(engine.population.model, request.filters)
        result = await asyncio.to_thread(
            engine.simulate,
            request.intervention,
            request.filters,
            alternatives=request.alternatives,
            simulation_id=request.simulation_id,
        )
        rows = await answered_simulations(self._pool, request.line, request.intervention.intervention_type)
        past = compute_track_record([ComparedSimulation(*row) for row in rows])
        return result.model_copy(update={"simulated_at": datetime.now(UTC), "track_record": past})

    async def reach(self, experiment: ExperimentResult) -> Reach | None:
        """Share of the base effect that an experiment reached, from the champion's twins that satisfy its filters.

        None when there are no such twins: the line has no champion, or its model has no feature that a filter is on.
        """
        champion = await Ledger(self._pool).champion(experiment.line)
        if champion is None:
            return None
        model = await self._models.load(champion)
        try:
            _check_features(model.card, experiment.filters)
            return await asyncio.to_thread(_reach, model, experiment)
        except (EmptyFilter, MissingFeature) as error:
            LOG.warning("experiment %s counts as one on average people: %s", experiment.experiment_id, error)
            return None

    async def twins(self, simulation_id: UUID) -> SimulatedTwins | None:
        """The twins of a completed simulation and the expected change of each; None when it was not completed."""
        pins = (await find_runs(self._pool, [simulation_id])).get(simulation_id)
        if pins is None or pins.request is None or pins.answer is None or pins.answer.status is not AnswerStatus.COMPLETED:
            return None
        engine = await self._engine(pins, pins.request)
        return await asyncio.to_thread(_simulated_twins, pins.request, engine)

    def _recipe_for(self, request: SimulationRequest) -> Callable[[UUID], Recipe]:
        count, seed = request.twin_count or DEFAULT_TWIN_COUNT, request.effective_seed

        def recipe(champion: UUID) -> Recipe:
            model = self._models.cached(champion)
            if model is None:
                raise _NotLoaded(champion)
            filters = request.filters.model_dump(exclude_none=True)
            return Recipe(model.population_id(count, filters, seed), count, seed, filters)

        return recipe

    async def _engine(self, pins: Pins, request: SimulationRequest) -> SimulationEngine:
        priors = await priors_at_version(self._pool, request.line, pins.effects_version or 0)
        population = await self._population(pins)
        return SimulationEngine(population, priors=priors, confidence_level=request.confidence_level, seed=request.effective_seed)

    async def _population(self, pins: Pins) -> TwinPopulation:
        recipe, model_id = pins.recipe, pins.model_id
        if recipe is None or model_id is None:
            raise ValueError(f"simulation {pins.simulation_id} was never pinned")
        if pins.stored:
            return await self._repository.load_population(recipe.population_id)
        model = await self._models.load(model_id)
        _check_features(model.card, recipe.filters)
        return await asyncio.to_thread(model.generate, recipe.twin_count, recipe.filters, recipe.seed)


def rejected(simulation_id: UUID, reason: str) -> SimulationAnswer:
    """The answer that rejects a request."""
    return SimulationAnswer(simulation_id=simulation_id, status=AnswerStatus.REJECTED, reason=reason)


def _check_features(card: ModelCard, filters: Filters) -> None:
    missing = sorted({condition.column for condition in conditions(card.twin_type, filters)} - set(card.features))
    if missing:
        raise MissingFeature(
            f"the twins of {card.line} have no {', '.join(missing)}: filter by {', '.join(card.features)}, or train a model with it"
        )


def _reach(model: TwinModel, experiment: ExperimentResult) -> Reach:
    return SimulationEngine(model.generate(DEFAULT_TWIN_COUNT, experiment.filters)).reach(experiment.intervention)


def _simulated_twins(request: SimulationRequest, engine: SimulationEngine) -> SimulatedTwins:
    population = engine.population
    return SimulatedTwins(
        line=request.line,
        model_id=population.model_id,
        population=population,
        changes=engine.twin_changes(request.intervention),
        rows={twin_id: row for row, twin_id in enumerate(population.twin_ids)},
    )

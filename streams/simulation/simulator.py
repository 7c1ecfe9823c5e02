"""Simulates from pinned inputs, so that a request has the same result whenever it is computed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar
from uuid import UUID

from cachetools import LRUCache

from engine.block_simulation import block_count
from engine.effects import ComparedSimulation, ExactSums, PreparedTwins, catalogue_priors, compute_track_record
from engine.twins import EmptyFilter, TwinModel, common_seed, population_id
from schemas import (
    AnswerStatus,
    EffectPrior,
    ExperimentResult,
    InterventionConfig,
    ModelCard,
    Reach,
    SimulationAnswer,
    SimulationRequest,
    SimulationResult,
    TwinPopulation,
    in_effect,
)
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.events import canonical_digest
from schemas.filters import canonical_filters
from schemas.interventions import INTERVENTIONS, REFERENCE_FREQUENCY, REFERENCE_WEEKS
from sql.database import Pool
from sql.experiment_store import answered_simulations, known_priors, priors_at_version
from sql.ledger import Ledger
from sql.pin_store import pin
from sql.simulation_store import Pins, Recipe, find_runs
from sql.twin_repository import TwinRepository
from streams.ingestion import SimulatedTwins
from streams.kafka.memory import trim
from streams.registry import ModelLoader
from streams.simulation.computation import (
    DeadlineExceeded,
    MissingFeature,
    build_engine,
    conclude_sums,
    draw_population,
    few_twins,
    generate_population,
    is_sharded,
    prepare_twins,
    require_features,
    simulate_population,
    sum_recipe,
)
from streams.simulation.experiment_reach import ExperimentReach
from streams.simulation.line_turns import LineTurns
from streams.simulation.twin_cache import TwinCache

__all__ = ["DEFAULT_TWIN_COUNT", "Simulator", "cancelled", "completed", "failed", "recipe_of", "rejected"]

LOG = logging.getLogger(__name__)
T = TypeVar("T")

_VERSIONS_IN_MEMORY = 1000
_RELEASED_BYTES = 64 * 2**20  # of twins: of one computation that is nearly large, or of many small ones

DEFAULT_TWIN_COUNT = 10_000
"""Number of twins for a request that names neither a population nor a number."""


class Simulator:
    """Pins the inputs of requests, computes their results, and loads the twins of completed simulations.

    Computations run on worker threads.

    Args:
        pool: of the database.
        models: loads a model by its id.
        deadline_s: seconds for one computation, without what it loads before; None for no limit.
        cache_bytes: of twins that are kept for the next requests about them.

    Attributes:
        turns: of the lines whose effects are updated.
    """

    def __init__(self, pool: Pool, models: ModelLoader, *, deadline_s: float | None = None, cache_bytes: int = 0) -> None:
        self._pool = pool
        self._models = models
        self._deadline_s = deadline_s
        self._repository = TwinRepository(pool=pool)
        self._cache = TwinCache(cache_bytes)
        self._unreleased_bytes = 0
        self._reach = ExperimentReach()
        self.turns = LineTurns()
        self._calibrated: LRUCache[tuple[str, int], Mapping[str, EffectPrior]] = LRUCache(maxsize=_VERSIONS_IN_MEMORY)

    async def pin(self, request: SimulationRequest) -> Pins:
        """Pin champion, effects version and population of a request, or find what was pinned before.

        Raises:
            DifferentBody, NamesErased, NoChampion, UnknownPopulation, WrongLine: as :func:`sql.pin_store.pin`.
        """
        return await pin(self._pool, request, canonical_digest(request), partial(recipe_of, request))

    async def compute(self, pins: Pins, request: SimulationRequest) -> SimulationResult:
        """The result of a pinned request; the same pins give the same result, except for the time in it.

        Raises:
            EmptyFilter, EmptyPopulation: when no twin satisfies the filters; with filters that some satisfy.
            MissingFeature: when a filter is on a feature that these twins do not have.
            DeadlineExceeded: when the computation takes too long.
        """
        with in_effect(pins.catalogue):
            return await self._compute(pins, request)

    async def warm_up(self, model_id: UUID) -> None:
        """Load a model, and simulate on the twins of a request that names neither filters nor a seed: the first one finds them."""
        card = (await self._models.load(model_id)).card
        request = _usual_request(card)
        recipe = recipe_of(request, model_id)
        pins = Pins(
            request.simulation_id, request.line, model_id, 0, recipe, stored=False, request=request, answer=None, compared=()
        )
        await self._compute(replace(pins, catalogue=catalogue_in_effect()), request)

    async def _compute(self, pins: Pins, request: SimulationRequest) -> SimulationResult:
        if pins.recipe is not None and is_sharded(pins):
            blocks = range(block_count(pins.recipe.twin_count))
            sum_all = partial(sum_recipe, recipe=pins.recipe, blocks=blocks, request=request, thresholds=pins.thresholds)
            return await self._on_blocks(pins, request, sum_all)
        priors, (prepare, is_cached) = await self.priors(pins, request), await self._prepare(pins)

        def simulate() -> tuple[PreparedTwins, SimulationResult]:
            twins = prepare()
            return twins, simulate_population(twins, priors, request, pins.thresholds)

        twins, result = await self._within_deadline(simulate)
        self._cache.add(pins, twins)
        if not is_cached:
            await self._release_after(twins.n_bytes)
        return await self.add_track_record(result, pins, request)

    async def priors(self, pins: Pins, request: SimulationRequest) -> Mapping[str, EffectPrior]:
        """The effect priors that a request is pinned to; those of the catalogue, where another method than today's is pinned."""
        key = request.line, pins.effects_version or 0
        with in_effect(pins.catalogue):
            if (calibrated := self._calibrated.get(key)) is None:  # a version never changes
                calibrated = self._calibrated[key] = await priors_at_version(self._pool, *key)
            return {**catalogue_priors(pins.effects_method), **known_priors(calibrated)}

    async def add_track_record(self, result: SimulationResult, pins: Pins, request: SimulationRequest) -> SimulationResult:
        """The result with its time, and with the pinned agreement of earlier simulations of its intervention with experiments."""
        compared = pins.compared
        if compared is None:
            compared = tuple(await answered_simulations(self._pool, request.line, request.intervention.intervention_type))
        past = compute_track_record([ComparedSimulation(*row) for row in compared])
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
            require_features(model.card, experiment.filters)
            return await asyncio.to_thread(self._reach.compute, model, experiment)
        except (EmptyFilter, MissingFeature) as error:
            LOG.warning("experiment %s counts as one on average people: %s", experiment.experiment_id, error)
            return None

    async def twins(self, simulation_id: UUID) -> SimulatedTwins | None:
        """The twins of a completed simulation and the expected change of each; None when it was not completed."""
        pins = (await find_runs(self._pool, [simulation_id])).get(simulation_id)
        if pins is None or pins.request is None or pins.answer is None or pins.answer.status is not AnswerStatus.COMPLETED:
            return None
        if is_sharded(pins):
            return None  # they have no ids
        priors = await self.priors(pins, pins.request)
        with in_effect(pins.catalogue):
            return await asyncio.to_thread(
                _simulated_twins, await self._load_twins(pins, generate_population), priors, pins.request
            )

    async def conclude(self, pins: Pins, request: SimulationRequest, sum_all: Callable[[], ExactSums]) -> SimulationResult:
        """The result that follows from the sums over all twins of a population in blocks.

        Raises:
            EmptyFilter, MissingFeature: as :meth:`compute`.
            Exception: what ``sum_all`` raises, unless there are no such twins.
        """
        return await self._on_blocks(pins, request, lambda _model, _priors: sum_all())

    async def _on_blocks(
        self, pins: Pins, request: SimulationRequest, sum_all: Callable[[TwinModel, Mapping[str, EffectPrior]], ExactSums]
    ) -> SimulationResult:
        assert pins.recipe is not None  # of a population that is not stored
        assert pins.model_id is not None
        recipe, model = pins.recipe, await self._models.load(pins.model_id)
        with in_effect(pins.catalogue):
            priors = await self.priors(pins, request)

            def conclude() -> SimulationResult:
                few = few_twins(model, recipe)
                return conclude_sums(few, sum_all(model, priors), priors, request, pins.thresholds)

            return await self.add_track_record(await self._within_deadline(conclude), pins, request)

    async def _prepare(self, pins: Pins) -> tuple[Callable[[], PreparedTwins], bool]:
        """Load what the twins of a run are made of; returns a function that prepares them, and whether they are in memory."""
        cached = self._cache.get(pins)
        if cached is not None:
            return lambda: cached, True
        load = await self._load_twins(pins, draw_population)
        return lambda: prepare_twins(load()), False

    async def _release_after(self, n_bytes: int) -> None:
        """Return the memory of computations to the system after some of them; its threads would keep gigabytes."""
        self._unreleased_bytes += n_bytes
        if self._unreleased_bytes >= _RELEASED_BYTES:
            self._unreleased_bytes = 0
            await asyncio.to_thread(trim)

    async def _load_twins(
        self, pins: Pins, generate: Callable[[TwinModel, Recipe], TwinPopulation]
    ) -> Callable[[], TwinPopulation]:
        """Load the stored population of a run, or the model that generates it; returns a function that computes the population."""
        recipe, model_id = pins.recipe, pins.model_id
        if recipe is None or model_id is None:
            raise ValueError(f"simulation {pins.simulation_id} was never pinned")
        if pins.stored:
            population = await self._repository.load_population(recipe.population_id)
            return lambda: population
        return partial(generate, await self._models.load(model_id), recipe)

    async def _within_deadline(self, computation: Callable[[], T]) -> T:
        """Compute on a worker thread; a thread cannot be ended, so after the deadline it computes to its end unheeded."""
        try:
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.to_thread(computation)
        except TimeoutError:
            raise DeadlineExceeded(self._deadline_s or 0.0) from None


def completed(pins: Pins, result: SimulationResult) -> SimulationAnswer:
    """The answer with a result."""
    return SimulationAnswer(
        simulation_id=pins.simulation_id,
        status=AnswerStatus.COMPLETED,
        result=result,
        model_id=pins.model_id,
        effects_version=pins.effects_version,
        catalogue_version=pins.catalogue.version,
    )


def rejected(simulation_id: UUID, reason: str) -> SimulationAnswer:
    """The answer that rejects a request."""
    return SimulationAnswer(simulation_id=simulation_id, status=AnswerStatus.REJECTED, reason=reason)


def failed(simulation_id: UUID, reason: str) -> SimulationAnswer:
    """The answer to a valid request that could not be computed."""
    return SimulationAnswer(simulation_id=simulation_id, status=AnswerStatus.FAILED, reason=reason)


def cancelled(simulation_id: UUID) -> SimulationAnswer:
    """The answer to a request that was cancelled before it was answered."""
    return SimulationAnswer(simulation_id=simulation_id, status=AnswerStatus.CANCELLED, reason="cancelled before it was computed")


def _usual_request(card: ModelCard) -> SimulationRequest:
    campaign = next(entry for entry in INTERVENTIONS.values() if not entry.twin_types or card.twin_type in entry.twin_types)
    return SimulationRequest(
        simulation_id=card.model_id,
        requested_at=datetime.now(UTC),
        twin_type=card.twin_type,
        brand=card.brand,
        target=card.target,
        intervention=InterventionConfig(
            intervention_type=campaign.name,
            channel=campaign.channel,
            frequency=REFERENCE_FREQUENCY,
            duration_weeks=REFERENCE_WEEKS,
        ),
    )


def recipe_of(request: SimulationRequest, champion: UUID) -> Recipe:
    """The population of a request that names none: without a seed, that of all such requests with its filters and number."""
    count, filters = request.twin_count or DEFAULT_TWIN_COUNT, canonical_filters(request.twin_type, request.filters)
    seed = common_seed(champion, request.twin_type, filters) if request.seed is None else request.seed
    return Recipe(population_id(champion, request.twin_type, count, filters, seed), count, seed, filters)


def _simulated_twins(
    twins: Callable[[], TwinPopulation], priors: Mapping[str, EffectPrior], request: SimulationRequest
) -> SimulatedTwins:
    population = twins()
    return SimulatedTwins(
        line=request.line,
        model_id=population.model_id,
        population=population,
        changes=build_engine(population, priors, request).twin_changes(request.intervention),
        rows={twin_id: row for row, twin_id in enumerate(population.twin_ids)},
    )

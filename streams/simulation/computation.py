"""Computes the result of a pinned request from its twins, in any process: nothing here reads or stores anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from engine import SimulationEngine
from engine.block_simulation import describe_population, is_in_blocks, sum_blocks
from engine.effects import EmptyPopulation, ExactSums, PreparedTwins
from engine.twins import EmptyFilter, TwinModel
from schemas import EffectPrior, ModelCard, SimulationRequest, SimulationResult, TwinPopulation, conditions
from schemas.filters import Filters
from schemas.thresholds import DEFAULT_THRESHOLDS, LineThresholds
from sql.simulation_store import Pins, Recipe
from sql.twin_repository import UnknownPopulation

__all__ = [
    "COMPUTATION_REFUSALS",
    "DeadlineExceeded",
    "MissingFeature",
    "build_engine",
    "conclude_sums",
    "draw_population",
    "few_twins",
    "generate_population",
    "is_sharded",
    "prepare_twins",
    "require_features",
    "simulate_population",
    "sum_recipe",
]


class MissingFeature(ValueError):
    """The filter is on a feature that the model of the line was not trained on."""


class DeadlineExceeded(RuntimeError):
    """The computation took too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the computation took longer than {seconds:g} s (TWIN_SIMULATION_DEADLINE_S) and was ended: request fewer twins or"
            " fewer alternatives"
        )


COMPUTATION_REFUSALS = (EmptyFilter, EmptyPopulation, MissingFeature, UnknownPopulation)
"""Raised when the twins of a valid request cannot be simulated: the request is rejected."""


def generate_population(model: TwinModel, recipe: Recipe) -> TwinPopulation:
    """The population of a recipe.

    Raises:
        EmptyFilter: when no real row satisfies the filters.
        MissingFeature: when a filter is on a feature that the model does not have.
    """
    require_features(model.card, recipe.filters)
    return model.generate(recipe.twin_count, recipe.filters, recipe.seed)


def draw_population(model: TwinModel, recipe: Recipe) -> TwinPopulation:
    """The population of a recipe without the intervals of outcomes, which no simulation reads; raises the same errors."""
    require_features(model.card, recipe.filters)
    return model.draw_population(recipe.twin_count, recipe.filters, recipe.seed)


def prepare_twins(population: TwinPopulation) -> PreparedTwins:
    """Twins for simulations, with what the card of their model says of their realism, whatever was measured since.

    That of their filters is measured at some later time, and an answer that depended on it could not be repeated.
    """
    return PreparedTwins(_as_at_first(population))


def _as_at_first(population: TwinPopulation) -> TwinPopulation:
    card = None if population.filters_applied else population.model
    return population.with_realism(card.metrics.realism if card else None)


def build_engine(
    population: TwinPopulation | PreparedTwins,
    priors: Mapping[str, EffectPrior],
    request: SimulationRequest,
    thresholds: LineThresholds = DEFAULT_THRESHOLDS,
) -> SimulationEngine:
    """The engine that answers a request on these twins; thresholds of the request precede those of its line."""
    return SimulationEngine(
        population,
        priors=priors,
        min_effect_threshold=request.min_effect_threshold or thresholds.min_effect_threshold,
        confidence_threshold=request.confidence_threshold or thresholds.confidence_threshold,
        require_test=thresholds.require_test,
        confidence_level=request.confidence_level,
        seed=request.effective_seed,
    )


def simulate_population(
    twins: PreparedTwins,
    priors: Mapping[str, EffectPrior],
    request: SimulationRequest,
    thresholds: LineThresholds = DEFAULT_THRESHOLDS,
) -> SimulationResult:
    """The result of a request on these twins.

    Raises:
        EmptyPopulation: when no twin satisfies the filters.
        MissingFeature: when a filter is on a feature that these twins do not have.
    """
    if twins.population.model is not None:
        require_features(twins.population.model, request.filters)
    result = build_engine(twins, priors, request, thresholds).simulate(
        request.intervention, request.filters, alternatives=request.alternatives, simulation_id=request.simulation_id
    )
    return result.model_copy(update={"thresholds_version": thresholds.version})


def is_sharded(pins: Pins) -> bool:
    """Whether the twins of a run are too many for one table, so that they are generated in blocks and have no ids."""
    return not pins.stored and pins.recipe is not None and is_in_blocks(pins.recipe.twin_count)


def sum_recipe(
    model: TwinModel,
    priors: Mapping[str, EffectPrior],
    *,
    recipe: Recipe,
    blocks: Iterable[int],
    request: SimulationRequest,
    thresholds: LineThresholds = DEFAULT_THRESHOLDS,
) -> ExactSums:
    """The sums over the twins of some blocks of a recipe.

    Raises:
        EmptyFilter, MissingFeature: as :func:`generate_population`.
    """
    require_features(model.card, recipe.filters)
    candidates = [request.intervention, *request.alternatives]
    engine_on = partial(build_engine, priors=priors, request=request, thresholds=thresholds)
    return sum_blocks(model, blocks, recipe.twin_count, recipe.filters, recipe.seed, engine_on, candidates)


def few_twins(model: TwinModel, recipe: Recipe) -> PreparedTwins:
    """A few twins of a recipe, which stand for all of them where a result is concluded from their sums.

    Raises:
        EmptyFilter, MissingFeature: as :func:`generate_population`.
    """
    require_features(model.card, recipe.filters)
    return PreparedTwins(_as_at_first(describe_population(model, recipe.filters, recipe.seed)), is_block=True)


def conclude_sums(
    few: PreparedTwins,
    sums: ExactSums,
    priors: Mapping[str, EffectPrior],
    request: SimulationRequest,
    thresholds: LineThresholds = DEFAULT_THRESHOLDS,
) -> SimulationResult:
    """The result of a request from :func:`few_twins` and the sums over all blocks of its recipe."""
    result = build_engine(few, priors, request, thresholds).conclude(
        sums.to_sums(),
        request.intervention,
        request.filters,
        alternatives=request.alternatives,
        simulation_id=request.simulation_id,
    )
    return result.model_copy(update={"thresholds_version": thresholds.version})


def require_features(card: ModelCard, filters: Filters) -> None:
    """Check that the twins of a model have every filtered feature.

    Raises:
        MissingFeature: when they do not; it names those that they have.
    """
    try:
        filtered = {condition.column for condition in conditions(card.twin_type, filters, card.own_features)}
    except ValueError as error:
        raise MissingFeature(str(error)) from error
    if missing := sorted(filtered - set(card.features)):
        raise MissingFeature(
            f"the twins of {card.line} have no {', '.join(missing)}: filter by {', '.join(card.features)}, or train a model with it"
        )

"""Simulations on populations of any size: twins are generated block by block, and only sums over them are kept.

A block is 65,536 twins that depend on the seed and its number only. Its sums are integers (:class:`engine.effects.ExactSums`), so
a result is the same, bit for bit, whoever computes which blocks in which order. The memory of a computation is that of one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from engine.effects import ExactSums, PreparedTwins
from engine.simulation_engine import SimulationEngine
from engine.twins import TwinModel
from schemas.events import MAX_TWINS_AT_ONCE
from schemas.filters import Filters
from schemas.simulation_models import InterventionConfig
from schemas.twin_models import TwinPopulation

__all__ = ["BLOCK_TWINS", "block_count", "describe_population", "is_in_blocks", "sum_blocks"]

BLOCK_TWINS = 2**16
"""Twins of a block; the last one of a population may have fewer. Another number would give other twins."""

_EXAMPLES = 100


def is_in_blocks(twin_count: int) -> bool:
    """Whether a population of this size is generated in blocks."""
    return twin_count > MAX_TWINS_AT_ONCE


def block_count(twin_count: int) -> int:
    """Number of blocks of a population.

    >>> block_count(10_000_000), block_count(65_536)
    (153, 1)
    """
    return -(-twin_count // BLOCK_TWINS)


def sum_blocks(
    model: TwinModel,
    blocks: Iterable[int],
    twin_count: int,
    filters: Filters,
    seed: int,
    engine_on: Callable[[PreparedTwins], SimulationEngine],
    candidates: Sequence[InterventionConfig],
) -> ExactSums:
    """The sums over the twins of some blocks.

    Args:
        model: that generates them.
        blocks: their numbers, from 0.
        twin_count: of the whole population.
        filters: of the population.
        seed: of the population.
        engine_on: the engine of the simulation on some twins.
        candidates: the intervention and its alternatives.

    Raises:
        EmptyFilter: when no real row satisfies the filters.
        ValueError: for a sum that is not finite.
    """
    sums = ExactSums({})
    for number in blocks:
        n = min(BLOCK_TWINS, twin_count - number * BLOCK_TWINS)
        twins = PreparedTwins(model.generate_block(number, n, filters, seed), is_block=True)
        sums = sums.merge(ExactSums.from_sums(engine_on(twins).sum_twins(candidates)))
    return sums


def describe_population(model: TwinModel, filters: Filters, seed: int) -> TwinPopulation:
    """A few twins that stand for a population in blocks where a result is concluded: they have its model, real rows and realism."""
    return model.generate(_EXAMPLES, filters, seed)

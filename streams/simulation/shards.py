"""Cuts a large request into shards, and concludes it from the sums of all of them."""

from __future__ import annotations

from engine.block_simulation import BLOCK_TWINS, block_count
from engine.effects import ExactSums
from schemas import SimulationRequest, SimulationResult
from sql.database import Pool
from sql.shard_store import NewShard, shard_sums
from sql.simulation_store import Pins
from streams.simulation.simulation_process import SimulationFailed
from streams.simulation.simulator import Simulator

__all__ = ["conclude_shards", "shards_of"]


def shards_of(pins: Pins, shard_twins: int) -> list[NewShard]:
    """The shards of a run, each of whole blocks with about ``shard_twins`` twins. How large they are does not change its result."""
    assert pins.recipe is not None  # every pinned request has a population
    n, step = pins.recipe.twin_count, max(1, shard_twins // BLOCK_TWINS)
    ends = [(first, min(first + step, block_count(n))) for first in range(0, block_count(n), step)]
    return [NewShard(first, end, min(end * BLOCK_TWINS, n) - first * BLOCK_TWINS) for first, end in ends]


async def conclude_shards(pool: Pool, simulator: Simulator, pins: Pins, request: SimulationRequest) -> SimulationResult:
    """The result of a request whose shards are all computed.

    Raises:
        EmptyFilter, MissingFeature: when its twins cannot be generated.
        SimulationFailed: when a shard has failed for another reason.
    """
    stored = await shard_sums(pool, pins.simulation_id)

    def merged() -> ExactSums:
        if stored.failure is not None:
            raise SimulationFailed(stored.failure)
        return ExactSums.merge_all([ExactSums.from_bytes(sums) for sums in stored.sums])

    return await simulator.conclude(pins, request, merged)

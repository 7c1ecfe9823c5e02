"""Twins that were simulated on lately, with what the engine derived from them, for the next requests about the same twins.

Requests that name no seed are answered by the same twins as long as model, filters and number are the same. What is cached equals,
bit for bit, what would be generated again: its key has everything that determines it.
"""

from __future__ import annotations

from uuid import UUID

from cachetools import LRUCache

from engine.effects import PreparedTwins
from sql.simulation_store import Pins
from streams.metrics import TWIN_CACHE

__all__ = ["TwinCache"]


class TwinCache:
    """Generated twins by population and catalogue; the least recently used ones are evicted first.

    Twins that are stored are not cached: they may be deleted.

    Args:
        max_bytes: of all twins together; a population that is larger alone is not cached.
    """

    def __init__(self, max_bytes: int) -> None:
        self._twins: LRUCache[tuple[UUID, str], PreparedTwins] = LRUCache(max_bytes, getsizeof=lambda twins: twins.n_bytes)

    def get(self, pins: Pins) -> PreparedTwins | None:
        """The twins of a pinned request; None when they have to be generated or loaded."""
        if pins.stored or pins.recipe is None:
            return None
        twins = self._twins.get(_key(pins))
        TWIN_CACHE.labels(result="miss" if twins is None else "hit").inc()
        return twins

    def add(self, pins: Pins, twins: PreparedTwins) -> None:
        """Keep the twins of a pinned request, which may take more memory than they took before."""
        if pins.stored or pins.recipe is None:
            return
        self._twins.pop(_key(pins), None)
        if twins.n_bytes <= self._twins.maxsize:
            self._twins[_key(pins)] = twins


def _key(pins: Pins) -> tuple[UUID, str]:
    """The population id stands for model, number, filters and seed; moderators and groups are those of the catalogue."""
    assert pins.recipe is not None
    return pins.recipe.population_id, pins.catalogue.sha256

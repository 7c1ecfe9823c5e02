"""The models used last, kept in memory: bounded, least recently used out first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from uuid import UUID

__all__ = ["ModelCache"]

Model = TypeVar("Model")


@dataclass
class ModelCache(Generic[Model]):
    """At most ``size`` models by their id, with counts of what was asked for.

    Example:
        >>> cache = ModelCache[str](size=1)
        >>> cache.put(UUID(int=1), "first"), cache.put(UUID(int=2), "second")
        (None, None)
        >>> cache.get(UUID(int=1)), cache.get(UUID(int=2)), cache.hits, cache.misses, cache.evictions
        (None, 'second', 1, 1, 1)
    """

    size: int
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    _models: OrderedDict[UUID, Model] = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a cache of {self.size} models keeps nothing: give at least 1")

    def __len__(self) -> int:
        """Models kept."""
        return len(self._models)

    def get(self, model_id: UUID) -> Model | None:
        """The model, which becomes the one used last, or None."""
        if model_id not in self._models:
            self.misses += 1
            return None
        self.hits += 1
        self._models.move_to_end(model_id)
        return self._models[model_id]

    def put(self, model_id: UUID, model: Model) -> None:
        """Keep a model; the one unused for longest goes when there are too many."""
        self._models[model_id] = model
        self._models.move_to_end(model_id)
        if len(self._models) > self.size:
            self._models.popitem(last=False)
            self.evictions += 1

"""Stores of tracked pairs: a tracker gives its pairs to the store that is open, without knowing what it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from schemas.arrays import Floats

__all__ = ["TrackingStore", "close_store", "current_store", "open_store"]


class TrackingStore(Protocol):
    """Stores pairs of predicted and actual values of twins."""

    def record(self, twin_ids: Sequence[UUID], predicted: Floats, actual: Floats) -> None:
        """Take ``n`` pairs to be stored; an actual value is NaN where it is missing."""
        ...


_stores: list[TrackingStore] = []


def open_store(store: TrackingStore) -> None:
    """Let trackers give their pairs to this store from now on."""
    if store not in _stores:
        _stores.append(store)


def close_store(store: TrackingStore) -> None:
    """Let no tracker give pairs to this store any more."""
    if store in _stores:
        _stores.remove(store)


def current_store() -> TrackingStore | None:
    """The open store that was opened last, so that each pair is stored once; None where none is open."""
    return _stores[-1] if _stores else None

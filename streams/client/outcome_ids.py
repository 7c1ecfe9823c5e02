"""Ids of outcomes that have none: they follow from the content, so that the same outcome has the same id whenever it is published.

Entity and time name an outcome: with both, the id is that of the two, whatever the value, so that another value corrects the first
one. Without them, the id is that of the whole content and of its place among equal outcomes: of equal rows, the k-th is the same
outcome in every file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from schemas import OutcomeEvent
from schemas.events import canonical_digest
from schemas.levels import level_key

__all__ = ["NO_ID", "OutcomeIds", "content_of"]

NO_ID = UUID(int=0)
"""The event id of an outcome that has none yet."""

_NAMESPACE = uuid5(NAMESPACE_URL, "twinstream:published outcomes")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGEST_BYTES = 16
_LEVELS = ("features", "segment")


class OutcomeIds:
    """Gives outcomes of one file their ids; the order of equal outcomes among others does not matter."""

    def __init__(self) -> None:
        self._equal: Counter[bytes] = Counter()

    def id_of(self, event: OutcomeEvent, *, has_time: bool) -> UUID:
        """The id of the next outcome of the file: its own, or the one that follows from it.

        Args:
            event: the outcome, with ``NO_ID`` where the file has no id for it.
            has_time: whether ``observed_at`` is of the file, and not filled in.
        """
        if event.event_id != NO_ID:
            return event.event_id
        if has_time and (event.entity_id is not None or event.twin_id is not None):
            return uuid5(_NAMESPACE, _name_of(event))
        content = content_of(event, has_time=has_time)
        self._equal[content] += 1
        return uuid5(_NAMESPACE, f"{content.hex()}:{self._equal[content]}")


def content_of(event: OutcomeEvent, *, has_time: bool) -> bytes:
    """Digest of what an outcome states, in any spelling of levels, without id and revision, and without a filled-in time."""
    levels = {name: _with_keys(cells) for name in _LEVELS if (cells := getattr(event, name))}
    blank = {"event_id": NO_ID, "revision": 0, **levels} | ({} if has_time else {"observed_at": _EPOCH})
    return canonical_digest(event.model_copy(update=blank))[:_DIGEST_BYTES]


def _with_keys(cells: Mapping[str, Any]) -> dict[str, Any]:
    return {name: level_key(cell) if isinstance(cell, str) else cell for name, cell in cells.items()}


def _name_of(event: OutcomeEvent) -> str:
    """What names an outcome beside its values: line, entity, the prediction it is about, and time."""
    ids = (event.entity_id, event.simulation_id, event.twin_id, event.model_id)
    return json.dumps([event.line, *(None if part is None else str(part) for part in ids), event.observed_at.isoformat()])

"""Turns rows of a table into outcome events at a steady rate, each observed now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import pandas as pd

from schemas import OutcomeEvent, line_parts
from sql.training_data_store import ENTITY

__all__ = ["OutcomeRows", "paced_batches"]

_BATCH_S = 0.5


@dataclass
class OutcomeRows:
    """The rows of a table one after another, again from the first after the last, each time as a new event.

    Attributes:
        namespace: namespace of the event ids: the same namespace and position give the same id.
        position: events made so far.
    """

    frame: pd.DataFrame
    line: str
    namespace: UUID
    position: int = 0
    _rows: list[dict[str, Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._rows = [{str(name): value for name, value in row.items()} for row in self.frame.to_dict("records")]

    def next_batch(self, size: int, at: datetime, shift_by_row: Mapping[int, float]) -> list[OutcomeEvent]:
        """The next outcomes, observed ``at`` a time; ``shift_by_row`` is added to the target of a row, by its index."""
        first, self.position = self.position, self.position + size
        return [self._event(position, at, shift_by_row) for position in range(first, first + size)]

    def _event(self, position: int, at: datetime, shift_by_row: Mapping[int, float]) -> OutcomeEvent:
        twin_type, brand, target = line_parts(self.line)
        row_index = position % len(self._rows)
        row = self._rows[row_index]
        features = {name: value for name, value in row.items() if name not in (ENTITY, target) and not _is_missing(value)}
        return OutcomeEvent(
            event_id=uuid5(self.namespace, str(position)),
            observed_at=at,
            twin_type=twin_type,
            brand=brand,
            metric_type=target,
            actual_value=float(row[target]) + shift_by_row.get(row_index, 0.0),
            entity_id=str(row[ENTITY]),
            features=features,
        )


async def paced_batches(
    rows: OutcomeRows, rate: float, shift_by_row: Mapping[int, float], total: int
) -> AsyncIterator[Sequence[OutcomeEvent]]:
    """Batches of ``total`` outcomes at ``rate`` events a second."""
    started, sent = time.monotonic(), 0
    for due in _batch_ends(rate, total):
        await asyncio.sleep(max(0.0, started + due / rate - time.monotonic()))
        yield rows.next_batch(due - sent, datetime.now(UTC), shift_by_row)
        sent = due


def _batch_ends(rate: float, total: int) -> Iterator[int]:
    step = max(1, round(rate * _BATCH_S))
    yield from range(step, total, step)
    yield total


def _is_missing(value: object) -> bool:
    return value is None or value != value  # noqa: PLR0124  # only NaN differs from itself

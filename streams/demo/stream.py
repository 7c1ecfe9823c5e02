"""Rows of a table as outcome events, paced: so many a second, each stamped with the present."""

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
from streams.training.datasets import ENTITY

__all__ = ["OutcomeRows", "paced"]

_TICK_S = 0.5


@dataclass
class OutcomeRows:
    """The rows of a table one after another, round and round, each time as a new event.

    Attributes:
        run: namespace of the event ids: the same run and position give the same id.
        taken: events made so far.
    """

    frame: pd.DataFrame
    line: str
    run: UUID
    taken: int = 0
    _rows: list[dict[str, Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        *_, self._target = line_parts(self.line)
        self._rows = [{str(name): value for name, value in row.items()} for row in self.frame.to_dict("records")]

    def take(self, count: int, at: datetime, change: Mapping[int, float]) -> list[OutcomeEvent]:
        """The next ``count`` outcomes, observed ``at``; ``change`` is added to the target of a row, by its number."""
        first, self.taken = self.taken, self.taken + count
        return [self._event(position, at, change) for position in range(first, first + count)]

    def _event(self, position: int, at: datetime, change: Mapping[int, float]) -> OutcomeEvent:
        twin_type, brand, target = line_parts(self.line)
        row = position % len(self._rows)
        said = self._rows[row]
        features = {name: value for name, value in said.items() if name not in (ENTITY, target) and not _missing(value)}
        return OutcomeEvent(
            event_id=uuid5(self.run, str(position)),
            observed_at=at,
            twin_type=twin_type,
            brand=brand,
            metric_type=target,
            actual_value=float(said[target]) + change.get(row, 0.0),
            entity_id=str(said[ENTITY]),
            features=features,
        )


async def paced(rows: OutcomeRows, rate: float, change: Mapping[int, float], most: int) -> AsyncIterator[Sequence[OutcomeEvent]]:
    """Batches of outcomes at ``rate`` events a second, ``most`` events in all."""
    started, sent = time.monotonic(), 0
    for due in _ticks(rate, most):
        await asyncio.sleep(max(0.0, started + due / rate - time.monotonic()))
        yield rows.take(due - sent, datetime.now(UTC), change)
        sent = due


def _ticks(rate: float, most: int) -> Iterator[int]:
    step = max(1, round(rate * _TICK_S))
    yield from range(step, most, step)
    yield most


def _missing(value: object) -> bool:
    return value is None or value != value  # noqa: PLR0124  # NaN alone differs from itself

"""Publishes outcomes of a line of its own beside hostile input, and measures for how long none of a partition is stored."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4, uuid5

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas import Brand
from sql.database import Database, connect
from sql.ledger import Ledger
from streams.kafka import PARTITIONS
from streams.settings import Settings
from tests.outcomes import SPACE, TOPIC, outcome

__all__ = ["OTHER_LINE", "LineWatch", "add_other_line"]

OTHER_LINE = "hcp:remibrutinib:prescribing_change"
_PUBLISH_INTERVAL_S, _LOOK_INTERVAL_S, _LONGEST_SEND_S = 0.2, 1.0, 10.0


def _outcome(number: int) -> dict[str, Any]:
    """An outcome of now, predicted as well as the champion predicts: the line has no reason to be trained."""
    figures = {"actual_value": 0.05 * (-1) ** number, "predicted_value": 0.0, "predicted_lower": -0.15, "predicted_upper": 0.15}
    now = datetime.now(UTC).isoformat()
    return outcome(number, event_id=str(uuid4()), observed_at=now, brand=Brand.REMIBRUTINIB.value, **figures)


async def add_other_line(database: Database, model: UUID) -> None:
    """Another line with a champion like this model: its outcomes must not wait."""
    ledger = Ledger(database)
    card = await ledger.card(model)
    other = card.model_copy(update={"model_id": uuid5(SPACE, "second"), "brand": Brand.REMIBRUTINIB})
    await ledger.register_model(other, "0" * 64, pane_s=300.0, window_s=3600.0)
    await ledger.promote(other.line, other.model_id, reason="first model of the line")


@dataclass
class LineWatch:
    """Publishes an outcome of the other line every fifth of a second, and measures how long none of a partition is stored.

    A busy machine stores them late; it does not stop storing them.

    Attributes:
        is_excused: whether nothing can be stored now, for example because Postgres is stopped: such times do not count.
        longest_standstill_s: the longest time without progress of a partition so far.
    """

    settings: Settings
    is_excused: Callable[[], bool] = lambda: False
    longest_standstill_s: float = 0.0
    _published: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    _stored: dict[int, int] = field(default_factory=dict)
    _moved_s: dict[int, float] = field(default_factory=dict)
    _clock_s: float = 0.0

    async def run(self) -> None:
        """Publish and look until cancelled."""
        await asyncio.gather(self._publish(), self._look())

    async def unstored(self) -> set[str]:
        """Ids of the published outcomes that are not stored."""
        connection = await connect(self.settings.postgres_dsn.get_secret_value())
        try:
            rows = await connection.fetch("SELECT event_id::text FROM fidelity_tracking WHERE line = $1", OTHER_LINE)
        finally:
            await connection.close()
        return self._note({row["event_id"] for row in rows})

    def _note(self, stored: set[str]) -> set[str]:
        """Note which events are stored now, and return the published ones that are not."""
        for partition, published in self._published.items():
            count = len(published & stored)
            if count == len(published) or count > self._stored.get(partition, 0):
                self._moved_s[partition] = self._clock_s
            self._stored[partition] = count
            standstill_s = self._clock_s - self._moved_s.setdefault(partition, self._clock_s)
            self.longest_standstill_s = max(self.longest_standstill_s, standstill_s)
        return set().union(*self._published.values()) - stored

    async def _publish(self) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.settings.kafka_bootstrap) as producer:
            number = 0
            while True:
                body = _outcome(number)
                partition = number % PARTITIONS[TOPIC]
                with suppress(KafkaError, TimeoutError):
                    async with asyncio.timeout(_LONGEST_SEND_S):
                        await producer.send_and_wait(TOPIC, json.dumps(body).encode(), partition=partition)
                    self._published[partition].add(body["event_id"])
                number += 1
                await asyncio.sleep(_PUBLISH_INTERVAL_S)

    async def _look(self) -> None:
        last_s = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            if self.is_excused():
                last_s = time.monotonic()
                continue
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                async with asyncio.timeout(_LONGEST_SEND_S):
                    await self.unstored()
            now = time.monotonic()
            self._clock_s, last_s = self._clock_s + (0.0 if self.is_excused() else now - last_s), now

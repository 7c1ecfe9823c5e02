"""Checks outcomes as the service does when they arrive, against its present state and without storing anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka import ConsumerRecord

from schemas import OutcomeEvent
from sql.database import Pool
from streams.ingestion import ContextLoader, OutcomePipeline
from streams.kafka import topic_of
from streams.kafka.batch_consumer import PollBatch
from streams.registry import ModelLoader
from streams.settings import Settings
from streams.simulation import Simulator

__all__ = ["CheckedOutcome", "OutcomeCheck"]

_OUTCOMES = topic_of(OutcomeEvent)


class CheckedOutcome(NamedTuple):
    """The line of an outcome, empty where it names none, and why it would be refused; null when it would be accepted."""

    line: str
    reason: str | None


class OutcomeCheck:
    """Decodes and scores outcomes by the code and the settings of the outcomes role."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        models = ModelLoader.from_settings(pool, settings)
        contexts = ContextLoader(pool, models.load, Simulator(pool, models).twins)
        self._pipeline = OutcomePipeline(pool, contexts, settings.skew_s, settings.restatement_s, settings.segment_limits, settings)

    async def check(self, outcomes: Sequence[tuple[bytes | None, bytes | None]]) -> list[CheckedOutcome]:
        """Check records that hold one outcome each, given by key and value, as if they arrived now."""
        now_ms = int(time.time() * 1000)
        # Each record gets its index as its offset, by which the results are matched below.
        records = [_consumer_record(index, now_ms, *outcome) for index, outcome in enumerate(outcomes)]
        scored = await self._pipeline.score(await self._pipeline.decode(PollBatch(_OUTCOMES, 0, 0, records)))
        reasons = {element.record_index: element.refusal.reason for element in scored.decoded.refused}
        indexes = scored.outcomes.record_index.tolist()
        reasons |= {indexes[row]: refusal.reason for row, refusal in scored.scores.refused.items()}
        lines = {index: scored.outcomes.shared_fields_of(row).line for row, index in enumerate(indexes)}
        return [CheckedOutcome(lines.get(index, ""), reasons.get(index)) for index in range(len(records))]


def _consumer_record(
    offset: int, now_ms: int, key: bytes | None, value: bytes | None
) -> ConsumerRecord[bytes | None, bytes | None]:
    return ConsumerRecord(_OUTCOMES, 0, offset, now_ms, 1, key, value, None, len(key or b""), len(value or b""), ())

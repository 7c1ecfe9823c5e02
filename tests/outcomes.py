"""A model line with a tiny champion, outcomes and retrain events for it, and poll batches, for tests of several packages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID, uuid5

from aiokafka import ConsumerRecord

from schemas import Baseline, Brand, ModelCard, RetrainEvent, TwinModelMetrics, TwinType
from sql.database import connect
from sql.ledger import Ledger
from streams.kafka.batch_consumer import PollBatch

Record: TypeAlias = "ConsumerRecord[bytes | None, bytes | None]"

SPACE = UUID(int=14)
LINE = "hcp:kisqali:prescribing_change"
START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
TOPIC = "outcome-events"


def make_card(name: str = "first", *, mae: float = 0.8) -> ModelCard:
    """A model whose errors were standard normal."""
    metrics = TwinModelMetrics(train_r2=0.5, train_mae=mae, train_rmse=1.0, cv_r2_mean=0.5, cv_r2_std=0.0, training_samples=1000)
    baseline = Baseline(
        n=5000,
        mae=mae,
        rmse=1.0,
        correlation=0.9,
        coverage_95pct=0.95,
        center=0.0,
        scale=2.0,
        clip=4.0,
        clipped_mean=mae / 4,
        clipped_sd=0.15,
    )
    return ModelCard(
        model_id=uuid5(SPACE, name),
        twin_type=TwinType.HCP,
        brand=Brand.KISQALI,
        target="prescribing_change",
        model_type="RandomForest",
        features=("decile",),
        hyperparameters={},
        training_samples=1000,
        metrics=metrics,
        baseline=baseline,
    )


async def make_line(dsn: str, *cards: ModelCard, pane_s: float = 60.0, window_s: float = 300.0) -> None:
    """Register the cards in a migrated database; the first one is champion from ``START`` on."""
    connection = await connect(dsn)
    try:
        ledger = Ledger(connection)
        cards = cards or (make_card(),)
        for card in cards:
            await ledger.register_model(card, "0" * 64, pane_s=pane_s, window_s=window_s)
        await ledger.promote(cards[0].line, cards[0].model_id, reason="the first one")
    finally:
        await connection.close()


def outcome(number: int, **fields: Any) -> dict[str, Any]:
    """Outcome ``number``, a second after the one before it: predicted 0 to 2, actual half a unit more or less."""
    predicted = number % 5 / 2
    return {
        "event_id": str(uuid5(SPACE, f"event {number}")),
        "observed_at": (START + timedelta(seconds=number)).isoformat(),
        "twin_type": "hcp",
        "brand": "kisqali",
        "metric_type": "prescribing_change",
        "actual_value": predicted + (0.5 if number % 2 else -0.5),
        "predicted_value": predicted,
        "predicted_lower": predicted - 2,
        "predicted_upper": predicted + 2,
        "segment": {"region": ("west", "east", "south")[number % 3]},
    } | fields


def retrain_event(model_id: UUID, **fields: Any) -> RetrainEvent:
    """The first retrain event about a model, requested now because of drift."""
    defaults = {
        "retrain_id": uuid5(model_id, str(fields.get("attempt", 0))),
        "line": LINE,
        "model_id": model_id,
        "attempt": 0,
        "requested_at": datetime.now(UTC),
        "cause": "drift",
        "reason": "MAE 0.25 is above 0.14",
    }
    return RetrainEvent.model_validate(defaults | fields)


def record(offset: int, value: Any, *, partition: int = 0, at: datetime | None = None) -> Record:
    """A Kafka record; bytes as they are, anything else as JSON."""
    body = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    stamp = int(((at or START) + timedelta(days=1)).timestamp() * 1000) + offset
    return ConsumerRecord(TOPIC, partition, offset, stamp, 1, b"key", body, 0, 3, len(body or b""), ())


def poll_batches(records: Sequence[Record], size: int) -> Iterator[PollBatch]:
    """Batches of at most ``size`` records."""
    for first in range(0, len(records), size):
        part = records[first : first + size]
        yield PollBatch(part[0].topic, part[0].partition, 0, part)

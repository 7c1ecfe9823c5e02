"""Retrain events against a real PostgreSQL: only those that a fidelity worker has decided are accepted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid5

import pytest

from schemas import RetrainEvent
from sql.database import Pool, open_pool
from sql.retrain_decision_store import add_decision
from streams.kafka.records import event_value
from streams.training.retrain_check import ForgedRetrain, check_retrain
from tests.outcomes import make_card, retrain_event

MODEL = make_card().model_id


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    async with await open_pool(dsn=fresh_database) as opened:
        yield opened


def forged(event: RetrainEvent, **fields: Any) -> RetrainEvent:
    return RetrainEvent.model_validate(event.model_dump() | fields)


async def test_every_decision_about_a_retrain_is_accepted_as_it_is_read_from_the_topic(pool: Pool):
    evidence = {
        "segment": "all",
        "metrics": {"n": 5, "mae": 0.1 + 0.2, "rmse": 1e22, "text": "\u00e9\u2028"},
        "verdicts": [None, -0.0],
    }
    events = [retrain_event(MODEL, attempt=3, evidence=evidence), retrain_event(MODEL, attempt=3, reason="another segment")]
    for event in events:
        await add_decision(pool, event)
        await add_decision(pool, event)
    for event in events:
        await check_retrain(pool, RetrainEvent.model_validate_json(event_value(event)))


@pytest.mark.parametrize("attempt", [0, 2, 2**31 - 1])
async def test_an_attempt_that_no_worker_has_decided_is_forged_though_its_id_follows_from_it(pool: Pool, attempt: int):
    await add_decision(pool, retrain_event(MODEL, attempt=1))
    with pytest.raises(ForgedRetrain, match=rf"attempt {attempt}, was decided by no fidelity worker"):
        await check_retrain(pool, retrain_event(MODEL, attempt=attempt))


@pytest.mark.parametrize(
    "fields",
    [
        {"retrain_id": uuid5(MODEL, "1")},
        {"model_id": UUID(int=1)},
        {"line": "hcp:fabhalta:prescribing_change"},
        {"attempt": 1},
        {"cause": "request"},
        {"requested_at": "0001-01-01T00:00:00Z"},
        {"reason": "x" * 1_000_000},
        {"evidence": {"metrics": "x"}},
    ],
)
async def test_a_decided_event_with_any_other_content_is_forged(pool: Pool, fields: dict[str, Any]):
    event = retrain_event(MODEL)
    await add_decision(pool, event)
    with pytest.raises(ForgedRetrain) as refusal:
        await check_retrain(pool, forged(event, **fields))
    assert len(str(refusal.value)) < 400

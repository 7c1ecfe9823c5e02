"""Decisions over HTTP on a real Postgres while Kafka is out: they are stored and count, and the rest is told."""

from __future__ import annotations

from uuid import uuid4

from sql.database import Pool
from sql.ledger import Ledger
from sql.retrain_store import enqueue
from streams.operations.operator import operator_name
from tests.http_api import running
from tests.outcomes import LINE, make_card, make_line, retrain_event


async def test_a_decision_counts_while_kafka_is_out_and_tells_what_is_left(fresh_database: str, pool: Pool):
    first, second = make_card(), make_card("second").model_copy(update={"mlflow_run_id": "run"})
    await make_line(fresh_database, first, second)
    await enqueue(pool, event := retrain_event(first.model_id))
    async with running(postgres_dsn=fresh_database, kafka_connect_timeout_s=0.5) as api:
        unknown = await api.post(f"/api/v1/models/{LINE}/promotions", {"model_id": str(uuid4())})
        promoted = await api.post(f"/api/v1/models/{LINE}/promotions", {"model_id": str(second.model_id)})
        stale = await api.post(f"/api/v1/retrains/{event.retrain_id}/approval", {})
        replay = await api.post(f"/api/v1/dead-letters/{uuid4()}/replays", {})
    assert unknown.status == 404
    assert (promoted.status, promoted.body["event"]["decided_by"]) == (200, operator_name())
    assert promoted.body["pending"] == ["published on the topic model-events", "shown by the alias champion in MLflow"]
    assert (await Ledger(pool).state(LINE)).champion == second.model_id
    assert (stale.status, replay.status) == (409, 503)
    assert "which is no longer champion" in stale.body["detail"]


async def test_a_rollback_with_a_key_goes_back_once(fresh_database: str, pool: Pool):
    first, second, third = make_card(), make_card("second"), make_card("third")
    await make_line(fresh_database, first, second, third)
    for card in (second, third):
        await Ledger(pool).promote(LINE, card.model_id)
    async with running(postgres_dsn=fresh_database, kafka_connect_timeout_s=0.5) as api:
        path = f"/api/v1/models/{LINE}/rollbacks"
        replies = [await api.post(path, {}, Idempotency_Key="once") for _ in range(3)]
        other = await api.post(path, {"reason": "another one"}, Idempotency_Key="once")
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert replies[1].headers["Idempotent-Replayed"] == "true"
    assert (await Ledger(pool).state(LINE)).champion == second.model_id
    assert other.status == 422

"""A range of a topic is replayed: what is valid by now counts, nothing counts twice, and no alarm is raised."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from schemas import InterventionConfig, SimulationRequest
from sql.replay_store import begin_suppression, is_suppressed
from sql.retrain_approval_store import approve
from sql.retrain_store import RetrainLimits, enqueue, waits_for
from streams.kafka import DEAD_LETTERS
from tests.outcomes import LINE, TOPIC, make_card, make_line, outcome, retrain_event

REQUESTS = "simulation-requests"
OF_UNKNOWN_MODEL = outcome(7, model_id=str(UUID(int=5)))
EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)


async def test_outcomes_that_arrived_before_their_champion_count_once_after_a_replay_and_raise_no_alarm(
    service, client, listener, pool, settings, twinstream
):
    early = [json.dumps(outcome(number)).encode() for number in range(5)]
    async with service(["outcomes"]):
        for value in [*early, json.dumps(OF_UNKNOWN_MODEL).encode()]:
            await client.publish_bytes(TOPIC, b"key", value)
        await listener.records(DEAD_LETTERS, 6)
        assert await pool.fetchval("SELECT count(*) FROM refused_records WHERE kind = 'champion'") == 5
        await make_line(settings.postgres_dsn.get_secret_value(), make_card())

        dry_run = await twinstream("replay", TOPIC, "--dry-run", "--json")
        assert {category: count for category, count in dry_run["found"].items() if count} == {
            "refused, and accepted now": 5,
            "refused, still: model": 1,
        }
        assert (await listener.count(TOPIC), await is_suppressed(pool, LINE)) == (6, False)

        replay = await twinstream("replay", TOPIC, "--json")
        assert replay["came_of_it"] == {"counted": 5}
        assert await is_suppressed(pool, LINE)
        repeated = await twinstream("replay", TOPIC, "--json")
    assert repeated["published_again"] == []
    assert {category: count for category, count in repeated["found"].items() if count} == {
        "in already": 5,
        "refused, and in since a replay": 5,
        "refused, still: model": 1,
    }
    assert await pool.fetchval("SELECT sum(n) FROM fidelity_panes WHERE segment = 'all'") == 5


async def test_a_replay_is_limited_by_offsets_or_times(client, twinstream):
    positions = [await client.publish_bytes(TOPIC, b"key", b"{}", partition=1) for _ in range(4)]
    middle = datetime.now(UTC) + timedelta(seconds=1)
    await asyncio.sleep(1.1)
    await client.publish_bytes(TOPIC, b"key", b"{}", partition=1)
    assert [offset for _, offset in positions] == [0, 1, 2, 3]
    by_offset = await twinstream("replay", TOPIC, "--from", "1", "--to", "3", "--partition", "1", "--json")
    by_time = await twinstream("replay", TOPIC, "--from", middle.isoformat(), "--json")
    assert by_offset["stretches"] == [{"topic": TOPIC, "partition": 1, "first": 1, "end": 3}]
    assert by_time["stretches"] == [{"topic": TOPIC, "partition": 1, "first": 4, "end": 5}]
    assert by_time["found"] == {"not read yet": 1}


async def test_a_replayed_request_has_the_same_answer_and_a_run_can_be_reproduced(
    service, client, listener, promoted, pool, owner_pool, twinstream
):
    request = SimulationRequest(
        simulation_id=uuid4(), requested_at=datetime.now(UTC), twin_type="hcp", brand="kisqali", intervention=EMAIL, twin_count=500
    )
    async with service(["simulation"]):
        await client.request(request)
        await client.publish_bytes(REQUESTS, b"key", b"nonsense")
        await listener.records(DEAD_LETTERS, 1)
        while (dry_run := await twinstream("replay", REQUESTS, "--dry-run", "--json"))["found"]["not read yet"]:  # noqa: ASYNC110  # another task changes it
            await asyncio.sleep(0.2)  # offsets are committed once a second
        assert dry_run["found"] == {"not read yet": 0, "completed, answered again": 1, "unreadable": 1}
        assert await listener.count(REQUESTS) == 2
        await twinstream("replay", REQUESTS, "--json")
        answers = await listener.records("simulation-results", 2)
    assert len({answer.value for answer in answers}) == 1

    assert (await twinstream("simulate", "--again", str(request.simulation_id), "--json"))["same"] is True
    await owner_pool.execute("UPDATE simulation_runs SET results = jsonb_set(results, '{ate}', '0.123456')")
    differs = await twinstream("simulate", "--again", str(request.simulation_id), "--json", status=1)
    assert list(differs["differences"]) == ["ate"]
    assert "there is no simulation" in await twinstream("simulate", "--again", str(UUID(int=3)), status=1)


async def test_a_retrain_during_a_replay_waits_for_approval(pool, promoted):
    await begin_suppression(pool, TOPIC, [promoted.line], "somebody", 60.0)
    await enqueue(pool, event := retrain_event(promoted.champion))
    assert "as outcomes were replayed" in await waits_for(pool, event.retrain_id, RetrainLimits())
    await approve(pool, event.retrain_id)
    assert await waits_for(pool, event.retrain_id, RetrainLimits()) == ""


REFUSED = [
    (("fidelity-windows",), "twinstream verify --repair"),
    (("retrain-events",), "trains nothing"),
    ((DEAD_LETTERS,), "twinstream dlq replay"),
    (("outcomes",), "unknown topic 'outcomes'"),
    ((TOPIC, "--from", "yesterday"), "neither an offset nor a time"),
    ((TOPIC, "--from", "2026-03-01T08:00:00"), "has no zone"),
    ((TOPIC, "--partition", "9"), "unknown partition '9'"),
]


async def test_a_replay_that_is_not_possible_is_refused_with_its_reason(twinstream):
    for arguments, reason in REFUSED:
        assert reason in await twinstream("replay", *arguments, status=1)

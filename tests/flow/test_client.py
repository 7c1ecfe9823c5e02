"""Which records the client publishes, and how it waits for answers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID, uuid4, uuid5

import pandas as pd
import pytest

from schemas import AnswerStatus, InterventionConfig, OutcomeEvent, SimulationAnswer, SimulationRequest
from streams.client.twin_client import NoAnswer, TwinClient

NAMES = UUID(int=99)


def make_table(n: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "event_id": [uuid5(NAMES, str(row)) for row in range(n)],
            "observed_at": datetime(2025, 3, 1, tzinfo=UTC),
            "twin_type": "hcp",
            "brand": "kisqali",
            "metric_type": "prescribing_change",
            "actual_value": [row / n for row in range(n)],
            "predicted_value": 0.5,
        }
    )


EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)


def make_request() -> SimulationRequest:
    requested_at = datetime(2025, 3, 1, tzinfo=UTC)
    return SimulationRequest(simulation_id=uuid4(), requested_at=requested_at, twin_type="hcp", brand="kisqali", intervention=EMAIL)


async def test_a_table_of_outcomes_is_published_completely_and_its_progress_is_reported(client, listener):
    progress = []
    assert await client.publish_outcomes(make_table(2500), progress=progress.append) == 2500
    events = await listener.events(OutcomeEvent, 2500)
    assert progress == [1000, 2000, 2500]
    assert {event.event_id: event.actual_value for event in events} == dict(
        zip(make_table(2500)["event_id"], make_table(2500)["actual_value"], strict=True)
    )


async def test_outcomes_may_come_from_an_iterator_and_have_the_publisher_in_a_header(client, listener):
    event = OutcomeEvent.model_validate(make_table(1).to_dict("records")[0])
    assert await client.publish_outcomes(iter([event])) == 1
    (record,) = await listener.records("outcome-events", 1)
    headers = dict(record.headers)
    assert record.key == str(event.event_id).encode()
    assert OutcomeEvent.model_validate_json(record.value) == event
    assert headers["ce_type"] == b"twinstream.OutcomeEvent.v1"
    assert headers["ce_source"] == b"/twinstream/test"


async def test_a_table_with_a_row_that_is_not_an_outcome_is_not_published_and_the_row_is_named(client, listener):
    table = make_table(1500)
    table.loc[1200, "brand"] = "aspirin"
    with pytest.raises(ValueError, match=r"row 1200 .*aspirin"):
        await client.publish_outcomes(table)
    assert await listener.count("outcome-events") == 0


async def test_the_same_event_published_again_is_the_same_message(client, listener):
    event = OutcomeEvent.model_validate(make_table(1).to_dict("records")[0])
    await client.publish(event)
    await client.publish(event)
    first, second = await listener.records("outcome-events", 2)
    assert (first.key, first.value, first.headers) == (second.key, second.value, second.headers)


async def test_every_client_that_waits_for_a_simulation_receives_its_answer_and_no_other(client, settings, listener):
    request = make_request()
    async with TwinClient(settings, name="other") as second_client:
        requests = [asyncio.create_task(waiting_client.request(request)) for waiting_client in (client, client, second_client)]
        unrelated = asyncio.create_task(client.request(make_request(), timeout_s=3.0))
        await listener.records("simulation-requests", 4)
        answer = SimulationAnswer(simulation_id=request.simulation_id, status=AnswerStatus.REJECTED, reason="no")
        await second_client.publish(answer)
        assert await asyncio.gather(*requests) == [answer] * 3
    with pytest.raises(NoAnswer):
        await unrelated


async def test_what_is_no_answer_is_logged_and_the_answer_behind_it_is_received(client, listener, caplog):
    request, other = make_request(), make_request()
    answer = SimulationAnswer(simulation_id=request.simulation_id, status=AnswerStatus.REJECTED, reason="no")
    of_another = SimulationAnswer(simulation_id=other.simulation_id, status=AnswerStatus.REJECTED, reason="forged")
    request_task = asyncio.create_task(client.request(request))
    await listener.records("simulation-requests", 1)
    key = str(request.simulation_id).encode()
    for value in (b"nonsense", None, b"\xff\0", of_another.model_dump_json().encode()):
        await client.publish_bytes("simulation-results", key, value)
    await client.publish(answer)
    assert await request_task == answer
    ignored = [record.getMessage() for record in caplog.records if "is no answer of the service" in record.getMessage()]
    assert len(ignored) == 4
    assert f"it answers simulation {other.simulation_id}" in ignored[-1]


async def test_the_error_of_a_client_that_is_not_open_shows_how_to_open_it(settings):
    with pytest.raises(RuntimeError, match="async with"):
        await TwinClient(settings).publish_bytes("dead-letters", None, b"")

"""Simulations in shards on the real Kafka and the real Postgres: any workers, any shards and any kill give the same one answer."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any
from uuid import UUID, uuid4

from deploy.stack.part import free_port
from schemas import AnswerStatus, SimulationAnswer, SimulationProgress, SimulationRequest
from sql.simulation_queue_store import shard_progress
from streams.settings import Settings
from streams.simulation import reproduce
from streams.worker.supervisor import Workers
from tests.polling import until
from tests.simulation_requests import email_request

TWINS, WAIT_S = 1_100_000, 300.0


def a_request(**fields: Any) -> SimulationRequest:
    return email_request(**{"simulation_id": uuid4(), "seed": 7, "twin_count": TWINS, **fields})


async def test_two_workers_of_which_one_is_killed_give_the_answer_of_one_process(
    settings: Settings, tmp_path, client, listener, promoted, pool
):
    request = a_request()
    settings = settings.model_copy(update={"shard_twins": 65_536, "shard_processes": 1, "simulation_lease_s": 2.0})
    places = [(name, settings.model_copy(update={"web_port": free_port()})) for name in ("a", "b")]
    workers = [await asyncio.to_thread(Workers(["simulation"], own, log_folder=tmp_path / name).__enter__) for name, own in places]
    try:
        for each in workers:
            await asyncio.to_thread(each.wait_ready, WAIT_S)
        answer = asyncio.create_task(client.request(request, timeout_s=WAIT_S))
        await until(lambda: _twins_done(pool, request), lambda done: done > 200_000, within_s=WAIT_S)
        os.kill(workers[0].pids["simulation"], signal.SIGKILL)
        assert (await answer).status is AnswerStatus.COMPLETED
        progress = await listener.events(SimulationProgress, 17, WAIT_S)
        small = await client.request(a_request(twin_count=1000), timeout_s=WAIT_S)
        assert small.status is AnswerStatus.COMPLETED
    finally:
        for each in workers:
            await asyncio.to_thread(each.stop)
    assert max(event.twins_done for event in progress) == TWINS
    assert (await reproduce(settings, pool, request.simulation_id)).differences == {}
    assert await pool.fetchval("SELECT (SELECT count(*) FROM simulation_queue) + (SELECT count(*) FROM simulation_shards)") == 0
    assert len(await listener.events(SimulationAnswer, 2, WAIT_S)) == 2


async def _twins_done(pool, request: SimulationRequest) -> int:
    progress = await shard_progress(pool, request.simulation_id)
    return progress.twins_done if progress else 0


async def test_a_simulation_is_followed_and_cancelled_by_commands_and_nothing_of_it_is_left(
    service, client, promoted, pool, settings, twinstream
):
    request = a_request(twin_count=100_000_000)
    name = str(request.simulation_id)
    async with service(["simulation"], settings.model_copy(update={"simulation_lease_s": 2.0})):
        answer = asyncio.create_task(client.request(request, timeout_s=WAIT_S))
        await until(lambda: shard_progress(pool, request.simulation_id), within_s=WAIT_S)
        place = await twinstream("simulations", "progress", name, "--json")
        assert (place["status"], place["lane"], place["twins"]) == ("queued", "sharded", 100_000_000)
        assert await twinstream("simulations", "cancel", name) == f"simulation {name} is cancelled: a worker answers it so\n"
        assert (await answer).status is AnswerStatus.CANCELLED
        small = await client.request(a_request(twin_count=1000), timeout_s=WAIT_S)
        assert small.status is AnswerStatus.COMPLETED
    assert await pool.fetchval("SELECT (SELECT count(*) FROM simulation_queue) + (SELECT count(*) FROM simulation_shards)") == 0
    assert await twinstream("simulations", "progress", name) == f"simulation {name} is cancelled\n"
    assert "is cancelled already: nothing to cancel" in await twinstream("simulations", "cancel", name, status=1)
    assert str(UUID(int=1)) in await twinstream("simulations", "progress", str(UUID(int=1)), status=1)


async def test_filters_that_no_twin_can_satisfy_are_rejected_with_the_reason(service, client, promoted, pool, settings):
    async with service(["simulation"], settings):
        answer = await client.request(a_request(filters={"specialty": ["astrology"]}), timeout_s=WAIT_S)
    assert answer.status is AnswerStatus.REJECTED
    assert "no real row matches the filter" in answer.reason

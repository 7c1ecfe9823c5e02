"""What a role's process tells Prometheus and its supervisor, asked over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streams.metrics import SIMULATIONS
from streams.retries import track_unfinished
from streams.web.health import HealthProbe, health_app, serve_app


@dataclass
class State:
    role: str = "simulation"
    unready: str | None = None
    poll_s: float | None = 0.25

    async def crash(self, reason: BaseException) -> None:
        raise reason


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
async def get(state: State) -> AsyncIterator:
    pulse = HealthProbe(state.role, unready=lambda: state.unready, last_poll_s=lambda: state.poll_s, stuck_s=60.0)
    async with serve_app(health_app(pulse), "127.0.0.1", 0) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def ask(path: str) -> tuple[int, str]:
            async with session.get(path) as reply:
                return reply.status, await reply.text()

        ask.port = port
        yield ask


async def test_metrics_are_what_prometheus_reads(get):
    SIMULATIONS.labels(status="completed").inc()
    status, text = await get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert status == 200
    assert families["twin_simulations"].type == "counter"
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6


async def test_a_role_is_ready_when_nothing_keeps_it(get, state):
    assert (await get("/ready"))[0] == 200
    state.unready = "waiting for partitions"
    status, text = await get("/ready")
    assert status == 503
    assert "waiting for partitions" in text


async def test_an_idle_role_is_alive_before_and_after_its_first_poll(get, state):
    assert (await get("/health"))[0] == 200
    state.poll_s = None
    assert (await get("/health"))[0] == 200


async def test_a_role_that_asks_kafka_no_longer_is_not_alive(get, state):
    state.poll_s = 61.0
    assert (await get("/health"))[0] == 503


async def test_a_role_that_sits_on_one_event_for_too_long_is_not_alive(state):
    state.poll_s = None
    pulse = HealthProbe(state.role, unready=lambda: None, last_poll_s=lambda: state.poll_s, stuck_s=1e-9)
    async with serve_app(health_app(pulse), "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        health = f"http://127.0.0.1:{port}/health"
        with track_unfinished(state):
            async with session.get(health) as reply:
                assert reply.status == 503
                assert (await reply.json())["alive"] is False
        async with session.get(health) as reply:
            assert reply.status == 200


async def test_nothing_else_is_served(get):
    assert (await get("/"))[0] == 404


async def test_a_port_that_is_taken_is_refused_with_the_setting_that_moves_it(get, state):
    pulse = HealthProbe("outcomes", unready=lambda: None, last_poll_s=lambda: None, stuck_s=60.0)
    with pytest.raises(OSError, match="TWIN_WEB_PORT"):
        async with serve_app(health_app(pulse), "127.0.0.1", get.port):
            pass

"""The endpoints of a role's process, requested over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

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


class Server(NamedTuple):
    session: aiohttp.ClientSession
    port: int

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(path) as reply:
            return reply.status, await reply.text()


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
async def server(state: State) -> AsyncIterator[Server]:
    probe = HealthProbe(state.role, unready=lambda: state.unready, last_poll_s=lambda: state.poll_s, stuck_s=60.0)
    async with serve_app(health_app(probe), "127.0.0.1", 0) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield Server(session, port)


async def test_metrics_have_the_format_that_prometheus_reads(server):
    SIMULATIONS.labels(status="completed").inc()
    status, text = await server.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert status == 200
    assert families["twin_simulations"].type == "counter"
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6


async def test_a_role_is_ready_when_there_is_no_reason_against_it(server, state):
    assert (await server.get("/ready"))[0] == 200
    state.unready = "waiting for partitions"
    status, text = await server.get("/ready")
    assert status == 503
    assert "waiting for partitions" in text


async def test_an_idle_role_is_alive_before_and_after_its_first_poll(server, state):
    assert (await server.get("/health"))[0] == 200
    state.poll_s = None
    assert (await server.get("/health"))[0] == 200


async def test_a_role_that_has_stopped_polling_kafka_is_not_alive(server, state):
    state.poll_s = 61.0
    assert (await server.get("/health"))[0] == 503


async def test_a_role_with_an_event_in_work_for_too_long_is_not_alive(state):
    state.poll_s = None
    probe = HealthProbe(state.role, unready=lambda: None, last_poll_s=lambda: state.poll_s, stuck_s=1e-9)
    async with serve_app(health_app(probe), "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        health = f"http://127.0.0.1:{port}/health"
        with track_unfinished(state):
            async with session.get(health) as reply:
                assert reply.status == 503
                assert (await reply.json())["alive"] is False
        async with session.get(health) as reply:
            assert reply.status == 200


async def test_nothing_else_is_served(server):
    assert (await server.get("/"))[0] == 404


async def test_a_taken_port_is_refused_with_the_setting_that_changes_it(server):
    probe = HealthProbe("outcomes", unready=lambda: None, last_poll_s=lambda: None, stuck_s=60.0)
    with pytest.raises(OSError, match="TWIN_WEB_PORT"):
        async with serve_app(health_app(probe), "127.0.0.1", server.port):
            pass


async def test_metrics_have_the_open_metrics_format_for_a_scraper_that_accepts_it(server):
    async with server.session.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as reply:
        assert reply.content_type == "application/openmetrics-text"
        assert (await reply.text()).endswith("# EOF\n")

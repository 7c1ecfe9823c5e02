"""The endpoints of a role's process, requested over real HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from streams.metrics import SIMULATIONS
from streams.web.health import HealthProbe, _Scrapes, health_app, serve_app


@dataclass
class State:
    live: list[str] = field(default_factory=list)
    ready: list[str] = field(default_factory=list)
    behind: dict[str, int] = field(default_factory=dict)

    def probe(self) -> HealthProbe:
        return HealthProbe(
            "simulation", lambda: self.live, lambda: self.ready, lambda: {"last_poll_s": 0.25}, behind=lambda: self.behind
        )


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
    async with (
        serve_app(health_app(state.probe()), "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
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
    state.ready = ["waiting for its partitions", "kafka is out"]
    status, text = await server.get("/ready")
    assert status == 503
    reason = "waiting for its partitions; kafka is out"
    assert json.loads(text) == {"role": "simulation", "ready": False, "reason": reason, "waits_for_server": False, "behind": {}}


async def test_a_role_tells_what_waits_in_each_partition_also_while_it_is_ready(server, state):
    state.behind = {"simulation-requests 1": 5}
    status, text = await server.get("/ready")
    assert (status, json.loads(text)["behind"]) == (200, {"simulation-requests 1": 5})


@pytest.mark.parametrize("path", ["/live", "/health"])
async def test_a_role_is_alive_while_nothing_hangs(server, state, path):
    status, text = await server.get(path)
    assert (status, json.loads(text)) == (200, {"role": "simulation", "alive": True, "reason": None, "last_poll_s": 0.25})
    state.live = ["stopping for 14 s"]
    status, text = await server.get(path)
    assert (status, json.loads(text)["alive"], json.loads(text)["reason"]) == (503, False, "stopping for 14 s")


async def test_nothing_else_is_served(server):
    assert (await server.get("/"))[0] == 404


async def test_a_taken_port_is_refused_with_the_setting_that_changes_it(server):
    with pytest.raises(OSError, match="TWIN_WEB_PORT"):
        async with serve_app(health_app(State().probe()), "127.0.0.1", server.port):
            pass


async def test_equal_requests_for_metrics_within_a_second_have_one_answer_and_many_different_ones_are_refused():
    now = 100.0
    scrapes = _Scrapes(lambda: now)

    async def answer(query: str = "") -> bytes:
        return (await scrapes.answer(make_mocked_request("GET", f"/metrics{query}"))).body

    queued = ["?name[]=twin_simulations_total", "?name[]=twin_parked_total", "?name[]=a", "?name[]=b"]
    SIMULATIONS.labels(status="completed").inc()
    before = await answer()
    SIMULATIONS.labels(status="completed").inc()
    assert await answer() == before
    for query in queued:
        await answer(query)
    assert await answer() == before
    with pytest.raises(web.HTTPTooManyRequests, match="Too Many Requests"):
        await answer("?name[]=c")
    now += 1.0
    assert await answer() != before


async def test_metrics_have_the_open_metrics_format_for_a_scraper_that_accepts_it(server):
    async with server.session.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as reply:
        assert reply.headers["Content-Encoding"] == "gzip"
        assert reply.content_type == "application/openmetrics-text"
        assert (await reply.text()).endswith("# EOF\n")

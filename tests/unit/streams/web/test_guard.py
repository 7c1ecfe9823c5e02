"""Which host names and parameters the web applications answer to, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp import web

from streams.settings import Settings
from streams.web.guard import guarded_app
from streams.web.health import HealthProbe, health_app, serve_app

PROBE = HealthProbe("simulation", list, list)
HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Reply(NamedTuple):
    status: int
    text: str
    headers: dict[str, str]


class Server(NamedTuple):
    port: int

    async def get(self, path: str = "/live", **headers: str) -> Reply:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}{path}", headers=headers) as reply,
        ):
            return Reply(reply.status, await reply.text(), dict(reply.headers))

    async def send(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        reply = await reader.read(300)
        writer.close()
        return reply


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    settings = Settings(allowed_hosts="worker, Twins.Example:8080", web_host="0.0.0.0")
    async with serve_app(health_app(PROBE, settings.host_names), "127.0.0.1", 0) as port:
        yield Server(port)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:6066",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]:6066",
        "[::1]",
        "[0:0::1]",
        "localhost:65535",
        "worker:6066",
        "twins.example",
    ],
)
async def test_loopback_and_allowed_names_are_answered(server: Server, host: str):
    assert (await server.get(Host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:6066",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "worker.evil.example",
        "10.1.2.3",
        "127.1",
        "2130706433",
        "[::2]",
    ],
)
async def test_any_other_name_is_refused_with_the_setting(server: Server, host: str):
    reply = await server.get(Host=host)
    assert reply.status == 421
    assert "TWIN_ALLOWED_HOSTS" in reply.text
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert reply.headers.items() >= HEADERS.items()


@pytest.mark.parametrize(
    "host",
    [
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "localhost:99999999",
        "localhost:+80",
        "localhost:80:80",
        "localhost.",
        "localhost..",
        ".localhost",
        "local host",
        "localhost/path",
        "user@localhost",
        "localhost@evil.example",
        "evil.example#localhost",
        "localhost,evil.example",
        "[::1",
        "::1",
        "[::1]x",
        "[::1%25lo]",
        "[127.0.0.1]",
        "[::1].evil.example",
        "<script>alert(1)</script>",
        "a" * 64,
        "loc\u00e4lhost",
    ],
)
@pytest.mark.parametrize("allowed", [(), ("*",)])
async def test_what_is_no_host_name_is_refused_with_a_word_whatever_is_allowed(host: str, allowed: tuple[str, ...]):
    async with serve_app(health_app(PROBE, allowed), "127.0.0.1", 0) as port:
        reply = await Server(port).send(f"GET /live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert reply.split()[1] == b"400"


async def test_a_refusal_shows_the_host_and_what_is_allowed(server: Server):
    reply = await server.get(Host="localhost:99999999")
    assert (reply.status, reply.text) == (
        400,
        "the host 'localhost:99999999' is not a name or an address, with or without a port from 1 to 65535\n",
    )
    assert reply.headers.items() >= HEADERS.items()


async def test_the_host_in_the_first_line_of_a_request_counts_too(server: Server):
    for target, status in {"http://localhost": b"200", "http://evil.example": b"421", "http://user@localhost": b"400"}.items():
        assert (await server.send(f"GET {target}/live HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())).split()[1] == status


@pytest.mark.parametrize("names", [(), ("localhost", "evil.example"), ("evil.example", "localhost")])
async def test_a_request_without_a_host_or_with_two_is_refused(server: Server, names: tuple[str, ...]):
    hosts = "".join(f"Host: {name}\r\n" for name in names).encode()
    reply = await server.send(b"GET /live HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
    assert reply.split()[1] == b"400"


async def test_the_address_that_a_request_came_to_is_answered_where_a_role_listens_on_all():
    async with serve_app(health_app(PROBE), "0.0.0.0", 0) as port:
        assert (await Server(port).get(Host=f"127.0.0.1:{port}")).status == 200
        assert (await Server(port).get(Host=f"169.254.1.1:{port}")).status == 421


async def test_a_star_allows_every_name():
    async with serve_app(health_app(PROBE, ["*"]), "127.0.0.1", 0) as port:
        assert (await Server(port).get(Host="anything.example")).status == 200


@pytest.mark.parametrize("length", [b"Content-Length: 5", b"Content-Length: 999999999999999", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_a_request_with_a_body_is_refused_at_once(server: Server, method: bytes, length: bytes):
    reply = await server.send(method + b" /live HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\nhello")
    assert reply.split()[1] == b"400"


@pytest.mark.parametrize("path", ["/live", "/metrics", "/ready", "/nothing", "/metrics?unknown=1"])
async def test_every_answer_has_the_headers_for_browsers(server: Server, path: str):
    assert (await server.get(path)).headers.items() >= HEADERS.items()


async def test_metrics_can_be_selected_by_name_and_take_no_other_parameter(server: Server):
    selected = await server.get("/metrics?name[]=twin_outages_total")
    assert selected.status == 200
    assert "twin_window_mae" not in selected.text

    for query, problem in (("debug=<b>1", "unknown parameter 'debug'"), (f"name[]={'x' * 201}", "more than 200 characters")):
        refused = await server.get(f"/metrics?{query}")
        assert (refused.status, problem in refused.text) == (400, True)


async def test_a_handler_may_set_a_policy_of_its_own():
    async def page(_: web.Request) -> web.Response:
        return web.Response(headers={"Content-Security-Policy": "default-src 'self'"})

    app = guarded_app()
    app.router.add_get("/", page)
    async with serve_app(app, "127.0.0.1", 0) as port:
        assert (await Server(port).get("/")).headers["Content-Security-Policy"] == "default-src 'self'"


def test_a_name_with_a_path_is_no_host():
    with pytest.raises(ValueError, match="allowed_hosts"):
        Settings(allowed_hosts="http://twins.example/")

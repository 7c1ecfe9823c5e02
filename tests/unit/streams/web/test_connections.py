"""Connections to a web server are bounded: idle and slow ones are closed, and keep no request from being answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from streams.web.connections import ConnectionLimits
from streams.web.health import HealthProbe, health_app, serve_app

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
BEGUN = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nX-a: b\r\n"


@asynccontextmanager
async def role(limits: ConnectionLimits) -> AsyncIterator[int]:
    async with serve_app(health_app(HealthProbe("simulation", list, list)), "127.0.0.1", 0, limits=limits) as port:
        yield port


async def begin(port: int) -> Connection:
    """Open a connection and send a request without its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(BEGUN)
    await writer.drain()
    return reader, writer


async def status(port: int, path: str = "/ready") -> int:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session, session.get(path) as reply:
        return reply.status


async def is_closed(connection: Connection) -> bool:
    try:
        return await asyncio.wait_for(connection[0].read(), 0.5) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


async def test_connections_that_send_no_request_keep_nobody_out_and_the_oldest_are_closed() -> None:
    async with role(ConnectionLimits(at_once=5, idle_s=60.0)) as port:
        slow = [await begin(port) for _ in range(20)]
        assert await status(port) == 200
        closed = await asyncio.gather(*map(is_closed, slow))
        assert closed[:15] == [True] * 15
        assert closed.count(False) in (4, 5)  # that of the request took the place of one
        for _, writer in slow:
            writer.close()


async def test_a_request_that_does_not_end_is_closed_however_often_it_sends_a_header() -> None:
    async with role(ConnectionLimits(idle_s=0.3)) as port:
        reader, writer = await begin(port)
        reading = asyncio.create_task(reader.read())
        while not reading.done():
            writer.write(b"X-c: d\r\n")
            await asyncio.sleep(0.02)
        assert isinstance(reading.exception(), ConnectionResetError) or reading.result() == b""


@pytest.mark.parametrize("at_once", [1, 3])
async def test_requests_in_work_are_never_closed_for_new_connections(at_once: int) -> None:
    release, started = asyncio.Event(), asyncio.Semaphore(0)

    async def wait(_request: web.Request) -> web.Response:
        started.release()
        await release.wait()
        return web.Response(text="done")

    app = web.Application()
    app.router.add_get("/", wait)
    async with serve_app(app, "127.0.0.1", 0, limits=ConnectionLimits(at_once=at_once)) as port:
        working = [asyncio.create_task(status(port, "/")) for _ in range(at_once)]
        for _ in working:
            await started.acquire()
        assert await status(port, "/") == 503
        release.set()
        assert await asyncio.gather(*working) == [200] * at_once

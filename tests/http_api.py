"""The HTTP API without servers behind it, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

from deploy.stack.part import free_port
from streams.api.server import serving_api
from streams.settings import Settings

__all__ = ["JSON", "NOWHERE", "Api", "Reply", "running"]

NOWHERE = {"kafka_bootstrap": "127.0.0.1:9", "postgres_dsn": "postgresql://nobody@127.0.0.1:9/none"}
JSON = {"Content-Type": "application/json"}


class Reply(NamedTuple):
    status: int
    body: Any
    headers: Mapping[str, str]


class Api(NamedTuple):
    session: aiohttp.ClientSession
    port: int

    async def ask(self, method: str, path: str, data: bytes | None = None, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, path, data=data, headers=named, allow_redirects=False) as reply:
            text = await reply.text()
            body = json.loads(text) if "json" in reply.content_type else text
            return Reply(reply.status, body, reply.headers)

    async def send(self, method: str, path: str, value: Any, **headers: str) -> Reply:
        return await self.ask(method, path, json.dumps(value).encode(), **{"Content-Type": "application/json", **headers})

    async def post(self, path: str, value: Any, **headers: str) -> Reply:
        return await self.send("POST", path, value, **headers)


@asynccontextmanager
async def running(**own: Any) -> AsyncIterator[Api]:
    """The API with these settings, and a session with it."""
    port = free_port()
    async with (
        serving_api(Settings(**{**NOWHERE, "api_port": port, **own})),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", auto_decompress=True, cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        yield Api(session, port)

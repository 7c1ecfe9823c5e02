"""A TCP proxy in front of the broker for each worker, so that the connections of one worker can be cut or stalled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy.stack import free_port
from deploy.stack.kafka import Kafka
from deploy.stack.part import HOST

__all__ = ["ProxiedKafka", "Proxy"]

_CHUNK_BYTES = 2**16


@dataclass
class Proxy:
    """A TCP proxy that forwards connections on ``public_port`` to the broker's listener on ``broker_port``."""

    public_port: int = field(default_factory=free_port)
    broker_port: int = field(default_factory=free_port)
    _accepts: bool = True
    _is_flowing: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Accept connections while the block runs."""
        self._is_flowing.set()
        server = await asyncio.start_server(self._accept, HOST, self.public_port)
        try:
            yield
        finally:
            server.close()
            self._abort_connections()

    async def cut(self, seconds: float) -> None:
        """End every connection, and refuse new ones for this time."""
        self._accepts = False
        self._abort_connections()
        await asyncio.sleep(seconds)
        self._accepts = True

    async def stall(self, seconds: float) -> None:
        """Keep the connections, but forward nothing for this time."""
        self._is_flowing.clear()
        await asyncio.sleep(seconds)
        self._is_flowing.set()

    def _abort_connections(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._accepts:
            writer.transport.abort()
            return
        try:
            broker_reader, broker_writer = await asyncio.open_connection(HOST, self.broker_port)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, broker_writer}
        self._writers |= pair
        try:
            await asyncio.gather(self._forward(reader, broker_writer), self._forward(broker_reader, writer))
        finally:
            self._writers -= pair

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._is_flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


class ProxiedKafka(Kafka):
    """A broker with one listener for each proxy, which it advertises as the proxy's public port.

    Clients reconnect to the advertised address: without this they would bypass the proxy after the first connection.
    """

    def __init__(self, home: Path, ports: tuple[int, int], jars: Path, proxies: Sequence[Proxy]) -> None:
        super().__init__(home, ports, jars)
        self._proxies = proxies

    def _settings(self, data: Path) -> dict[str, str | int]:
        settings = super()._settings(data)
        for number, proxy in enumerate(self._proxies):
            for name, value in {
                "listeners": f"PROXY{number}://{HOST}:{proxy.broker_port}",
                "advertised.listeners": f"PROXY{number}://{HOST}:{proxy.public_port}",
                "listener.security.protocol.map": f"PROXY{number}:PLAINTEXT",
            }.items():
                settings[name] = f"{settings[name]},{value}"
        return settings | {"inter.broker.listener.name": "PLAINTEXT"}

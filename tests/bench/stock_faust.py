"""The baseline of a restart: a stock Faust app, whose table is read back from its changelog. Run as a program, it is that app."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import faust
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

__all__ = ["STOCK", "stock_restart_s"]

STOCK = "a stock Faust app with as many keys in a table, restarted as soon as it is killed, until it counts the next event"
PARTITIONS = 4


def stock_restart_s(bootstrap: str, keys: int, session_timeout_s: float) -> float:
    """Seconds from the kill of the app, with this many keys in its table, to the next event that it has counted."""
    name = f"stock-{keys}"
    asyncio.run(_prepare(bootstrap, name, keys))
    command = [sys.executable, "-m", "tests.bench.stock_faust", bootstrap, name, str(session_timeout_s)]
    with _running(command) as (first, events):
        for _ in range(keys):
            next(events)
        first.send_signal(signal.SIGKILL)
    killed = time.perf_counter()
    with _running(command) as (_, events):
        asyncio.run(_publish(bootstrap, name, [b"later"]))
        while next(events).strip() != "later":
            pass
        return time.perf_counter() - killed


@contextmanager
def _running(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, iter(process.stdout.readline, "")
        finally:
            process.kill()


async def _prepare(bootstrap: str, name: str, keys: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
    finally:
        await admin.close()
    await _publish(bootstrap, name, [b"%d" % key for key in range(keys)])


async def _publish(bootstrap: str, topic: str, keys: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=20) as producer:
        for key in keys:
            await producer.send(topic, b"1", key)


def _serve(bootstrap: str, name: str, session_timeout_s: float) -> None:
    options = {"topic_partitions": PARTITIONS, "topic_replication_factor": 1, "store": "memory://", "web_enabled": False}
    app = faust.App(f"{name}-app", broker=f"kafka://{bootstrap}", broker_session_timeout=session_timeout_s, **options)
    app.conf.datadir = f"/tmp/{name}-{os.getpid()}"
    sums = app.Table("sums", default=int, partitions=PARTITIONS)

    @app.agent(app.topic(name, key_type=str, value_type=int))  # type: ignore[untyped-decorator]
    async def count(events: faust.StreamT[int]) -> None:
        async for key, value in events.items():
            sums[key] += value
            print(key, flush=True)

    async def run() -> None:
        app.finalize()
        await app.start()
        await app.wait_until_stopped()

    asyncio.run(run())


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], float(sys.argv[3]))

"""A service with many outcomes behind it: its start, its page, the newest snapshots, ``verify``, and what the outcomes take.

The outcomes come through Kafka and the workers, as in production, so that ``verify`` has to agree with every one of them.
"""

from __future__ import annotations

import asyncio
import multiprocessing as mp
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from statistics import median
from typing import Any, NamedTuple

import psutil

from sql.database import Connection, connect
from streams.operations.verify import verify
from streams.settings import ROLES, Settings
from streams.worker.supervisor import Workers
from tests.bench.measure import Aim, Figure
from tests.bench.outcomes import STORED, InArrays, publish
from tests.bench.sizes import peak_bytes
from tests.bench.tables import Measured, promote_first
from tests.pages import NO_PARAMETERS, pages_of

__all__ = ["stored_figures"]

ARRAY = 100
SPAN = timedelta(days=7)
START_S, PAGE_S, SNAPSHOTS_S, VERIFY_S = 10.0, 0.2, 0.05, 300.0
PATIENCE_S = 3600.0
REPEATS = 5
SETTLED_S = 5.0
_MB = 2**20
EMPTY = "the same with no outcomes, in the same run"
SNAPSHOTS = """
SELECT * FROM fidelity_snapshots WHERE model_id = $1 AND segment = 'all' ORDER BY window_start DESC LIMIT 100"""
SIZES = """
SELECT sum(pg_table_size(c.oid))::bigint AS rows, sum(pg_indexes_size(c.oid))::bigint AS indexes
FROM pg_class c WHERE c.relkind = 'r' AND (c.relname LIKE 'fidelity\\_tracking%' OR c.relname = 'event_heads')"""


class _Costs(NamedTuple):
    """Seconds of a start, a page, the newest snapshots and a verification; its megabytes."""

    start_s: float
    page_s: float
    snapshots_s: float
    verify_s: float
    verify_mb: float


def stored_figures(measured: Measured, settings: Settings, count: int) -> list[Figure]:
    """Each with no outcomes and with ``count`` of them."""
    with asyncio.Runner() as runner:
        connection = runner.run(connect(settings.postgres_dsn.get_secret_value()))
        runner.run(promote_first(connection, measured.model.card, settings))
        empty = _costs(runner, connection, measured, settings)
        runner.run(publish(settings, _Week(measured, count, ARRAY)))
        seconds, growth = runner.run(_store(connection, settings, count))
        costs = _costs(runner, connection, measured, settings)
        sizes = runner.run(connection.fetchrow(SIZES))
        runner.run(connection.close())
    assert sizes is not None
    size = f"{sizes['rows'] / count:.0f} bytes of rows and {sizes['indexes'] / count:.0f} of indexes for each"
    stored = f"stored with their windows in {seconds:.0f} s; {size}; the outcomes role grew by {growth:.0f} MB in the second half"
    return list(_figures(f"{count:,} outcomes", costs, empty, stored))


def _figures(data: str, costs: _Costs, empty: _Costs, stored: str) -> Iterator[Figure]:
    yield Figure("start of all roles", data, "s", costs.start_s, empty.start_s, EMPTY, 1, Aim("ours", START_S), stored)
    yield Figure("the page", data, "s", costs.page_s, empty.page_s, EMPTY, REPEATS, Aim("ours", PAGE_S))
    yield Figure("newest snapshots", data, "s", costs.snapshots_s, empty.snapshots_s, EMPTY, REPEATS, Aim("ours", SNAPSHOTS_S))
    memory = f"{costs.verify_mb:.0f} MB at the peak, {empty.verify_mb:.0f} MB without outcomes"
    yield Figure("verify", data, "s", costs.verify_s, empty.verify_s, EMPTY, 1, Aim("ours", VERIFY_S), memory)


class _Week(InArrays):
    """Outcomes of the week that has just ended, made from a template: a producer that takes no time."""

    def __init__(self, measured: Measured, count: int, size: int) -> None:
        super().__init__(measured, count, size)
        self._start -= SPAN
        body = super().body(0) | {"event_id": "%s", "observed_at": "%s"}
        numbers = {"actual_value": "%r", "predicted_value": "%r", "predicted_lower": "%r", "predicted_upper": "%r"}
        self._template = str(body | numbers | {"segment": {"region": "%s"}}).replace("'%r'", "%r").replace("'", '"')
        self._prefix = self.card.model_id.hex[:16]

    def value(self, number: int) -> bytes:
        """Value of one record."""
        expected, lower, upper, actual, region = self._twins[number % len(self._twins)]
        digits = f"{self._prefix}{number:016x}"
        event_id = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        at = (self._start + SPAN * (number / self.count)).isoformat()
        return (self._template % (event_id, at, actual, expected, lower, upper, region)).encode()


async def _store(connection: Connection, settings: Settings, count: int) -> tuple[float, float]:
    """Seconds until all are stored and their windows have snapshots, and megabytes that the role grew by in the second half."""
    start, half_mb = time.monotonic(), 0.0
    with Workers(["outcomes", "fidelity"], settings, log_folder=settings.home / "logs") as workers:
        workers.wait_ready()
        while (stored := await connection.fetchval(STORED)) < count:
            workers.check()
            half_mb = half_mb or (stored >= count / 2) * _megabytes(workers)
            await _pause(start)
        last_mb, newest = _megabytes(workers), -1
        while (version := await connection.fetchval("SELECT coalesce(sum(version), 0) FROM fidelity_snapshots")) != newest:
            newest = version  # the last windows are stored, or none of them was for as long
            await asyncio.sleep(SETTLED_S)
    return time.monotonic() - start, last_mb - half_mb


def _megabytes(workers: Workers) -> float:
    return float(psutil.Process(workers.pids["outcomes"]).memory_info().rss / _MB)


async def _pause(start: float) -> None:
    if time.monotonic() - start > PATIENCE_S:
        raise TimeoutError(f"the outcomes were not stored after {PATIENCE_S:g} s")
    await asyncio.sleep(0.2)


def _costs(runner: asyncio.Runner, connection: Connection, measured: Measured, settings: Settings) -> _Costs:
    began = time.monotonic()
    with Workers(ROLES, settings, log_folder=settings.home / "logs") as workers:
        workers.wait_ready(PATIENCE_S)
        start_s = time.monotonic() - began
        page_s = runner.run(_page_s(settings))
        snapshots_s = runner.run(_median_s(lambda: connection.fetch(SNAPSHOTS, measured.model.card.model_id)))
        verify_s, verify_mb = _verified(settings)
    return _Costs(start_s, page_s, snapshots_s, verify_s, verify_mb)


async def _page_s(settings: Settings) -> float:
    async with pages_of(settings.read_dsn) as pages:
        return await _median_s(lambda: pages.lines(NO_PARAMETERS))


async def _median_s(work: Callable[[], Awaitable[Any]]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        await work()
        times.append(time.perf_counter() - start)
    return median(times)


def _verified(settings: Settings) -> tuple[float, float]:
    """Seconds and megabytes of a verification in a process of its own, which has to find that every count agrees."""
    context = mp.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_verify, args=(settings, sender))
    child.start()
    sender.close()
    try:
        mismatches, seconds, megabytes = receiver.recv()
    finally:
        child.join()
    if mismatches:
        raise AssertionError(f"verify found {mismatches}")
    return seconds, megabytes


def _verify(settings: Settings, sender: Any) -> None:
    start = time.monotonic()
    report = asyncio.run(verify(settings))
    sender.send((report.mismatches, time.monotonic() - start, peak_bytes() / _MB))

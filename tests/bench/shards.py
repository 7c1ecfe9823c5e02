"""Ten million twins in one request, from the request to its answer, and small requests of another requester meanwhile."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import psutil

from engine import SimulationEngine
from engine.twins import TwinModel
from schemas import AnswerStatus, SimulationRequest
from streams.client import TwinClient
from streams.settings import Settings
from streams.worker.supervisor import Workers
from tests.bench.measure import Aim, Figure
from tests.bench.requests import CAMPAIGNS, promote
from tests.bench.tables import ROWS, Measured

__all__ = ["shard_figures"]

TWINS, AT_ONCE = 10_000_000, 1_000_000
MOST_S, MOST_WAIT_S = 20.0, 1.0
PATIENCE_S = 600.0
_PAUSE_S = 0.25
ONE_TABLE = "ten times what a million twins in one table take, generated and simulated on one thread"
ALONE = "the same requests before, while nothing else is computed"


def shard_figures(measured: Measured, settings: Settings) -> list[Figure]:
    """Seconds from a request for ten million twins to its answer, and to those of small requests while it is computed."""
    with asyncio.Runner() as runner:
        runner.run(promote(measured.model, settings))
        return runner.run(_measure(measured, settings))


async def _measure(measured: Measured, settings: Settings) -> list[Figure]:
    with Workers(["simulation"], settings, log_folder=settings.home / "logs") as worker:
        await asyncio.to_thread(worker.wait_ready)
        async with TwinClient(settings) as client:
            alone = [await _seconds(client, ROWS, "small") for _ in range(20)]
            memory = asyncio.create_task(_peak_mb(worker.pids["simulation"]))
            large = asyncio.create_task(_seconds(client, TWINS, "large"))
            beside = []
            while not large.done():
                await asyncio.sleep(_PAUSE_S)
                beside.append(await _seconds(client, ROWS, "small"))
            memory.cancel()
            peak_mb = await memory
        worker.check()
    one_table = TWINS / AT_ONCE * _simulate_one_table(measured.model)
    note = f"{os.cpu_count()} processors, {settings.shard_processes} processes, {peak_mb:,.0f} MB at the peak with the worker"
    draws = "1,000 draws"
    return [
        Figure(f"simulate {TWINS:,} twins", draws, "s", await large, one_table, ONE_TABLE, 1, Aim("ours", MOST_S), note),
        *(
            Figure(
                f"request beside it, p{percent}",
                f"{ROWS:,} twins",
                "s",
                float(np.percentile(beside, percent)),
                float(np.percentile(alone, percent)),
                ALONE,
                len(beside),
                Aim("excess", MOST_WAIT_S) if percent == 99 else None,
            )
            for percent in (50, 99)
        ),
    ]


async def _seconds(client: TwinClient, twins: int, requester: str) -> float:
    """Seconds to the answer of a new request."""
    request = SimulationRequest(
        simulation_id=uuid4(),
        requested_at=datetime.now(UTC),
        requested_by=requester,
        twin_type="hcp",
        brand="kisqali",
        intervention=CAMPAIGNS[0],
        twin_count=twins,
    )
    start = time.perf_counter()
    answer = await client.request(request, timeout_s=PATIENCE_S)
    if answer.status is not AnswerStatus.COMPLETED:
        raise AssertionError(answer.reason)
    return time.perf_counter() - start


async def _peak_mb(pid: int) -> float:
    """Largest memory of a process with its children until the task is cancelled, in MB."""
    peak = 0.0
    with suppress(asyncio.CancelledError):
        while True:
            peak = max(peak, _memory_mb(psutil.Process(pid)))
            await asyncio.sleep(_PAUSE_S)
    return peak


def _memory_mb(process: psutil.Process) -> float:
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += each.memory_full_info().pss / 2**20
    return total


def _simulate_one_table(model: TwinModel) -> float:
    start = time.perf_counter()
    SimulationEngine(model.generate(AT_ONCE, seed=1)).simulate(CAMPAIGNS[0])
    return time.perf_counter() - start

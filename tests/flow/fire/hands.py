"""What breaks things, one hand a kind of fault; each says what it did."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from tests.flow.fire.schedule import Fault, Kind
from tests.flow.fire.stage import Stage, Worker, take_steps

__all__ = ["break_it"]

PATIENCE_S = 20.0
LEAVING_S = 20.0
Hand = Callable[[Stage, Fault], Awaitable[str]]


async def break_it(stage: Stage, fault: Fault) -> str:
    """Break what the fault says, mend it where mending is part of it, and say what was hit."""
    return await HANDS[fault.kind](stage, fault)


async def _kill_role(stage: Stage, fault: Fault) -> str:
    worker, role, pid = await _victim(stage, fault)
    os.kill(pid, signal.SIGKILL)
    return f"{role} of worker {worker.slot}"


async def _kill_worker(stage: Stage, fault: Fault) -> str:
    worker, _, _ = await _victim(stage, fault)
    worker.end()
    return f"worker {worker.slot}"


async def _terminate(stage: Stage, fault: Fault) -> str:
    worker, _, _ = await _victim(stage, fault)
    process, began = worker.process, time.monotonic()
    if process is None:
        return "nobody"
    process.terminate()
    while process.poll() is None and time.monotonic() < began + LEAVING_S:  # noqa: ASYNC110  # it is another process that ends
        await asyncio.sleep(0.05)
    return f"worker {worker.slot}: left after {time.monotonic() - began:.1f} s with status {process.poll()}"


async def _freeze(stage: Stage, fault: Fault) -> str:
    worker, role, pid = await _victim(stage, fault)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(fault.lasts_s)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    return f"{role} of worker {worker.slot}"


async def _cut(stage: Stage, fault: Fault) -> str:
    worker, _, _ = await _victim(stage, fault)
    await stage.doors[worker.slot].cut(fault.lasts_s)
    return f"worker {worker.slot}"


async def _stall(stage: Stage, fault: Fault) -> str:
    worker, _, _ = await _victim(stage, fault)
    await stage.doors[worker.slot].stall(fault.lasts_s)
    return f"worker {worker.slot}"


async def _restart_broker(stage: Stage, fault: Fault) -> str:
    async with stage.servers:
        await take_steps(stage.kafka.stopping())
        return await _started(stage.kafka.starting)


async def _crash_broker(stage: Stage, fault: Fault) -> str:
    async with stage.servers:
        stage.kafka.kill()
        return await _started(stage.kafka.starting)


async def _restart_postgres(stage: Stage, fault: Fault) -> str:
    async with stage.servers:
        stage.postgres.kill()
        return await _started(stage.postgres.starting)


async def _postgres_outage(stage: Stage, fault: Fault) -> str:
    async with stage.servers:
        await take_steps(stage.postgres.stopping())
        await asyncio.sleep(fault.lasts_s)
        return await _started(stage.postgres.starting)


async def _scale(stage: Stage, fault: Fault) -> str:
    usual = sum(worker.wanted for worker in stage.workers)
    for count in (1, 3, 1):
        stage.scale(count)
        await asyncio.sleep(fault.lasts_s / 3)
    stage.scale(usual)
    return f"then {usual} as before"


HANDS: Mapping[Kind, Hand] = {
    Kind.KILL_ROLE: _kill_role,
    Kind.KILL_WORKER: _kill_worker,
    Kind.TERMINATE: _terminate,
    Kind.FREEZE: _freeze,
    Kind.CUT: _cut,
    Kind.STALL: _stall,
    Kind.BROKER_RESTART: _restart_broker,
    Kind.BROKER_CRASH: _crash_broker,
    Kind.POSTGRES_RESTART: _restart_postgres,
    Kind.POSTGRES_OUTAGE: _postgres_outage,
    Kind.SCALE: _scale,
}


async def _started(starting: Callable[[], object]) -> str:
    began = time.monotonic()
    await take_steps(starting())  # type: ignore[arg-type]  # steps of a part
    return f"up again after {time.monotonic() - began:.1f} s"


async def _victim(stage: Stage, fault: Fault) -> tuple[Worker, str, int]:
    """The process that a fault is aimed at, or the next one that runs; somebody who starts is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    order = [stage.workers[(fault.slot + step) % len(stage.workers)] for step in range(len(stage.workers))]
    while time.monotonic() < deadline:
        for worker in order:
            for role in dict.fromkeys((fault.role, *worker.roles)):
                pid = worker.pid_of(role) if role in worker.roles and worker.wanted else None
                if pid is not None:
                    return worker, role, pid
        await asyncio.sleep(0.1)
    raise LookupError(f"nobody to hit within {PATIENCE_S:g} s: {fault}")

"""What breaks things, one hand a kind of fault; each says what it did."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from tests.chaos.environment import Stage, Worker, take_steps
from tests.chaos.schedule import Fault, Kind

__all__ = ["break_it"]

PATIENCE_S = 120.0
LEAVING_S = 20.0
Found = TypeVar("Found")
Hand = Callable[[Stage, Fault], Awaitable[str]]


async def break_it(stage: Stage, fault: Fault) -> str:
    """Break what the fault says, mend it where mending is part of it, and say what was hit."""
    return await HANDS[fault.kind](stage, fault)


async def _kill_role(stage: Stage, fault: Fault) -> str:
    worker, role, pid = await _victim(stage, fault)
    os.kill(pid, signal.SIGKILL)
    return f"{role} of worker {worker.slot}"


async def _kill_worker(stage: Stage, fault: Fault) -> str:
    worker = await _running(stage, fault)
    worker.end()
    return f"worker {worker.slot}"


async def _terminate(stage: Stage, fault: Fault) -> str:
    worker = await _running(stage, fault)
    process, began = worker.process, time.monotonic()
    if process is None:
        raise LookupError(f"worker {worker.slot} does not run")
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
    worker = await _running(stage, fault)
    await stage.doors[worker.slot].cut(fault.lasts_s)
    return f"worker {worker.slot}"


async def _stall(stage: Stage, fault: Fault) -> str:
    worker = await _running(stage, fault)
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


async def _running(stage: Stage, fault: Fault) -> Worker:
    """The worker that a fault is aimed at, or the next one that runs."""
    return await _found(lambda: next((worker for worker in _in_turn(stage, fault) if worker.runs), None), fault)


async def _victim(stage: Stage, fault: Fault) -> tuple[Worker, str, int]:
    """The process that a fault is aimed at, or the next one that plays a role."""

    def look() -> tuple[Worker, str, int] | None:
        for worker in _in_turn(stage, fault):
            for role in dict.fromkeys((fault.role, *worker.roles)):
                pid = worker.pid_of(role) if role in worker.roles else None
                if pid is not None:
                    return worker, role, pid
        return None

    return await _found(look, fault)


def _in_turn(stage: Stage, fault: Fault) -> Sequence[Worker]:
    order = [stage.workers[(fault.slot + step) % len(stage.workers)] for step in range(len(stage.workers))]
    return [worker for worker in order if worker.wanted]


async def _found(look: Callable[[], Found | None], fault: Fault) -> Found:
    """What ``look`` finds; somebody who only starts is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise LookupError(f"nobody to hit within {PATIENCE_S:g} s: {fault}")
        await asyncio.sleep(0.2)
    return found

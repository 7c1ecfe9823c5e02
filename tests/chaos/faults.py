"""Injects faults: one function for each kind, which returns a text about what it hit."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from deploy.stack.child import Steps
from streams.settings import Role
from tests.chaos.environment import Environment, Worker, run_steps
from tests.chaos.schedule import Fault, FaultKind
from tests.freezing import frozen

__all__ = ["inject_fault"]

TARGET_TIMEOUT_S = 120.0
TERMINATION_TIMEOUT_S = 20.0
Target = TypeVar("Target")
Injector = Callable[[Environment, Fault], Awaitable[str]]


async def inject_fault(environment: Environment, fault: Fault) -> str:
    """Inject the fault, and end it where it has a duration.

    Returns:
        What was hit.
    """
    return await INJECTORS[fault.kind](environment, fault)


async def _kill_role(environment: Environment, fault: Fault) -> str:
    worker, role, pid = await _target_process(environment, fault)
    os.kill(pid, signal.SIGKILL)
    return f"{role} of worker {worker.slot}"


async def _kill_worker(environment: Environment, fault: Fault) -> str:
    worker = await _target_worker(environment, fault)
    worker.kill()
    return f"worker {worker.slot}"


async def _terminate(environment: Environment, fault: Fault) -> str:
    worker = await _target_worker(environment, fault)
    process, began = worker.process, time.monotonic()
    if process is None:
        raise LookupError(f"worker {worker.slot} is not running")
    process.terminate()
    while process.poll() is None and time.monotonic() < began + TERMINATION_TIMEOUT_S:  # noqa: ASYNC110  # it is another process that ends
        await asyncio.sleep(0.05)
    return f"worker {worker.slot} ended after {time.monotonic() - began:.1f} s with status {process.poll()}"


async def _freeze(environment: Environment, fault: Fault) -> str:
    worker, role, pid = await _target_process(environment, fault)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(fault.lasts_s)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    return f"{role} of worker {worker.slot}"


async def _cut(environment: Environment, fault: Fault) -> str:
    worker = await _target_worker(environment, fault)
    await environment.proxies[worker.slot].cut(fault.lasts_s)
    return f"worker {worker.slot}"


async def _stall(environment: Environment, fault: Fault) -> str:
    worker = await _target_worker(environment, fault)
    await environment.proxies[worker.slot].stall(fault.lasts_s)
    return f"worker {worker.slot}"


async def _restart_broker(environment: Environment, fault: Fault) -> str:
    async with environment.servers_lock:
        await run_steps(environment.kafka.stopping())
        return await _start_again(environment.kafka.starting)


async def _crash_broker(environment: Environment, fault: Fault) -> str:
    async with environment.servers_lock:
        environment.kafka.kill()
        return await _start_again(environment.kafka.starting)


async def _restart_postgres(environment: Environment, fault: Fault) -> str:
    async with environment.servers_lock:
        environment.postgres.kill()
        return await _start_again(environment.postgres.starting)


async def _postgres_outage(environment: Environment, fault: Fault) -> str:
    async with environment.servers_lock:
        await run_steps(environment.postgres.stopping())
        await asyncio.sleep(fault.lasts_s)
        return await _start_again(environment.postgres.starting)


async def _freeze_broker(environment: Environment, fault: Fault) -> str:
    async with environment.servers_lock:
        return await _freeze_server(environment.kafka.pid, fault.lasts_s)


async def _freeze_postgres(environment: Environment, fault: Fault) -> str:
    async with environment.servers_lock:
        return await _freeze_server(environment.postgres.pid, fault.lasts_s)


async def _freeze_mlflow(environment: Environment, fault: Fault) -> str:
    """Beside other faults of servers, as what needs no model goes on."""
    if environment.mlflow is None:
        raise LookupError("this run has no MLflow server")
    return await _freeze_server(environment.mlflow.pid, fault.lasts_s)


async def _freeze_server(pid: int | None, lasts_s: float) -> str:
    """Stop all processes of a server: it accepts connections and answers none."""
    with frozen(pid) as processes:
        await asyncio.sleep(lasts_s)
    return f"{len(processes)} processes"


async def _scale(environment: Environment, fault: Fault) -> str:
    usual = sum(worker.is_wanted for worker in environment.workers)
    for count in (1, 3, 1):
        environment.scale(count)
        await asyncio.sleep(fault.lasts_s / 3)
    environment.scale(usual)
    return f"back to {usual} workers"


INJECTORS: Mapping[FaultKind, Injector] = {
    FaultKind.KILL_ROLE: _kill_role,
    FaultKind.KILL_WORKER: _kill_worker,
    FaultKind.TERMINATE: _terminate,
    FaultKind.FREEZE: _freeze,
    FaultKind.CUT: _cut,
    FaultKind.STALL: _stall,
    FaultKind.BROKER_RESTART: _restart_broker,
    FaultKind.BROKER_CRASH: _crash_broker,
    FaultKind.POSTGRES_RESTART: _restart_postgres,
    FaultKind.POSTGRES_OUTAGE: _postgres_outage,
    FaultKind.BROKER_FREEZE: _freeze_broker,
    FaultKind.POSTGRES_FREEZE: _freeze_postgres,
    FaultKind.MLFLOW_FREEZE: _freeze_mlflow,
    FaultKind.SCALE: _scale,
}


async def _start_again(starting: Callable[[], Steps]) -> str:
    began = time.monotonic()
    await run_steps(starting())
    return f"up again after {time.monotonic() - began:.1f} s"


async def _target_worker(environment: Environment, fault: Fault) -> Worker:
    """The worker of the fault's slot, or the next one that is running."""
    return await _wait_for_target(
        lambda: next((worker for worker in _candidates(environment, fault) if worker.is_running), None), fault
    )


async def _target_process(environment: Environment, fault: Fault) -> tuple[Worker, Role, int]:
    """The process of the fault's slot and role, or the next one that runs a role."""

    def find() -> tuple[Worker, Role, int] | None:
        for worker in _candidates(environment, fault):
            for role in sorted(worker.roles, key=lambda role: role != fault.role):
                pid = worker.pid_of(role)
                if pid is not None:
                    return worker, role, pid
        return None

    return await _wait_for_target(find, fault)


def _candidates(environment: Environment, fault: Fault) -> Sequence[Worker]:
    """Wanted workers, beginning with the slot of the fault."""
    workers = environment.workers
    ordered = [workers[(fault.slot + step) % len(workers)] for step in range(len(workers))]
    return [worker for worker in ordered if worker.is_wanted]


async def _wait_for_target(find: Callable[[], Target | None], fault: Fault) -> Target:
    """The result of ``find``, repeated while all candidates are still starting."""
    deadline = time.monotonic() + TARGET_TIMEOUT_S
    while (target := find()) is None:
        if time.monotonic() > deadline:
            raise LookupError(f"no target within {TARGET_TIMEOUT_S:g} s: {fault}")
        await asyncio.sleep(0.2)
    return target

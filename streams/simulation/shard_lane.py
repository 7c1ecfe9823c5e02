"""Computes shards of large requests, each in a process of low priority, and reports how far their requests are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from schemas import SimulationProgress
from sql.shard_store import (
    LostShardLease,
    ShardLease,
    fail_shard,
    lease_shard,
    put_back_shard,
    renew_shard_lease,
    store_sums,
)
from sql.simulation_queue_store import MAX_TRIES, QueueEntry, ShardProgress, SimulationLease
from sql.simulation_store import Pins, find_runs
from streams.errors import describe_error, is_waited_for
from streams.kafka.app import TwinApp
from streams.metrics import SHARDS
from streams.process_name import process_name
from streams.registry import ModelLoader
from streams.retries import report_failure, retry_transient
from streams.simulation.shard_process import ShardProcess
from streams.simulation.simulation_process import ProcessEnded
from streams.simulation.simulator import Simulator

__all__ = ["ShardEntrance", "ShardLane"]

LOG = logging.getLogger(__name__)
T = TypeVar("T")

_POLL_S = 0.5
_IDLE_S = 10.0
"""After so long without a shard the process ends, and with it the memory that it takes."""
_DELAY_OF_NEXT_TRY_S = 1.0
_HEARTBEATS_PER_LEASE = 4


class ShardLane:
    """Computes one shard after another for as long as the app runs; a worker has several of these.

    Args:
        app: of the role.
        models: load the models that twins are generated with.
        simulator: reads the priors that requests are pinned to.
        on_due: called when a request has no shard left to compute.
    """

    def __init__(self, app: TwinApp, models: ModelLoader, simulator: Simulator, on_due: Callable[[], None]) -> None:
        self._app = app
        self._models = models
        self._simulator = simulator
        self._on_due = on_due
        self._worker = process_name()
        self._wake = asyncio.Event()
        self._processes = AsyncExitStack()
        self._process: tuple[UUID, ShardProcess] | None = None

    def wake(self) -> None:
        """Look for the next shard now."""
        self._wake.set()

    async def run(self) -> None:
        """Compute shard after shard, in the fair order of the lane."""
        try:
            while not self._app.should_stop:
                try:
                    await self._compute_next()
                except Exception as error:  # noqa: BLE001  # an exception that left a task would end the role
                    report_failure(self._app.role, "shards", error)
                    await self._close()
                    await asyncio.sleep(_POLL_S)
        finally:
            await self._close()

    async def _compute_next(self) -> None:
        lease_next = partial(lease_shard, self._app.pool, self._worker, lease_s=self._app.settings.simulation_lease_s)
        waited_s = 0.0
        while (lease := await retry_transient(lease_next, part="postgres")) is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _POLL_S)
            self._wake.clear()
            waited_s += _POLL_S
            if waited_s >= _IDLE_S:
                await self._close()
        await self._process_lease(lease)

    async def _process_lease(self, lease: ShardLease) -> None:
        try:
            if lease.tries > MAX_TRIES:
                await self._fail(lease, f"given up: {MAX_TRIES} workers started a part of this simulation and none finished it")
            else:
                sums = await self._while_held(lease, self._compute(lease))
                await self._end(lease, partial(store_sums, self._app.pool, lease, sums))
                SHARDS.inc()
        except LostShardLease as lost:
            LOG.warning("%s", lost)
            await self._close()
        except Exception as error:  # noqa: BLE001  # the shard is tried again, or its request fails
            await self._close()
            with contextlib.suppress(LostShardLease):
                await self._handle_failure(lease, error)

    async def _handle_failure(self, lease: ShardLease, error: Exception) -> None:
        LOG.warning("%s: %s", type(error).__name__, describe_error(error))
        has_ended = isinstance(error, ProcessEnded)
        if is_waited_for(error) or (has_ended and lease.tries < MAX_TRIES):
            put_back = partial(put_back_shard, self._app.pool, lease, count_try=has_ended, delay_s=_DELAY_OF_NEXT_TRY_S)
            await retry_transient(put_back, part="postgres")
        else:
            await self._fail(lease, describe_error(error))

    async def _fail(self, lease: ShardLease, failure: str) -> None:
        await self._end(lease, partial(fail_shard, self._app.pool, lease, failure))

    async def _end(self, lease: ShardLease, store: Callable[[], Awaitable[ShardProgress]]) -> None:
        progress = await retry_transient(store, part="postgres")
        self._on_due()
        event = SimulationProgress(simulation_id=lease.simulation_id, twins_done=progress.twins_done, twin_count=progress.twins)
        await self._app.send_event(event, key=str(lease.simulation_id))

    async def _compute(self, lease: ShardLease) -> bytes:
        return await (await self._process_of(lease.simulation_id)).compute(lease.first_block, lease.end_block)

    async def _process_of(self, simulation_id: UUID) -> ShardProcess:
        """The process for shards of a request: that of the shard before, or a new one."""
        if self._process is None or self._process[0] != simulation_id:
            await self._close()
            pins = (await find_runs(self._app.pool, [simulation_id]))[simulation_id]
            assert pins.request is not None  # only pinned requests are queued
            assert pins.model_id is not None
            priors, model = await self._simulator.priors(pins, pins.request), await self._models.load(pins.model_id)
            starting = ShardProcess.start(self._app.settings, pins, pins.request, priors, model)
            self._process = simulation_id, await self._processes.enter_async_context(starting)
        return self._process[1]

    async def _while_held(self, lease: ShardLease, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, which is cancelled when another worker has taken the shard over or its request was cancelled."""
        computing = asyncio.create_task(work)
        beating = asyncio.create_task(self._send_heartbeats(lease))
        try:
            await asyncio.wait({computing, beating}, return_when=asyncio.FIRST_COMPLETED)
            if beating.done():
                beating.result()
            return await computing
        finally:
            for task in (computing, beating):
                task.cancel()
            await asyncio.wait({computing, beating})

    async def _send_heartbeats(self, lease: ShardLease) -> None:
        renew = partial(renew_shard_lease, self._app.heartbeat_pool, lease)
        while True:
            await asyncio.sleep(self._app.settings.simulation_lease_s / _HEARTBEATS_PER_LEASE)
            await retry_transient(renew, part="postgres")

    async def _close(self) -> None:
        """End the process."""
        self._process = None
        await self._processes.aclose()


class ShardEntrance:
    """The lane of requests in shards as the intake sees it: it leases nothing at once, as the shards come first."""

    worker = ""

    def __init__(self, lanes: Sequence[ShardLane]) -> None:
        self._lanes = lanes

    def has_room(self, _entries: Sequence[QueueEntry], /) -> bool:
        """Whether it would conclude these requests next."""
        return False

    def take(self, leases: Sequence[SimulationLease], _runs: Mapping[UUID, Pins], /) -> None:
        """Conclude the requests of these leases, of which there are none."""
        assert not leases

    def wake(self) -> None:
        """Look for the next shard now."""
        for lane in self._lanes:
            lane.wake()

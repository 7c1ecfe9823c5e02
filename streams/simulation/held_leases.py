"""The leases of a lane: renewed until they are released, and a computation ends when its lease is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import asyncpg

from sql.database import Pool
from sql.simulation_queue_store import LostSimulationLease, SimulationLease, put_back_simulation, renew_simulation_leases
from streams.errors import describe_error
from streams.retries import retry_transient

__all__ = ["HeldLeases"]

LOG = logging.getLogger(__name__)
T = TypeVar("T")

_HEARTBEATS_PER_LEASE = 4


class HeldLeases:
    """Leases that this worker holds while the block runs; those that are not released at its end are put back into the queue.

    Args:
        pool: of the database.
        heartbeat_pool: for heartbeats alone, which so wait for no statement of other work.
        lease_s: seconds after which a lease without heartbeat ends.
    """

    def __init__(self, pool: Pool, heartbeat_pool: Pool, lease_s: float) -> None:
        self._pool, self._heartbeat_pool = pool, heartbeat_pool
        self._held: dict[UUID, SimulationLease] = {}
        self._interval_s = lease_s / _HEARTBEATS_PER_LEASE
        self._returning: set[asyncio.Task[None]] = set()
        self._running: dict[SimulationLease, asyncio.Task[Any]] = {}

    async def __aenter__(self) -> Self:
        self._beating = asyncio.create_task(self._send_heartbeats())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._beating.cancel()
        await asyncio.gather(*self._returning)
        await self.put_back(list(self._held.values()))

    @property
    def ids(self) -> list[UUID]:
        """Ids of the requests that are held."""
        return list(self._held)

    def hold(self, leases: Sequence[SimulationLease]) -> None:
        """Hold these leases from now on."""
        self._held.update((lease.simulation_id, lease) for lease in leases)

    async def run(self, lease: SimulationLease, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, which is cancelled when another worker has taken its lease over.

        Raises:
            LostSimulationLease: when that happens.
            Exception: what ``work`` raises.
        """
        task = asyncio.create_task(work)
        self._running[lease] = task
        try:
            await asyncio.wait({task})
        finally:
            del self._running[lease]
            task.cancel()
            await asyncio.wait({task})
        if task.cancelled() and lease.simulation_id not in self._held:
            raise LostSimulationLease(lease)
        return await task

    def release(self, leases: Sequence[SimulationLease]) -> None:
        """Hold these leases no longer."""
        for lease in leases:
            if self._held.get(lease.simulation_id) == lease:  # and not a later lease of the same request
                del self._held[lease.simulation_id]

    async def put_back(self, leases: Sequence[SimulationLease]) -> None:
        """Return requests to the queue, where any worker can lease them at once."""
        self.release(leases)
        for lease in leases:
            try:
                await put_back_simulation(self._pool, lease)
            except (LostSimulationLease, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                # the lease ends by itself, only later
                text = describe_error(error)
                LOG.warning("simulation %s could not be put back into the queue: %s", lease.simulation_id, text)

    def give_back(self, leases: Sequence[SimulationLease]) -> None:
        """Put requests back in the background."""
        self.release(leases)
        self._returning.add(task := asyncio.create_task(self.put_back(leases)))
        task.add_done_callback(self._returning.discard)

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                for lost in await retry_transient(self._renew, part="postgres"):
                    self._lose(lost)
            except Exception as error:  # noqa: BLE001  # the heartbeats of all leases would end with it
                LOG.warning("a heartbeat failed: %s: %s", type(error).__name__, describe_error(error))

    async def _renew(self) -> list[LostSimulationLease]:
        """Renew all leases that are held by now together; returns those that are lost."""
        held = list(self._held.values())
        return await renew_simulation_leases(self._heartbeat_pool, held) if held else []

    def _lose(self, lost: LostSimulationLease) -> None:
        lease = lost.lease
        if self._held.get(lease.simulation_id) == lease:  # and was not released meanwhile
            LOG.warning("%s", lost)
            self.release([lease])
        if lease in self._running:
            self._running[lease].cancel()

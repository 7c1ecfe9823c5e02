"""Computes the queued requests of one lane, one after another, and hands their answers on.

Small requests that wait at the same time are leased together. A request that finds the lane of small ones free is leased in the
transaction that queues it, and computed with the pins that are in memory. A request that takes long holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple
from uuid import UUID

from schemas import SimulationAnswer, SimulationRequest, SimulationResult
from sql.simulation_queue_store import (
    MAX_TRIES,
    Lane,
    LostSimulationLease,
    QueueEntry,
    SimulationLease,
    lease_simulations,
    put_back_simulation,
)
from sql.simulation_store import Pins, find_runs
from streams.errors import describe_error, is_waited_for
from streams.kafka.app import TwinApp
from streams.process_name import process_name
from streams.registry import ModelLoader
from streams.retries import report_failure, retry_transient, track_unfinished
from streams.simulation.answer_publisher import Answered, AnswerPublisher, failure
from streams.simulation.computation import COMPUTATION_REFUSALS, DeadlineExceeded
from streams.simulation.held_leases import HeldLeases
from streams.simulation.model_gate import ModelGate
from streams.simulation.simulation_process import ProcessEnded, SimulationFailed, SimulationRefused
from streams.simulation.simulator import cancelled, completed, failed, rejected

__all__ = ["SimulationLane"]

LOG = logging.getLogger(__name__)

Compute = Callable[[Pins, SimulationRequest], Awaitable[SimulationResult]]

_POLL_S = 0.5
_DELAY_OF_NEXT_TRY_S = 5.0  # the other requests of the lane are computed meanwhile
_AT_MOST = {"small": 32, "large": 1, "sharded": 1}
"""Requests that are leased together; the work of all of them is at most that of one that is nearly large."""
_LONG_S = 0.5
"""A computation that takes longer gives the requests behind it back, for other workers to compute."""


class _Waiting(NamedTuple):
    """A leased request that is computed in its turn: its run, or why that cannot be read, and the monotonic time of the lease."""

    lease: SimulationLease
    run: Pins | Exception
    since_s: float


class SimulationLane:
    """Computes the queued requests of one lane for as long as the app runs.

    Args:
        lane: its name.
        app: of the role, whose pool is open.
        models: load the models that twins are generated with.
        compute: computes the result of a pinned request.

    Attributes:
        worker: the holder of its leases.
    """

    def __init__(self, lane: Lane, app: TwinApp, models: ModelLoader, compute: Compute) -> None:
        self.worker = process_name()
        self._lane = lane
        self._app = app
        self._compute = compute
        self._settings = app.settings
        self._waiting: deque[_Waiting] = deque()
        self._is_slow = False
        self._wake = asyncio.Event()
        self._look_s = 0.0
        self._gate = ModelGate(models, self.wake)
        self._held = HeldLeases(app.pool, app.heartbeat_pool, app.settings.simulation_lease_s)
        self._publisher = AnswerPublisher(lane, app, self._held)

    def wake(self) -> None:
        """Look for the next request in the queue now."""
        self._look_s = 0.0
        self._wake.set()

    def has_room(self, entries: Sequence[QueueEntry]) -> bool:
        """Whether these small requests would be computed next, together with those that wait for it."""
        work = sum(entry.work for entry in entries) + sum(waiting.lease.work for waiting in self._waiting)
        return (
            self._lane == "small"
            and not self._is_slow
            and not self._app.should_stop
            and len(entries) + len(self._waiting) <= _AT_MOST[self._lane]
            and work <= self._settings.large_simulation_twins
        )

    def take(self, leases: Sequence[SimulationLease], runs: Mapping[UUID, Pins | Exception]) -> None:
        """Compute the requests of these leases, whose runs are given by id, in their turn."""
        self._held.hold(leases)
        self._waiting.extend(_Waiting(lease, runs[lease.simulation_id], time.monotonic()) for lease in leases)
        self._wake.set()
        if self._is_slow:
            self._give_back()

    async def run(self) -> None:
        """Compute request after request, in the fair order of the queue."""
        async with self._held:
            publishing = asyncio.create_task(self._publisher.run())
            try:
                while not self._app.should_stop:
                    try:
                        await self._compute_next()
                    except Exception as error:  # noqa: BLE001  # an exception that left a task would end the role
                        report_failure(self._app.role, f"{self._lane} lane", error)
                        await asyncio.sleep(_POLL_S)
            finally:
                self._gate.close()
                publishing.cancel()
                await asyncio.wait({publishing})

    async def _compute_next(self) -> None:
        if not self._waiting:
            await self._find_work()
        if self._waiting:
            await self._publisher.wait_for_room()
            with track_unfinished(self._app) if self._lane == "small" else contextlib.nullcontext():
                await self._answer_next()

    async def _find_work(self) -> None:
        """Wait until requests are handed over; look into the queue for others when woken, and twice a second."""
        pause_s = self._look_s - time.monotonic()
        if pause_s > 0.0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s)
            self._wake.clear()
            if self._waiting or time.monotonic() < self._look_s:
                return
        self._look_s = time.monotonic() + _POLL_S
        if leases := await retry_transient(self._lease, part="postgres"):
            self._look_s = 0.0  # there may be more
            self._held.hold(leases)
            self.take(leases, await self._find_runs([lease.simulation_id for lease in leases]))

    async def _lease(self) -> list[SimulationLease]:
        return await lease_simulations(
            self._app.pool,
            self._lane,
            self.worker,
            lease_s=self._settings.simulation_lease_s,
            without_models=self._gate.loading,
            without=self._held.ids,
            at_most=_AT_MOST[self._lane],
            work=self._settings.large_simulation_twins,
        )

    async def _answer_next(self) -> None:
        if not self._waiting:
            return
        lease, run, since_s = self._waiting.popleft()
        slow = asyncio.get_running_loop().call_later(_LONG_S, self._on_slow)
        try:
            answer = await self._answer(lease, run)
        except Exception:
            await self._held.put_back([lease])
            raise
        finally:
            slow.cancel()
            self._is_slow = False
        if answer is not None:
            self._publisher.add(Answered(lease, answer, since_s))

    def _on_slow(self) -> None:
        self._is_slow = True
        self._give_back()

    def _give_back(self) -> None:
        """Let other workers compute what waits here."""
        self._held.give_back([waiting.lease for waiting in self._waiting])
        self._waiting.clear()

    async def _find_runs(self, ids: Sequence[UUID]) -> Mapping[UUID, Pins | Exception]:
        """The runs by id; the error of one that cannot be read, which is no reason not to answer the others."""
        try:
            return await retry_transient(lambda: find_runs(self._app.pool, ids), part="postgres")
        except Exception as error:  # noqa: BLE001  # one of them is the reason
            if len(ids) == 1:
                return {ids[0]: error}
        return {simulation_id: run for alone in ids for simulation_id, run in (await self._find_runs([alone])).items()}

    async def _answer(self, lease: SimulationLease, pins: Pins | Exception) -> SimulationAnswer | None:
        """The answer to a leased request; None when it has to wait, for its model or for another try, or was taken over."""
        if isinstance(pins, Exception):
            return await self._answer_to_failure(lease, pins)
        try:
            if (answer := _answer_at_once(lease, pins)) is not None:
                return answer
            if self._gate.admits(lease.model_id):
                return await self._held.run(lease, self._compute_answer(lease, pins))
            await self._held.put_back([lease])
        except LostSimulationLease as lost:
            LOG.warning("%s", lost)
        except Exception as error:  # noqa: BLE001  # the request is answered, or tried again
            return await self._answer_to_failure(lease, error)
        return None

    async def _answer_to_failure(self, lease: SimulationLease, error: Exception) -> SimulationAnswer | None:
        if not isinstance(error, ProcessEnded) and not is_waited_for(error):
            return failure(lease, error)
        await self._try_again(lease, error)
        return None

    async def _compute_answer(self, lease: SimulationLease, pins: Pins) -> SimulationAnswer:
        assert pins.request is not None  # only pinned requests are queued
        try:
            return completed(pins, await self._compute(pins, pins.request))
        except (*COMPUTATION_REFUSALS, SimulationRefused) as error:
            return rejected(lease.simulation_id, describe_error(error))
        except (DeadlineExceeded, SimulationFailed) as error:
            return failed(lease.simulation_id, describe_error(error))
        except ProcessEnded as error:
            if lease.tries < MAX_TRIES:
                raise
            return failed(lease.simulation_id, describe_error(error))

    async def _try_again(self, lease: SimulationLease, error: Exception) -> None:
        LOG.warning("simulation %s waits for another try: %s: %s", lease.simulation_id, type(error).__name__, describe_error(error))
        self._held.release([lease])
        counts = isinstance(error, ProcessEnded)
        put_back = partial(put_back_simulation, self._app.pool, lease, count_try=counts, delay_s=_DELAY_OF_NEXT_TRY_S)
        with contextlib.suppress(LostSimulationLease):
            await retry_transient(put_back, part="postgres")


def _answer_at_once(lease: SimulationLease, pins: Pins) -> SimulationAnswer | None:
    """The answer to a request that is not to be computed; None when it is."""
    if pins.answer is not None:
        return pins.answer
    if lease.is_cancelled:
        return cancelled(lease.simulation_id)
    if lease.tries > MAX_TRIES:
        return failed(lease.simulation_id, f"given up: {MAX_TRIES} workers started this simulation and none finished it")
    return None

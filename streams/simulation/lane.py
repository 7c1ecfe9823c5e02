"""Computes the queued requests of one lane, one after another, and publishes their answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import asyncpg

from schemas import SimulationAnswer, SimulationRequest, SimulationResult
from sql.simulation_queue_store import (
    MAX_TRIES,
    Lane,
    LostSimulationLease,
    SimulationLease,
    finish_leased,
    lease_simulation,
    put_back_simulation,
    remove_simulation,
    renew_simulation_lease,
)
from sql.simulation_store import Pins, find_runs
from streams.errors import describe_error, is_waited_for
from streams.kafka.app import TwinApp
from streams.metrics import COMPUTED_SIMULATIONS, LARGE_SIMULATION_SECONDS, SIMULATION_SECONDS, SIMULATIONS
from streams.registry import ModelLoader
from streams.retries import process_event, report_failure, retry_transient, track_unfinished
from streams.simulation.computation import COMPUTATION_REFUSALS, DeadlineExceeded
from streams.simulation.model_gate import ModelGate
from streams.simulation.simulation_process import ProcessEnded, SimulationFailed, SimulationRefused
from streams.simulation.simulator import completed, failed, rejected

__all__ = ["SimulationLane", "publish_answers"]

LOG = logging.getLogger(__name__)

Compute = Callable[[Pins, SimulationRequest], Awaitable[SimulationResult]]

_DURATIONS = {"small": SIMULATION_SECONDS, "large": LARGE_SIMULATION_SECONDS}
_POLL_S = 0.5
_DELAY_OF_NEXT_TRY_S = 5.0  # the other requests of the lane are computed meanwhile
_HEARTBEATS_PER_LEASE = 4


class SimulationLane:
    """Computes the queued requests of one lane for as long as the app runs.

    Args:
        lane: its name.
        app: of the role.
        models: load the models that twins are generated with.
        compute: computes the result of a pinned request.
    """

    def __init__(self, lane: Lane, app: TwinApp, models: ModelLoader, compute: Compute) -> None:
        self._lane = lane
        self._app = app
        self._compute = compute
        self._settings = app.settings
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._leased_s = 0.0
        self._wake = asyncio.Event()
        self._gate = ModelGate(models, self._wake.set)

    def wake(self) -> None:
        """Look for the next request now."""
        self._wake.set()

    async def run(self) -> None:
        """Compute request after request, in the fair order of the queue."""
        try:
            while not self._app.should_stop:
                try:
                    await self._compute_next()
                except Exception as error:  # noqa: BLE001  # an exception that left a task would end the role
                    report_failure(self._app.role, f"{self._lane} lane", error)
                    await asyncio.sleep(_POLL_S)
        finally:
            self._gate.close()

    async def _compute_next(self) -> None:
        self._wake.clear()
        lease = await retry_transient(self._lease, part="postgres")
        if lease is None:
            await self._sleep(_POLL_S)
        else:
            await self._process(lease)

    async def _lease(self) -> SimulationLease | None:
        lease_s, loading = self._settings.simulation_lease_s, self._gate.loading
        return await lease_simulation(self._app.pool, self._lane, self._worker, lease_s=lease_s, without_models=loading)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    async def _process(self, lease: SimulationLease) -> None:
        self._leased_s = time.monotonic()
        computation = asyncio.create_task(self._answer(lease))
        try:
            with track_unfinished(self._app) if self._lane == "small" else contextlib.nullcontext():
                await self._while_leased(lease, computation)
        except asyncio.CancelledError:
            await self._put_back_at_stop(lease)
            raise
        if not computation.cancelled():
            await process_event(self._app, partial(self._conclude, lease, computation), partial(self._fail, lease))

    async def _while_leased(self, lease: SimulationLease, computation: asyncio.Task[SimulationAnswer | None]) -> None:
        """Wait for the end of a computation, which is cancelled when another worker has taken the lease over."""
        beating = asyncio.create_task(self._send_heartbeats(lease))
        try:
            await asyncio.wait({computation, beating}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (computation, beating):
                task.cancel()
            await asyncio.wait({computation, beating})
        if computation.cancelled() and not beating.cancelled():
            LOG.warning("%s", beating.exception())

    async def _send_heartbeats(self, lease: SimulationLease) -> None:
        while True:
            await asyncio.sleep(self._settings.simulation_lease_s / _HEARTBEATS_PER_LEASE)
            await retry_transient(partial(renew_simulation_lease, self._app.pool, lease), part="postgres")

    async def _answer(self, lease: SimulationLease) -> SimulationAnswer | None:
        """The answer to a leased request; None when it has to wait, for its model or for another try."""
        pins = (await find_runs(self._app.pool, [lease.simulation_id]))[lease.simulation_id]
        if pins.answer is not None:
            return pins.answer
        if lease.tries > MAX_TRIES:
            return failed(lease.simulation_id, f"given up: {MAX_TRIES} workers started this simulation and none finished it")
        if not self._gate.admits(lease.model_id):
            return None
        return await self._compute_answer(lease, pins)

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

    async def _conclude(self, lease: SimulationLease, computation: asyncio.Task[SimulationAnswer | None]) -> None:
        """Publish the answer, or return the request to the queue."""
        error = computation.exception()
        try:
            if error is None and (answer := computation.result()) is not None:
                await self._finish(lease, answer)
            elif error is None:
                await put_back_simulation(self._app.pool, lease)
            elif isinstance(error, ProcessEnded) or is_waited_for(error):
                await self._try_again(lease, error)
            else:
                await self._fail(lease, error)
        except LostSimulationLease as lost:
            LOG.warning("%s", lost)

    async def _try_again(self, lease: SimulationLease, error: BaseException) -> None:
        LOG.warning("simulation %s waits for another try: %s: %s", lease.simulation_id, type(error).__name__, describe_error(error))
        await put_back_simulation(self._app.pool, lease, count_try=isinstance(error, ProcessEnded), delay_s=_DELAY_OF_NEXT_TRY_S)

    async def _fail(self, lease: SimulationLease, error: BaseException) -> None:
        LOG.error("simulation %s failed", lease.simulation_id, exc_info=error)
        with contextlib.suppress(LostSimulationLease):
            await self._finish(lease, failed(lease.simulation_id, f"{type(error).__name__}: {describe_error(error)}"))

    async def _finish(self, lease: SimulationLease, answer: SimulationAnswer) -> None:
        """Store the answer, publish it, and only then remove the request from the queue."""
        answer = await finish_leased(self._app.pool, lease, answer)
        await publish_answers(self._app, [answer])
        await remove_simulation(self._app.pool, lease)
        COMPUTED_SIMULATIONS.labels(lane=self._lane).inc()
        _DURATIONS[self._lane].observe(lease.waited_s + time.monotonic() - self._leased_s)

    async def _put_back_at_stop(self, lease: SimulationLease) -> None:
        """Return a request when this worker stops, so that the next worker can lease it at once."""
        try:
            await put_back_simulation(self._app.pool, lease)
        except (
            LostSimulationLease,
            OSError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
        ) as error:  # the lease ends by itself, only later
            LOG.warning("simulation %s could not be put back into the queue: %s", lease.simulation_id, describe_error(error))


async def publish_answers(app: TwinApp, answers: Sequence[SimulationAnswer]) -> None:
    """Publish stored answers, or rejections of ids that are stored with other content, as few batches."""
    for sent in [await app.send_event(answer, key=str(answer.simulation_id)) for answer in answers]:
        await sent
    for answer in answers:
        _report(answer)


def _report(answer: SimulationAnswer) -> None:
    """Count and log a published answer."""
    SIMULATIONS.labels(status=answer.status.value).inc()
    for warning in answer.result.warnings if answer.result else ():
        LOG.warning("simulation %s: %s", answer.simulation_id, warning)
    LOG.info("simulation %s: %s%s", answer.simulation_id, answer.status, f", {answer.reason}" if answer.reason else "")

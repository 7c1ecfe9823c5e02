"""Computes the queued requests of one lane, one after another, and publishes their answers.

Small requests that wait at the same time are leased together, and their answers are stored and published together: a worker that
falls behind spends less on each. A request that takes long holds up none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from uuid import UUID

from schemas import SimulationAnswer, SimulationRequest, SimulationResult
from sql.simulation_queue_store import (
    MAX_TRIES,
    Lane,
    LostSimulationLease,
    SimulationLease,
    finish_leased,
    lease_simulations,
    put_back_simulation,
    remove_simulations,
)
from sql.simulation_store import Pins, find_runs
from streams.errors import describe_error, is_waited_for
from streams.kafka.app import TwinApp
from streams.metrics import COMPUTED_SIMULATIONS, LARGE_SIMULATION_SECONDS, SIMULATION_SECONDS, SIMULATIONS
from streams.registry import ModelLoader
from streams.retries import process_event, report_failure, retry_transient, track_unfinished
from streams.simulation.computation import COMPUTATION_REFUSALS, DeadlineExceeded
from streams.simulation.held_leases import HeldLeases
from streams.simulation.model_gate import ModelGate
from streams.simulation.simulation_process import ProcessEnded, SimulationFailed, SimulationRefused
from streams.simulation.simulator import completed, failed, rejected

__all__ = ["SimulationLane", "publish_answers"]

LOG = logging.getLogger(__name__)

Compute = Callable[[Pins, SimulationRequest], Awaitable[SimulationResult]]
Answered = tuple[SimulationLease, SimulationAnswer]

_DURATIONS = {"small": SIMULATION_SECONDS, "large": LARGE_SIMULATION_SECONDS}
_POLL_S = 0.5
_DELAY_OF_NEXT_TRY_S = 5.0  # the other requests of the lane are computed meanwhile
_AT_MOST = {"small": 32, "large": 1}
"""Requests that are leased together; the work of all of them is at most that of one that is nearly large."""
_HOLD_BACK_S = 0.02
"""After this time, answers are published before the rest of their batch is computed."""
_LONG_S = 0.5
"""A computation that takes longer gives the rest of its batch back, for other workers to compute."""


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
        leases = await retry_transient(self._lease, part="postgres")
        if leases:
            await self._process(leases)
        else:
            await self._sleep(_POLL_S)

    async def _lease(self) -> list[SimulationLease]:
        return await lease_simulations(
            self._app.pool,
            self._lane,
            self._worker,
            lease_s=self._settings.simulation_lease_s,
            without_models=self._gate.loading,
            at_most=_AT_MOST[self._lane],
            work=self._settings.large_simulation_twins,
        )

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    async def _process(self, leases: Sequence[SimulationLease]) -> None:
        self._leased_s = time.monotonic()
        with track_unfinished(self._app) if self._lane == "small" else contextlib.nullcontext():
            async with HeldLeases(self._app.pool, leases, self._settings.simulation_lease_s) as held:
                ids = [lease.simulation_id for lease in leases]
                await self._answer_all(held, deque(leases), await self._find_runs(ids))

    async def _find_runs(self, ids: Sequence[UUID]) -> Mapping[UUID, Pins | Exception]:
        """The runs by id; the error of one that cannot be read, which is no reason not to answer the others."""
        try:
            return await retry_transient(lambda: find_runs(self._app.pool, ids), part="postgres")
        except Exception as error:  # noqa: BLE001  # one of them is the reason
            if len(ids) == 1:
                return {ids[0]: error}
        return {simulation_id: run for alone in ids for simulation_id, run in (await self._find_runs([alone])).items()}

    async def _answer_all(self, held: HeldLeases, waiting: deque[SimulationLease], runs: Mapping[UUID, Pins | Exception]) -> None:
        answered: list[Answered] = []
        began_s = time.monotonic()
        while waiting:
            lease = waiting.popleft()
            slow = asyncio.get_running_loop().call_later(_LONG_S, held.give_back, waiting)
            try:
                answer = await self._answer(held, lease, runs[lease.simulation_id])
            finally:
                slow.cancel()
            if answer is not None:
                answered.append((lease, answer))
            if answered and (not waiting or time.monotonic() - began_s > _HOLD_BACK_S):
                await self._conclude(held, answered)
                answered, began_s = [], time.monotonic()
        if answered:
            await self._conclude(held, answered)

    async def _answer(self, held: HeldLeases, lease: SimulationLease, pins: Pins | Exception) -> SimulationAnswer | None:
        """The answer to a leased request; None when it has to wait, for its model or for another try, or was taken over."""
        if isinstance(pins, Exception):
            return await self._answer_to_failure(held, lease, pins)
        try:
            if pins.answer is not None:
                return pins.answer
            if lease.tries > MAX_TRIES:
                return failed(lease.simulation_id, f"given up: {MAX_TRIES} workers started this simulation and none finished it")
            if self._gate.admits(lease.model_id):
                return await held.run(lease, self._compute_answer(lease, pins))
            await held.put_back([lease])
        except LostSimulationLease as lost:
            LOG.warning("%s", lost)
        except Exception as error:  # noqa: BLE001  # the request is answered, or tried again
            return await self._answer_to_failure(held, lease, error)
        return None

    async def _answer_to_failure(self, held: HeldLeases, lease: SimulationLease, error: Exception) -> SimulationAnswer | None:
        if not isinstance(error, ProcessEnded) and not is_waited_for(error):
            return _failure(lease, error)
        await self._try_again(held, lease, error)
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

    async def _try_again(self, held: HeldLeases, lease: SimulationLease, error: Exception) -> None:
        LOG.warning("simulation %s waits for another try: %s: %s", lease.simulation_id, type(error).__name__, describe_error(error))
        held.release([lease])
        counts = isinstance(error, ProcessEnded)
        put_back = partial(put_back_simulation, self._app.pool, lease, count_try=counts, delay_s=_DELAY_OF_NEXT_TRY_S)
        with contextlib.suppress(LostSimulationLease):
            await retry_transient(put_back, part="postgres")

    async def _conclude(self, held: HeldLeases, answered: Sequence[Answered]) -> None:
        """Store and publish answers together; when that fails, each alone."""
        if len(answered) == 1:
            await self._conclude_alone(*answered[0])
        else:
            try:
                await retry_transient(partial(self._finish, answered), part="postgres")
            except Exception as error:  # noqa: BLE001  # one of them is the reason
                LOG.warning("%d answers are stored one by one: %s", len(answered), describe_error(error))
                for lease, answer in answered:
                    await self._conclude_alone(lease, answer)
        held.release([lease for lease, _ in answered])

    async def _conclude_alone(self, lease: SimulationLease, answer: SimulationAnswer) -> None:
        """Store and publish an answer; or, when that cannot be done, one that the request failed."""
        await process_event(
            self._app, lambda: self._finish([(lease, answer)]), lambda error: self._finish([(lease, _failure(lease, error))])
        )

    async def _finish(self, answered: Sequence[Answered]) -> None:
        """Store the answers, publish them, and only then remove the requests from the queue."""
        stored = await finish_leased(self._app.pool, answered)
        finished = [
            (lease, answer)
            for (lease, _), answer in zip(answered, stored, strict=True)
            if not isinstance(answer, LostSimulationLease)
        ]
        await publish_answers(self._app, [answer for _, answer in finished])
        lost = await remove_simulations(self._app.pool, [lease for lease, _ in finished])
        for error in (*lost, *(answer for answer in stored if isinstance(answer, LostSimulationLease))):
            LOG.warning("%s", error)
        COMPUTED_SIMULATIONS.labels(lane=self._lane).inc(len(finished))
        for lease, _ in finished:
            _DURATIONS[self._lane].observe(lease.waited_s + time.monotonic() - self._leased_s)


def _failure(lease: SimulationLease, error: Exception) -> SimulationAnswer:
    """The answer that a request failed for an unforeseen reason."""
    LOG.error("simulation %s failed", lease.simulation_id, exc_info=error)
    return failed(lease.simulation_id, f"{type(error).__name__}: {describe_error(error)}")


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

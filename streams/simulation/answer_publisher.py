"""Stores and publishes the answers of a lane, and removes their requests from the queue, while the next ones are computed.

Answers that come while others are stored are stored and published together next: a worker that falls behind spends less on each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from schemas import SimulationAnswer
from sql.simulation_queue_store import Lane, LostSimulationLease, SimulationLease, finish_leased, remove_simulations
from streams.errors import describe_error, is_refused_send, is_waited_for
from streams.kafka.app import TwinApp
from streams.metrics import COMPUTED_SIMULATIONS, LARGE_SIMULATION_SECONDS, SIMULATION_SECONDS, SIMULATIONS
from streams.outages import OUTAGES
from streams.retries import process_event, report_failure, retry_transient, track_unfinished
from streams.simulation.held_leases import HeldLeases
from streams.simulation.simulator import failed

__all__ = ["AnswerPublisher", "AnswerRefused", "Answered", "failure", "publish_answers"]

LOG = logging.getLogger(__name__)

_DURATIONS = {"small": SIMULATION_SECONDS, "large": LARGE_SIMULATION_SECONDS, "sharded": LARGE_SIMULATION_SECONDS}
_MAX_UNSTORED, _MAX_UNREMOVED = 64, 64
_PAUSE_S = 0.5
_REFUSED_IN_A_ROW = 5  # answers, after which not one of them is the reason: it is replaced by a short one


class AnswerRefused(Exception):
    """The topic of answers does not take one that others need not wait for."""


class Answered(NamedTuple):
    """A leased request, its answer, and the monotonic time of the lease."""

    lease: SimulationLease
    answer: SimulationAnswer
    since_s: float


class AnswerPublisher:
    """Stores, publishes and removes what was answered, for as long as its task runs.

    Args:
        lane: of the requests.
        app: of the role.
        held: their leases, which are released at the end.
    """

    def __init__(self, lane: Lane, app: TwinApp, held: HeldLeases) -> None:
        self._lane = lane
        self._app = app
        self._held = held
        self._answered: list[Answered] = []
        self._published: list[SimulationLease] = []
        self._added, self._taken = asyncio.Event(), asyncio.Event()

    def add(self, answered: Answered) -> None:
        """Store and publish an answer."""
        self._answered.append(answered)
        self._added.set()

    async def wait_for_room(self) -> None:
        """Wait while many answers are not stored yet."""
        while len(self._answered) >= _MAX_UNSTORED:
            self._taken.clear()
            await self._taken.wait()

    async def run(self) -> None:
        """Store and publish answer after answer."""
        try:
            while True:
                try:
                    await self._work()
                except Exception as error:  # noqa: BLE001  # an exception that left a task would end the role
                    report_failure(self._app.role, f"answers of the {self._lane} lane", error)
                    await asyncio.sleep(_PAUSE_S)
        finally:
            with contextlib.suppress(Exception):  # the next holders of their leases publish them again
                await self._remove()

    async def _work(self) -> None:
        if self._answered and len(self._published) < _MAX_UNREMOVED:
            answered, self._answered = self._answered, []
            self._taken.set()
            with track_unfinished(self._app):
                await self._conclude(answered)
        elif self._published:
            await retry_transient(self._remove, part="postgres")
        else:
            self._added.clear()
            await self._added.wait()

    async def _conclude(self, answered: Sequence[Answered]) -> None:
        """Store and publish answers together; when that fails, each alone."""
        if len(answered) == 1:
            await self._conclude_alone(answered[0])
            return
        try:
            await retry_transient(partial(self._finish, answered), part="postgres")
        except Exception as error:  # noqa: BLE001  # one of them is the reason
            LOG.warning("%d answers are stored one by one: %s", len(answered), describe_error(error))
            for alone in answered:
                await self._conclude_alone(alone)

    async def _conclude_alone(self, answered: Answered) -> None:
        """Store and publish an answer; or, when that cannot be done, one that the request failed."""
        await process_event(
            self._app,
            lambda: self._finish([answered]),
            lambda error: self._finish([answered._replace(answer=failure(answered.lease, error))]),
        )

    async def _finish(self, answered: Sequence[Answered]) -> None:
        """Store the answers and publish them; their requests may leave the queue from then on."""
        stored = await finish_leased(self._app.pool, [(lease, answer) for lease, answer, _ in answered])
        finished = [(item, answer) for item, answer in zip(answered, stored, strict=True) if isinstance(answer, SimulationAnswer)]
        await publish_answers(self._app, [answer for _, answer in finished])
        for item, lost in zip(answered, stored, strict=True):
            if isinstance(lost, LostSimulationLease):
                LOG.warning("%s", lost)
                self._held.release([item.lease])
        self._published += [item.lease for item, _ in finished]
        COMPUTED_SIMULATIONS.labels(lane=self._lane).inc(len(finished))
        for item, _ in finished:
            _DURATIONS[self._lane].observe(item.lease.waited_s + time.monotonic() - item.since_s)

    async def _remove(self) -> None:
        """Remove the requests whose answers are published from the queue."""
        leases = list(self._published)
        if leases:
            for lost in await remove_simulations(self._app.pool, leases):
                LOG.warning("%s", lost)
            del self._published[: len(leases)]
            self._held.release(leases)


def failure(lease: SimulationLease, error: Exception) -> SimulationAnswer:
    """The answer that a request failed for an unforeseen reason."""
    LOG.error("simulation %s failed", lease.simulation_id, exc_info=error)
    return failed(lease.simulation_id, f"{type(error).__name__}: {describe_error(error)}")


async def publish_answers(app: TwinApp, answers: Sequence[SimulationAnswer]) -> None:
    """Publish stored answers, or rejections of ids that are stored with other content, as few batches.

    A topic that takes none of them, such as one for smaller messages, is an outage until it takes some: the role is not ready.

    Raises:
        AnswerRefused: when the topic does not take one of them.
        Exception: any other reason for which they are not published.
    """
    try:
        for sent in [await app.send_event(answer, key=str(answer.simulation_id)) for answer in answers]:
            await sent
    except Exception as error:
        report_failure(app.role, "publication of answers", error)
        is_refused = is_refused_send(error)
        if is_refused or not is_waited_for(error):  # else whoever repeats it records it
            OUTAGES.record_failure("kafka", publish_answers, error, threshold=_REFUSED_IN_A_ROW)
        if is_refused:
            raise AnswerRefused(describe_error(error)) from error
        raise
    OUTAGES.recover(publish_answers)
    for answer in answers:
        _report(answer)


def _report(answer: SimulationAnswer) -> None:
    """Count and log a published answer."""
    SIMULATIONS.labels(status=answer.status.value).inc()
    for warning in answer.result.warnings if answer.result else ():
        LOG.warning("simulation %s: %s", answer.simulation_id, warning)
    LOG.info("simulation %s: %s%s", answer.simulation_id, answer.status, f", {answer.reason}" if answer.reason else "")

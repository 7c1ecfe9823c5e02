"""Judges whether a role is alive and whether it is ready, from what its event loop observes once a second.

A role is alive when nothing in it hangs; what waits for Kafka, Postgres or MLflow does not hang. That the event loop turns is
observed from outside, by the supervisor, which receives the heartbeats.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from faust.types import TP

from schemas import EVENTS
from streams.kafka.topic_watch import WATCHED_TOPICS
from streams.outages import OUTAGES, Outages
from streams.retries import oldest_unfinished_s
from streams.settings import Role, Settings
from streams.worker.thread_watch import ThreadWatch, pool_threads

if TYPE_CHECKING:
    from streams.kafka.app import TwinApp

__all__ = ["RoleLiveness", "describe_outages"]

LOG = logging.getLogger(__name__)

_TICK_S = 1.0
_RESUMED_S = 5.0
"""A longer gap between two ticks means that the process, or the machine, stood still: what waited meanwhile does not hang."""


@dataclass(frozen=True)
class _Partition:
    """Progress and waiting records of a partition, and for how long records have waited while nothing of it was finished.

    The time of outages does not count, and does not end what was counted: a partition whose own work is what fails would else seem
    to move whenever another one is answered.
    """

    progress: tuple[int, int]  # its position, and how often something behind it was finished
    lag: int
    standstill_s: float = 0.0


class RoleLiveness:
    """Observes the app of a role; :meth:`tick` is called once a second by its event loop.

    Args:
        role: the role of this process.
        settings: its limits.
        outages: the outages of this process.
        clock: the monotonic clock.
        supervisor_silence_s: returns the seconds since the supervisor of this process did its work last.
    """

    def __init__(
        self,
        role: Role,
        settings: Settings,
        outages: Outages = OUTAGES,
        clock: Callable[[], float] = time.monotonic,
        supervisor_silence_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._role, self._settings, self._outages, self._clock = role, settings, outages, clock
        self._supervisor_silence_s = supervisor_silence_s
        self._app: TwinApp | None = None
        self._serves = False
        self._stopping_since_s: float | None = None
        self._awaited_server = "Postgres"
        self._created_s = self._ticked_s = self._resumed_s = clock()
        self._thread_silence_s = 0.0
        self._threads = ThreadWatch(pool_threads, lambda: time.process_time() - time.thread_time())
        self._partitions: dict[TP, _Partition] = {}

    def awaits(self, server: str) -> None:
        """Note which server the role waits for before it has an app."""
        self._awaited_server = server

    def observe(self, app: TwinApp) -> None:
        """Observe an app from now on."""
        self._app = app

    def begin_serving(self) -> None:
        """Note that the role answers requests from now on, and has no app: it reads no topic."""
        self._serves = True

    def begin_stop(self) -> None:
        """Note that the role stops."""
        if self._stopping_since_s is None:
            self._stopping_since_s = self._clock()

    def tick(self) -> list[str]:
        """Advance the clocks, and return what hangs, as :meth:`live_problems` does."""
        now = self._clock()
        elapsed_s = now - self._ticked_s
        counted_s = min(elapsed_s, 2 * _TICK_S)
        self._ticked_s = now
        if elapsed_s > _RESUMED_S:
            self._resumed_s = now
            LOG.warning("the event loop stood still for %.1f s, or the machine did", elapsed_s - _TICK_S)
        self._thread_silence_s += counted_s
        self._threads.tick(counted_s)
        self._ping_thread()
        self._follow_positions(0.0 if self._outages.current() else counted_s)
        return self.live_problems()

    def details(self) -> Mapping[str, float | None]:
        """Ages in seconds: of the oldest event in work, and of the last poll of Kafka (None before the first)."""
        poll_s = self._last_poll_s()
        return {
            "oldest_unfinished_s": round(oldest_unfinished_s(self._role), 3),
            "last_poll_s": None if poll_s is None else round(poll_s, 3),
        }

    def supervisor_silence_s(self) -> float:
        """Seconds for which the supervisor has not looked after this process, though the machine ran; 0 while this role stops."""
        return 0.0 if self._stopping_since_s is not None else min(self._supervisor_silence_s(), self._clock() - self._resumed_s)

    def all_live_problems(self) -> list[str]:
        """What hangs in this process, and whether its supervisor does: nobody would restart this role then."""
        limit_s = self._settings.heartbeat_limit_s
        silence_s = self.supervisor_silence_s()
        hang = f"the worker that supervises this role stands still for {silence_s:.0f} s, TWIN_HEARTBEAT_LIMIT_S is {limit_s:g}"
        return self.live_problems() + ([hang] if silence_s > limit_s else [])

    def live_problems(self) -> list[str]:
        """What hangs, in plain words, with the setting of each limit; empty while the role is alive."""
        limits = self._settings
        problems = []
        event_s, poll_s = self._age(oldest_unfinished_s(self._role)), self._age(self._last_poll_s() or 0.0)
        if event_s > self._event_limit_s and not self._blocked_partitions():
            problems.append(f"one event is in work for {event_s:.0f} s, TWIN_EVENT_LIMIT_S is {self._event_limit_s:g}")
        poll_limit_s = limits.session_timeout_s + limits.heartbeat_limit_s  # a rebalance waits for a frozen member of the group
        if poll_s > poll_limit_s:
            problems.append(
                f"Kafka was not polled for {poll_s:.0f} s, TWIN_SESSION_TIMEOUT_S and TWIN_HEARTBEAT_LIMIT_S are {poll_limit_s:g}"
                " together"
            )
        if self._thread_silence_s > limits.heartbeat_limit_s:
            silence_s = self._thread_silence_s
            problems.append(
                f"the thread that reads Kafka hangs for {silence_s:.0f} s, TWIN_HEARTBEAT_LIMIT_S is {limits.heartbeat_limit_s:g}"
            )
        if (blocked_s := self._age(self._threads.blocked_s)) > limits.heartbeat_limit_s:
            limit_s = limits.heartbeat_limit_s
            problems.append(f"computations wait for one another for {blocked_s:.0f} s, TWIN_HEARTBEAT_LIMIT_S is {limit_s:g}")
        stopping_s = self._age(self._stopping_s())
        if stopping_s > limits.stop_limit_s:
            problems.append(f"the role is stopping for {stopping_s:.0f} s, TWIN_STOP_LIMIT_S is {limits.stop_limit_s:g}")
        return problems

    def ready_problems(self) -> list[str]:
        """Why the role does not process events now, in plain words; empty while it is ready."""
        activity = self._activity()
        waits = self._blocked_partitions() + WATCHED_TOPICS.problems() + describe_outages(self._outages)
        return ([activity] if activity else []) + waits + self._stalled()

    def all_ready_problems(self) -> list[str]:
        """As :meth:`ready_problems`, and the partitions at a batch whose opening ended this role, also before its last start.

        A process with only that problem has started: the next hang of it is killed as soon as any other.
        """
        return self.ready_problems() + self._hard_to_open()

    def behind(self) -> Mapping[str, int]:
        """Number of waiting records of each partition that has any."""
        return {f"{tp.topic} {tp.partition}": state.lag for tp, state in sorted(self._partitions.items()) if state.lag}

    def standstill_s(self) -> Mapping[TP, float]:
        """Seconds for which records of each partition have waited while none was finished; 0 for one that is read or progresses."""
        return {tp: state.standstill_s for tp, state in self._partitions.items()}

    def waits_for_server(self) -> bool:
        """Whether a server does not answer."""
        return bool(self._outages.current())

    def _blocked_partitions(self) -> list[str]:
        """Why partitions wait though the role works; a restart would not help them."""
        return [] if self._app is None else list(self._app.parking.blocked.values())

    def _activity(self) -> str | None:
        """What the role does instead of processing events, None when it processes them."""
        app = self._app
        if self._stopping_since_s is not None or (app is not None and app.should_stop):
            return "stopping"
        if self._serves:
            return None
        if app is None:
            return f"waiting for {self._awaited_server} for {self._clock() - self._created_s:.0f} s"
        if app.rebalancing or not app.rebalancing_count:
            return "waiting for its partitions"
        return f"restoring {app.restoring}" if app.restoring is not None else None

    @property
    def _event_limit_s(self) -> float:
        limit_s = self._settings.event_limit_s
        return max(limit_s, 2 * self._settings.training_timeout_s) if self._role == "trainer" else limit_s

    def _age(self, seconds: float) -> float:
        """An age without the time before the last outage ended, or before this process ran again."""
        return min(seconds, self._outages.steady_s(), self._clock() - self._resumed_s)

    def _stopping_s(self) -> float:
        return 0.0 if self._stopping_since_s is None else self._clock() - self._stopping_since_s

    def _last_poll_s(self) -> float | None:
        polled_at = getattr(self._app.consumer, "polled_at", None) if self._app and self._app.started else None
        return None if polled_at is None else self._clock() - polled_at

    def _ping_thread(self) -> None:
        """Ask the thread of the Kafka client for a sign of life, which resets its silence."""
        if not (self._app and self._app.started and self._app.consumer.ping(self._reset_thread_silence)):
            self._thread_silence_s = 0.0

    def _reset_thread_silence(self) -> None:
        self._thread_silence_s = 0.0

    def _follow_positions(self, counted_s: float) -> None:
        """Note which partitions have waiting records, and for how long the position of each has stood still."""
        app = self._app
        if app is None or not app.started or app.rebalancing or app.should_stop:
            return  # a partition that comes back after a rebalance has not moved by it
        lags, positions = app.consumer.lag(), app.consumer.positions()
        followed = {tp for tp in lags.keys() & positions.keys() if tp.topic in EVENTS}  # changelogs are not read
        finished = app.finished
        states = {tp: self._next_state(tp, (positions[tp], finished[tp.partition]), lags[tp], counted_s) for tp in followed}
        for tp in sorted(followed & self._partitions.keys()):
            self._log_standstill(tp, self._partitions[tp].standstill_s, states[tp].standstill_s)
        self._partitions = states

    def _log_standstill(self, tp: TP, before_s: float, now_s: float) -> None:
        limit_s = self._settings.progress_limit_s
        if before_s <= limit_s < now_s:
            LOG.warning("%s %d stands still: records wait, and none was finished for %.0f s", tp.topic, tp.partition, now_s)
        elif now_s <= limit_s < before_s:
            LOG.info("%s %d goes on after %.0f s", tp.topic, tp.partition, before_s)

    def _next_state(self, tp: TP, progress: tuple[int, int], lag: int, counted_s: float) -> _Partition:
        last = self._partitions.get(tp)
        if last is None or not last.lag or not lag or progress != last.progress:
            return _Partition(progress, lag)
        return _Partition(progress, lag, last.standstill_s + counted_s)

    def _hard_to_open(self) -> list[str]:
        app = self._app
        if app is None or not app.started:
            return []
        positions = {tp: offset for tp, offset in app.consumer.positions().items() if tp.topic in EVENTS}
        ends = {tp: app.parking.ends_at_opening(tp.partition, offset, offset) for tp, offset in positions.items()}
        return [
            f"{tp.topic} {tp.partition}: this role ended {n} times while it opened the batch of offset {positions[tp]}"
            for tp, n in sorted(ends.items())
            if n
        ]

    def _stalled(self) -> list[str]:
        limit_s = self._settings.progress_limit_s
        return [
            f"{tp.topic} {tp.partition}: {state.lag:,} records wait, and none was finished for {state.standstill_s:.0f} s"
            for tp, state in sorted(self._partitions.items())
            if state.standstill_s > limit_s
        ]


def describe_outages(outages: Outages) -> list[str]:
    """One sentence for each part that is out, or grants no lock."""
    return [
        f"{outage.part} {outage.state} since {outage.since:%Y-%m-%d %H:%M:%S} UTC ({outage.error}):"
        f" {outage.failures:,} attempts failed"
        for outage in outages.current()
    ]

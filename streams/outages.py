"""Records which parts (Kafka, Postgres, MLflow) are out, and since when, and logs each outage with few lines.

Failures are recorded by witnesses: a probe of a part, or an action that is retried. An outage begins when a witness has as many
failures in a row as its threshold, and ends when every such witness has recovered. It is logged when it begins, once a minute while
it lasts, and when it ends.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
from aiokafka.errors import KafkaError

from streams.errors import describe_error, setting_of
from streams.metrics import DEPENDENCY_UP
from streams.metrics import OUTAGES as FAILED_ATTEMPTS

__all__ = ["OUTAGES", "Outage", "Outages", "part_of"]

LOG = logging.getLogger(__name__)

_PARTS = {
    **dict.fromkeys(("asyncpg",), "postgres"),
    **dict.fromkeys(("aiokafka", "faust", "mode"), "kafka"),
    **dict.fromkeys(("mlflow", "requests", "urllib3", "sqlalchemy"), "mlflow"),  # whose own database is a part of it
}
"""The part that each client package is of."""
REMINDER_S = 60.0
_MAX_CHARACTERS = 400


@dataclass
class _Witness:
    """Failures in a row of a probe or a retried action that asks a part; ``start_s`` is of the monotonic clock."""

    part: str
    start_s: float
    failures: int = 0
    is_convinced: bool = False


@dataclass
class Outage:
    """One outage of a part.

    Attributes:
        since: time of its first failure.
        start_s: the same, of the monotonic clock.
        failures: failed attempts so far.
        error: the last error, on one line.
        logged_s: when the last line about it was logged, of the monotonic clock.
        is_lock: whether the part answers, and the last attempt waited for a lock until its limit.
    """

    part: str
    since: datetime
    start_s: float
    failures: int
    error: str
    logged_s: float
    is_lock: bool = False

    @property
    def state(self) -> str:
        """What the part does, for a sentence about it."""
        return "answers but grants no lock" if self.is_lock else "is out"


class Outages:
    """The outages of one process.

    Args:
        clock: the monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._witnesses: dict[Hashable, _Witness] = {}
        self._outages: dict[str, Outage] = {}
        self._ended_s = -math.inf
        self._lock = threading.Lock()  # probes run in a thread of their own

    def record_failure(self, part: str, witness: Hashable, error: BaseException, *, threshold: int) -> None:
        """Count one failed attempt; ``threshold`` of them in a row are an outage of the part."""
        FAILED_ATTEMPTS.labels(part=part).inc()
        with self._lock:
            now = self._clock()
            state = self._witnesses.get(witness)
            if state is None or state.part != part:
                self._forget(witness)
                state = self._witnesses[witness] = _Witness(part, now)
            state.failures += 1
            state.is_convinced |= state.failures >= threshold
            outage = self._outages.get(part)
            if outage is not None:
                outage.failures, outage.error, outage.is_lock = outage.failures + 1, _one_line(error), _is_lock(error)
                self._remind(outage, now)
            elif state.is_convinced:
                self._begin(state, error, now)

    def recover(self, witness: Hashable) -> None:
        """Forget the failures of a witness, because its attempt succeeded or is given up; the last one ends the outage."""
        with self._lock:
            self._forget(witness)

    def _forget(self, witness: Hashable) -> None:
        state = self._witnesses.pop(witness, None)
        if state is None or self._has_witness(state.part):
            return
        outage = self._outages.pop(state.part, None)
        if outage is not None:
            self._ended_s = self._clock()
            DEPENDENCY_UP.labels(part=outage.part).set(1)
            LOG.info(
                "%s answers again after %.1f s; %d attempts failed", outage.part, self._ended_s - outage.start_s, outage.failures
            )

    def _has_witness(self, part: str) -> bool:
        return any(witness.is_convinced and witness.part == part for witness in self._witnesses.values())

    def current(self) -> list[Outage]:
        """The outages that last, the oldest first."""
        return sorted(self._outages.copy().values(), key=lambda outage: outage.start_s)

    def is_out(self, part: str) -> bool:
        """Whether a part is out now; one that grants no lock to some work is not."""
        outage = self._outages.get(part)
        return outage is not None and not outage.is_lock

    def has(self, part: str) -> bool:
        """Whether a part is out or grants no lock now: while it is, the role is not ready."""
        return part in self._outages

    def likely_part(self, part: str) -> str:
        """The part that an attempt at ``part`` failed for, by an error of any: another one where only others are out."""
        if part in self._outages or not self._outages:
            return part
        return self.current()[0].part

    def steady_s(self) -> float:
        """Seconds since the last outage ended: 0 while one lasts, infinite when there was none."""
        return 0.0 if self._outages else self._clock() - self._ended_s

    def _begin(self, state: _Witness, error: BaseException, now: float) -> None:
        since = datetime.fromtimestamp(time.time() - (now - state.start_s), UTC)
        outage = Outage(state.part, since, state.start_s, state.failures, _one_line(error), now, _is_lock(error))
        self._outages[state.part] = outage
        DEPENDENCY_UP.labels(part=state.part).set(0)
        LOG.warning(
            "%s %s (%s): %d attempts failed; what needs it waits and is tried again until it answers",
            outage.part,
            outage.state,
            outage.error,
            outage.failures,
        )

    def _remind(self, outage: Outage, now: float) -> None:
        if now - outage.logged_s < REMINDER_S:
            return
        outage.logged_s = now
        LOG.warning(
            "%s %s after %.0f s (%s): %d attempts failed",
            outage.part,
            "still grants no lock" if outage.is_lock else "is still out",
            now - outage.start_s,
            outage.error,
            outage.failures,
        )


def part_of(error: BaseException, default: str) -> str:
    """The part whose client raised an error; ``default`` for an error that any of them can raise, such as a refused connection."""
    if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return "postgres"
    if isinstance(error, KafkaError):
        return "kafka"
    packages = (type(error).__module__, *_modules_of(error))
    return next((_PARTS[package] for module in packages if (package := module.partition(".")[0]) in _PARTS), default)


def _modules_of(error: BaseException) -> Iterator[str]:
    """The modules that an error and its causes came through, those that raised it first.

    A refused or timed out connection is an error of the operating system: only where it was raised tells whose it is.
    """
    passed: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in passed:
        passed.add(id(cause))
        frames = [frame for frame, _ in traceback.walk_tb(cause.__traceback__)]
        yield from (str(frame.f_globals.get("__name__", "")) for frame in reversed(frames))
        cause = cause.__cause__ or cause.__context__


def _is_lock(error: BaseException) -> bool:
    return isinstance(error, asyncpg.LockNotAvailableError)


def _one_line(error: BaseException) -> str:
    """An error on one line, with the settings to check when it is about the configuration."""
    setting = setting_of(error)
    return f"{type(error).__name__}: {describe_error(error)[:_MAX_CHARACTERS]}{f'; check {setting}' if setting else ''}"


OUTAGES = Outages()
"""The outages of this process."""

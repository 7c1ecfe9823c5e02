"""Processes an event to its end: what cannot succeed now is waited for, what fails again and again is refused or parked.

An exception that leaves a Faust agent acknowledges its event, which is then lost. So every agent runs the work of an event through
:func:`process_event`, which lets no exception out. What an error is about, and so what is done about it, is decided by
:func:`streams.errors.subject_of` alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Protocol, TypeAlias, TypeVar

import stamina
from aiokafka.errors import KafkaError
from stamina.instrumentation import set_on_retry_hooks

from schemas import Catalogue, in_effect
from streams.errors import Subject, describe_error, is_waited_for, subject_of
from streams.metrics import OLDEST_UNFINISHED, TASK_FAILURES
from streams.outages import OUTAGES, part_of

__all__ = [
    "InterruptedWork",
    "RoleApp",
    "any_error",
    "oldest_unfinished_s",
    "pause_s",
    "process_event",
    "report_failure",
    "retry_transient",
    "retry_unforeseen",
    "track_unfinished",
]

LOG = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 10.0
_OUTAGE_ATTEMPTS = 3
"""Failed attempts of one action in a row that are logged as an outage: a single deadlock or broken connection is none."""
_LONGEST_PAUSE_S = 1.0  # between attempts at a record, for which others wait

WaitsFor: TypeAlias = Callable[[Exception], bool]


class InterruptedWork(RuntimeError):
    """The work on an event was cancelled from inside, though nobody stops the role."""


class RoleApp(Protocol):
    """The part of an app that this module needs."""

    @property
    def role(self) -> str:
        """One of ``ROLES``."""

    @property
    def should_stop(self) -> bool:
        """Whether the role is stopping, so that its services fail one after another."""

    async def newest_catalogue(self) -> Catalogue:
        """The newest version of the catalogue."""


async def retry_transient(
    action: Callable[[], Awaitable[T]], *, part: str, attempts: int | None = None, waits_for: WaitsFor = is_waited_for
) -> T:
    """Await ``action``, and again after every failure that is waited for, with waits that double from 0.1 s to 10 s.

    Args:
        action: makes a fresh awaitable for each attempt; it must be safe to repeat.
        part: the service that is waited for, as the metric ``twin_outages_total`` names it.
        attempts: the most attempts; None for no limit.
        waits_for: which failures are waited for; by default all that are not about the record in work.

    Raises:
        Exception: the failure that is not waited for, or the last one after ``attempts``.
    """
    retry = stamina.retry(
        on=waits_for,
        attempts=attempts,
        timeout=None,
        wait_initial=FIRST_WAIT_S,
        wait_max=LONGEST_WAIT_S,
        wait_jitter=FIRST_WAIT_S,
    )
    witness = object()
    try:
        return await retry(_attempt)(action, part, waits_for, witness)
    finally:
        OUTAGES.recover(witness)


async def _attempt(action: Callable[[], Awaitable[T]], part: str, waits_for: WaitsFor, witness: object) -> T:
    try:
        return await action()
    except Exception as error:
        if waits_for(error):
            _record_failure(error, part, witness)
        raise


def _record_failure(error: Exception, part: str, witness: object) -> None:
    """Record a failed attempt that is waited for; one about a record or a partition is no outage, unless Kafka refuses it."""
    if subject_of(error) in (Subject.DEPENDENCY, Subject.CONFIGURATION) or isinstance(error, KafkaError):
        OUTAGES.record_failure(part_of(error, OUTAGES.likely_part(part)), witness, error, threshold=_OUTAGE_ATTEMPTS)
    else:
        LOG.warning("the work fails and is tried again: %s: %s", type(error).__name__, describe_error(error))


set_on_retry_hooks([])  # stamina's own hooks would log each attempt


async def retry_unforeseen(
    action: Callable[[], Awaitable[T]],
    *,
    part: str,
    attempts: Callable[[Exception], int],
    expected: tuple[type[Exception], ...] = (),
) -> T:
    """Await ``action``; a failure about its record is tried again after a short pause, until there were ``attempts`` of it.

    Failures about anything else are waited for without a limit, and do not count.

    Raises:
        Exception: one of the ``expected`` classes, at once, or the last unforeseen failure.
    """
    for failures in count(1):
        try:
            return await retry_transient(partial(_uninterrupted, action), part=part)
        except expected:
            raise
        except Exception as error:
            if failures >= attempts(error):
                raise
            LOG.warning("attempt %d of %d failed: %s: %s", failures, attempts(error), type(error).__name__, describe_error(error))
            await asyncio.sleep(pause_s(failures))
    raise AssertionError("unreachable")


def pause_s(failures: int) -> float:
    """Pause in seconds after this many failures of one record: 0.1, 0.2, 0.4, 0.8, and 1 from then on."""
    return float(min(FIRST_WAIT_S * 2 ** (min(failures, 10) - 1), _LONGEST_PAUSE_S))


async def _uninterrupted(action: Callable[[], Awaitable[T]]) -> T:
    """Await ``action``; a cancellation that is not meant for this task is an ordinary failure."""
    try:
        return await action()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise InterruptedWork("the work was cancelled from inside") from error


async def process_event(
    app: RoleApp,
    work: Callable[[], Awaitable[None]],
    refuse: Callable[[Exception], Awaitable[None]],
    *,
    part: str = "postgres",
    attempts: Callable[[Exception], int] = lambda _: 1,
    expected: tuple[type[Exception], ...] = (),
    catalogue: Catalogue | None = None,
) -> None:
    """Process one event with ``work``, or refuse it with the exception that ``work`` raised at last.

    Each attempt is from its begin to its end under the version of the catalogue that is the newest when it begins; the first one is
    under ``catalogue``, if one is given.

    The refusal is tried until it succeeds, whatever it raises: the event is neither lost nor ends the role. A role that is stopping
    refuses nothing for an unforeseen reason, as the reason is that its services are gone; the event is delivered again.
    """
    given_catalogues = [] if catalogue is None else [catalogue]

    async def attempt() -> None:
        with in_effect(given_catalogues.pop() if given_catalogues else await app.newest_catalogue()):
            await work()

    with track_unfinished(app):
        try:
            await retry_unforeseen(attempt, part=part, attempts=attempts, expected=expected)
        except Exception as error:  # noqa: BLE001  # an exception that leaves an agent acknowledges the event, which is then lost
            if app.should_stop and not isinstance(error, expected):
                await asyncio.Event().wait()
            await retry_transient(partial(refuse, error), part=part, waits_for=any_error)


_FAILURES_LOGGED_EVERY_S = 60.0
_failures: dict[tuple[str, str], tuple[float, int]] = {}


def report_failure(role: str, task: str, error: BaseException) -> None:
    """Count a failure of work that is repeated anyway, and log it with its traceback, at most once a minute for each task."""
    TASK_FAILURES.labels(role=role, task=task).inc()
    now = time.monotonic()
    logged_s, unlogged = _failures.get((role, task), (-math.inf, 0))
    if now - logged_s < _FAILURES_LOGGED_EVERY_S:
        _failures[role, task] = logged_s, unlogged + 1
        return
    before = f", and {unlogged} times before" if unlogged else ""
    LOG.error("%s of the role %s failed%s; it is repeated", task, role, before, exc_info=error)
    _failures[role, task] = now, 0


def any_error(error: BaseException) -> bool:
    """Wait for every failure: of work that must be done, whatever it raises. That somebody cancels it is none."""
    return isinstance(error, Exception)


_started: defaultdict[str, dict[object, float]] = defaultdict(dict)


@contextmanager
def track_unfinished(app: RoleApp) -> Iterator[None]:
    """Count the enclosed block as one unfinished event of the app's role."""
    OLDEST_UNFINISHED.labels(role=app.role).set_function(lambda: oldest_unfinished_s(app.role))
    token = object()
    _started[app.role][token] = time.monotonic()
    try:
        yield
    finally:
        del _started[app.role][token]


def oldest_unfinished_s(role: str) -> float:
    """Seconds since the oldest unfinished event was started, 0 when there is none."""
    return max((time.monotonic() - start for start in _started[role].values()), default=0.0)

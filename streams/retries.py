"""Processes an event to its end: a transient failure is retried, any other one is refused, and no exception leaves an agent.

An exception that leaves a Faust agent acknowledges its event, which is then lost. So every agent runs the work of an event through
:func:`process_event`, the only function of the service that catches every exception.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import stamina
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from streams.errors import is_transient
from streams.metrics import OLDEST_UNFINISHED, OUTAGES

__all__ = [
    "RoleApp",
    "oldest_unfinished_s",
    "process_event",
    "reraise",
    "retry_transient",
    "track_unfinished",
]

LOG = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 10.0


class RoleApp(Protocol):
    """The part of an app that this module needs."""

    @property
    def role(self) -> str:
        """One of ``ROLES``."""

    async def crash(self, reason: BaseException) -> None:
        """End the process, because of ``reason``."""


async def retry_transient(action: Callable[[], Awaitable[T]], *, part: str, attempts: int | None = None) -> T:
    """Await ``action``, and again after every transient failure, with waits that double from 0.1 s to 10 s.

    Args:
        action: makes a fresh awaitable for each attempt; it must be safe to repeat.
        part: the service that is waited for, as the metric ``twin_outages_total`` names it.
        attempts: the most attempts; None for no limit.

    Raises:
        Exception: the failure that is not transient, or the last transient one after ``attempts``.
    """
    retry = stamina.retry(
        on=is_transient,
        attempts=attempts,
        timeout=None,
        wait_initial=FIRST_WAIT_S,
        wait_max=LONGEST_WAIT_S,
        wait_jitter=FIRST_WAIT_S,
    )
    return await retry(_attempt)(action, part=part)


async def _attempt(action: Callable[[], Awaitable[T]], *, part: str) -> T:  # noqa: ARG001  # _record_outage reads it
    return await action()


def _record_outage(details: RetryDetails) -> None:
    """Count and log a failed attempt before the wait for the next one."""
    part, error = str(details.kwargs.get("part", details.name)), details.caused_by
    OUTAGES.labels(part=part).inc()
    LOG.warning(
        "%s is unavailable (%s: %s): attempt %d failed, trying again in %.1f s",
        part,
        type(error).__name__,
        error,
        details.retry_num,
        details.wait_for,
    )


set_on_retry_hooks([_record_outage])  # the hooks of stamina are the same for the whole process


async def process_event(
    app: RoleApp,
    work: Callable[[], Awaitable[None]],
    refuse: Callable[[Exception], Awaitable[None]],
    *,
    part: str = "postgres",
) -> None:
    """Process one event with ``work``, or refuse it with the exception that ``work`` raised.

    Transient failures of both are retried. When the refusal fails too, the app is ended and the event is not acknowledged, so that
    it is delivered again after the restart.
    """
    with track_unfinished(app):
        try:
            await retry_transient(work, part=part)
        except Exception as error:  # noqa: BLE001  # the only broad except: an exception that leaves an agent acknowledges the event, which is then lost
            try:
                await retry_transient(partial(refuse, error), part=part)
            except Exception as failure:
                LOG.exception("an event could be neither processed nor refused: the role %s ends", app.role)
                await app.crash(failure)
                await asyncio.Event().wait()


async def reraise(error: Exception) -> None:
    """Raise ``error``.

    It is the ``refuse`` of :func:`process_event` for events that must not be skipped: the app ends instead.
    """
    raise error


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

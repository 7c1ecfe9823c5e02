"""How an event is brought to its end: an outage is waited for, a refusal is answered, and nothing leaves an agent.

An exception that leaves a Faust agent acknowledges its event, which is then lost. So every agent runs the work of an event
through :func:`process_event`, the only place of the service that catches everything.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

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
    """What an app has to tell here: which role it plays, and how to end it when it can go on no longer."""

    @property
    def role(self) -> str:
        """One of ``ROLES``."""

    async def crash(self, reason: BaseException) -> None:
        """End the process, because of ``reason``."""


async def retry_transient(action: Callable[[], Awaitable[T]], *, part: str, attempts: int | None = None) -> T:
    """Run ``action``, and again after every outage, with growing pauses of at most ten seconds.

    Args:
        action: makes a fresh awaitable for each attempt; it must be safe to repeat.
        part: what is waited for, as the metric ``twin_outages_total`` names it.
        attempts: how often at most; without a number, for as long as it takes.

    Raises:
        Exception: whatever ``action`` raises that is not an outage, and the last outage when the attempts are used up.
    """
    attempt = 0
    while True:
        try:
            return await action()
        except Exception as error:
            attempt += 1
            if not is_transient(error) or attempt == attempts:
                raise
            OUTAGES.labels(part=part).inc()
            pause = _pause_s(attempt)
            LOG.warning("%s is out (%s: %s): waiting %.1f s, attempt %d", part, type(error).__name__, error, pause, attempt)
        await asyncio.sleep(pause)


def _pause_s(attempt: int) -> float:
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # spreads workers out, keeps no secret


async def process_event(
    app: RoleApp,
    work: Callable[[], Awaitable[None]],
    refuse: Callable[[Exception], Awaitable[None]],
    *,
    part: str = "postgres",
) -> None:
    """Bring one event to its end: done, or refused with what ``work`` raised.

    Outages are waited for in both. When even the refusal fails, the app is ended and the event stays unacknowledged: it comes
    again after the restart.
    """
    with track_unfinished(app):
        try:
            await retry_transient(work, part=part)
        except Exception as error:  # noqa: BLE001  # the one broad except: what leaves an agent is acknowledged and lost
            try:
                await retry_transient(partial(refuse, error), part=part)
            except Exception as failure:
                LOG.exception("an event could not even be refused: ending %s", app.role)
                await app.crash(failure)
                await asyncio.Event().wait()


async def reraise(error: Exception) -> None:
    """Raise ``error``: the ``refuse`` of a role that has no dead letters for its events, so that the app ends."""
    raise error


_started: defaultdict[str, dict[object, float]] = defaultdict(dict)


@contextmanager
def track_unfinished(app: RoleApp) -> Iterator[None]:
    """Count what runs inside as one unfinished event of the app's role."""
    OLDEST_UNFINISHED.labels(role=app.role).set_function(lambda: oldest_unfinished_s(app.role))
    token = object()
    _started[app.role][token] = time.monotonic()
    try:
        yield
    finally:
        del _started[app.role][token]


def oldest_unfinished_s(role: str) -> float:
    """Seconds since the oldest event in work was begun, 0 when there is none."""
    return max((time.monotonic() - start for start in _started[role].values()), default=0.0)

"""How an event is brought to its end: an outage is waited for, a refusal is answered, and nothing leaves an agent.

An exception that leaves a Faust agent acknowledges its event, which is then lost. So every agent runs the work of an event
through :func:`settle`, the only place of the service that catches everything.
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
from typing import Any, Protocol, TypeVar

import asyncpg
from aiokafka.errors import KafkaError, KafkaTimeoutError
from pydantic import ValidationError

from streams.metrics import OLDEST_UNFINISHED, OUTAGES

__all__ = ["Worker", "in_words", "oldest_unfinished_s", "outage", "persist", "settle", "working"]

LOG = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 10.0
_SHOWN_AT_MOST = 80
_WORDS_AT_MOST = 2000

# SQLSTATE classes: connection, no entry, transaction rolled back, resources, operator, system. Single states: a database that is
# closed or busy, a lock that was not to be had, and the time-outs that end an idle or long transaction.
_PASSING_CLASSES = ("08", "28", "40", "53", "57", "58")
_PASSING_STATES = ("55000", "55006", "55P03", "25P03", "25P04")
_FILE_TROUBLE = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_PASSING_CODES = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
_WRAPPERS = ("mlflow", "faust", "mode")


class Worker(Protocol):
    """What an app has to tell here: which role it plays, and how to end it when it can go on no longer."""

    @property
    def role(self) -> str:
        """One of ``ROLES``."""

    async def crash(self, reason: BaseException) -> None:
        """End the process, because of ``reason``."""


def outage(error: BaseException) -> bool:
    """Whether a part is away for now, so that the same action can succeed later without any change to its input."""
    if isinstance(error, asyncpg.PostgresError):
        state = str(error.sqlstate or "")
        return state.startswith(_PASSING_CLASSES) or state in _PASSING_STATES
    if isinstance(error, asyncpg.InterfaceError):  # a closed connection; wrong arguments are a ValueError beside it
        return not isinstance(error, ValueError) and "clos" in str(error)
    if isinstance(error, asyncpg.InternalClientError):  # what asyncpg raises when a connection breaks inside of a statement
        return True
    if isinstance(error, KafkaError):
        return bool(error.retriable) or isinstance(error, KafkaTimeoutError)
    if isinstance(error, OSError | TimeoutError | EOFError):
        return not isinstance(error, _FILE_TROUBLE)
    return _wrapped_outage(error)


def _wrapped_outage(error: BaseException) -> bool:
    if type(error).__module__.partition(".")[0] not in _WRAPPERS:
        return False
    if getattr(error, "error_code", None) in _PASSING_CODES:
        return True
    inner = error.__cause__ or error.__context__
    return inner is not None and outage(inner)


async def persist(action: Callable[[], Awaitable[T]], *, part: str, attempts: int | None = None) -> T:
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
            if not outage(error) or attempt == attempts:
                raise
            OUTAGES.labels(part=part).inc()
            pause = _pause_s(attempt)
            LOG.warning("%s is out (%s: %s): waiting %.1f s, attempt %d", part, type(error).__name__, error, pause, attempt)
        await asyncio.sleep(pause)


def _pause_s(attempt: int) -> float:
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # spreads workers out, keeps no secret


async def settle(
    app: Worker,
    work: Callable[[], Awaitable[None]],
    refuse: Callable[[Exception], Awaitable[None]],
    *,
    part: str = "postgres",
) -> None:
    """Bring one event to its end: done, or refused with what ``work`` raised.

    Outages are waited for in both. When even the refusal fails, the app is ended and the event stays unacknowledged: it comes
    again after the restart.
    """
    with working(app):
        try:
            await persist(work, part=part)
        except Exception as error:  # noqa: BLE001  # the one broad except: what leaves an agent is acknowledged and lost
            try:
                await persist(partial(refuse, error), part=part)
            except Exception as failure:
                LOG.exception("an event could not even be refused: ending %s", app.role)
                await app.crash(failure)
                await asyncio.Event().wait()


def in_words(error: BaseException) -> str:
    """What an error says, on one line: of a refused message every field, the value refused and what would be allowed."""
    if isinstance(error, ValidationError):
        words = "; ".join(_fault(fault["loc"], fault["type"], fault["msg"], fault["input"]) for fault in error.errors())
    else:
        words = " ".join(str(error).split()) or type(error).__name__
    return words.replace("\0", "")[:_WORDS_AT_MOST]


def _fault(where: tuple[int | str, ...], kind: str, words: str, got: Any) -> str:
    place = f"{'.'.join(map(str, where))}: " if where else ""
    if kind == "extra_forbidden":
        return f"{place}unknown field"
    if kind == "missing":
        return f"{place}missing"
    if kind == "value_error":  # a sentence of ours, which names the value
        return place + words.removeprefix("Value error, ")
    begun = words if words[:2].isupper() else f"{words[:1].lower()}{words[1:]}"
    return f"{place}{begun}, not {_shown(got)}"


def _shown(got: Any) -> str:
    shown = repr(got)
    return shown if len(shown) <= _SHOWN_AT_MOST else f"{shown[:_SHOWN_AT_MOST]}..."


_started: defaultdict[str, dict[object, float]] = defaultdict(dict)


@contextmanager
def working(app: Worker) -> Iterator[None]:
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

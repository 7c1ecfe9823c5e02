"""Servers that do not answer for now: a request is told so at once, and does not wait for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from streams.errors import describe_error, is_waited_for
from streams.outages import OUTAGES

__all__ = ["Unavailable", "reach"]

T = TypeVar("T")


class Unavailable(RuntimeError):
    """A server does not answer for now."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part} does not answer for now ({reason})")


async def reach(part: str, connect: Callable[[], Awaitable[T]]) -> T:
    """Connect, unless the part is known to be out: a request does not wait for it.

    Raises:
        Unavailable: when it is out, or the connection fails as in an outage.
    """
    outage = next((outage for outage in OUTAGES.current() if outage.part == part.lower()), None)
    if outage is not None:
        raise Unavailable(part, str(outage.error))
    try:
        return await connect()
    except Exception as error:
        if is_waited_for(error):
            raise Unavailable(part, describe_error(error)) from error
        raise

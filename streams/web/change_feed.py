"""Tells pages that are open when what they show has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

__all__ = ["ChangeFeed", "TooManyListeners"]

POLL_S = 1.0
HEARTBEAT_S = 10.0
MAX_LISTENERS = 50


class TooManyListeners(RuntimeError):
    """As many pages listen as may."""


class ChangeFeed:
    """Reads a mark of what pages show while any of them listens, and tells them each time it is another one.

    Args:
        read_mark: returns a text that changes with what is shown.
        poll_s: seconds between two readings.
        heartbeat_s: seconds after which listeners are told that nothing has changed.
    """

    def __init__(self, read_mark: Callable[[], Awaitable[str]], poll_s: float = POLL_S, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._read_mark, self._poll_s, self._heartbeat_s = read_mark, poll_s, heartbeat_s
        self._listeners: set[asyncio.Event] = set()
        self._mark = ""
        self._has_ended = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the mark until the end of the block."""
        task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            self.end()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def listen(self) -> AsyncGenerator[bool, None]:
        """Yield True at each change, and False where there was none for the time of a heartbeat; the first at once.

        Raises:
            TooManyListeners: when as many listen as may.
        """
        if len(self._listeners) >= MAX_LISTENERS:
            raise TooManyListeners(f"{MAX_LISTENERS} pages listen for changes, which are as many as may")
        changed = asyncio.Event()
        self._listeners.add(changed)
        try:
            yield False
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), self._heartbeat_s)
                if self._has_ended:
                    return
                has_changed = changed.is_set()
                changed.clear()
                yield has_changed
        finally:
            self._listeners.discard(changed)

    def end(self) -> None:
        """Let those who listen go."""
        self._has_ended = True
        for changed in self._listeners:
            changed.set()

    async def _follow(self) -> None:
        while True:
            if self._listeners:
                mark = await self._read_mark()
                if mark != self._mark:
                    self._mark = mark
                    for changed in self._listeners:
                        changed.set()
            await asyncio.sleep(self._poll_s)

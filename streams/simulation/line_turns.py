"""Lets one result of a line be stored at a time, so that the waiting ones take no connection from the other lines."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

__all__ = ["LineTurns"]


class LineTurns:
    """A lock for each line that somebody waits for; who came first has it first."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, line: str) -> asyncio.Lock:
        """The lock of a line, which lasts as long as somebody holds it or waits for it."""
        lock = self._locks.get(line)
        if lock is None:
            lock = self._locks[line] = asyncio.Lock()
        return lock

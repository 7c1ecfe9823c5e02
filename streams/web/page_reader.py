"""Reads what pages show, each thing once at a time, and keeps the last of it for the time in which Postgres does not answer."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar, cast

from sql.catalogue_store import follow_catalogue
from sql.database import Pool, open_pool
from streams.errors import describe_error
from streams.outages import OUTAGES
from streams.settings import Settings

__all__ = ["PageReader", "Reading"]

WAIT_S = 3.0
_OUTAGE_WAIT_S = 0.3
_HUNG_S = 30.0
_MAX_ENTRIES = 64

Value = TypeVar("Value")
Load = Callable[[Pool], Awaitable[Value]]


class Reading(NamedTuple, Generic[Value]):
    """The newest value, None before the first one; ``problem`` is why it could not be read anew, empty when it could."""

    value: Value | None
    problem: str


@dataclass
class _Entry:
    """The last value of one thing, and the reading of it that is in work."""

    value: Any = None
    task: asyncio.Task[Any] | None = None
    started_s: float = field(default=0.0)


class PageReader:
    """Reads things by their keys, each once at a time, and waits a few seconds for it at most.

    A reading that takes longer goes on, and is used when it ends. Cancelling it would wait for a server that does not answer.

    Args:
        settings: address of Postgres.
        wait_s: longest time that a request waits.
    """

    def __init__(self, settings: Settings, wait_s: float = WAIT_S) -> None:
        self._settings, self._wait_s = settings, wait_s
        self._pool: Pool | None = None
        self._opening = asyncio.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    async def read(self, key: Hashable, load: Load[Value]) -> Reading[Value]:
        """The newest value that can be had within the limit, which is short while Postgres is known to be out."""
        entry = self._entry(key)
        if entry.task is None:
            entry.task, entry.started_s = asyncio.create_task(self._load(load)), time.monotonic()
        task = entry.task
        await asyncio.wait({task}, timeout=_OUTAGE_WAIT_S if OUTAGES.is_out("postgres") else self._wait_s)
        if not task.done():
            self._give_up_when_hung(entry, task)
            return Reading(
                cast("Value | None", entry.value), f"no answer from Postgres for {time.monotonic() - entry.started_s:.0f} s"
            )
        if entry.task is task:
            entry.task = None
        if (error := task.exception()) is not None:
            return Reading(cast("Value | None", entry.value), describe_error(error))
        entry.value = task.result()
        return Reading(cast("Value | None", entry.value), "")

    def close(self) -> None:
        """End the readings in work, and close the connections."""
        for entry in self._entries.values():
            if entry.task is not None:
                entry.task.cancel()
        self._drop_pool()

    def _entry(self, key: Hashable) -> _Entry:
        """What is kept of a key; nothing is kept of those that were asked for longest ago."""
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        idle = [name for name, item in self._entries.items() if item.task is None and name != key]
        for oldest in idle[: max(0, len(self._entries) - _MAX_ENTRIES)]:
            del self._entries[oldest]
        return entry

    async def _load(self, load: Load[Value]) -> Value:
        async with self._opening:
            if self._pool is None:
                self._pool = await open_pool(self._settings, dsn=self._settings.read_dsn)
            pool = self._pool
        await follow_catalogue(pool)
        return await load(pool)

    def _give_up_when_hung(self, entry: _Entry, task: asyncio.Task[Any]) -> None:
        """Drop connections whose server has gone without closing them; the next request opens others."""
        if entry.task is task and time.monotonic() - entry.started_s > _HUNG_S and not OUTAGES.is_out("postgres"):
            self._drop_pool()
            task.add_done_callback(_ignore_result)
            entry.task = None

    def _drop_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()


def _ignore_result(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()

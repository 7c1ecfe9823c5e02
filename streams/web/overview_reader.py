"""Reads the overview for the dashboard, and keeps the last one for the time in which Postgres does not answer."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from sql.catalogue_store import follow_catalogue
from sql.database import Pool, open_pool
from streams.errors import describe_error
from streams.outages import OUTAGES
from streams.reporting.overview import Overview, read_overview
from streams.settings import Settings

__all__ = ["OverviewReader", "Reading"]

WAIT_S = 3.0
_OUTAGE_WAIT_S = 0.3
_HUNG_S = 30.0


class Reading(NamedTuple):
    """The newest overview, None before the first one; ``problem`` is why it could not be read anew, empty when it could."""

    overview: Overview | None
    problem: str


class OverviewReader:
    """Reads the overview, one reading at a time, and waits a few seconds for it at most.

    A reading that takes longer goes on, and is used when it ends. Cancelling it would wait for a server that does not answer.

    Args:
        settings: address of Postgres, and the number of outcomes that a window needs.
        wait_s: longest time that a request waits.
    """

    def __init__(self, settings: Settings, wait_s: float = WAIT_S) -> None:
        self._settings, self._wait_s = settings, wait_s
        self._pool: Pool | None = None
        self._overview: Overview | None = None
        self._reading: asyncio.Task[Overview] | None = None
        self._started_s = 0.0

    async def read(self) -> Reading:
        """The newest overview that can be had within the limit, which is short while Postgres is known to be out."""
        if self._reading is None:
            self._reading, self._started_s = asyncio.create_task(self._read()), time.monotonic()
        reading = self._reading
        await asyncio.wait({reading}, timeout=_OUTAGE_WAIT_S if OUTAGES.is_out("postgres") else self._wait_s)
        if not reading.done():
            self._give_up_when_hung(reading)
            return Reading(self._overview, f"no answer from Postgres for {time.monotonic() - self._started_s:.0f} s")
        if self._reading is reading:
            self._reading = None
        if (error := reading.exception()) is not None:
            return Reading(self._overview, describe_error(error))
        self._overview = reading.result()
        return Reading(self._overview, "")

    def close(self) -> None:
        """End the reading in work, and close the connections."""
        if self._reading is not None:
            self._reading.cancel()
        self._drop_pool()

    async def _read(self) -> Overview:
        if self._pool is None:
            self._pool = await open_pool(self._settings, dsn=self._settings.read_dsn)
        await follow_catalogue(self._pool)
        return await read_overview(self._pool, self._settings.n_min)

    def _give_up_when_hung(self, reading: asyncio.Task[Overview]) -> None:
        """Drop connections whose server has gone without closing them; the next request opens others."""
        if self._reading is reading and time.monotonic() - self._started_s > _HUNG_S and not OUTAGES.is_out("postgres"):
            self._drop_pool()
            reading.add_done_callback(_ignore_result)
            self._reading = None

    def _drop_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()


def _ignore_result(reading: asyncio.Task[Overview]) -> None:
    if not reading.cancelled():
        reading.exception()

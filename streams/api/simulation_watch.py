"""Watches simulations until they are answered: one query for all that are waited for, however many wait."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from uuid import UUID

from sql.database import Pool
from sql.simulation_state_store import SimulationState, simulation_states
from streams.api.unavailable import Unavailable
from streams.errors import describe_error, is_waited_for

__all__ = ["SimulationWatch"]

LOG = logging.getLogger(__name__)

_POLL_S = 0.1
_OUTAGE_POLL_S = 1.0


class SimulationWatch:
    """The states of the simulations that somebody waits for, read again and again while somebody does.

    Args:
        pool: returns connections to Postgres, where they are stored.
        closing: set when nobody may wait any longer.
    """

    def __init__(self, pool: Callable[[], Awaitable[Pool]], closing: asyncio.Event) -> None:
        self._pool, self._closing = pool, closing
        self._watched: Counter[UUID] = Counter()
        self._states: dict[UUID, SimulationState] = {}
        self._changed = asyncio.Event()
        self._polling: asyncio.Task[None] | None = None

    async def states(self, simulation_id: UUID) -> AsyncGenerator[SimulationState, None]:
        """Each state of a simulation that differs from the last one, up to its answer, or until the role stops."""
        last: SimulationState | None = None
        with self._watching(simulation_id):
            while not self._closing.is_set():
                state, changed = self._states.get(simulation_id), self._changed
                if state is not None and state != last:
                    last = state
                    yield state
                    if state.is_answered:
                        return
                    continue
                await changed.wait()

    async def pinged_states(self, simulation_id: UUID, pause_s: float) -> AsyncIterator[SimulationState | None]:
        """As :meth:`states`, and None whenever there was no other state for a time."""
        async with aclosing(self.states(simulation_id)) as states:
            coming = asyncio.ensure_future(anext(states))
            try:
                while True:
                    await asyncio.wait({coming}, timeout=pause_s)
                    if not coming.done():
                        yield None
                        continue
                    yield coming.result()
                    coming = asyncio.ensure_future(anext(states))
            except StopAsyncIteration:
                return
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    async def answered(self, simulation_id: UUID, timeout_s: float) -> SimulationState | None:
        """The state of a simulation once it is answered, or the last one within a time."""
        last: SimulationState | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                async with aclosing(self.states(simulation_id)) as states:
                    async for state in states:
                        last = state
        return last

    @contextmanager
    def _watching(self, simulation_id: UUID) -> Iterator[None]:
        self._watched[simulation_id] += 1
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            self._watched[simulation_id] -= 1
            if not self._watched[simulation_id]:
                del self._watched[simulation_id]
                self._states.pop(simulation_id, None)

    async def _poll(self) -> None:
        """Read states for as long as one is waited for."""
        while self._watched and not self._closing.is_set():
            pause_s = _POLL_S
            try:
                states = await simulation_states(await self._pool(), list(self._watched))
            except Exception as error:  # noqa: BLE001  # whoever waits goes on waiting
                if not isinstance(error, Unavailable) and not is_waited_for(error):
                    LOG.warning("simulations could not be watched: %s", describe_error(error))
                states, pause_s = {}, _OUTAGE_POLL_S
            self._states.update({key: state for key, state in states.items() if key in self._watched})
            self._wake()
            await asyncio.sleep(pause_s)
        self._wake()

    def _wake(self) -> None:
        """Let everybody who waits look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

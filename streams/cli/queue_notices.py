"""Notices about a simulation that waits for its computation, while a command waits for its answer."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from streams.cli.output import is_terminal, notify, show_progress

if TYPE_CHECKING:
    from sql.simulation_queue_store import QueuedSimulation
    from streams.settings import Settings

__all__ = ["notices_of_queue", "place_text"]

_PERIOD_S = 1.0
_CLOSE_S = 0.5  # a server that does not answer delays the command by no more


@asynccontextmanager
async def notices_of_queue(settings: Settings, simulation_id: UUID) -> AsyncIterator[None]:
    """Write on stderr, while the block runs, that a simulation is queued or computed, whenever that changes."""
    notices = asyncio.create_task(_notify_of_changes(settings, simulation_id))
    try:
        yield
    finally:
        notices.cancel()
        await asyncio.wait([notices], timeout=_CLOSE_S)


def place_text(simulation_id: UUID, place: QueuedSimulation) -> str:
    """The place of a simulation in the queue as a sentence.

    >>> from sql.simulation_queue_store import QueuedSimulation
    >>> place_text(UUID(int=1), QueuedSimulation("large", 11_000_000, computing=False, ahead=1))
    'simulation 00000000-0000-0000-0000-000000000001 is queued in the large lane behind 1 other request'
    """
    if place.progress is not None and (place.progress.twins_done or place.progress.computing):
        tenths = 10 * place.progress.twins_done // place.progress.twins
        return f"simulation {simulation_id} is computed: {tenths * 10} % of {place.progress.twins:,} twins"
    if place.computing:
        return f"simulation {simulation_id} is computed: {place.work:,} simulated twins"
    behind = f" behind {place.ahead} other request{'s' if place.ahead != 1 else ''}" if place.ahead else ""
    return f"simulation {simulation_id} is queued in the {place.lane} lane{behind}"


async def _notify_of_changes(settings: Settings, simulation_id: UUID) -> None:
    """Read the queue until the task is cancelled; without access to Postgres there are no notices."""
    import asyncpg

    from sql.database import connect
    from sql.simulation_queue_store import queued_simulation

    await asyncio.sleep(_PERIOD_S)  # most simulations are answered by then
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection = await connect(settings.postgres_dsn.get_secret_value())
        try:
            with _Notices(simulation_id) as notices:
                while True:
                    place = await queued_simulation(connection, simulation_id)
                    if place is not None:
                        notices.show(place)
                    await asyncio.sleep(_PERIOD_S)
        finally:
            connection.terminate()


class _Notices(ExitStack):
    """Writes each change of the place as a line; the progress of shards, on a terminal, as a bar."""

    def __init__(self, simulation_id: UUID) -> None:
        super().__init__()
        self._simulation_id = simulation_id
        self._last = ""
        self._report: Callable[[int], None] | None = None

    def show(self, place: QueuedSimulation) -> None:
        progress = place.progress
        if progress is not None and progress.computing and is_terminal(sys.stderr):
            if self._report is None:
                self._report = self.enter_context(show_progress("simulating twins", progress.twins))
            self._report(progress.twins_done)
        elif (text := place_text(self._simulation_id, place)) != self._last:
            notify(text)
            self._last = text

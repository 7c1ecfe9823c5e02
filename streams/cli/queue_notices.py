"""Notices about a simulation that waits for its computation, while a command waits for its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from streams.cli.output import notify

if TYPE_CHECKING:
    from sql.simulation_queue_store import QueuedSimulation
    from streams.settings import Settings

__all__ = ["notices_of_queue", "place_text"]

_PERIOD_S = 2.0
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
        last = ""
        try:
            while True:
                place = await queued_simulation(connection, simulation_id)
                if place is not None and (text := place_text(simulation_id, place)) != last:
                    notify(text)
                    last = text
                await asyncio.sleep(_PERIOD_S)
        finally:
            connection.terminate()

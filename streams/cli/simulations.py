"""Commands about simulations that are queued or computed: how far one is, and to cancel it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from streams.cli.connection import with_pool, with_read_pool
from streams.cli.options import JsonOption, examples
from streams.cli.output import print_result
from streams.cli.queue_notices import place_text

if TYPE_CHECKING:
    from sql.database import Pool
    from sql.simulation_queue_store import QueuedSimulation
    from streams.settings import Settings

app = typer.Typer()

SimulationArgument = Annotated[UUID, typer.Argument(metavar="ID", help="The ID of a simulation.", show_default=False)]


@app.command(epilog=examples("twinstream simulations progress 3f0c8a52-6c1e-4b3a-9f57-0d2f7f1f8a11"))
def progress(simulation_id: SimulationArgument, as_json: JsonOption = False) -> None:
    """Show how far the simulation ID is."""
    from sql.simulation_queue_store import queued_simulation
    from streams.operations.simulation_status import place_fields, simulation_status

    async def read(_: Settings, pool: Pool) -> tuple[str, QueuedSimulation | None]:
        place = await queued_simulation(pool, simulation_id)
        return ("queued", place) if place else (await simulation_status(pool, simulation_id), None)

    status, place = with_read_pool(read)
    print_result(
        {"simulation_id": str(simulation_id), "status": status, **place_fields(place)},
        lambda: place_text(simulation_id, place) if place else f"simulation {simulation_id} is {status}",
        as_json=as_json,
    )


@app.command(epilog=examples("twinstream simulations cancel 3f0c8a52-6c1e-4b3a-9f57-0d2f7f1f8a11"))
def cancel(simulation_id: SimulationArgument, as_json: JsonOption = False) -> None:
    """Cancel the simulation ID, which is answered so.

    Whatever is computed for it ends within seconds. One that is answered already keeps its answer.
    """
    from streams.operations.simulation_status import cancel_queued

    with_pool(lambda _, pool: cancel_queued(pool, simulation_id))
    print_result(
        {"simulation_id": str(simulation_id), "status": "cancelled"},
        lambda: f"simulation {simulation_id} is cancelled: a worker answers it so",
        as_json=as_json,
    )

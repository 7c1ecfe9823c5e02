"""Commands that run the service: all of it on this machine, or workers against configured servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from streams.cli.connection import connected_service, load_settings
from streams.cli.log_output import show_service_warnings
from streams.cli.options import examples
from streams.cli.output import notify

if TYPE_CHECKING:
    from streams.settings import Role

app = typer.Typer()


@app.command(
    epilog=examples("twinstream worker", "twinstream worker --role simulation,outcomes", "twinstream worker --role trainer")
)
def worker(
    roles: Annotated[
        str | None,
        typer.Option(
            "--role",
            metavar="ROLE[,ROLE]",
            help="Roles to run, a process each: simulation, outcomes, fidelity, experiments, trainer, web.",
            show_default="all of them",
        ),
    ] = None,
) -> None:
    """Run workers until Ctrl-C, one process for each role."""
    from streams.worker.supervisor import run_worker

    selected = _parse_roles(roles)
    show_service_warnings()
    with connected_service() as settings:
        run_worker(selected, settings, notify=notify)


def _parse_roles(text: str | None) -> list[Role]:
    """Split a list of roles.

    Raises:
        ValueError: for an unknown role; it names all of them.
    """
    from schemas.base import require_one_of
    from streams.settings import ROLES

    if text is None:
        return list(ROLES)
    return [cast("Role", require_one_of("role", name.strip(), ROLES)) for name in text.split(",")]


@app.command(epilog=examples("twinstream up", "twinstream up --home .twinstream/test --port 8080"))
def up(
    home: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", file_okay=False, help="Folder of the local stack; the one used last by default."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="PORT", help="Port of the web page; 0 takes a free one.")] = 0,
) -> None:
    """Run the whole service on this machine, with its web page.

    Kafka and PostgreSQL are started too; no Docker is needed. Ctrl-C stops everything.
    """
    from streams.worker.up import serve

    show_service_warnings()
    serve(load_settings(), home, port, notify)

"""How a command reaches the service: by its settings, else on the local stack that runs, else on the one used last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from streams.cli.failures import explain_server_failures
from streams.cli.output import notify_once
from streams.cli.running import run_command

if TYPE_CHECKING:
    from sql.database import Pool
    from streams.cli.server_watch import Server
    from streams.settings import Settings

__all__ = [
    "connected_service",
    "load_settings",
    "mappings_folder",
    "use_file_catalogue",
    "use_service_catalogue",
    "with_pool",
    "with_read_pool",
]

T = TypeVar("T")


def load_settings() -> Settings:
    """Return the settings of this process, from the environment."""
    from streams.settings import settings

    return settings()


@contextmanager
def connected_service(*, may_create: bool = True) -> Iterator[Settings]:
    """Settings with every address filled in; a notice names the local stack where one is used.

    Args:
        may_create: whether a local stack is made in a folder that never had one.

    Raises:
        NoLocalStack: when one would have to be made, and may not.
        ServerFailure: when the block cannot reach Kafka or Postgres, or finds no tables.
    """
    from streams.worker import connected

    with connected(load_settings(), notify_once, may_create=may_create) as settings, explain_server_failures(settings):
        yield settings


def with_pool(work: Callable[[Settings, Pool], Awaitable[T]], *servers: Server) -> T:
    """Run ``work`` with the settings of the service and connections to its database; ``servers`` are the others that it uses.

    A new local stack would have no tables, so none is made for it.
    """
    with connected_service(may_create=False) as settings:
        return run_command(settings, _on_pool(settings, settings.postgres_dsn.get_secret_value(), work), "postgres", *servers)


def with_read_pool(work: Callable[[Settings, Pool], Awaitable[T]], *servers: Server) -> T:
    """Run ``work``, which only reads, as :func:`with_pool` does, as the user of the database that may only read."""
    with connected_service(may_create=False) as settings:
        return run_command(settings, _on_pool(settings, settings.read_dsn, work), "postgres", *servers)


async def _on_pool(settings: Settings, dsn: str, work: Callable[[Settings, Pool], Awaitable[T]]) -> T:
    from sql.catalogue_store import follow_catalogue
    from sql.database import open_pool

    async with await open_pool(settings, dsn=dsn) as pool:
        await follow_catalogue(pool)
        return await work(settings, pool)


def use_file_catalogue() -> None:
    """Make the catalogue of the user's file, if there is one, that of this process: tables are read by its features.

    Raises:
        CatalogueFileError: when the file is not valid.
    """
    from schemas import install
    from streams.catalogue import find_catalogue_file, read_catalogue

    if file := find_catalogue_file(load_settings().catalogue):
        install(read_catalogue(file))


def mappings_folder() -> Path:
    """The folder of saved mappings, beside the catalogue file."""
    from streams.mappings.saved import FOLDER

    catalogue = load_settings().catalogue
    return FOLDER if catalogue is None else catalogue.parent / FOLDER


def use_service_catalogue() -> None:
    """Make the catalogue of the service that of this process: options name its brands and campaigns."""

    async def nothing(_settings: Settings, _pool: Pool) -> None:
        """The pool is opened under the newest catalogue."""

    with_read_pool(nothing)

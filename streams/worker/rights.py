"""Warns when the service runs as a user of the database who may do more than the service needs."""

from __future__ import annotations

import asyncio
import logging
import threading

import asyncpg

from sql.database import connect
from sql.privileges import excess_rights, shared_rights
from streams.settings import Settings

__all__ = ["warn_of_excess_rights"]

LOG = logging.getLogger(__name__)


def warn_of_excess_rights(settings: Settings) -> threading.Thread:
    """Log a warning if the user of the service is a superuser or may become the owner of the tables, or if others may stop it.

    It asks in a thread, so that a server that does not answer delays nothing.
    """
    thread = threading.Thread(target=lambda: asyncio.run(_warn(settings)), name="rights", daemon=True)
    thread.start()
    return thread


async def _warn(settings: Settings) -> None:
    try:
        async with asyncio.timeout(settings.postgres_connect_timeout_s):
            connection = await connect(settings.postgres_dsn.get_secret_value())
            try:
                excess, shared = await excess_rights(connection), await shared_rights(connection)
            finally:
                connection.terminate()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # an outage has warnings of its own
        return
    if excess:
        LOG.warning("TWIN_POSTGRES_DSN: %s; give the service a user that is only a member of twinstream_writer", excess)
    if shared:
        LOG.warning("TWIN_POSTGRES_DSN: %s; run `twinstream migrate` once as a superuser", shared)

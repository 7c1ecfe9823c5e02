"""Words failures of servers for the user: which one cannot be reached, at which address, and the setting that names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.settings import Settings

__all__ = ["ServerFailure", "explain_server_failures"]


class ServerFailure(RuntimeError):
    """Kafka or Postgres cannot be reached, or the database is not set up."""


@contextmanager
def explain_server_failures(settings: Settings) -> Iterator[None]:
    """Replace the errors of connections by one sentence without credentials.

    Raises:
        ServerFailure: when Kafka or Postgres cannot be reached, or the database has no tables.
    """
    import asyncpg
    from aiokafka.errors import KafkaConnectionError

    try:
        yield
    except asyncpg.UndefinedTableError as error:
        raise ServerFailure("the database has no tables yet: run twinstream migrate") from error
    except KafkaConnectionError as error:
        raise _kafka_failure(settings) from error
    except (OSError, OverflowError) as error:  # OverflowError: the port is larger than 65535
        modules = _calling_modules(error)  # neither client wraps these errors: where they are raised names the server
        if "asyncpg.connect_utils" in modules or "asyncpg.connection" in modules:
            raise _postgres_failure(settings) from error
        if "aiokafka.conn" in modules:
            raise _kafka_failure(settings) from error
        raise


def _kafka_failure(settings: Settings) -> ServerFailure:
    return ServerFailure(f"Kafka at {settings.kafka_bootstrap} cannot be reached (TWIN_KAFKA_BOOTSTRAP)")


def _postgres_failure(settings: Settings) -> ServerFailure:
    dsn = settings.postgres_dsn.get_secret_value()
    address = dsn.partition("://")[2].partition("/")[0].rpartition("@")[2] or "its address"
    return ServerFailure(f"Postgres at {address} cannot be reached (TWIN_POSTGRES_DSN)")


def _calling_modules(error: BaseException) -> set[str]:
    """Names of the modules through which the error was raised."""
    return {str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)}

"""Words failures of servers for the user: which one cannot be reached, at which address, and the setting that names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import TYPE_CHECKING

from streams.cli.log_output import last_kafka_error
from streams.printable import hide_passwords

if TYPE_CHECKING:
    from streams.cli.server_watch import Server
    from streams.settings import Settings

__all__ = ["ServerFailure", "address_of", "explain_server_failures", "silence_failure"]


_MISSING_ROLE = (
    "run twinstream migrate; the user of TWIN_POSTGRES_DSN needs the role twinstream_writer, that of TWIN_POSTGRES_READ_DSN needs"
    " twinstream_reader"
)


class ServerFailure(RuntimeError):
    """Kafka, Postgres or MLflow cannot be reached or does not answer, or the database is not set up."""


@contextmanager
def explain_server_failures(settings: Settings) -> Iterator[None]:
    """Replace the errors of connections by one sentence without credentials.

    Raises:
        ServerFailure: when Kafka, Postgres or MLflow cannot be reached or refuses the client, or the database has no tables.
    """
    try:
        yield
    except Exception as error:
        failure = _server_failure(error, settings)
        if failure is None:
            raise
        raise failure from error


def _server_failure(error: Exception, settings: Settings) -> ServerFailure | None:
    """Word a failure of a server, None for any other one."""
    import asyncpg

    if isinstance(error, asyncpg.UndefinedTableError):
        return ServerFailure("the database has no tables yet: run twinstream migrate")
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return ServerFailure(f"{error}: {_MISSING_ROLE}")
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidCatalogNameError):
        return ServerFailure(f"Postgres at {_postgres_address(settings)} refuses the connection: {error} (TWIN_POSTGRES_DSN)")
    if _is_kafka_outage(error):
        return _kafka_failure(settings, error)
    if _is_mlflow_outage(error):
        return ServerFailure(f"MLflow at {hide_passwords(settings.mlflow_uri)} cannot be reached (TWIN_MLFLOW_URI)")
    return _connection_failure(error, settings)


def _connection_failure(error: Exception, settings: Settings) -> ServerFailure | None:
    """Word an error of a connection, which neither client wraps: where it is raised names the server."""
    if isinstance(error, OSError | OverflowError):  # OverflowError: the port is larger than 65535
        modules = _calling_modules(error)
        if "asyncpg.connect_utils" in modules or "asyncpg.connection" in modules:
            if isinstance(error, TimeoutError):
                return silence_failure(settings, "postgres")
            return ServerFailure(f"Postgres at {_postgres_address(settings)} cannot be reached (TWIN_POSTGRES_DSN)")
        if "aiokafka.conn" in modules:
            return _kafka_failure(settings, error)
    return None


def silence_failure(settings: Settings, server: Server) -> ServerFailure:
    """Word the failure of a server that accepts connections, or did so before, and does not answer."""
    seconds = {
        "kafka": settings.kafka_connect_timeout_s,
        "postgres": settings.postgres_connect_timeout_s,
        "mlflow": settings.mlflow_connect_timeout_s,
    }[server]
    address, setting = address_of(settings, server)
    limit = f"TWIN_{server.upper()}_CONNECT_TIMEOUT_S"
    return ServerFailure(f"{address} has not answered for {seconds:g} s ({setting}, {limit})")


def address_of(settings: Settings, server: Server) -> tuple[str, str]:
    """The name of a server with its address, without credentials, and the setting that has the address."""
    return {
        "kafka": (f"Kafka at {settings.kafka_bootstrap}", "TWIN_KAFKA_BOOTSTRAP"),
        "postgres": (f"Postgres at {_postgres_address(settings)}", "TWIN_POSTGRES_DSN"),
        "mlflow": (f"MLflow at {hide_passwords(settings.mlflow_uri)}", "TWIN_MLFLOW_URI"),
    }[server]


def _kafka_failure(settings: Settings, error: BaseException) -> ServerFailure:
    """Word a failure of Kafka; the reason is in the cause of a timeout, else only in the log of the client."""
    while error.__cause__ is not None and not isinstance(error.__cause__, TimeoutError):
        error = error.__cause__
    text = str(error.args[0]) if error.__cause__ else last_kafka_error().rpartition('": ')[2]
    reason = f": {text}" if text else ""
    return ServerFailure(f"Kafka at {settings.kafka_bootstrap} cannot be reached (TWIN_KAFKA_BOOTSTRAP){reason}")


def _postgres_address(settings: Settings) -> str:
    """Host and port in the address of Postgres, which has the password."""
    from sql.settings import server_address

    return server_address(settings.server_dsn)


def _is_kafka_outage(error: Exception) -> bool:
    from aiokafka.errors import KafkaConnectionError

    from streams.client import KafkaUnavailable

    return isinstance(error, KafkaConnectionError | KafkaUnavailable)


def _is_mlflow_outage(error: Exception) -> bool:
    """Whether an error of MLflow comes from its connection; MLflow is imported only by commands that use it."""
    from streams.errors import is_transient

    return type(error).__module__.startswith("mlflow.") and is_transient(error)


def _calling_modules(error: BaseException) -> set[str]:
    """Names of the modules through which the error was raised."""
    return {str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)}

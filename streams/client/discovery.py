"""Finds the Kafka to publish to: the one in the settings, else the running local stack."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from deploy.stack import StackAddresses, running_stack
from streams.settings import Settings

__all__ = [
    "NoKafkaAddress",
    "last_home",
    "settings_on_running_stack",
    "settings_on_stack",
    "settings_with_kafka",
    "write_last_home",
]

_LAST_HOME_FILE = "last"


class NoKafkaAddress(ValueError):
    """No setting names a Kafka, and no local stack is running."""


def settings_with_kafka(settings: Settings) -> Settings:
    """Return the settings with a Kafka address: their own, or that of the running local stack.

    Raises:
        NoKafkaAddress: when there is neither.
    """
    if settings.kafka_bootstrap:
        return settings
    on_stack = settings_on_running_stack(settings)
    if on_stack is None:
        raise NoKafkaAddress(
            f"no Kafka to connect to: set TWIN_KAFKA_BOOTSTRAP, for example to 127.0.0.1:9092, or start the local stack with"
            f" `twinstream up` (none is running in {settings.home.resolve()})"
        )
    return on_stack


def settings_on_running_stack(settings: Settings) -> Settings | None:
    """Return the settings with the addresses of the local stack that runs in ``settings.home``, None when none runs there."""
    for home in (settings.home, last_home(settings.home)):
        if (stack := running_stack(home)) is not None:
            return settings_on_stack(settings, stack, home)
    return None


def settings_on_stack(settings: Settings, stack: StackAddresses, home: Path) -> Settings:
    """Return the settings with the addresses of a local stack and its folder."""
    return settings.model_copy(
        update={
            "kafka_bootstrap": stack.kafka_bootstrap,
            "postgres_dsn": SecretStr(stack.postgres_dsn),
            "postgres_migrate_dsn": SecretStr(stack.postgres_migrate_dsn),
            "postgres_read_dsn": SecretStr(stack.postgres_read_dsn),
            "mlflow_uri": stack.mlflow_uri,
            "home": home,
        }
    )


def last_home(home: Path) -> Path:
    """Return the folder of the local stack that was started last, ``home`` itself where none was."""
    file = home / _LAST_HOME_FILE
    return home / file.read_text(encoding="utf-8").strip() if file.is_file() else home


def write_last_home(home: Path, stack_home: Path) -> None:
    """Record ``stack_home`` as the folder of the local stack that was started last; one below ``home`` may be moved with it."""
    is_below = stack_home.is_relative_to(home)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = stack_home.relative_to(home) if is_below else stack_home.resolve()
    (home / _LAST_HOME_FILE).write_text(str(place), encoding="utf-8")

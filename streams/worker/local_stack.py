"""Which Kafka and which Postgres a command talks to: those that are set, the local stack that runs, or the one used last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from deploy.stack import LocalStack, running_stack
from streams.settings import Settings

__all__ = ["connected", "last_home", "local_stack", "on_stack"]

_LAST = "last"
Say = Callable[[str], None]


@contextmanager
def connected(settings: Settings, say: Say) -> Iterator[Settings]:
    """Settings with every address filled in.

    Addresses from the environment win. Without them the running local stack is used, else the one used last is started for
    as long as the command runs.
    """
    if settings.kafka_bootstrap and settings.postgres_dsn:
        yield settings
        return
    for home in (settings.home, last_home(settings.home)):
        if (stack := running_stack(home)) is not None:
            say(f"using the local stack that runs in {home}")
            yield on_stack(settings, stack.environment(), home)
            return
    with local_stack(last_home(settings.home), settings, say) as filled:
        yield filled


@contextmanager
def local_stack(home: Path, settings: Settings, say: Say) -> Iterator[Settings]:
    """Start the local stack in ``home`` and stop it at the end."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (settings.home / _LAST).write_text(str(home.relative_to(settings.home)), encoding="utf-8")
    with LocalStack(home, progress=say) as stack:
        yield on_stack(settings, stack.environment(), home)


def on_stack(settings: Settings, environment: dict[str, str], home: Path) -> Settings:
    """The settings with the addresses of a local stack."""
    addresses = {name.removeprefix("TWIN_").lower(): value for name, value in environment.items()}
    return settings.model_copy(update={**addresses, "postgres_dsn": SecretStr(addresses["postgres_dsn"]), "home": home})


def last_home(home: Path) -> Path:
    """The stack's folder that was used last, ``home`` itself where none was."""
    noted = home / _LAST
    return home / noted.read_text(encoding="utf-8").strip() if noted.is_file() else home

"""Chooses the Kafka, Postgres and MLflow of a command: those of the settings, or the local stack, started where none runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.stack import LocalStack, has_stack
from streams.client.discovery import last_home, settings_on_running_stack, settings_on_stack, write_last_home
from streams.settings import Settings

__all__ = ["NoLocalStack", "Notify", "connected", "local_stack", "running_local_stack"]

Notify = Callable[[str], None]
"""Called with each line of progress."""


class NoLocalStack(ValueError):
    """No setting names a server, and there is no local stack in the folder."""


@contextmanager
def connected(settings: Settings, notify: Notify, *, may_create: bool = True) -> Iterator[Settings]:
    """Fill in the addresses that the settings lack.

    Addresses in the settings are used as they are. Without them, the running local stack is used; where none runs, the one that
    was started last is started again and stopped at the end of the block.

    Args:
        settings: of this process.
        notify: called with each line of progress.
        may_create: whether a stack is made in a folder that never had one.

    Raises:
        NoLocalStack: when one would have to be made, and may not.
    """
    if settings.kafka_bootstrap and settings.server_dsn:
        yield settings
    elif (on_stack := settings_on_running_stack(settings)) is not None:
        notify(f"using the local stack that is running in {on_stack.home}")
        yield on_stack
    elif not may_create and not has_stack(home := last_home(settings.home)):
        raise NoLocalStack(
            f"there is no local stack in {home.resolve()}: run the command in the folder where `twinstream up` runs, name its"
            " folder by TWIN_HOME, such as TWIN_HOME=/path/to/.twinstream, or start one here with `twinstream up`"
        )
    else:
        with local_stack(last_home(settings.home), settings, notify) as on_stack:
            yield on_stack


@contextmanager
def local_stack(home: Path, settings: Settings, notify: Notify) -> Iterator[Settings]:
    """Settings on the local stack in ``home``, as :func:`running_local_stack` starts it."""
    with running_local_stack(home, settings, notify) as (on_stack, _):
        yield on_stack


@contextmanager
def running_local_stack(home: Path, settings: Settings, notify: Notify) -> Iterator[tuple[Settings, LocalStack]]:
    """Start the local stack in ``home``, and stop it at the end of the block; later commands find it by ``settings.home``.

    A server of it that ends by itself is started again.
    """
    with LocalStack(home, notify) as stack:
        write_last_home(settings.home, home)
        yield settings_on_stack(settings, stack.addresses, home), stack

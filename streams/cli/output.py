"""What the commands of the terminal have in common: an answer for people or programs, and one clear line for a refusal."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg
import click
from aiokafka.errors import KafkaError

from deploy.stack import StackError
from sql.database import Pool, open_pool
from streams.errors import describe_error
from streams.settings import Settings, settings
from streams.worker.local_stack import connected

__all__ = ["Commands", "answer", "as_json_option", "say", "with_pool"]

T = TypeVar("T")

REFUSALS = (ValueError, LookupError, RuntimeError, OSError, StackError, KafkaError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Commands(click.Group):
    """A group whose commands end in one clear line when something is refused."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a refusal is one line on stderr and exit status 1."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):  # a RuntimeError by birth, but no refusal
            raise
        except REFUSALS as error:
            click.echo(f"twinstream: {describe_error(error)}", err=True)
            sys.exit(1)


def say(line: str) -> None:
    """Progress goes to stderr: stdout is for the answer."""
    click.echo(line, err=True)


def with_pool(work: Callable[[Settings, Pool], Awaitable[T]]) -> T:
    """Do ``work`` on the service that the settings name, or on the local stack."""

    async def working(at: Settings) -> T:
        async with await open_pool(at) as pool:
            return await work(at, pool)

    with connected(settings(), say) as at:
        return asyncio.run(working(at))


def answer(said: dict[str, Any] | list[Any], words: Callable[[], str], *, as_json: bool) -> None:
    """Print an answer for a program or for a person."""
    click.echo(json.dumps(said, default=str, indent=2) if as_json else words())


as_json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")

"""Commands that are imported when they are used, so that ``--help`` and ``--version`` need none of the service's libraries.

No library serves: Typer and Click load no commands lazily by themselves, and Typer resolves every option when a command is added.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.main import get_group

from streams.cli.ending import CLOSED_PIPE, is_closed_output
from streams.cli.interrupts import INTERRUPTED, Interruptible
from streams.cli.output import notify

__all__ = ["LazyCommand", "RefusalGroup", "add_lazy_commands"]


class PlainArgument(TyperArgument):
    """An argument that help shows by its name, without the braces and the Python type that Typer adds; choices are shown."""

    def display_type_rich(self, ctx: Any) -> str | None:
        """The choices of the argument, if it has any."""
        return super().display_type_rich(ctx) if self.type_descriptor.is_choice else None

    def get_usage_pieces(self, ctx: Any) -> list[str]:
        """The name in the line of usage; brackets mark an optional argument."""
        return [piece.replace("{", "").replace("}", "") for piece in super().get_usage_pieces(ctx)]


class LazyCommand(TyperCommand):
    """A name and a summary that stand for a command until it is used: the callback returns the real command."""

    def load(self) -> TyperCommand:
        """Import the real command."""
        assert self.callback is not None
        command: TyperCommand = self.callback()
        command.rich_markup_mode = self.rich_markup_mode
        command.help = _join_lines(command.help or "")
        for parameter in command.params:
            if isinstance(parameter, TyperArgument):
                parameter.__class__ = PlainArgument
        return command

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Let the real command read its arguments: Typer asks for this before it runs, completes or explains a command."""
        return self.load().make_context(*args, **kwargs)


def _join_lines(text: str) -> str:
    r"""Make every paragraph one line, so that it wraps at the width of the terminal; one that begins with ``\b`` stays as it is."""
    return "\n\n".join(part if part.startswith("\b") else " ".join(part.split()) for part in text.split("\n\n"))


def add_lazy_commands(group: typer.Typer, module: str, summaries: Mapping[str, str]) -> None:
    """Add commands to ``group`` that are defined in ``module``, which is not imported yet.

    Args:
        group: the application or group that gets the commands.
        module: full name of a module whose ``app`` defines every command in ``summaries``.
        summaries: name of each command, and the first sentence of its help.
    """
    for name, summary in summaries.items():
        group.command(name, cls=LazyCommand, help=summary)(_loader(module, name))


def _loader(module: str, name: str) -> Callable[[], Any]:
    def load() -> Any:
        return get_group(import_module(module).app).commands[name]

    return load


class RefusalGroup(TyperGroup):
    """A group whose commands end with one plain line on stderr and exit status 1 when something is refused or fails."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with Interruptible():
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort):  # subclasses of RuntimeError, but no failures
            raise
        except typer.BadParameter as error:
            _name_value(error)
            raise
        except KeyboardInterrupt:
            notify("twinstream: interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except _refusals() as error:
            if is_closed_output(error):
                raise typer.Exit(CLOSED_PIPE) from None
            from streams.errors import describe_error

            notify(f"twinstream: {describe_error(error)}")
            raise typer.Exit(1) from None


def _name_value(error: typer.BadParameter) -> None:
    """Make the message of a wrong value name the value and what is allowed, as every other message of the service does."""
    from pydantic import ValidationError

    from streams.errors import describe_error

    if isinstance(error.__cause__, ValidationError):
        error.message = describe_error(error.__cause__)
    elif "'' is a directory" in error.message:  # an empty name is the current folder
        error.message = "the name of the file is empty"


def _refusals() -> tuple[type[Exception], ...]:
    """Errors whose message is enough for the user; Python evaluates this only once a command has raised something."""
    import asyncpg
    from aiokafka.errors import KafkaError

    from deploy.stack import StackError

    return (
        ValueError,
        LookupError,
        ArithmeticError,
        RuntimeError,
        OSError,
        StackError,
        KafkaError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        *_mlflow_errors(),
    )


def _mlflow_errors() -> tuple[type[Exception], ...]:
    """The errors of MLflow and of its database, where a command has imported it."""
    names = (("mlflow.exceptions", "MlflowException"), ("sqlalchemy.exc", "SQLAlchemyError"))
    return tuple(getattr(sys.modules[module], name) for module, name in names if module in sys.modules)

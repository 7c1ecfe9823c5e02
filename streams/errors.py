"""Which failures are transient, and one wording for every error."""

from __future__ import annotations

from typing import Any

import asyncpg
from aiokafka.errors import KafkaError, KafkaTimeoutError
from pydantic import ValidationError

__all__ = ["describe_error", "is_transient"]

_SHOWN_AT_MOST = 80
_WORDS_AT_MOST = 2000

# SQLSTATE classes: connection, no entry, transaction rolled back, resources, operator, system. Single states: a database that is
# closed or busy, a lock that was not to be had, and the time-outs that end an idle or long transaction.
_PASSING_CLASSES = ("08", "28", "40", "53", "57", "58")
_PASSING_STATES = ("55000", "55006", "55P03", "25P03", "25P04")
_FILE_TROUBLE = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_PASSING_CODES = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
_WRAPPERS = ("mlflow", "faust", "mode")


def is_transient(error: BaseException) -> bool:
    """Whether a part is away for now, so that the same action can succeed later without any change to its input."""
    if isinstance(error, asyncpg.PostgresError):
        state = str(error.sqlstate or "")
        return state.startswith(_PASSING_CLASSES) or state in _PASSING_STATES
    if isinstance(error, asyncpg.InterfaceError):  # a closed connection; wrong arguments are a ValueError beside it
        return not isinstance(error, ValueError) and "clos" in str(error)
    if isinstance(error, asyncpg.InternalClientError):  # what asyncpg raises when a connection breaks inside of a statement
        return True
    if isinstance(error, KafkaError):
        return bool(error.retriable) or isinstance(error, KafkaTimeoutError)
    if isinstance(error, OSError | TimeoutError | EOFError):
        return not isinstance(error, _FILE_TROUBLE)
    return _wrapped_outage(error)


def _wrapped_outage(error: BaseException) -> bool:
    if type(error).__module__.partition(".")[0] not in _WRAPPERS:
        return False
    if getattr(error, "error_code", None) in _PASSING_CODES:
        return True
    inner = error.__cause__ or error.__context__
    return inner is not None and is_transient(inner)


def describe_error(error: BaseException) -> str:
    """What an error says, on one line: of a refused message every field, the value refused and what would be allowed."""
    if isinstance(error, ValidationError):
        words = "; ".join(_fault(fault["loc"], fault["type"], fault["msg"], fault["input"]) for fault in error.errors())
    else:
        words = " ".join(str(error).split()) or type(error).__name__
    return words.replace("\0", "")[:_WORDS_AT_MOST]


def _fault(where: tuple[int | str, ...], kind: str, words: str, got: Any) -> str:
    place = f"{'.'.join(map(str, where))}: " if where else ""
    if kind == "extra_forbidden":
        return f"{place}unknown field"
    if kind == "missing":
        return f"{place}missing"
    if kind == "value_error":  # a sentence of ours, which names the value
        return place + words.removeprefix("Value error, ")
    begun = words if words[:2].isupper() else f"{words[:1].lower()}{words[1:]}"
    return f"{place}{begun}, not {_shown(got)}"


def _shown(got: Any) -> str:
    shown = repr(got)
    return shown if len(shown) <= _SHOWN_AT_MOST else f"{shown[:_SHOWN_AT_MOST]}..."

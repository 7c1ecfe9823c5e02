"""Decides which failures are transient, refuses text that Postgres cannot store, and words every error on one line."""

from __future__ import annotations

from typing import Any

import asyncpg
from aiokafka.errors import KafkaError, KafkaTimeoutError
from pydantic import ValidationError

from schemas.base import shorten

__all__ = ["ContainsNul", "contains_nul", "describe_error", "is_transient", "limit_text", "require_no_nul"]

_MAX_CHARACTERS = 2000

# SQLSTATE classes: connection, authorization, transaction rollback, insufficient resources, operator intervention, system error.
_TRANSIENT_CLASSES = ("08", "28", "40", "53", "57", "58")
# Single states: a database that is closed or busy, a lock that was not granted, the time-outs of an idle or long transaction.
_TRANSIENT_STATES = ("55000", "55006", "55P03", "25P03", "25P04")
_PERMANENT_OS_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_TRANSIENT_MLFLOW_CODES = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
_WRAPPING_PACKAGES = ("mlflow", "faust", "mode")


class ContainsNul(ValueError):
    """The text contains NUL, the one character that Postgres cannot store."""

    def __init__(self) -> None:
        super().__init__("the text contains the character NUL, which Postgres cannot store")


def contains_nul(value: bytes) -> bool:
    """Whether a JSON text contains NUL, as a byte or as an escape sequence."""
    return b"\0" in value or b"\\u0000" in value


def require_no_nul(value: bytes | None) -> bytes:
    """Return the value of a record, as no bytes where it has none.

    Raises:
        ContainsNul: when the value contains NUL.
    """
    if value is not None and contains_nul(value):
        raise ContainsNul
    return value or b""


def is_transient(error: BaseException) -> bool:
    """Whether the same action can succeed later without any change to its input, because a service is unavailable for now."""
    if isinstance(error, asyncpg.PostgresError):
        state = str(error.sqlstate or "")
        return state.startswith(_TRANSIENT_CLASSES) or state in _TRANSIENT_STATES
    if isinstance(error, asyncpg.InterfaceError):  # a closed connection; wrong arguments are also a ValueError
        return not isinstance(error, ValueError) and "clos" in str(error)
    if isinstance(error, asyncpg.InternalClientError):  # raised when a connection breaks in the middle of a statement
        return True
    if isinstance(error, KafkaError):
        return bool(error.retriable) or isinstance(error, KafkaTimeoutError)
    if isinstance(error, OSError | TimeoutError | EOFError):
        return not isinstance(error, _PERMANENT_OS_ERRORS)
    return _wraps_transient(error)


def _wraps_transient(error: BaseException) -> bool:
    """Whether a client library has wrapped a transient failure into an exception of its own."""
    if type(error).__module__.partition(".")[0] not in _WRAPPING_PACKAGES:
        return False
    if getattr(error, "error_code", None) in _TRANSIENT_MLFLOW_CODES:
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_transient(cause)


def describe_error(error: BaseException) -> str:
    """Describe an error on one line of at most 2000 characters without NUL.

    A ``ValidationError`` gives one clause per field, which names the field, the refused value and what is allowed.
    """
    if isinstance(error, ValidationError):
        details = error.errors(include_url=False, include_context=False)
        text = "; ".join(_describe_field(item["loc"], item["type"], item["msg"], item["input"]) for item in details)
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    return limit_text(text)


def limit_text(text: str) -> str:
    """Text as every topic and column takes it: at most 2000 characters, without NUL and without halves of surrogate pairs.

    A reason can quote a value of several megabytes, and a message or a header of that size could not be sent.
    """
    return text[:_MAX_CHARACTERS].replace("\0", "").encode(errors="backslashreplace").decode()


def _describe_field(location: tuple[int | str, ...], error_type: str, message: str, value: Any) -> str:
    field = f"{'.'.join(map(str, location))}: " if location else ""
    if error_type == "extra_forbidden":
        return f"{field}unknown field"
    if error_type == "missing":
        return f"{field}missing"
    if error_type == "value_error":  # raised by a validator of this project, which names the value itself
        return field + message.removeprefix("Value error, ")
    is_acronym = message[:2].isupper()  # such as JSON
    sentence = message if is_acronym else f"{message[:1].lower()}{message[1:]}"
    return f"{field}{sentence}, not {shorten(value)}"

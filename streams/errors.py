"""Decides what an error is about, refuses text that Postgres cannot store, and words every error on one line."""

from __future__ import annotations

import ssl
import traceback
from collections.abc import Sequence
from enum import StrEnum
from itertools import groupby
from typing import Any

import asyncpg
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    BrokerNotAvailableError,
    ClusterAuthorizationFailedError,
    CommitFailedError,
    ConsumerStoppedError,
    CorruptRecordException,
    GroupAuthorizationFailedError,
    IllegalGenerationError,
    IllegalSaslStateError,
    InvalidTopicError,
    KafkaError,
    KafkaTimeoutError,
    KafkaUnavailableError,
    MessageSizeTooLargeError,
    OffsetOutOfRangeError,
    PolicyViolationError,
    ProducerClosed,
    QuotaViolationError,
    RebalanceInProgressError,
    RecordListTooLargeError,
    ReplicaNotAvailableError,
    SaslAuthenticationFailed,
    StaleLeaderEpochCodeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownError,
    UnknownMemberIdError,
    UnsupportedSaslMechanismError,
)
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas.base import shorten
from streams.printable import hide_passwords
from streams.repeated_keys import require_unique_keys

__all__ = [
    "ContainsNul",
    "PartitionError",
    "Subject",
    "contains_nul",
    "describe_error",
    "describe_fields",
    "describe_traceback",
    "is_refused_send",
    "is_transient",
    "is_waited_for",
    "limit_text",
    "require_clear",
    "setting_of",
    "subject_of",
]

_MAX_CHARACTERS = 2000
_MAX_FIELDS = 10
_VALID = "Input should be a valid "
_MAX_TRACEBACK_CHARACTERS = 20_000


class Subject(StrEnum):
    """What an error is about, which decides what is done about it.

    Attributes:
        RECORD: the record in work. It is refused or parked; nothing else waits for it.
        PARTITION: the partition in work. It waits, the others go on.
        DEPENDENCY: a service that does not answer for now. It is waited for.
        CONFIGURATION: a setting, also of a topic, a permission or a table that an operator has to correct. It is waited for.
    """

    RECORD = "record"
    PARTITION = "partition"
    DEPENDENCY = "dependency"
    CONFIGURATION = "configuration"


# SQLSTATE classes: connection, transaction rollback, insufficient resources, operator intervention, system error.
_DEPENDENCY_CLASSES = ("08", "40", "53", "57", "58")
# Single states: a database that is closed or busy, a lock that was not granted, the time-outs of an idle or long transaction, and a
# server that only reads, as a standby does until it is promoted.
_DEPENDENCY_STATES = ("55000", "55006", "55P03", "25P03", "25P04", "25006")
# Classes: authorization, an unknown database or schema. Single states: no privilege; a table, column or function that is missing.
_CONFIGURATION_CLASSES = ("28", "3D", "3F")
_CONFIGURATION_STATES = ("42501", "42P01", "42703", "42883")
_POSTGRES_SETTING = "TWIN_POSTGRES_DSN"

_KAFKA_AUTHENTICATION = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
_KAFKA_AUTHORIZATION = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
_KAFKA_OUTAGES = (
    BrokerNotAvailableError,
    CommitFailedError,
    IllegalGenerationError,
    KafkaTimeoutError,
    KafkaUnavailableError,
    ProducerClosed,
    QuotaViolationError,
    RebalanceInProgressError,
    ReplicaNotAvailableError,
    StaleLeaderEpochCodeError,
    UnknownError,
    UnknownMemberIdError,
)
"""Errors that pass with the broker, a rebalance or the end of this process, and that the client does not retry itself."""
_KAFKA_REFUSED_SENDS = (InvalidTopicError, MessageSizeTooLargeError, PolicyViolationError, RecordListTooLargeError)
"""Errors of messages of the service itself: the settings of their topic do not take them."""
_TOPIC_SETTINGS = "the settings of the topic, such as max.message.bytes"
_KAFKA_PARTITION = (CorruptRecordException, OffsetOutOfRangeError)

_RECORD_OS_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_TRANSIENT_MLFLOW_CODES = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
_WRAPPING_PACKAGES = ("mlflow", "faust", "mode")


class PartitionError(Exception):
    """A failure that concerns a whole partition: it waits, and the others go on."""


class ContainsNul(ValueError):
    """The text contains NUL, the one character that Postgres cannot store."""

    def __init__(self) -> None:
        super().__init__("the text contains the character NUL, which Postgres cannot store")


def contains_nul(value: bytes) -> bool:
    """Whether a JSON text contains NUL, as a byte or as an escape sequence."""
    return b"\0" in value or b"\\u0000" in value


def require_clear(value: bytes | None) -> bytes:
    """Return the value of a record, as no bytes where it has none.

    Raises:
        ContainsNul: when the value contains NUL.
        RepeatedKey: when an object in it has a name twice.
    """
    if value is None:
        return b""
    if contains_nul(value):
        raise ContainsNul
    require_unique_keys(value)
    return value


def subject_of(error: BaseException) -> Subject:
    """What an error is about; the record in work where nothing else is known of it."""
    if isinstance(error, PartitionError):
        return Subject.PARTITION
    if isinstance(error, asyncpg.PostgresError):
        return _postgres_subject(error)
    if isinstance(error, KafkaError):
        return _kafka_subject(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return Subject.CONFIGURATION
    if _is_outage(error):
        return Subject.DEPENDENCY
    cause = _wrapped_cause(error)
    return Subject.RECORD if cause is None else subject_of(cause)


def is_refused_send(error: BaseException) -> bool:
    """Whether the settings of a topic do not take a message that the service sends to it."""
    cause = _wrapped_cause(error)
    return isinstance(error, _KAFKA_REFUSED_SENDS) or (cause is not None and is_refused_send(cause))


def is_waited_for(error: BaseException) -> bool:
    """Whether the same action can succeed later without any change to its record, so that a running role waits."""
    return subject_of(error) is not Subject.RECORD


def is_transient(error: BaseException) -> bool:
    """Whether a service is unavailable for now, so that also a start waits; one that rotates its passwords is."""
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return True
    return subject_of(error) is Subject.DEPENDENCY


def setting_of(error: BaseException) -> str:
    """The settings to check, of the service or of a topic, when an error is about the configuration; empty for any other error."""
    if subject_of(error) is not Subject.CONFIGURATION:
        return ""
    if isinstance(error, asyncpg.PostgresError):
        return _POSTGRES_SETTING
    if isinstance(error, ssl.SSLError):
        return "TWIN_KAFKA_CA_FILE"
    if isinstance(error, _KAFKA_REFUSED_SENDS):
        return _TOPIC_SETTINGS
    if isinstance(error, KafkaError):
        return "TWIN_KAFKA_USERNAME and TWIN_KAFKA_PASSWORD"
    cause = _wrapped_cause(error)
    return "" if cause is None else setting_of(cause)


def _postgres_subject(error: asyncpg.PostgresError) -> Subject:
    if isinstance(error, asyncpg.InvalidCachedStatementError):  # a table was changed: the connection prepares the statement again
        return Subject.DEPENDENCY
    state = str(error.sqlstate or "")
    if state.startswith(_CONFIGURATION_CLASSES) or state in _CONFIGURATION_STATES:
        return Subject.CONFIGURATION
    if state.startswith(_DEPENDENCY_CLASSES) or state in _DEPENDENCY_STATES:
        return Subject.DEPENDENCY
    return Subject.RECORD


def _kafka_subject(error: KafkaError) -> Subject:
    if isinstance(error, _KAFKA_AUTHENTICATION + _KAFKA_AUTHORIZATION + _KAFKA_REFUSED_SENDS):
        return Subject.CONFIGURATION
    if isinstance(error, _KAFKA_PARTITION):
        return Subject.PARTITION
    return Subject.DEPENDENCY if error.retriable or isinstance(error, _KAFKA_OUTAGES) else Subject.RECORD


_ENDED_SESSION = ("clos", "another operation is in progress")
"""What asyncpg says of a connection that is closed, or that broke in the middle of a statement that is then rolled back."""


def _is_outage(error: BaseException) -> bool:
    """Whether an error that is of neither server's making means that a service does not answer."""
    if isinstance(error, asyncpg.InterfaceError):  # wrong arguments are also a ValueError
        return not isinstance(error, ValueError) and any(sign in str(error) for sign in _ENDED_SESSION)
    if isinstance(error, asyncpg.InternalClientError):  # raised when a connection breaks in the middle of a statement
        return True
    if isinstance(error, ConsumerStoppedError):
        return True
    if isinstance(error, OSError | TimeoutError | EOFError):
        return not isinstance(error, _RECORD_OS_ERRORS)
    return getattr(error, "error_code", None) in _TRANSIENT_MLFLOW_CODES


def _wrapped_cause(error: BaseException) -> BaseException | None:
    """The error that a client library has wrapped into an exception of its own, None for any other exception."""
    if type(error).__module__.partition(".")[0] not in _WRAPPING_PACKAGES:
        return None
    return error.__cause__ or error.__context__


def describe_traceback(error: BaseException) -> str:
    """The full traceback of an error with its causes; of one above 20,000 characters the middle is left out."""
    text = hide_passwords("".join(traceback.format_exception(error))).replace("\0", "").encode(errors="backslashreplace").decode()
    if len(text) <= _MAX_TRACEBACK_CHARACTERS:
        return text
    half = _MAX_TRACEBACK_CHARACTERS // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def describe_error(error: BaseException) -> str:
    """Describe an error, with its notes, on one line of at most 2000 characters without NUL.

    A ``ValidationError`` gives one clause per field, of at most ten, which names the field, the refused value and what is allowed.
    """
    if isinstance(error, ValidationError):
        text = describe_fields(error.errors(include_url=False, include_context=False))
    else:
        notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
        text = hide_passwords(" ".join(f"{error}{notes}".split())) or type(error).__name__
    return limit_text(text)


def describe_fields(details: Sequence[ErrorDetails]) -> str:
    """Describe the errors of a validation on one line, one clause for each field, of at most ten."""
    joined = _joined_branches(details)
    clauses = [_describe_field(item["loc"], item["type"], item["msg"], item["input"]) for item in joined[:_MAX_FIELDS]]
    more = [f"and {len(joined) - _MAX_FIELDS} more"] if len(joined) > _MAX_FIELDS else []
    return "; ".join([*clauses, *more])


def _joined_branches(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """The errors with one for a value that none of several types takes, in place of one for each type."""
    joined = []
    for _, alike in groupby(details, key=lambda item: (item["loc"][:-1] if _is_branch(item) else item["loc"], id(item["input"]))):
        items = list(alike)
        types = [item["msg"].removeprefix(_VALID) for item in items if item["msg"].startswith(_VALID)]
        if len(types) < 2 or not all(map(_is_branch, items)):
            joined += items
            continue
        finite = next((item["msg"] for item in items if item["type"] == "finite_number"), None)
        message = finite or f"{_VALID}{', '.join(types[:-1])} or {types[-1]}"
        joined.append({**items[0], "loc": items[0]["loc"][:-1], "msg": message})
    return joined


def _is_branch(item: ErrorDetails) -> bool:
    """Whether an error is that of one of the types that a value may have."""
    last = str(item["loc"][-1]) if item["loc"] else ""
    return last in {"str", "bool", "int", "float"} or last.startswith("function-")


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

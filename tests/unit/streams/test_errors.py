"""Every error is about a record, a partition, a dependency or the configuration, and is worded on one line."""

from __future__ import annotations

import asyncio
import socket
import ssl

import aiokafka.errors
import asyncpg
import pytest
from faust.exceptions import ProducerSendError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from pydantic import ValidationError

from schemas import InterventionConfig, OutcomeEvent
from streams.errors import (
    PartitionError,
    Subject,
    describe_error,
    describe_traceback,
    is_refused_send,
    is_transient,
    is_waited_for,
    setting_of,
    subject_of,
)
from tests.outcomes import outcome

ABOUT_A_DEPENDENCY = [
    ConnectionRefusedError("no"),
    TimeoutError(),
    OSError(28, "No space left on device"),
    EOFError(),
    socket.gaierror(-2, "unknown host"),
    asyncpg.CannotConnectNowError("starting up"),
    asyncpg.DeadlockDetectedError("deadlock"),
    asyncpg.InvalidCachedStatementError("cached statement plan is invalid due to a database schema or configuration change"),
    asyncpg.SerializationError("again"),
    asyncpg.LockNotAvailableError("lock timeout"),
    asyncpg.QueryCanceledError("statement timeout"),
    asyncpg.AdminShutdownError("bye"),
    asyncpg.DiskFullError("full"),
    asyncpg.TooManyConnectionsError("full"),
    asyncpg.ReadOnlySQLTransactionError("a standby"),
    asyncpg.ConnectionDoesNotExistError("gone"),
    asyncpg.IdleInTransactionSessionTimeoutError("frozen"),
    asyncpg.InterfaceError("connection is closed"),
    asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
    asyncpg.InternalClientError("got result for unknown protocol state 3"),
    aiokafka.errors.KafkaConnectionError("no broker"),
    aiokafka.errors.KafkaTimeoutError("slow"),
    aiokafka.errors.NotLeaderForPartitionError("moved"),
    aiokafka.errors.UnknownTopicOrPartitionError("being created"),
    aiokafka.errors.RebalanceInProgressError("rebalance"),
    aiokafka.errors.ProducerClosed("the role stops"),
    MlflowException("locked", error_code=TEMPORARILY_UNAVAILABLE),
]
ABOUT_THE_CONFIGURATION = [
    (asyncpg.InvalidPasswordError("rotated"), "TWIN_POSTGRES_DSN"),
    (asyncpg.InvalidCatalogNameError("no database"), "TWIN_POSTGRES_DSN"),
    (asyncpg.InsufficientPrivilegeError("permission denied"), "TWIN_POSTGRES_DSN"),
    (asyncpg.UndefinedTableError("no table"), "TWIN_POSTGRES_DSN"),
    (asyncpg.UndefinedColumnError("no column"), "TWIN_POSTGRES_DSN"),
    (aiokafka.errors.TopicAuthorizationFailedError("outcome-events"), "TWIN_KAFKA_USERNAME and TWIN_KAFKA_PASSWORD"),
    (aiokafka.errors.GroupAuthorizationFailedError("group"), "TWIN_KAFKA_USERNAME and TWIN_KAFKA_PASSWORD"),
    (aiokafka.errors.SaslAuthenticationFailed("password"), "TWIN_KAFKA_USERNAME and TWIN_KAFKA_PASSWORD"),
    (aiokafka.errors.AuthenticationFailedError("password"), "TWIN_KAFKA_USERNAME and TWIN_KAFKA_PASSWORD"),
    (ssl.SSLCertVerificationError("self-signed"), "TWIN_KAFKA_CA_FILE"),
    (aiokafka.errors.MessageSizeTooLargeError("1100 bytes"), "the settings of the topic, such as max.message.bytes"),
    (aiokafka.errors.RecordListTooLargeError(), "the settings of the topic, such as max.message.bytes"),
    (aiokafka.errors.InvalidTopicError("a b"), "the settings of the topic, such as max.message.bytes"),
    (aiokafka.errors.PolicyViolationError(), "the settings of the topic, such as max.message.bytes"),
]
ABOUT_A_PARTITION = [
    PartitionError("every record fails alike"),
    aiokafka.errors.OffsetOutOfRangeError("deleted"),
    aiokafka.errors.CorruptRecordException("checksum"),
]
ABOUT_THE_RECORD = [
    ValueError("no such intervention"),
    TypeError("unhashable"),
    KeyError("x"),
    OverflowError("date value out of range"),
    ZeroDivisionError(),
    AssertionError(),
    AttributeError("none"),
    MemoryError(),
    RecursionError("too deep"),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    FileNotFoundError("artifact"),
    PermissionError("artifact"),
    asyncpg.UniqueViolationError("twice"),
    asyncpg.NumericValueOutOfRangeError("bigint out of range"),
    asyncpg.CharacterNotInRepertoireError("invalid byte sequence"),
    asyncpg.DataError("invalid input for query argument $1, connection closed"),
    aiokafka.errors.RecordTooLargeError("too large"),
    MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST),
]


def name(value: object) -> str:
    return type(value).__name__ if isinstance(value, BaseException) else ""


@pytest.mark.parametrize("error", ABOUT_A_DEPENDENCY, ids=name)
def test_the_error_of_a_service_that_does_not_answer_is_about_a_dependency(error: Exception):
    assert subject_of(error) is Subject.DEPENDENCY
    assert is_transient(error)
    assert is_waited_for(error)
    assert setting_of(error) == ""


@pytest.mark.parametrize(("error", "setting"), ABOUT_THE_CONFIGURATION, ids=name)
def test_an_error_that_an_operator_has_to_correct_is_about_the_configuration_and_names_the_setting(error: Exception, setting: str):
    assert subject_of(error) is Subject.CONFIGURATION
    assert is_waited_for(error)
    assert setting_of(error) == setting


@pytest.mark.parametrize("error", ABOUT_A_PARTITION, ids=name)
def test_an_error_of_the_log_is_about_the_partition(error: Exception):
    assert subject_of(error) is Subject.PARTITION
    assert is_waited_for(error)
    assert not is_transient(error)


@pytest.mark.parametrize("error", ABOUT_THE_RECORD, ids=name)
def test_any_other_error_is_about_the_record(error: Exception):
    assert subject_of(error) is Subject.RECORD
    assert not is_transient(error)
    assert not is_waited_for(error)


def test_a_start_waits_for_a_rotated_password_and_ends_for_a_missing_database():
    assert is_transient(asyncpg.InvalidPasswordError("rotated"))
    assert not is_transient(asyncpg.InvalidCatalogNameError("no database"))


@pytest.mark.parametrize(
    ("cause", "subject"),
    [
        (aiokafka.errors.KafkaConnectionError("no broker"), Subject.DEPENDENCY),
        (aiokafka.errors.TopicAuthorizationFailedError("outcome-events"), Subject.CONFIGURATION),
        (aiokafka.errors.MessageSizeTooLargeError("too large"), Subject.CONFIGURATION),
        (aiokafka.errors.RecordTooLargeError("too large"), Subject.RECORD),
    ],
    ids=name,
)
def test_an_error_that_a_client_library_wraps_is_about_what_its_cause_is_about(cause: Exception, subject: Subject):
    wrapped = ProducerSendError("sending")
    wrapped.__cause__ = cause
    assert subject_of(wrapped) is subject
    assert is_refused_send(wrapped) is is_refused_send(cause) is isinstance(cause, aiokafka.errors.MessageSizeTooLargeError)
    unrelated = ValueError("bad")
    unrelated.__cause__ = cause
    assert subject_of(unrelated) is Subject.RECORD


def test_every_error_of_the_kafka_client_has_a_subject():
    errors = [error for error in vars(aiokafka.errors).values() if isinstance(error, type) and issubclass(error, Exception)]
    assert len(errors) > 50
    assert {subject_of(error()) for error in errors} == set(Subject)


def test_a_traceback_has_the_line_that_raised_and_its_causes_and_is_cut_in_the_middle():
    def fail(depth: int) -> None:
        if depth == 0:
            raise ValueError("the\0end" + "x" * 30_000)
        fail(depth - 1)

    with pytest.raises(ValueError, match="end") as info:
        fail(3)
    error = RuntimeError("afterwards")
    error.__cause__ = info.value
    text = describe_traceback(error)
    assert text.startswith("Traceback (most recent call last)")
    assert "in fail" in text
    assert text.rstrip().endswith("RuntimeError: afterwards")
    assert "characters left out" in text
    assert len(text) < 21_000
    assert "\0" not in text


def refusal_of(**fields) -> str:
    valid = {"intervention_type": "email_campaign", "channel": "email", "frequency": "monthly", "duration_weeks": 12}
    with pytest.raises(ValidationError) as info:
        InterventionConfig.model_validate(valid | fields)
    return describe_error(info.value)


def test_a_refused_field_is_described_with_its_value_and_the_allowed_ones():
    assert refusal_of(channel="fax").startswith("channel: unknown channel 'fax': use one of email, in_person,")
    assert refusal_of(duration_weeks=0) == "duration_weeks: input should be greater than or equal to 1, not 0"
    assert refusal_of(colour="red") == "colour: unknown field"
    assert refusal_of(channel="fax", duration_weeks=0).count("; ") == 1


def test_a_long_value_is_shortened_and_stays_on_one_line():
    text = refusal_of(duration_weeks="x\n" * 500)
    assert len(text) < 250
    assert "\n" not in text
    assert describe_error(ValueError("two\n lines")) == "two lines"
    assert describe_error(TimeoutError()) == "TimeoutError"


def test_a_cancellation_is_no_error_of_a_record():
    assert not issubclass(asyncio.CancelledError, Exception)


def test_no_description_of_an_error_shows_the_password_of_an_address():
    error = ValueError("postgresql://service:hunter2@db:5432/twins is out")
    error.__cause__ = MlflowException("API request to http://ann:hunter2@mlflow:5000/api failed")
    texts = [describe_error(error), describe_traceback(error)]
    assert all("postgresql://service:***@db:5432/twins" in text for text in texts)
    assert "http://ann:***@mlflow:5000/api failed" in texts[1]
    assert not any("hunter2" in text for text in texts)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1], "features.decile: input should be a valid string, boolean, integer or number, not [1]"),
        (float("inf"), "features.decile: input should be a finite number, not inf"),
    ],
)
def test_a_value_that_none_of_several_types_takes_gives_one_clause(value: object, expected: str) -> None:
    with pytest.raises(ValidationError) as refused:
        OutcomeEvent.model_validate(outcome(1) | {"features": {"decile": value}})
    assert describe_error(refused.value) == expected

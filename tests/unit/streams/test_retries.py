"""Transient failures are retried, other ones are refused, and no exception leaves an agent."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field

import asyncpg
import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, MessageSizeTooLargeError, NotLeaderForPartitionError
from faust.exceptions import ProducerSendError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from pydantic import ValidationError
from stamina.instrumentation import get_on_retry_hooks, set_on_retry_hooks

from schemas import InterventionConfig
from streams import retries
from streams.errors import describe_error, is_transient
from streams.metrics import OUTAGES, REGISTRY
from streams.retries import oldest_unfinished_s, process_event, retry_transient, track_unfinished


@dataclass
class App:
    role: str = "simulation"
    crashed: list[BaseException] = field(default_factory=list)
    has_crashed: asyncio.Event = field(default_factory=asyncio.Event)

    async def crash(self, reason: BaseException) -> None:
        self.crashed.append(reason)
        self.has_crashed.set()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)


def failing(*errors):
    pending = list(errors)

    async def action():
        if pending:
            raise pending.pop(0)
        return "done"

    return action


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError("no"),
        TimeoutError(),
        socket.gaierror(-2, "unknown host"),
        asyncpg.CannotConnectNowError("starting up"),
        asyncpg.DeadlockDetectedError("deadlock"),
        asyncpg.SerializationError("again"),
        asyncpg.LockNotAvailableError("lock timeout"),
        asyncpg.QueryCanceledError("statement timeout"),
        asyncpg.AdminShutdownError("bye"),
        asyncpg.TooManyConnectionsError("full"),
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.IdleInTransactionSessionTimeoutError("frozen"),
        asyncpg.InvalidPasswordError("rotated"),
        asyncpg.InterfaceError("connection is closed"),
        KafkaConnectionError("no broker"),
        KafkaTimeoutError("slow"),
        NotLeaderForPartitionError("moved"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_error_of_an_unavailable_service_is_transient(error):
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such intervention"),
        KeyError("x"),
        FileNotFoundError("artifact"),
        PermissionError("artifact"),
        asyncpg.UniqueViolationError("twice"),
        asyncpg.UndefinedTableError("no table"),
        asyncpg.DataError("invalid input for query argument $1, connection closed"),
        MessageSizeTooLargeError("too large"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_would_occur_again_is_not_transient(error):
    assert not is_transient(error)


def test_a_transient_failure_that_a_client_library_wraps_is_transient():
    wrapped = ProducerSendError("sending")
    wrapped.__cause__ = KafkaConnectionError("no broker")
    assert is_transient(wrapped)
    assert is_transient(MlflowException("locked", error_code=TEMPORARILY_UNAVAILABLE))
    assert not is_transient(MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST))
    unrelated = ValueError("bad")
    unrelated.__cause__ = ConnectionError()
    assert not is_transient(unrelated)


async def test_transient_failures_are_retried_and_counted():
    before = OUTAGES.labels(part="trial")._value.get()
    assert await retry_transient(failing(ConnectionError(), TimeoutError(), KafkaTimeoutError()), part="trial") == "done"
    assert OUTAGES.labels(part="trial")._value.get() - before == 3


async def test_other_failures_are_raised_at_once():
    with pytest.raises(ValueError, match="no"):
        await retry_transient(failing(ValueError("no")), part="trial")


async def test_a_transient_failure_is_raised_after_the_last_attempt():
    with pytest.raises(ConnectionError):
        await retry_transient(failing(*[ConnectionError()] * 3), part="trial", attempts=3)
    assert await retry_transient(failing(*[ConnectionError()] * 2), part="trial", attempts=3) == "done"


async def test_waits_double_up_to_a_limit_and_are_spread(monkeypatch):
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.008)
    waits = []
    hooks = get_on_retry_hooks()
    set_on_retry_hooks([lambda retry: waits.append(retry.wait_for)])
    try:
        await retry_transient(failing(*[ConnectionError()] * 6), part="trial")
    finally:
        set_on_retry_hooks(hooks)
    assert all(0 <= wait - base <= 0.001 + 1e-9 for wait, base in zip(waits, [0.001, 0.002, 0.004], strict=False))
    assert waits[3:] == pytest.approx([0.008] * 3)
    assert len({wait % 0.001 for wait in waits[:3]}) == 3


async def test_a_wait_and_an_attempt_can_be_cancelled(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 60.0)
    for action in (failing(ConnectionError()), asyncio.Event().wait):
        task = asyncio.create_task(retry_transient(action, part="trial"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_exception_of_the_work_is_passed_to_the_refusal():
    refused = []

    async def refuse(error):
        refused.append(error)

    reason = ValueError("no")
    await process_event(App(), failing(reason), refuse)
    await process_event(App(), failing(ConnectionError()), refuse)
    assert refused == [reason]


async def test_a_refusal_is_retried_too():
    errors = []
    action = failing(ConnectionError(), ConnectionError())

    async def refuse(error):
        await action()
        errors.append(error)

    await process_event(App(), failing(ValueError("no")), refuse)
    assert len(errors) == 1


async def test_an_event_that_cannot_be_refused_ends_the_app_and_stays_unfinished():
    app = App()
    failure = RuntimeError("cannot refuse")

    async def refuse(_error):
        raise failure

    task = asyncio.create_task(process_event(app, failing(ValueError("no")), refuse))
    await app.has_crashed.wait()
    assert app.crashed == [failure]
    assert not task.done()
    assert oldest_unfinished_s("simulation") > 0
    task.cancel()


def test_the_metric_is_the_age_of_the_oldest_unfinished_event(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    app = App(role="outcomes")

    def metric():
        return REGISTRY.get_sample_value("twin_oldest_unfinished_seconds", {"role": "outcomes"})

    with track_unfinished(app):
        now[0] = 103.0
        with track_unfinished(app):
            now[0] = 104.0
            assert metric() == oldest_unfinished_s("outcomes") == 4.0
        assert metric() == 4.0
    assert metric() == 0.0


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


def test_a_connection_that_breaks_inside_a_statement_is_transient():
    assert is_transient(asyncpg.InternalClientError("got result for unknown protocol state 3"))

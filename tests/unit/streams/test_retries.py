"""Outages are waited for, refusals are answered, and nothing leaves an agent."""

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
class AWorker:
    role: str = "simulation"
    crashed: list[BaseException] = field(default_factory=list)
    has_crashed: asyncio.Event = field(default_factory=asyncio.Event)

    async def crash(self, reason: BaseException) -> None:
        self.crashed.append(reason)
        self.has_crashed.set()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)


def failing(*errors):
    left = list(errors)

    async def action():
        if left:
            raise left.pop(0)
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
def test_a_part_that_is_away_is_an_outage(error):
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
def test_what_would_fail_again_is_no_outage(error):
    assert not is_transient(error)


def test_an_outage_inside_the_wrapping_of_a_client_is_one_too():
    wrapped = ProducerSendError("sending")
    wrapped.__cause__ = KafkaConnectionError("no broker")
    assert is_transient(wrapped)
    assert is_transient(MlflowException("locked", error_code=TEMPORARILY_UNAVAILABLE))
    assert not is_transient(MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST))
    unrelated = ValueError("bad")
    unrelated.__cause__ = ConnectionError()
    assert not is_transient(unrelated)


async def test_persisting_waits_through_outages_and_counts_them():
    before = OUTAGES.labels(part="trial")._value.get()
    assert await retry_transient(failing(ConnectionError(), TimeoutError(), KafkaTimeoutError()), part="trial") == "done"
    assert OUTAGES.labels(part="trial")._value.get() - before == 3


async def test_persisting_lets_a_refusal_through_at_once():
    with pytest.raises(ValueError, match="no"):
        await retry_transient(failing(ValueError("no")), part="trial")


async def test_persisting_gives_up_after_the_attempts_that_it_was_given():
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


async def test_what_the_work_raises_reaches_the_refusal():
    refused = []

    async def refuse(error):
        refused.append(error)

    reason = ValueError("no")
    await process_event(AWorker(), failing(reason), refuse)
    await process_event(AWorker(), failing(ConnectionError()), refuse)
    assert refused == [reason]


async def test_a_refusal_is_persistent_too():
    seen = []
    refusing = failing(ConnectionError(), ConnectionError())

    async def refuse(error):
        await refusing()
        seen.append(error)

    await process_event(AWorker(), failing(ValueError("no")), refuse)
    assert len(seen) == 1


async def test_an_event_that_can_not_even_be_refused_ends_the_app_and_is_never_finished():
    app = AWorker()
    broken = RuntimeError("cannot refuse")

    async def refuse(_error):
        raise broken

    task = asyncio.create_task(process_event(app, failing(ValueError("no")), refuse))
    await app.has_crashed.wait()
    assert app.crashed == [broken]
    assert not task.done()
    assert oldest_unfinished_s("simulation") > 0
    task.cancel()


def test_the_oldest_unfinished_event_is_the_one_that_shows(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    app = AWorker(role="outcomes")

    def shown():
        return REGISTRY.get_sample_value("twin_oldest_unfinished_seconds", {"role": "outcomes"})

    with track_unfinished(app):
        now[0] = 103.0
        with track_unfinished(app):
            now[0] = 104.0
            assert shown() == oldest_unfinished_s("outcomes") == 4.0
        assert shown() == 4.0
    assert shown() == 0.0


def refusal(**fields) -> str:
    good = {"intervention_type": "email_campaign", "channel": "email", "frequency": "monthly", "duration_weeks": 12}
    with pytest.raises(ValidationError) as refused:
        InterventionConfig.model_validate(good | fields)
    return describe_error(refused.value)


def test_a_refused_field_is_said_with_its_value_and_what_is_allowed():
    assert refusal(channel="fax").startswith("channel: unknown channel 'fax': use one of email, in_person,")
    assert refusal(duration_weeks=0) == "duration_weeks: input should be greater than or equal to 1, not 0"
    assert refusal(colour="red") == "colour: unknown field"
    assert refusal(channel="fax", duration_weeks=0).count("; ") == 1


def test_a_long_value_is_cut_short_and_never_breaks_the_line():
    words = refusal(duration_weeks="x\n" * 500)
    assert len(words) < 250
    assert "\n" not in words
    assert describe_error(ValueError("two\n lines")) == "two lines"
    assert describe_error(TimeoutError()) == "TimeoutError"


def test_a_connection_that_breaks_inside_of_a_statement_is_an_outage():
    assert is_transient(asyncpg.InternalClientError("got result for unknown protocol state 3"))
